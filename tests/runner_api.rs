//! Runner behavior that `command` stages cannot trigger (external outputs, parking, panics, numerics), tested with fake stages.

use crate::support::Sandbox;
use pipeline::artifact::ArtifactKind;
use pipeline::cache::store::Store;
use pipeline::events::{Emitter, Event};
use pipeline::exit::Exit;
use pipeline::graph::{Comparison, MachineResources, MetricBound, Pipeline, ResourceRequest, StageRetry, Step};
use pipeline::plan::{Plan, StepState};
use pipeline::scheduler::{PipelineRun, RunReport};
use pipeline::stage::{AnyStage, Context, Port, SettingError, StageOutcome, StageResult};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use voxpipe::error::{Error, Result};

/// A stage with configurable behavior.
struct Fake {
    act: fn(&Context) -> Result<StageOutcome>,
    kind: ArtifactKind,
    version: u32,
    settings: Value,
    promises: Vec<PathBuf>,
    numerics: Option<String>,
    named: bool,
}

impl AnyStage for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn version(&self) -> u32 {
        self.version
    }
    fn ports(&self) -> &'static [Port] {
        &[]
    }
    fn output(&self) -> ArtifactKind {
        self.kind
    }
    fn check(&self) -> Vec<SettingError> {
        Vec::new()
    }
    fn sources(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    fn reads(&self, _file: &str) -> bool {
        true
    }
    fn identity(&self) -> Value {
        self.settings.clone()
    }
    fn external_outputs(&self) -> Vec<PathBuf> {
        self.promises.clone()
    }
    fn numerics(&self) -> Option<String> {
        self.numerics.clone()
    }
    fn records_pipeline_name(&self) -> bool {
        self.named
    }
    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        (self.act)(cx)
    }
}

fn fake(act: fn(&Context) -> Result<StageOutcome>) -> Fake {
    Fake { act, kind: ArtifactKind::Files, version: 1, settings: json!({}), promises: Vec::new(), numerics: None, named: false }
}

fn write(cx: &Context) -> Result<StageOutcome> {
    fs::write(cx.out.join("file"), "x")?;
    Ok(StageOutcome::Done(StageResult::new("a file").metric("wer", 0.2)))
}

fn step(name: &str, from: &[&str], stage: Fake) -> Step {
    Step {
        name: name.to_owned(),
        stage: Box::new(stage),
        from: from.iter().map(|name| ((*name).to_owned(), vec![(*name).to_owned()])).collect(),
        after: Vec::new(),
        seed: pipeline::graph::derived_seed(1, name),
        require: BTreeMap::new(),
        timeout: None,
        stall_timeout: None,
        resources: ResourceRequest::default(),
        retry: StageRetry::default(),
    }
}

struct Project(Sandbox);

impl Project {
    fn pipeline(&self, name: &str, steps: Vec<Step>) -> Pipeline {
        Pipeline {
            left_out: Vec::new(),
            held: BTreeSet::new(),
            file: PathBuf::from("pipeline.toml"),
            name: name.to_owned(),
            root: self.0.root(),
            seed: 1,
            steps,
            tracking: None,
            cache: Default::default(),
            machines: MachineResources::default(),
        }
    }

    fn run(&self, pipeline: &Pipeline) -> (RunReport, Vec<Event>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&events);
        let store = Store::open(&self.0.root(), "a test").unwrap();
        let emitter = Emitter::new(move |event| received.lock().unwrap().push(event));
        let id = store.begin_run().unwrap();
        let report = PipelineRun::new(pipeline, &store, emitter, id).go();
        let events = events.lock().unwrap().clone();
        (report, events)
    }

    /// The planned state of each step.
    fn plan(&self, pipeline: &Pipeline) -> Vec<(&'static str, String)> {
        let store = Store::open_readonly(&self.0.root()).unwrap();
        Plan::of(pipeline, &store, &BTreeSet::new()).unwrap().steps.iter().map(|step| step.state.words()).collect()
    }
}

#[test]
fn a_stage_that_waits_for_a_person_parks_its_branch_only() {
    let project = Project(Sandbox::new());
    let waits = |_: &Context| Ok(StageOutcome::Parked { have: 7, need: 12, message: "record five more".into() });
    let pipeline = project
        .pipeline("p", vec![step("record", &[], fake(waits)), step("train", &["record"], fake(write)), step("aside", &[], fake(write))]);
    for _ in 0..2 {
        let (report, events) = project.run(&pipeline);
        assert_eq!(report.exit, Exit::Parked as u8);
        assert!(events.iter().any(|event| matches!(event, Event::StageParked { have: 7, need: 12, .. })));
        assert!(events.iter().any(|event| matches!(event, Event::StageSkipped { because, .. } if because == "`record` is parked")));
    }
    let plan = project.plan(&pipeline);
    assert_eq!(plan[0], ("run", "it waits for a person: 7/12".to_owned()));
    assert_eq!(plan[2].0, "fresh");
    let mended = project
        .pipeline("p", vec![step("record", &[], fake(write)), step("train", &["record"], fake(write)), step("aside", &[], fake(write))]);
    assert_eq!(project.run(&mended).0.exit, 0);
}

#[test]
fn a_panic_is_an_error_of_its_stage() {
    let project = Project(Sandbox::new());
    let pipeline = project.pipeline("p", vec![step("shaky", &[], fake(|_| panic!("at step {}", 3))), step("aside", &[], fake(write))]);
    let (report, events) = project.run(&pipeline);
    assert_eq!(report.exit, 1);
    let failure = events.iter().find_map(|event| match event {
        Event::StageFailed { stage, message, .. } => Some((stage.as_str(), message.as_str())),
        _ => None,
    });
    assert_eq!(failure, Some(("shaky", "the stage panicked: at step 3")));
    assert_eq!(project.plan(&pipeline)[1].0, "fresh");
}

#[test]
fn what_was_promised_outside_is_watched() {
    let project = Project(Sandbox::new());
    let publish = |cx: &Context| {
        fs::create_dir_all(cx.path("published"))?;
        fs::write(cx.path("published/model"), "weights")?;
        write(cx)
    };
    let promising = || Fake { promises: vec!["published".into()], ..fake(publish) };
    let pipeline = project.pipeline("p", vec![step("publish", &[], promising())]);
    assert_eq!(project.run(&pipeline).0.exit, 0);
    assert_eq!(project.plan(&pipeline)[0].0, "fresh");
    type Change = fn(&Sandbox);
    let changes: [(Change, &str); 3] = [
        (|s| fs::remove_dir_all(s.path("published")).unwrap(), "`published` is missing"),
        (|s| fs::remove_file(s.path("published/model")).unwrap(), "`published` changed since it was made: 1 removed (model)"),
        (|s| _ = s.file("published/more", ""), "`published` changed since it was made: 1 added (more)"),
    ];
    for (change, why) in changes {
        change(&project.0);
        assert_eq!(project.plan(&pipeline)[0], ("run", why.to_owned()));
        let _ = fs::remove_dir_all(project.0.path("published"));
        assert_eq!(project.run(&pipeline).0.exit, 0);
        assert_eq!(project.0.read("published/model"), "weights");
    }
    let liar = project.pipeline("p", vec![step("liar", &[], Fake { promises: vec!["none".into()], ..fake(write) })]);
    let (report, events) = project.run(&liar);
    assert_eq!(report.exit, 1);
    assert!(format!("{events:?}").contains("the stage succeeded but `none` does not exist"));
}

#[test]
fn version_numerics_and_name_count() {
    let project = Project(Sandbox::new());
    let base = || Fake { numerics: Some("cpu-f32".into()), named: true, ..fake(write) };
    project.run(&project.pipeline("p", vec![step("s", &[], base())]));
    let rows = [
        ("p", Fake { version: 2, ..base() }, "the stage changed: fake@1 → fake@2"),
        ("p", Fake { numerics: Some("cuda-bf16".into()), ..base() }, "the numerics changed: cpu-f32 → cuda-bf16"),
        ("p", Fake { settings: json!({ "lora": { "r": 8 } }), ..base() }, "setting `lora` is new: {\"r\":8}"),
        ("p", base(), "a file"),
    ];
    for (name, stage, why) in rows {
        assert_eq!(project.plan(&project.pipeline(name, vec![step("s", &[], stage)]))[0].1, why);
    }
    // Another pipeline in the same folder shares identical results, and only those.
    let other = |named| project.pipeline("other", vec![step("s", &[], Fake { named, ..base() })]);
    assert_eq!(project.plan(&other(true))[0].0, "run");
    project.run(&project.pipeline("p", vec![step("s", &[], Fake { named: false, ..base() })]));
    assert_eq!(project.plan(&other(false))[0].0, "fresh");
}

#[test]
fn a_result_that_is_not_what_it_says_is_refused() {
    type Work = fn(&Context) -> Result<StageOutcome>;
    let rows: [(ArtifactKind, Work, &str); 3] = [
        (ArtifactKind::Clips, write, "the stage succeeded but its result has no `clips.jsonl`, so it is not of kind `clips`"),
        (ArtifactKind::Model, write, "no `model.safetensors` or `model.safetensors.index.json` or `adapter_model.safetensors`"),
        (
            ArtifactKind::Phrases,
            |cx| {
                fs::write(cx.out.join("phrases.jsonl"), "{}\n{\n")?;
                write(cx)
            },
            "phrases.jsonl:2:",
        ),
    ];
    for (kind, act, why) in rows {
        let project = Project(Sandbox::new());
        let pipeline = project.pipeline("p", vec![step("s", &[], Fake { kind, ..fake(act) })]);
        let (report, events) = project.run(&pipeline);
        assert_eq!(report.exit, 1);
        assert!(format!("{events:?}").contains(why), "{events:?}");
        assert_eq!(fs::read_dir(project.0.path(".voxpipe/store")).unwrap().count(), 0, "nothing was kept");
    }
}

#[test]
fn a_gate_on_a_number_that_is_not_there_is_not_met() {
    let project = Project(Sandbox::new());
    let mut gated = step("s", &[], fake(write));
    gated.require.insert("cer".into(), MetricBound { comparison: Comparison::Less, limit: 1.0 });
    let pipeline = project.pipeline("p", vec![gated]);
    let (report, events) = project.run(&pipeline);
    assert_eq!(report.exit, Exit::Gate as u8);
    assert!(format!("{events:?}").contains("it has no metric `cer`; it has: wer"), "{events:?}");
    let store = Store::open_readonly(&project.0.root()).unwrap();
    assert!(matches!(Plan::of(&pipeline, &store, &BTreeSet::new()).unwrap().steps[0].state, StepState::GateUnmet(..)));
}

#[test]
fn errors_keep_their_exit_codes() {
    let project = Project(Sandbox::new());
    let pipeline = project.pipeline("p", vec![step("s", &[], fake(|_| Err(Error::new("no device").environment())))]);
    assert_eq!(project.run(&pipeline).0.exit, Exit::Environment as u8);
}

#[test]
fn what_a_stage_says_beside_its_files_reaches_those_after_it() {
    let project = Project(Sandbox::new());
    let two = |fact: fn(&Context) -> Result<StageOutcome>| {
        let tell = |cx: &Context| {
            fs::write(cx.out.join("told"), cx.input("a")?.facts["tier"].to_string())?;
            Ok(StageOutcome::Done(StageResult::new("told")))
        };
        project.pipeline("p", vec![step("a", &[], Fake { settings: json!(fact as usize), ..fake(fact) }), step("b", &["a"], fake(tell))])
    };
    let low = |_: &Context| Ok(StageOutcome::Done(StageResult::new("same files").fact("tier", 1)));
    let high = |_: &Context| Ok(StageOutcome::Done(StageResult::new("same files").fact("tier", 2)));
    project.run(&two(low));
    let (_, events) = project.run(&two(high));
    assert!(events.iter().any(|event| matches!(event, Event::StageFinished { stage, .. } if stage == "b")), "{events:?}");
}
