//! End-to-end tests with the real program: real speech, a tiny model, LoRA; incremental reruns after changes; `kill -9` during training.

use crate::support::{Sandbox, files};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "road"
seed = 3
[params]
epochs = 2
[stage.phrases]
uses = "phrases"
with = { language = "en", source = "file", file = "speech/phrases.txt", count = 20 }
[stage.uploads]
uses = "uploads"
from = { phrases = "phrases" }
with = { audio = "speech/clips", transcripts = "speech/transcripts.csv" }
[stage.dataset]
uses = "dataset"
from = { clips = "uploads" }
with = { split = { train = 0.8, test = 0.2 } }
[stage.adapter]
uses = "train"
from = { data = "dataset" }
with = { base = "models/tiny", lora = { r = 4, dropout = 0.1 }, epochs = "${params.epochs}", learning_rate = 1e-3, batch_size = 2, gradient_accumulation = 2, save_steps = 3 }
[stage.scores]
uses = "evaluate"
from = { model = "adapter", data = "dataset" }
with = { max_new_tokens = 8, train_clips = 2 }
[stage.card]
uses = "card"
from = { model = "adapter", scores = "scores", data = "dataset" }
[stage.hub]
uses = "publish"
from = { model = "adapter", card = "card" }
with = { target = "published/road" }
[stage.demo]
uses = "demo"
from = { published = "hub" }
"#;

const STAGES: [&str; 8] = ["phrases", "uploads", "dataset", "adapter", "scores", "card", "hub", "demo"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A project with 20 of the shipped recordings and the tiny model as its base model.
pub(crate) fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(PIPELINE);
    let table = fs::read_to_string(repository("datasets/first-run/transcripts.csv")).unwrap();
    let rows: Vec<&str> = table.lines().take(21).collect();
    sandbox.file("speech/transcripts.csv", &(rows.join("\n") + "\n"));
    let phrases = fs::read_to_string(repository("datasets/first-run/phrases.txt")).unwrap();
    sandbox.file("speech/phrases.txt", &phrases.lines().take(20).map(|line| format!("{line}\n")).collect::<String>());
    fs::create_dir_all(sandbox.path("speech/clips")).unwrap();
    for row in &rows[1..] {
        let name = row.split(',').next().unwrap();
        fs::copy(repository("datasets/first-run/clips").join(name), sandbox.path("speech/clips").join(name)).unwrap();
    }
    fs::create_dir_all(sandbox.path("models/tiny")).unwrap();
    for (name, bytes) in files(&repository("tests/voxtral/tiny")) {
        fs::write(sandbox.path("models/tiny").join(name), bytes).unwrap();
    }
    sandbox
}

/// The stages that ran, and those that were up to date.
fn ran_and_fresh(sandbox: &Sandbox, args: &[&str]) -> (Vec<String>, Vec<String>) {
    let report = sandbox.run(&[&["run", "--json"], args].concat()).exits(0).json();
    let of = |result: &str| -> Vec<String> {
        let stages = report["stages"].as_array().unwrap().iter();
        stages.filter(|stage| stage[1]["result"] == result).map(|stage| stage[0].as_str().unwrap().to_owned()).collect()
    };
    (of("done"), of("fresh"))
}

#[test]
fn from_recordings_to_a_published_adapter_and_nothing_twice() {
    let sandbox = project();
    assert_eq!(ran_and_fresh(&sandbox, &[]).0, STAGES);
    let published = sandbox.path("published/road");
    let names: Vec<String> = files(&published).into_keys().filter(|name| !name.starts_with('.')).collect();
    let expected = [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "loss.jsonl",
        "preprocessor_config.json",
        "tekken.json",
        "training.json",
    ];
    for name in expected {
        assert!(names.contains(&name.to_owned()), "{name} is not in {names:?}");
    }
    let config: Value = serde_json::from_str(&sandbox.read("published/road/adapter_config.json")).unwrap();
    assert_eq!((config["r"].as_u64(), config["base_model_name_or_path"].as_str()), (Some(4), Some("models/tiny")));
    let scores: Value = serde_json::from_str(&sandbox.read(".voxpipe/latest/road/scores/scores.json")).unwrap();
    assert_eq!(scores["clips"], 4);
    assert!(scores["base"]["wer"].is_number() && scores["tuned"]["wer"].is_number() && scores["train"]["clips"] == 2);

    // The published adapter names its base model by a path relative to the project root, so it is found from there.
    let clip = fs::read_dir(sandbox.path("speech/clips")).unwrap().next().unwrap().unwrap().path();
    let clip = clip.to_str().unwrap();
    let heard = sandbox
        .run(&["transcribe", clip, "--model", "published/road", "--language", "en", "--max-new-tokens", "5", "--json"])
        .exits(0)
        .json();
    assert_eq!(heard["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(
        heard["text"],
        sandbox
            .run(&[
                "transcribe",
                clip,
                "--model",
                "models/tiny",
                "--adapter",
                "published/road",
                "--language",
                "en",
                "--max-new-tokens",
                "5",
                "--json"
            ])
            .exits(0)
            .json()["text"]
    );
    sandbox.run(&["transcribe", clip, "--model", "nowhere"]).exits(2).complains("`nowhere`");
    sandbox.run(&["transcribe", "pipeline.toml", "--model", "models/tiny"]).exits(1).complains("pipeline.toml");

    assert_eq!(ran_and_fresh(&sandbox, &[]).1, STAGES);

    // Files that are not part of the model may change, and the base model may move if its new path is given.
    sandbox.file("models/tiny/README.md", "about").file("models/tiny/.git/HEAD", "ref");
    assert_eq!(ran_and_fresh(&sandbox, &[]).0, Vec::<String>::new());

    // More epochs: training and its downstream stages rerun, upstream stages do not, as the plan predicts.
    let plan = sandbox.run(&["plan", "--set", "epochs=3"]).exits(0).stdout;
    assert!(plan.contains("`epochs` 2.0 → 3.0"), "{plan}");
    for (stage, word) in [("phrases", "fresh"), ("uploads", "fresh"), ("dataset", "fresh"), ("adapter", "run")] {
        assert!(plan.lines().any(|line| line.trim_start().starts_with(stage) && line.contains(word)), "{stage} {word}:\n{plan}");
    }
    let (ran, fresh) = ran_and_fresh(&sandbox, &["--set", "epochs=3"]);
    assert_eq!((fresh, ran[0].as_str()), (STAGES[..3].iter().map(|stage| (*stage).to_owned()).collect(), "adapter"));

    // After reverting, only the published folder is rewritten; the next change is compared with the reverted state.
    assert_eq!(ran_and_fresh(&sandbox, &[]).0, ["hub"]);
    let plan = sandbox.run(&["plan", "--set", "epochs=4"]).exits(0).stdout;
    assert!(plan.contains("`epochs` 2.0 → 4.0"), "{plan}");

    // Excluded clips are listed in `training.json`.
    let long = ["--set", "epochs=1", "--set", "stage.adapter.with.max_text_tokens=30"];
    sandbox.run(&[&["run"], &long[..]].concat()).exits(0).complains("left out: audio/");
    let training: Value = serde_json::from_str(&sandbox.read("published/road/training.json")).unwrap();
    let (used, left_out) = (training["examples"].as_u64().unwrap(), training["left_out"].as_array().unwrap().len() as u64);
    assert!(left_out > 0 && used + left_out == 16, "{used} + {left_out}");
    sandbox.run(&["run", "--set", "stage.adapter.with.max_text_tokens=1"]).exits(1).complains("no clips to train on");

    // The same effective batch size, split differently, gives the same result,
    let cut = ["--set", "epochs=3", "--set", "stage.adapter.with.batch_size=4", "--set", "stage.adapter.with.gradient_accumulation=1"];
    assert_eq!(ran_and_fresh(&sandbox, &cut).0, ["hub"]);
    // … also with `batch_size = "auto"`.
    let auto = ["--set", "stage.adapter.with.batch_size=auto", "--set", "stage.adapter.with.effective_batch=4"];
    assert_eq!(ran_and_fresh(&sandbox, &[&cut[..2], &auto[..]].concat()).0, Vec::<String>::new());
    let forced = sandbox.run(&[&["run", "--force", "adapter", "--set", "epochs=3"], &auto[..]].concat()).exits(0);
    forced.complains("batch_size: ").complains(" are free");
    let torn = ["run", "--set", "stage.adapter.with.effective_batch=6"];
    sandbox.run(&torn).exits(2).complains("batch_size 2 × gradient_accumulation 2 is not effective_batch 6");
}

#[test]
fn what_was_heard_once_is_remembered_and_changes_no_byte() {
    for precision in ["f32", "bf16"] {
        let settings = |cache: bool| {
            let with = |key: &str, value: &str| ["--set".to_owned(), format!("stage.adapter.with.{key}={value}")];
            let cache = format!("audio_cache={cache}");
            let scores = |setting: &str| ["--set".to_owned(), format!("stage.scores.with.{setting}")];
            let precise = format!("precision={precision}");
            [with("max_steps", "3"), with("audio_cache", &cache[12..]), scores(&cache), with("precision", precision), scores(&precise)]
                .concat()
        };
        let run = |sandbox: &Sandbox, cache: bool, more: &[&str]| {
            let settings = settings(cache);
            let settings = settings.iter().map(String::as_str);
            sandbox.run(&["run"].into_iter().chain(settings).chain(more.iter().copied()).collect::<Vec<_>>()).exits(0);
            let out = sandbox.path(".voxpipe/latest/road/adapter");
            ["adapter_model.safetensors", "loss.jsonl"].map(|name| fs::read(out.join(name)).unwrap())
        };
        let (with, without) = (project(), project());
        let made = run(&with, true, &[]);
        assert!(made == run(&without, false, &[]), "{precision}: a memory changes the adapter");
        assert!(!without.path(".voxpipe/cache").exists());

        // Training and both evaluations share one feature cache; intact entries in it are reused.
        let models: Vec<PathBuf> = fs::read_dir(with.path(".voxpipe/cache/audio")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [heard] = models.as_slice() else { panic!("{models:?}") };
        let mut clips: Vec<PathBuf> = fs::read_dir(heard).unwrap().map(|entry| entry.unwrap().path()).collect();
        clips.sort();
        assert!((14..=20).contains(&clips.len()), "{}", clips.len());
        let mut damaged = fs::read(&clips[0]).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&clips[0], &damaged).unwrap();
        fs::write(&clips[1], b"").unwrap();
        fs::remove_file(&clips[2]).unwrap();
        let (abandoned, recent) = (heard.join(".part-abandoned"), heard.join(".part-recent"));
        fs::write(&abandoned, b"left behind by a killed process").unwrap();
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
        fs::File::options().write(true).open(&abandoned).unwrap().set_modified(long_ago).unwrap();
        fs::write(&recent, b"of a process that may still write").unwrap();
        assert!(made == run(&with, true, &["--force", "adapter"]), "{precision}: a damaged memory changes the adapter");
        assert!(fs::read(&clips[0]).unwrap() != damaged, "what was damaged is written anew");
        assert!(clips[1].metadata().unwrap().len() > 0 && !abandoned.exists() && recent.exists());
    }
}

#[test]
fn training_goes_on_from_an_adapter() {
    let sandbox = project();
    let first = |sandbox: &Sandbox| {
        let journal = sandbox.read(".voxpipe/latest/road/adapter/loss.jsonl");
        serde_json::from_str::<Value>(journal.lines().next().unwrap()).unwrap()["loss"].as_f64().unwrap()
    };
    let order = ["--set", "stage.adapter.with.shuffle=none", "--set", "stage.adapter.with.lora.dropout=0.0"];
    sandbox.run(&[&["run", "--set", "epochs=12"], &order[..]].concat()).exits(0);
    let fresh = first(&sandbox);
    fs::create_dir_all(sandbox.path("models/earlier")).unwrap();
    for (name, bytes) in files(&sandbox.path("published/road")).into_iter().filter(|(name, _)| name.starts_with("adapter")) {
        fs::write(sandbox.path("models/earlier").join(name), bytes).unwrap();
    }
    let on = [&["run", "--set", "stage.adapter.with.adapter=models/earlier"], &order[..]].concat();
    sandbox.run(&on).exits(0);
    assert!(first(&sandbox) < fresh - 0.05, "{} after {fresh}", first(&sandbox));
    let other = [&on[..], &["--set", "stage.adapter.with.lora.r=2"]].concat();
    sandbox.run(&other).exits(1).complains("LoRA of rank 4 with scale 8").complains("LoRA of rank 2 with scale 16");
    let full = [&on[..], &["--set", "stage.adapter.with.method=full"]].concat();
    sandbox.run(&full).exits(2).complains("full fine-tuning cannot continue from an adapter");
}

/// Settings that make the training diverge in its second step.
const DIVERGING: [&str; 8] = [
    "--set",
    "stage.adapter.with.learning_rate=1e30",
    "--set",
    "stage.adapter.with.max_grad_norm=0.0",
    "--set",
    "stage.adapter.with.max_steps=4",
    "--set",
    "stage.scores.with.train_clips=0",
];

#[test]
fn a_failure_is_answered_with_other_settings_as_the_file_says() {
    let sandbox = project();
    let run = |recover: &str| {
        let recover = format!("stage.adapter.recover={recover}");
        sandbox.run(&[&["run"], &DIVERGING[..], &["--set", &recover]].concat())
    };
    run("[{ on = \"out-of-memory\", set = { batch_size = \"/2\" } }]")
        .exits(1)
        .complains("training diverged at step 2")
        .complains("audio/");
    run("[{ on = \"diverged\", set = { learning_rat = 1 } }]").exits(2).complains("unknown field `learning_rat`");
    run("[{ on = \"diverged\", set = { batch_size = \"/4\" } }]")
        .exits(2)
        .complains("`batch_size` is 2, and 2 / 4 is not a positive whole number");
    let smaller = "[{ on = \"diverged\", set = { learning_rate = \"/1e33\" } }]";
    run(smaller)
        .exits(0)
        .complains("attempt 1 of 3 failed: training diverged at step 2")
        .complains("retrying with learning_rate = 0.001, starting over")
        .complains("the result was made with learning_rate = 0.001");
    let training: Value = serde_json::from_str(&sandbox.read("published/road/training.json")).unwrap();
    let rate = training["settings"]["learning_rate"].as_f64().unwrap();
    assert!((rate - 1e-3).abs() < 1e-9, "{rate}");
    // The next run starts with the changed settings.
    assert!(!run(smaller).exits(0).stderr.contains("retrying"));
}

#[test]
fn a_person_on_a_terminal_is_asked_what_to_do() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        crate::support::skipped("a person is asked on a terminal", "there is no `script`, of Debian's bsdutils");
        return;
    }
    let sandbox = project();
    let at_terminal = |answers: &str| {
        use std::io::Write;
        let words = [&["run"], &DIVERGING[..]].concat();
        let command = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let mut child = std::process::Command::new("script")
            .args(["-qec", &format!("{} {command}", env!("CARGO_BIN_EXE_voxpipe")), "/dev/null"])
            .current_dir(sandbox.root())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (code, shown) = at_terminal("9\nlearning_rat = 3\n4\n");
    assert_eq!(code, Some(1), "{shown}");
    for words in [
        "training diverged at step 2",
        "1  retry with learning_rate = 2.5e+29: lower learning rate (starts over)",
        "3  retry: same settings (starts over)",
        "4  stop; ",
        "no such choice",
        "unknown field `learning_rat`",
    ] {
        assert!(shown.contains(words), "`{words}` is not in\n{shown}");
    }
    let (code, shown) = at_terminal("learning_rate = 1e-3\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("the result was made with learning_rate = 0.001"), "{shown}");
}

#[test]
fn held_out_clips_are_looked_at_while_training() {
    let sandbox = project();
    let eval = "stage.adapter.with.eval={ split = \"test\", steps = 2, metric = \"cer\", clips = 2 }";
    sandbox.run(&["run", "--set", eval]).exits(0).complains("eval_loss");
    let rows = sandbox.read("published/road/eval.jsonl");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 6, 8]);
    assert!(rows.iter().all(|row| ["eval_loss", "eval_wer", "eval_cer"].iter().all(|key| row[key].as_f64().is_some_and(f64::is_finite))));
    let training: Value = serde_json::from_str(&sandbox.read("published/road/training.json")).unwrap();
    let best = rows.iter().min_by(|a, b| a["eval_cer"].as_f64().unwrap().total_cmp(&b["eval_cer"].as_f64().unwrap())).unwrap();
    assert_eq!((&training["kept_step"], &training["eval"]["eval_cer"]), (&best["step"], &best["eval_cer"]));
    sandbox.run(&["run", "--set", "stage.adapter.with.eval={}"]).exits(1).complains("split `validation` of the dataset has no clips");
    sandbox.run(&["run", "--set", "stage.adapter.with.eval={ split = \"x\" }"]).exits(2).complains("unknown held-out split `x`");
}

#[test]
fn kill_9_while_training_ends_in_the_same_bytes() {
    let long = ["run", "--set", "epochs=12"];
    let whole = project();
    whole.run(&long).exits(0);

    let cut = project();
    let mut child = cut.command(&long).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !has_checkpoint(&cut.path(".voxpipe/work")) {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(120), "no checkpoint appeared");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!cut.path(".voxpipe/latest/road/adapter").exists(), "a result before training was done");

    cut.run(&long).exits(0).complains("resuming from the checkpoint at step");
    for (name, bytes) in files(&whole.path("published/road")) {
        assert!(files(&cut.path("published/road"))[&name] == bytes, "{name} differs");
    }
}

#[test]
fn a_closed_terminal_loses_no_step_of_a_training() {
    let sandbox = project();
    // Runs until its events have the text, and then loses its terminal.
    let hung_up = |text: &str| {
        let long = ["run", "--events", "events.jsonl", "--set", "epochs=2000", "--set", "stage.adapter.with.save_steps=100000"];
        let child = sandbox.command(&long).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while !fs::read_to_string(sandbox.path("events.jsonl")).unwrap_or_default().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(120), "no `{text}`");
            std::thread::sleep(Duration::from_millis(5));
        }
        crate::support::signal(&child, "HUP");
        crate::support::Ran::of(child.wait_with_output().unwrap()).exits(75)
    };
    hung_up("\"unit\":\"steps\"");
    assert!(has_checkpoint(&sandbox.path(".voxpipe/work")), "no checkpoint was written");
    hung_up("resuming from the checkpoint at step");
}

#[test]
fn kill_9_at_20_moments_of_a_training_ends_in_the_same_bytes() {
    // A checkpoint after every step and a best model after every second one: most kills hit a write.
    let eval = "stage.adapter.with.eval={ split = \"test\", steps = 2, clips = 1 }";
    let often = ["run", "--set", "epochs=10", "--set", "stage.adapter.with.save_steps=1", "--set", eval];
    let whole = project();
    let begun = Instant::now();
    whole.run(&often).exits(0);
    // Moments are spread over the time that a whole run takes on this machine, whatever that is.
    let longest = u64::try_from(begun.elapsed().as_millis()).unwrap().max(20);

    let cut = project();
    let mut moments = ChaCha8Rng::seed_from_u64(20);
    let mut in_training = 0;
    for _ in 0..20 {
        let mut child = cut.command(&often).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Some kills hit program start or earlier stages.
        std::thread::sleep(Duration::from_millis(moments.random_range(10..longest)));
        if child.try_wait().unwrap().is_some() {
            fs::remove_dir_all(cut.path(".voxpipe/keys")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        in_training += usize::from(has_checkpoint(&cut.path(".voxpipe/work")));
    }
    assert!(in_training >= 5, "only {in_training} of 20 moments were in training");
    cut.run(&often).exits(0);
    for (name, bytes) in files(&whole.path("published/road")) {
        assert!(files(&cut.path("published/road"))[&name] == bytes, "{name} differs");
    }
}

fn has_checkpoint(work: &Path) -> bool {
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    folders(work)
        .iter()
        .flat_map(|stage| folders(&stage.join("scratch")))
        .any(|path| path.extension().is_none() && path.to_string_lossy().contains("step-"))
}

#[test]
fn recordings_park_the_run_and_status_says_how_many_are_there() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"voice\"\n\
         [stage.phrases]\nuses = \"phrases\"\nwith = { language = \"en\", count = 12 }\n\
         [stage.recordings]\nuses = \"recordings\"\nfrom = { phrases = \"phrases\" }\nwith = { folder = \"takes\", min_clips = 12 }\n",
    );
    sandbox.run(&["run"]).exits(10).complains("takes");
    let phrases = sandbox.read(".voxpipe/latest/voice/phrases/phrases.jsonl");
    let ids: Vec<String> =
        phrases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()).collect();
    fs::create_dir_all(sandbox.path("takes")).unwrap();
    let clip = repository("datasets/first-run/clips");
    let clip = fs::read_dir(clip).unwrap().next().unwrap().unwrap().path();
    let record = |ids: &[String]| {
        for id in ids {
            fs::copy(&clip, sandbox.path("takes").join(format!("{id}.flac"))).unwrap();
        }
    };
    record(&ids[..7]);
    sandbox.run(&["run"]).exits(10).complains("7/12");
    let status = sandbox.run(&["status"]).exits(0).stdout;
    assert!(status.contains("7/12"), "{status}");
    record(&ids[7..]);
    sandbox.run(&["run"]).exits(0);
}

#[test]
fn a_private_place_is_not_told_and_a_base_that_is_another_is_not_taken() {
    let sandbox = project();
    let secret = sandbox.root().parent().unwrap().join("secret/acme/their-base");
    fs::create_dir_all(secret.parent().unwrap()).unwrap();
    fs::rename(sandbox.path("models/tiny"), &secret).unwrap();
    let merged = "[stage.whole]\nuses = \"merge\"\nfrom = { model = \"adapter\" }\nwith = { max_shard_size = \"300KB\" }\n\
                  [stage.whole-card]\nuses = \"card\"\nfrom = { model = \"whole\", data = \"dataset\" }\n\
                  [stage.whole-hub]\nuses = \"publish\"\nfrom = { model = \"whole\", card = \"whole-card\" }\nwith = { target = \"published/whole\" }\n\
                  [stage.whole-scores]\nuses = \"evaluate\"\nfrom = { model = \"whole\", data = \"dataset\" }\nwith = { max_new_tokens = 8 }\n";
    sandbox.pipeline(&format!(
        "{}{merged}",
        PIPELINE.replace("\"models/tiny\"", "\"${params.base}\"").replace("[params]", "[params]\nbase = \"models/tiny\"")
    ));
    let base = |path: &Path| format!("base={}", path.display());
    sandbox.run(&["run", "--set", &base(&secret), "--set", "epochs=0.5"]).exits(0);
    for (name, bytes) in files(&sandbox.path("published")) {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("acme") && !text.contains("secret"), "{name} tells where the base is");
    }
    let training: Value = serde_json::from_str(&sandbox.read("published/road/training.json")).unwrap();
    assert_eq!((&training["base"]["name"], &training["settings"]["base"]), (&"their-base".into(), &"their-base".into()));

    // The merged model is a full, sharded model with the same scores as base model plus adapter.
    let names: Vec<String> = files(&sandbox.path("published/whole")).into_keys().collect();
    assert!(
        names.iter().any(|name| name == "model.safetensors.index.json") && !names.iter().any(|name| name.starts_with("adapter")),
        "{names:?}"
    );
    assert!(sandbox.read("published/whole/README.md").contains("adapter merged in"));
    let scores =
        |stage: &str| -> Value { serde_json::from_str(&sandbox.read(&format!(".voxpipe/latest/road/{stage}/scores.json"))).unwrap() };
    assert_eq!(scores("whole-scores")["tuned"], scores("scores")["tuned"]);
    assert_eq!(scores("whole-scores")["base"], scores("scores")["base"]);

    // Base model moved and its new path given: nothing is retrained, and the evaluation finds it.
    let moved = secret.with_file_name("elsewhere");
    fs::rename(&secret, &moved).unwrap();
    let again = ["--set", &base(&moved), "--set", "epochs=0.5", "--set", "stage.scores.with.worst=1"];
    let (ran, fresh) = ran_and_fresh(&sandbox, &again);
    assert!(ran.contains(&"scores".to_owned()) && fresh.contains(&"adapter".to_owned()), "{ran:?} {fresh:?}");

    // Another model at that path is refused.
    let tekken = fs::read_to_string(moved.join("tekken.json")).unwrap();
    let other = sandbox.path("other");
    fs::create_dir_all(&other).unwrap();
    for (name, bytes) in files(&moved) {
        fs::write(other.join(name), bytes).unwrap();
    }
    fs::write(other.join("tekken.json"), tekken + "\n").unwrap();
    let wrong = [&["run"], &again[..], &["--set", "stage.scores.with.worst=2", "--set", "stage.scores.with.base=other"]].concat();
    sandbox.run(&wrong).exits(4).complains("`other` is not the base model that stage `adapter` was trained on");
}
