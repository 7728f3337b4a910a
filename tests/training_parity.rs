//! Training parity with transformers and PEFT, run in Python.

use crate::model_parity::folder;
use crate::support::{python, skipped};
use std::process::Command;

/// The five runs of seed 4 cover every scheduler, both orders, with and without warm-up and decay; see tests/voxtral/train_parity.py.
#[test]
fn trainings_are_those_of_transformers_and_peft() {
    let what = "LoRA, rsLoRA, DoRA and full trainings against transformers and peft (tests/voxtral/train_parity.py)";
    let Some(python) = python("torch, transformers, peft, accelerate, mistral_common") else {
        let why = "no Python with torch, transformers, peft, accelerate and mistral-common was found (name one in VOXPIPE_TEST_PYTHON)";
        return skipped(what, why);
    };
    let mut parity = Command::new(python);
    parity.arg(folder("train_parity.py")).args(["--seeds", "4", "--steps", "8", "--program", env!("CARGO_BIN_EXE_voxpipe")]);
    let ran = parity.env("OMP_NUM_THREADS", "1").env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said.matches("  ok").count(), 10, "five trainings, two peers: {said}");
}
