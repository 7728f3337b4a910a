//! What a model was trained on, and whether its scores are its own: no card claims what was not checked.

use crate::support::{Sandbox, files};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe::data::clip_row::ClipRow;
use voxpipe::data::trained_on::{ClipDigest, Overlap, TrainedOn};
use voxtral::audio::{load, write_wav16k};

/// A clip of a random project: which sound it has, and which sentence.
type Clip = (u16, u16);

/// Writes clips to a folder of their own, as a dataset stage would, and reads their digests.
fn digests(root: &Path, clips: &[Clip]) -> Vec<ClipDigest> {
    let folder = tempfile::tempdir_in(root).unwrap();
    let rows = clips.iter().enumerate().map(|(at, (sound, sentence))| {
        let name = format!("{at}.wav");
        write_wav16k(&folder.path().join(&name), &[f32::from(*sound) / 1024.0; 16]).unwrap();
        // The same sentence, written differently.
        let text = if at % 2 == 0 { format!("Sentence number {sentence}.") } else { format!("sentence  NUMBER {sentence}!") };
        serde_json::from_value(json!({ "audio_path": name, "text": text })).unwrap()
    });
    let rows: Vec<ClipRow> = rows.collect();
    ClipDigest::of_all(folder.path(), &rows).unwrap()
}

/// A model folder that says what it was trained on.
fn model(root: &Path, trained_on: &TrainedOn) -> PathBuf {
    let folder = tempfile::tempdir_in(root).unwrap().keep();
    let record = trained_on.write(&folder).unwrap();
    fs::write(folder.join("training.json"), json!({ "trained_on": record, "weights": WEIGHTS }).to_string()).unwrap();
    folder
}

/// The digest of the weights of such a model.
const WEIGHTS: &str = "the weights";

#[test]
fn the_overlap_told_is_the_true_one_for_random_datasets_and_chains_of_bases() {
    for seed in 0..60 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let root = tempfile::tempdir().unwrap();
        let clip = |random: &mut ChaCha8Rng| -> Clip { (random.random_range(0..40), random.random_range(0..40)) };
        let (mut sounds, mut sentences, mut unknown) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut chosen = BTreeSet::new();
        let mut base: Option<PathBuf> = None;
        for stage in 0..random.random_range(1..5) {
            let count = random.random_range(1..8);
            let clips: Vec<Clip> = (0..count).map(|_| clip(&mut random)).collect();
            let mut trained_on = TrainedOn::of(&digests(root.path(), &clips));
            let count = random.random_range(0..4);
            let choice: Vec<Clip> = (0..count).map(|_| clip(&mut random)).collect();
            trained_on.add_choice(&digests(root.path(), &choice));
            chosen.extend(choice.iter().map(|clip| clip.0));
            match &base {
                // Random weights: nothing was trained on before.
                None if random.random_bool(0.5) => (),
                None => {
                    let foreign = tempfile::tempdir_in(root.path()).unwrap().keep();
                    // A base of another program, or of a voxpipe that did not record its clips.
                    if random.random_bool(0.5) {
                        fs::write(foreign.join("training.json"), "{\"method\": \"full\"}").unwrap();
                    }
                    trained_on.add_model(&foreign, Some(WEIGHTS), &format!("org/base-{stage}")).unwrap();
                    unknown.insert(format!("org/base-{stage}"));
                }
                Some(base) => trained_on.add_model(base, Some(WEIGHTS), "stage:before").unwrap(),
            }
            sounds.extend(clips.iter().map(|clip| clip.0));
            sentences.extend(clips.iter().map(|clip| clip.1));
            base = Some(model(root.path(), &trained_on));
        }
        let count = random.random_range(0..12);
        let mut scored: Vec<Clip> = (0..count).map(|_| clip(&mut random)).collect();
        let known: Vec<u16> = sounds.iter().copied().collect();
        scored.extend((0..random.random_range(0..4)).map(|_| (*known.choose(&mut random).unwrap(), random.random_range(100..200))));

        let trained_on = TrainedOn::of_model(&base.unwrap(), Some(WEIGHTS)).unwrap().unwrap();
        let seen = |clip: &Clip| sounds.contains(&clip.0) || sentences.contains(&clip.1);
        let expected = Overlap::Checked {
            scored: scored.len(),
            trained_on: scored.iter().filter(|clip| seen(clip)).count(),
            chosen_on: scored.iter().filter(|clip| !seen(clip) && chosen.contains(&clip.0)).count(),
            same_clip: scored.iter().filter(|clip| sounds.contains(&clip.0)).count(),
            training_clips: sounds.len(),
            unknown: unknown.into_iter().collect(),
        };
        assert_eq!(trained_on.overlap(&digests(root.path(), &scored)), expected, "seed {seed}");
    }
}

/// Clips of real speech.
const NAMES: [&str; 6] = ["agent-pass", "calling", "conf-enteringno", "conf-full", "conf-getpin", "conf-hasjoin"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder `NAME/` of clips with its table; as WAV instead of FLAC where `wav` is set.
fn clips(sandbox: &Sandbox, name: &str, which: &[&str], wav: bool) {
    fs::create_dir_all(sandbox.path(name)).unwrap();
    let mut table = "file,text\n".to_owned();
    for clip in which {
        let from = repository("datasets/first-run/clips").join(format!("{clip}.flac"));
        let text = clip.replace('-', " ");
        if wav {
            write_wav16k(&sandbox.path(&format!("{name}/other-{clip}.wav")), &load(&from).unwrap()).unwrap();
            table += &format!("other-{clip}.wav,{} again\n", text.to_uppercase());
        } else {
            fs::copy(&from, sandbox.path(&format!("{name}/{clip}.flac"))).unwrap();
            table += &format!("{clip}.flac,{text}\n");
        }
    }
    sandbox.file(&format!("{name}.csv"), &table);
}

fn dataset(name: &str, split: &str) -> String {
    let shares = ["train", "test", "validation"].map(|part| format!("{part} = {}", if part == split { "1.0" } else { "0.0" })).join(", ");
    format!(
        "[stage.{name}-clips]\nuses = \"uploads\"\nwith = {{ audio = \"{name}\", transcripts = \"{name}.csv\", language = \"en\" }}\n\
         [stage.{name}]\nuses = \"dataset\"\nfrom = {{ clips = \"{name}-clips\" }}\nwith = {{ split = {{ {shares} }} }}\n"
    )
}

/// Two datasets, a base trained on the first, a model trained on the second, and scores on clips of both and one of neither.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    clips(&sandbox, "first", &NAMES[..2], false);
    clips(&sandbox, "second", &NAMES[2..4], false);
    clips(&sandbox, "held", &[NAMES[0], NAMES[2], NAMES[3], NAMES[4]], true);
    for (name, bytes) in files(&repository("tests/voxtral/tiny")) {
        let path = sandbox.path("models/tiny").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    sandbox
}

const HEAD: &str = "schema = 1\n[pipeline]\nname = \"chain\"\nseed = 1\n";
const TRAINING: &str = "learning_rate = 1e-3, max_steps = 1, batch_size = 2, gradient_accumulation = 1, device = \"cpu\"";

fn scores(name: &str, model: &str, card: &str) -> String {
    format!(
        "[stage.{name}]\nuses = \"evaluate\"\nfrom = {{ model = \"{model}\", data = \"held\" }}\n\
         with = {{ compare_base = false, max_new_tokens = 4, device = \"cpu\" }}\n\
         [stage.{card}]\nuses = \"card\"\nfrom = {{ model = \"{model}\", scores = \"{name}\", data = \"held\" }}\n"
    )
}

#[test]
fn clips_of_every_base_stage_count_whatever_file_they_came_from() {
    let sandbox = project();
    let pipeline = format!(
        "{HEAD}{}{}{}\
         [stage.base]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ base = \"models/tiny\", method = \"full\", {TRAINING} }}\n\
         [stage.adapter]\nuses = \"train\"\nfrom = {{ data = \"second\", base = \"base\" }}\nwith = {{ {TRAINING} }}\n\
         [stage.merged]\nuses = \"merge\"\nfrom = {{ model = \"adapter\", base = \"base\" }}\n{}",
        dataset("first", "train"),
        dataset("second", "train"),
        dataset("held", "test"),
        scores("scores", "merged", "card"),
    );
    let ran = sandbox.pipeline(&pipeline).run(&["run"]).exits(0);
    assert!(ran.stderr.contains("3 of 4 scored clips were trained on"), "{}", ran.stderr);
    let scores: Value = serde_json::from_str(&sandbox.read(".voxpipe/latest/chain/scores/scores.json")).unwrap();
    let overlap = json!({
        "status": "checked", "scored": 4, "trained_on": 3, "same_clip": 3, "chosen_on": 0, "training_clips": 4, "unknown": ["models/tiny"],
    });
    assert_eq!(scores["overlap"], overlap);
    let seen = |name: &str| {
        sandbox
            .read(".voxpipe/latest/chain/scores/clips.jsonl")
            .lines()
            .any(|line| line.contains(name) && line.contains("\"trained_on\":\"clip\""))
    };
    assert!(sandbox.read(".voxpipe/latest/chain/scores/clips.jsonl").lines().filter(|line| line.contains("trained_on")).count() == 3);
    assert!(seen("\"reference\":\"AGENT PASS again\"") && !seen("CONF GETPIN"));
    let card = sandbox.read(".voxpipe/latest/chain/card/README.md");
    for text in [
        "> **Warning: 3 of 4 scored clips were trained on.**",
        "What models/tiny was trained on before is not known",
        "which is not the one it was trained on",
    ] {
        assert!(card.contains(text), "no {text} in\n{card}");
    }
    assert!(!card.contains("model-index") && !card.contains("None of these clips"), "{card}");
}

#[test]
fn a_card_takes_only_the_scores_of_its_model() {
    let sandbox = project();
    let start = format!(
        "{HEAD}{}{}\
         [stage.adapter]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ base = \"models/tiny\", {TRAINING} }}\n\
         [stage.other]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ base = \"models/tiny\", method = \"full\", {TRAINING} }}\n\
         [stage.merged]\nuses = \"merge\"\nfrom = {{ model = \"adapter\" }}\n\
         [stage.rounded]\nuses = \"merge\"\nfrom = {{ model = \"adapter\" }}\nwith = {{ dtype = \"bf16\" }}\n{}",
        dataset("first", "train"),
        dataset("held", "test"),
        scores("scores", "adapter", "card"),
    );
    sandbox.pipeline(&start).run(&["run"]).exits(0);
    let with = |model: &str| {
        let card = format!("[stage.second]\nuses = \"card\"\nfrom = {{ model = \"{model}\", scores = \"scores\" }}\n");
        sandbox.pipeline(&format!("{start}{card}")).run(&["run"])
    };
    let wrong = "the scores of stage `scores` are of another model than stage";
    let ran = with("other");
    assert!(ran.code != Some(0) && ran.stderr.contains(&format!("{wrong} `other`")), "{}", ran.stderr);
    let ran = with("rounded");
    assert!(ran.code != Some(0) && ran.stderr.contains(&format!("{wrong} `rounded` made: merging the adapter rounded")), "{}", ran.stderr);
    with("merged").exits(0);
    let card = sandbox.read(".voxpipe/latest/chain/second/README.md");
    assert!(card.contains("merging it rounded no weight to a narrower type"), "{card}");
}

/// A copy of the tiny model with other weights of the same shapes.
fn other_base(sandbox: &Sandbox) {
    other_weights(sandbox, &sandbox.path("models/tiny"), "models/other");
}

/// A copy of a model or adapter with other weights of the same shapes.
fn other_weights(sandbox: &Sandbox, from: &Path, to: &str) {
    for (name, mut bytes) in files(from) {
        if name.ends_with(".safetensors") {
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            // The sign bit of one number.
            bytes[header + 3] ^= 0x80;
        }
        sandbox.file(&format!("{to}/{name}"), "");
        fs::write(sandbox.path(to).join(name), bytes).unwrap();
    }
}

#[test]
fn a_record_counts_only_for_the_weights_that_its_training_wrote() {
    let sandbox = project();
    let start = format!(
        "{HEAD}{}{}{}\
         [stage.base]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ base = \"models/tiny\", method = \"full\", {TRAINING} }}\n\
         [stage.adapter]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ base = \"models/tiny\", {TRAINING} }}\n",
        dataset("first", "train"),
        dataset("second", "train"),
        dataset("held", "test"),
    );
    sandbox.pipeline(&start).run(&["run"]).exits(0);
    let made = |stage: &str| fs::canonicalize(sandbox.path(&format!(".voxpipe/latest/chain/{stage}"))).unwrap();
    for (name, bytes) in files(&made("base")) {
        sandbox.file(&format!("kept/base/{name}"), "");
        fs::write(sandbox.path("kept/base").join(name), bytes).unwrap();
    }
    other_weights(&sandbox, &made("base"), "replaced/base");
    other_weights(&sandbox, &made("adapter"), "replaced/adapter");

    let train = |name: &str, with: &str| {
        format!("[stage.{name}]\nuses = \"train\"\nfrom = {{ data = \"second\" }}\nwith = {{ {with}, {TRAINING} }}\n")
    };
    let pipeline = format!(
        "{start}{}{}{}\
         [stage.foreign]\nuses = \"command\"\n\
         with = {{ run = [\"cp\", \"-r\", \"replaced/base/.\", \"${{out}}\"], output = \"model\", code = [\"replaced/base\"] }}\n{}",
        train("on-kept", "base = \"kept/base\""),
        train("on-replaced", "base = \"replaced/base\""),
        train("further", "base = \"models/tiny\", adapter = \"replaced/adapter\""),
        scores("scores", "foreign", "card"),
    );
    sandbox.pipeline(&pipeline).run(&["run"]).exits(0);
    let json = |path: &str| -> Value { serde_json::from_str(&sandbox.read(path)).unwrap() };
    let unknown = |stage: &str| json(&format!(".voxpipe/latest/chain/{stage}/training.json"))["trained_on"]["unknown"].clone();
    assert_eq!(unknown("on-kept"), json!(["models/tiny"]), "a copy of the same weights has the record of its training");
    assert_eq!(unknown("on-replaced"), json!(["replaced/base"]));
    assert_eq!(unknown("further"), json!(["models/tiny", "replaced/adapter"]));
    let overlap = json(".voxpipe/latest/chain/scores/scores.json")["overlap"].clone();
    assert_eq!(overlap, json!({ "status": "not_checked", "why": "its weights are not those that its training wrote" }));
    let card = sandbox.read(".voxpipe/latest/chain/card/README.md");
    assert!(card.contains("was not checked: its weights are not those that its training wrote"), "{card}");

    // A merge hands the record on only with the adapter that it is of, and names the weights that it wrote.
    let kept = made("adapter").display().to_string();
    for (adapter, out, known) in [(kept.as_str(), "out/kept", true), ("replaced/adapter", "out/replaced", false)] {
        sandbox.run(&["merge", "--model", "models/tiny", "--adapter", adapter, "--out", out]).exits(0);
        let facts = json(&format!("{out}/training.json"));
        assert_eq!((facts["trained_on"].is_object(), sandbox.path(out).join("trained-on.json").exists()), (known, known), "{adapter}");
        assert_eq!(facts["weights"], voxtral::model::model_dir::identity(&sandbox.path(out)).unwrap());
    }
}

#[test]
fn clips_that_chose_the_kept_step_are_not_called_held_out_and_the_card_tells_what_was_done() {
    let sandbox = project();
    let pipeline = format!(
        "{HEAD}[stage.clips]\nuses = \"uploads\"\nwith = {{ audio = \"held\", transcripts = \"held.csv\", language = \"en\" }}\n\
         [stage.data]\nuses = \"dataset\"\nfrom = {{ clips = \"clips\" }}\nwith = {{ split = {{ train = 0.5, test = 0.5, validation = 0.0 }} }}\n\
         [stage.model]\nuses = \"train\"\nfrom = {{ data = \"data\" }}\n\
         with = {{ base = \"models/tiny\", method = \"full\", learning_rate = 1e-3, max_steps = 2, device = \"cpu\", \
         eval = {{ steps = 1, split = \"test\" }} }}\n\
         [stage.scores]\nuses = \"evaluate\"\nfrom = {{ model = \"model\", data = \"data\" }}\n\
         with = {{ compare_base = false, max_new_tokens = 4, device = \"cpu\", precision = \"bf16\" }}\nrequire = {{ chosen_on = \">= 1\" }}\n\
         [stage.card]\nuses = \"card\"\nfrom = {{ model = \"model\", scores = \"scores\" }}\n"
    );
    let ran = sandbox.pipeline(&pipeline).run(&["run"]).exits(0);
    let latest = |path: &str| sandbox.read(&format!(".voxpipe/latest/chain/{path}"));
    let scores: Value = serde_json::from_str(&latest("scores/scores.json")).unwrap();
    let clips = scores["clips"].as_u64().unwrap();
    assert_eq!(
        (&scores["overlap"]["chosen_on"], &scores["precision"], &scores["stored_precision"]),
        (&json!(clips), &json!("bf16"), &json!("f32"))
    );
    let ran = ran.complains("chose which step of the training was kept: the scores on them are better than on new clips");
    assert!(!ran.stderr.contains(&format!("on {clips} held-out clips")), "{}", ran.stderr);
    // All clips fit into one step, so two steps are two passes, whatever `epochs` is by default.
    let training: Value = serde_json::from_str(&latest("model/training.json")).unwrap();
    assert_eq!((&training["steps"], &training["epochs"]), (&json!(2), &json!(2.0)));
    let card = latest("card/README.md");
    assert!(card.contains("2 steps, 2.00 epochs over") && !card.contains("| epochs |"), "{card}");
    assert!(card.contains("Computed in bf16, while the model is stored in f32.") && card.contains("so they were not held out"), "{card}");
    let front = card.split("\n---\n").next().unwrap();
    assert!(front.contains("chose which step of the training was kept") && front.contains("; computed in bf16"), "{front}");
}

#[test]
fn an_adapter_on_another_base_is_refused_unless_forced() {
    let sandbox = project();
    other_base(&sandbox);
    let pipeline = format!(
        "{HEAD}{}[stage.adapter]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ base = \"models/tiny\", {TRAINING} }}\n",
        dataset("first", "train"),
    );
    sandbox.pipeline(&pipeline).run(&["run"]).exits(0);
    let adapter = "saved/adapter";
    for (name, bytes) in files(&fs::canonicalize(sandbox.path(".voxpipe/latest/chain/adapter")).unwrap()) {
        sandbox.file(&format!("{adapter}/{name}"), "");
        fs::write(sandbox.path(adapter).join(name), bytes).unwrap();
    }
    let wrong = "belongs to another base model: it was trained on `models/tiny`";

    // A copy of the same weights elsewhere is the same base, whatever else is in its folder.
    for (name, bytes) in files(&sandbox.path("models/tiny")) {
        sandbox.file(&format!("copy/{name}"), "");
        fs::write(sandbox.path("copy").join(name), bytes).unwrap();
    }
    fs::remove_file(sandbox.path("copy/generation_config.json")).unwrap();
    let merge = |model: &str, out: &str, more: &[&str]| {
        sandbox.run(&[&["merge", "--model", model, "--adapter", adapter, "--out", out][..], more].concat())
    };
    merge("copy", "out/copy", &[]).exits(0);
    merge("copy", "out/shards", &["--max-shard-size", "50KB"]).exits(0);
    let identity = |folder: &str| voxtral::model::model_dir::identity(&sandbox.path(folder)).unwrap();
    assert!(sandbox.path("out/shards/model.safetensors.index.json").exists() && identity("out/shards") == identity("out/copy"));
    merge("models/other", "out/other", &[]).exits(2).complains(wrong).complains("--force");
    assert!(!sandbox.path("out/other").exists() && !sandbox.path("out/other.part").exists());
    merge("models/other", "out/other", &["--force"]).exits(0).complains("is used on another base than its own");
    let facts: Value = serde_json::from_str(&sandbox.read("out/other/training.json")).unwrap();
    assert_eq!((&facts["base"]["name"], facts["trained_on"].is_null()), (&json!("other"), true), "the merge names the base it was made of");
    assert!(sandbox.path("out/copy/trained-on.json").exists() && !sandbox.path("out/other/trained-on.json").exists());

    let clip = "first/calling.flac";
    let transcribe = |args: &[&str]| sandbox.run(&[&["transcribe", clip, "--max-new-tokens", "2"][..], args].concat());
    transcribe(&["--model", "copy", "--adapter", adapter]).exits(0);
    transcribe(&["--model", "models/other", "--adapter", adapter]).exits(2).complains(wrong).complains("--force");
    transcribe(&["--model", adapter, "--base", "models/other"]).exits(2).complains(wrong);
    transcribe(&["--model", "models/other", "--adapter", adapter, "--force"]).exits(0).complains("is used on another base than its own");

    // Training goes on from it only on its own base.
    let more = |with: &str| {
        let stage = format!(
            "[stage.more]\nuses = \"train\"\nfrom = {{ data = \"first\" }}\nwith = {{ adapter = \"{adapter}\", {with}, {TRAINING} }}\n"
        );
        sandbox.pipeline(&format!("{pipeline}{stage}")).run(&["run"])
    };
    let ran = more("base = \"models/other\"");
    assert!(ran.code != Some(0) && ran.stderr.contains(wrong) && ran.stderr.contains("adapter_on_any_base"), "{}", ran.stderr);
    more("base = \"models/other\", adapter_on_any_base = true").exits(0);
    more("base = \"copy\"").exits(0);

    // The base that the adapter names is another one by now.
    fs::rename(sandbox.path("models/tiny"), sandbox.path("models/moved")).unwrap();
    fs::rename(sandbox.path("models/other"), sandbox.path("models/tiny")).unwrap();
    transcribe(&["--model", adapter]).exits(2).complains(wrong);
}

/// A repository in the download cache with the files of a folder.
fn cached(sandbox: &Sandbox, id: &str, commit: &str, folder: &str) -> PathBuf {
    let home = sandbox.root().parent().unwrap().join(format!("home/.cache/huggingface/hub/models--{}", id.replace('/', "--")));
    let snapshot = home.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(home.join("refs")).unwrap();
    fs::write(home.join("refs/main"), commit).unwrap();
    for (name, bytes) in files(&sandbox.path(folder)) {
        fs::write(snapshot.join(name), bytes).unwrap();
    }
    snapshot
}

#[test]
fn merge_takes_repositories_and_compares_them_by_name_and_content() {
    let sandbox = project();
    other_base(&sandbox);
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    cached(&sandbox, "org/tiny", &one, "models/tiny");
    cached(&sandbox, "org/other", &two, "models/other");
    // An adapter of PEFT: only a name.
    for (name, bytes) in files(&repository("tests/voxtral/peft-adapter")) {
        sandbox.file(&format!("peft/{name}"), "");
        fs::write(sandbox.path("peft").join(name), bytes).unwrap();
    }
    let named = |id: &str| {
        let mut config: Value = serde_json::from_str(&sandbox.read("peft/adapter_config.json")).unwrap();
        config["base_model_name_or_path"] = json!(id);
        sandbox.file("peft/adapter_config.json", &config.to_string());
    };
    let mut number = 0;
    let mut merge = |model: &str| {
        number += 1;
        sandbox.run(&["merge", "--model", model, "--adapter", "peft", "--out", &format!("out/{number}"), "--offline"])
    };
    named("org/tiny");
    let ran = merge("org/tiny").exits(0);
    assert!(!ran.stderr.contains("was not checked"), "{}", ran.stderr);
    merge(&format!("org/tiny@{one}")).exits(0);
    merge("org/other").exits(2).complains("it names `org/tiny` as its base");
    let ran = merge("models/tiny").exits(0);
    assert!(!ran.stderr.contains("was not checked"), "the copy has the bytes of the repository: {}", ran.stderr);
    merge("models/other").exits(2).complains("it names `org/tiny` as its base, and `models/other` holds another model");
    named("org/elsewhere");
    merge("models/tiny").exits(0).complains("has no digest of it, so whether `models/tiny` is that model was not checked");
    merge("org/none").exits(4).complains("org/none");
}
