//! `voxpipe doctor` and `voxpipe bench`.

use crate::support::Sandbox;
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn the_doctor_finds_the_processor_well_and_keeps_secrets() {
    let sandbox = Sandbox::new();
    let secret = "hf_thisIsASecretOfTheTest";
    for json in [true, false] {
        let mut ran = sandbox.command(if json { &["doctor", "--json", "--device", "cpu"] } else { &["doctor", "--device", "cpu"] });
        let ran = ran.env("HF_TOKEN", secret).output().unwrap();
        let (out, complaint) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
        assert_eq!(ran.status.code(), Some(0), "{complaint}");
        assert!(!out.contains(secret) && !complaint.contains(secret));
        if !json {
            assert!(out.contains("chosen     cpu (requested)") && out.contains("a token is set") && !out.contains("FAILED"), "{out}");
            continue;
        }
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&report["well"], &report["hub"]["token"]), (&Value::from(true), &Value::from(true)));
        assert_eq!(report["devices"][0]["name"], "cpu");
        assert_eq!(report["trials"].as_array().unwrap().len(), 6);
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let sandbox = Sandbox::new();
    for command in ["doctor", "bench"] {
        sandbox.run(&[command, "--device", "gpu"]).exits(2).complains("unknown device `gpu`");
        // No test machine has that many GPUs.
        sandbox.run(&[command, "--device", "cuda:999"]).exits(4).complains("device `cuda:999` is not available");
    }
}

#[test]
fn a_bench_measures_every_part_and_a_checkpoint_as_well() {
    let sandbox = Sandbox::new();
    let rows = |arguments: &[&str]| -> Vec<Value> {
        let common = ["bench", "--device", "cpu", "--size", "tiny", "--patience", "0.001", "--batches", "1,2", "--json"];
        let ran = sandbox.run(&[&common[..], arguments].concat()).exits(0);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let found = rows(&["--precision", "bf16"]);
    let parts: BTreeSet<&str> = found.iter().map(|row| row["part"].as_str().unwrap()).collect();
    assert_eq!(parts, BTreeSet::from(["ceilings", "operations", "steps", "transcription"]));
    for row in &found {
        let seconds = row["seconds"].as_array().unwrap();
        assert!(!seconds.is_empty() && seconds.iter().all(|seconds| seconds.as_f64().unwrap() > 0.0), "{row}");
    }
    // Model initialization, then four training cases with batch sizes 1 and 2.
    assert_eq!(found.iter().filter(|row| row["part"] == "steps").count(), 9);

    sandbox.run(&["bench", "--size", "tiny", "--write", "random"]).exits(0);
    let found = rows(&["--model", "random", "--precision", "f32", "--parts", "steps"]);
    assert_eq!(found[0]["what"], "loading the model in f32");
    let full = found.iter().find(|row| row["what"] == "full, batch 2").unwrap();
    assert_eq!(full["seconds"].as_array().unwrap().len(), 2);
}

#[test]
fn what_a_bench_cannot_do_is_said() {
    let sandbox = Sandbox::new();
    for (arguments, said) in [
        (&["--batches", "0"][..], "`--batches` needs batch sizes of at least 1"),
        (&["--precision", "q4"], "precision `q4` is not supported by `bench`"),
        (&["--patience", "1e9"], "`--patience 1000000000` is not a number of seconds"),
        (&["--model", "nowhere"], "nowhere"),
    ] {
        let ran = sandbox.run(&[&["bench", "--size", "tiny"], arguments].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
}
