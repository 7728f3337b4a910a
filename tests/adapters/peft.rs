//! Round trip with the installed PEFT and transformers: they load our adapters, and we load theirs.

use super::{adapters, distance, logits};
use crate::model_parity::{Reference, folder, tiny};
use crate::support::skipped;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use voxtral::lora;
use voxtral::lora::{LoraConfig, TargetModules};
use voxtral::weights::{WeightLoader, floats, read_tensors, write_tensors};

/// A Python that has the packages: `python3`, or the one in `VOXPIPE_TEST_PYTHON`.
fn python() -> Option<String> {
    let pythons = std::env::var("VOXPIPE_TEST_PYTHON").map_or_else(|_| vec!["python3".into(), "python".into()], |python| vec![python]);
    let knows = |python: &String| {
        let found = Command::new(python).args(["-c", "import torch, transformers, peft, mistral_common, safetensors"]).output();
        found.is_ok_and(|output| output.status.success())
    };
    pythons.into_iter().find(knows)
}

#[test]
fn peft_and_transformers_load_ours_and_we_load_theirs() {
    let Some(python) = python() else {
        let why = "no Python with torch, transformers, peft and mistral-common was found (name one in VOXPIPE_TEST_PYTHON)";
        skipped("adapters to PEFT and back", why);
        return;
    };
    let (work, reference) = (tempfile::tempdir().unwrap(), Reference::read());
    let text = adapters(&["q_proj", "k_proj", "v_proj", "o_proj"]);
    let tower = LoraConfig { audio_tower: true, ..adapters(&["q_proj", "out_proj", "fc1", "down_proj"]) };
    let projector = LoraConfig { projector: true, ..adapters(&["v_proj"]) };
    let some = TargetModules::text(r".*layers\.1\..*(q_proj|up_proj)|.*language_model.*\.v_proj").unwrap();
    let mut ours = BTreeMap::new();
    for (kind, rslora, dora) in [("lora", false, false), ("rslora", true, false), ("dora", false, true), ("both", true, true)] {
        for (place, adapters) in [("text", &text), ("tower", &tower), ("projector", &projector)] {
            if kind != "both" || place == "tower" {
                ours.insert(format!("{place} {kind}"), LoraConfig { rslora, dora, ..adapters.clone() });
            }
        }
    }
    ours.insert("some".to_owned(), LoraConfig { audio_tower: true, targets: some, ..text });
    for (name, adapters) in &ours {
        let mut model = tiny();
        lora::add(&mut model, adapters, &mut WeightLoader::random(1, &Device::flex())).unwrap();
        for (place, (_, layer)) in model.linears().into_iter().enumerate() {
            let Some(lora) = &mut layer.lora else { continue };
            let draw = |count: usize, scale: f32| (0..count).map(|i| (((i + place) * 29 % 17) as f32 - 8.0) * scale).collect::<Vec<_>>();
            let shape = lora.b.dims();
            lora.b = Param::from_tensor(Tensor::from_data(TensorData::new(draw(shape[0] * shape[1], 0.06), shape), &Device::flex()));
            if let Some(dora) = &mut lora.dora {
                let shift = Tensor::from_data(TensorData::new(draw(shape[0], 0.02), [shape[0]]), &Device::flex());
                dora.magnitude = Param::from_tensor(dora.magnitude.val() * (shift + 1.0));
            }
        }
        model.measure();
        let folder_of_ours = work.path().join("ours").join(name);
        fs::create_dir_all(&folder_of_ours).unwrap();
        lora::save(&model, adapters, folder("tiny").to_str().unwrap(), &folder_of_ours).unwrap();
        let values = logits(&model, &reference, 0);
        let shape = [values.len() / 512, 512];
        let values = BTreeMap::from([("logits".to_owned(), TensorData::new(values, shape))]);
        write_tensors(&folder_of_ours.join("logits.safetensors"), &values).unwrap();
    }

    let script = folder("peft_roundtrip.py");
    let output =
        Command::new(&python).arg(script).arg(work.path()).env("OMP_NUM_THREADS", "1").env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let mut told = BTreeSet::new();
    for line in said.lines() {
        let [name, way, off] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let off: f32 = off.parse().unwrap();
        match way {
            "moved" => assert!(off > 0.1, "{line}: an adapter that does nothing proves nothing"),
            "ours" => assert!(off < 1e-4, "{line}"),
            _ => assert!(off < 1e-5, "{line}"),
        }
        told.insert((name, way));
    }
    assert_eq!(told.len(), ours.len() * 5, "{said}");

    let theirs = fs::read_dir(work.path().join("theirs")).unwrap();
    let mut seen = 0;
    for entry in theirs {
        let path = entry.unwrap().path();
        let mut model = tiny();
        lora::load(&mut model, &path).unwrap_or_else(|error| panic!("{error}"));
        let expected = floats(&read_tensors(&path.join("logits.safetensors")).unwrap()["logits"]).unwrap();
        let off = distance(&logits(&model, &reference, 0), &expected);
        assert!(off < 1e-4, "{}: off by {off}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 11);
}
