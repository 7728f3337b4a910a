//! Parsing and validation of `pipeline.toml`, and the JSON Schema.
//!
//! Each file in `manifests/bad` has its expected diagnostics as comments under the offending lines, `#      ^^^^^^^ unknown stage …`.
//! `UPDATE=1` regenerates them. The stages here are stubs with the names and ports of the real ones.

use pipeline::artifact::ArtifactKind;
use pipeline::artifact::ArtifactKind::*;
use pipeline::diagnostics::{Diagnostic, IncludedFile, Severity};
use pipeline::graph::{Comparison, MetricBound, ParsedPipeline, Pipeline};
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::overrides::CommandLineOverrides;
use pipeline::stage::{Arity, Context, FactoryOf, Port, SettingError, Stage, StageFactory, StageOutcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use voxpipe::error::{Error, Result};
use voxpipe::stages::STAGES;

/// Declares a stub stage.
macro_rules! stage {
    ($name:ident, $kind:literal, $output:expr, [$($port:literal $arity:ident $kinds:expr),*], { $($(#[$meta:meta])* $field:ident: $type:ty = $default:expr),* }, $check:expr) => {
        #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        struct $name { $($(#[$meta])* $field: $type),* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        impl Stage for $name {
            const KIND: &'static str = $kind;
            const ABOUT: &'static str = "does nothing, for tests";
            const VERSION: u32 = 1;
            const INPUTS: &'static [Port] = &[$(Port { name: $port, kinds: $kinds, arity: Arity::$arity, about: "for tests" }),*];

            fn output(&self) -> ArtifactKind {
                $output
            }

            fn check(&self) -> Vec<SettingError> {
                let check: fn(&Self) -> Vec<SettingError> = $check;
                check(self)
            }

            fn run(&self, _: &Context) -> Result<StageOutcome> {
                Err(Error::new("not in this test"))
            }
        }
    };
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Method {
    /// Low-rank adapters.
    #[default]
    Lora,
    /// All weights.
    Full,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Lora {
    /// The rank.
    r: u32,
    alpha: f64,
    dropout: f64,
    freeze_audio_tower: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Vocabulary {
    /// Number of tokens.
    size: u32,
    #[serde(default)]
    words: Vec<String>,
}

stage!(Phrasing, "phrases", Phrases, [], { language: String = "en".into(), source: String = "embedded".into(), count: u32 = 10 }, |_| vec![]);
stage!(Recordings, "recordings", Clips, ["phrases" One &[Phrases]], { min_clips: u32 = 10 }, |_| vec![]);
stage!(Data, "dataset", Dataset, ["clips" Many &[Clips]], { split: BTreeMap<String, f64> = BTreeMap::new() }, |data| {
    let sum: f64 = data.split.values().sum();
    if data.split.is_empty() || (sum - 1.0).abs() < 1e-9 { vec![] } else { vec![SettingError::new("split", format!("the parts add up to {sum}, not 1"))] }
});
stage!(Train, "train", Model, ["data" One &[Dataset], "model" Optional &[Model]], {
    /// The model to start from.
    base: String = String::new(),
    method: Method = Method::Lora,
    lora: Lora = Lora::default(),
    learning_rate: f64 = 1e-4,
    epochs: f64 = 1.0,
    batch_size: u32 = 1,
    gradient_accumulation: u32 = 1,
    seed: Option<u64> = None,
    vocabulary: Option<Vocabulary> = None
}, |train| {
    let mut complaints = vec![];
    if train.batch_size == 0 {
        complaints.push(SettingError::new("batch_size", "a batch of nothing").hint("write at least 1"));
    }
    if train.lora.dropout >= 1.0 {
        complaints.push(SettingError::new("lora.dropout", "nothing would be left"));
    }
    complaints
});
stage!(Evaluate, "evaluate", Scores, ["model" One &[Model], "data" One &[Dataset]], {}, |_| vec![]);
stage!(Cards, "card", Card, ["model" One &[Model], "scores" Optional &[Scores], "data" Optional &[Dataset]], {}, |_| vec![]);
stage!(Publish, "publish", Published, ["model" One &[Model], "card" Optional &[Card]], { repo: String = String::new(), target: String = "hub".into() }, |_| vec![]);
stage!(Demos, "demo", Demo, ["published" Optional &[Published], "model" Optional &[Model]], {}, |_| vec![]);
stage!(Command, "command", Files, ["*" Many &[]], { run: Vec<String> = vec![], code: Vec<PathBuf> = vec![] }, |_| vec![]);

static KINDS: &[&dyn StageFactory] = &[
    &FactoryOf::<Phrasing>::NEW,
    &FactoryOf::<Recordings>::NEW,
    &FactoryOf::<Data>::NEW,
    &FactoryOf::<Train>::NEW,
    &FactoryOf::<Evaluate>::NEW,
    &FactoryOf::<Cards>::NEW,
    &FactoryOf::<Publish>::NEW,
    &FactoryOf::<Demos>::NEW,
    &FactoryOf::<Command>::NEW,
];

fn env(name: &str) -> Option<String> {
    match name {
        "VOICE" => Some("anna".to_owned()),
        "HF_TOKEN" => Some("hf_secret".to_owned()),
        _ => None,
    }
}

fn parse_with(text: &str, overrides: &CommandLineOverrides) -> ParsedPipeline {
    Pipeline::parse(KINDS, text, Path::new("pipeline.toml"), overrides, &env)
}

fn parse(text: &str) -> ParsedPipeline {
    parse_with(text, &CommandLineOverrides::default())
}

/// Parses a text without mistakes.
fn good(text: &str) -> Pipeline {
    let parsed = parse(text);
    parsed.pipeline.unwrap_or_else(|| panic!("{}", rendered(&parsed.diagnostics, text)))
}

fn rendered(diagnostics: &[Diagnostic], text: &str) -> String {
    diagnostics.iter().map(|diagnostic| diagnostic.render(Path::new("pipeline.toml"), text, false)).collect()
}

fn messages(parsed: &ParsedPipeline) -> Vec<String> {
    parsed.diagnostics.iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

fn updating() -> bool {
    std::env::var_os("UPDATE").is_some()
}

#[test]
fn every_mistake_is_told_at_its_place() {
    // Relative, because messages contain the paths.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<PathBuf> = files(&folder("bad")).iter().map(|file| file.strip_prefix(here).unwrap().to_owned()).collect();
    assert!(files.len() >= 20, "the fixtures are gone");
    let bare = |text: &str| -> String { text.split_inclusive('\n').filter(|line| !is_verdict(line)).collect() };
    let read = |path: &Path| fs::read_to_string(path).map_err(|_| "there is no such file".to_owned());
    let mut wrong = Vec::new();
    for file in files {
        let look = |path: &Path| Ok(vec![(path.to_owned(), bare(&read(path)?))]);
        let sources = ManifestSources::gather(&bare(&read(&file).unwrap()), &file, &look);
        let parsed = Pipeline::parse_sources(KINDS, &sources, &file, &CommandLineOverrides::default(), &env);
        assert!(parsed.diagnostics.iter().any(Diagnostic::is_error), "{} has no mistake", file.display());
        assert!(parsed.pipeline.is_none());
        // Each file has the diagnostics about its own lines.
        for path in sources.files() {
            let own = |included: &Option<Arc<IncludedFile>>| included.as_ref().map_or(file.as_path(), |included| &included.path) == path;
            let written = read(path).unwrap();
            let judged = with_verdicts(&bare(&written), &parsed.diagnostics, &own);
            if judged != written {
                if updating() {
                    fs::write(path, &judged).unwrap();
                } else {
                    wrong.push(format!("{}:\n{judged}", path.display()));
                }
            }
        }
        // The expected diagnostics are comments, so they change nothing.
        let look = |path: &Path| Ok(vec![(path.to_owned(), read(path)?)]);
        let judged = ManifestSources::gather(&read(&file).unwrap(), &file, &look);
        let again = Pipeline::parse_sources(KINDS, &judged, &file, &CommandLineOverrides::default(), &env);
        assert_eq!(messages(&again), messages(&parsed), "{}", file.display());
    }
    assert!(wrong.is_empty(), "UPDATE=1 accepts\n{}", wrong.join("\n"));
}

fn is_verdict(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.trim_start().starts_with('^'))
}

/// The text with each diagnostic as a comment under its line: carets, message and, after a dash, the hint.
fn with_verdicts(text: &str, diagnostics: &[Diagnostic], own: &dyn Fn(&Option<Arc<IncludedFile>>) -> bool) -> String {
    let mut below: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for diagnostic in diagnostics {
        assert_eq!(diagnostic.argument, None);
        let word = if diagnostic.severity == Severity::Warning { "warning: " } else { "" };
        let hint = diagnostic.hint.as_ref().map(|hint| format!(" — {hint}")).unwrap_or_default();
        let main = Diagnostic::error(diagnostic.span.clone(), "").hint(format!("{word}{}{hint}", diagnostic.message));
        let related = diagnostic.related.iter().filter(|other| own(&other.file));
        let related = related.map(|other| Diagnostic::error(other.span.clone(), "").hint(format!("also: {}", other.message)));
        for one in Some(main).filter(|_| own(&diagnostic.file)).into_iter().chain(related) {
            let rendered = one.render(Path::new(""), text, false);
            let carets = rendered.lines().nth(4).unwrap().split_once("| ").unwrap().1;
            let line = one.to_json(Path::new(""), text)["place"]["line"].as_u64().unwrap() as usize;
            let carets = carets.strip_prefix(' ').or_else(|| carets.strip_prefix("^^").map(|_| &carets[1..])).unwrap_or(carets);
            below.entry(line).or_default().push(format!("#{carets}\n"));
        }
    }
    let mut out = String::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        out.push_str(line);
        if !line.ends_with('\n') && below.contains_key(&(index + 1)) {
            out.push('\n');
        }
        out.extend(below.remove(&(index + 1)).unwrap_or_default());
    }
    out.extend(below.remove(&1).filter(|_| text.is_empty()).unwrap_or_default());
    assert!(below.is_empty(), "verdicts behind the end: {below:?}");
    out
}

#[test]
fn five_mistakes_are_five_complaints() {
    let text = fs::read_to_string(folder("bad/five_mistakes.toml")).unwrap();
    let parsed = parse(&text);
    assert_eq!(parsed.diagnostics.len(), 5, "{}", rendered(&parsed.diagnostics, &text));
    let shown = rendered(&parsed.diagnostics, &text);
    assert_eq!(shown.matches("--> pipeline.toml:").count(), 5, "{shown}");
    assert!(parsed.diagnostics.is_sorted_by_key(|diagnostic| diagnostic.span.start));
}

#[test]
fn a_complaint_reads_like_this() {
    let text = "schema = 1\n[pipeline]\nname = \"x\"\n[stage.adapter]\nuses = \"trian\"\n";
    assert_eq!(
        rendered(&parse(text).diagnostics, text),
        "\
error: unknown stage kind `trian`
 --> pipeline.toml:5:8
  |
5 | uses = \"trian\"
  |        ^^^^^^^ did you mean `train`?
  = stage kinds: `phrases`, `recordings`, `dataset`, `train`, `evaluate`, `card`, `publish`, `demo` and `command`
"
    );
}

#[test]
fn the_example_of_the_handbook_is_understood_whole() {
    let text = fs::read_to_string(folder("good/example.toml")).unwrap();
    let parsed = parse(&text);
    assert_eq!(messages(&parsed), [""; 0]);
    let matrix = parsed.matrix.unwrap();
    let words: Vec<String> = matrix.combinations.iter().map(|combination| matrix.words(combination)).collect();
    assert_eq!(words, ["lr=1e-4, lora.r=8", "lr=1e-4, lora.r=16", "lr=5e-5, lora.r=8", "lr=5e-5, lora.r=16"]);
    let pipeline = parsed.pipeline.unwrap();
    let names: Vec<&str> = pipeline.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["phrases", "recordings", "dataset", "adapter", "scores", "card", "hub", "demo", "vad"]);
    assert_eq!((pipeline.name.as_str(), pipeline.seed, pipeline.root.as_path()), ("accent-fr", 1234, Path::new(".")));

    let adapter = pipeline.step("adapter").unwrap();
    let with = adapter.stage.identity();
    assert_eq!(with["base"], "mistralai/Voxtral-Mini-3B-2507");
    assert_eq!(with["learning_rate"], 5e-5);
    assert_eq!(with["lora"]["alpha"], 32.0);
    assert_eq!((adapter.timeout, adapter.retry.times), (Some(Duration::from_secs(12 * 60 * 60)), Some(2)));
    assert_eq!(adapter.from["data"], ["dataset"]);
    assert_eq!(pipeline.step("scores").unwrap().require["wer"], MetricBound { comparison: Comparison::Less, limit: 0.15 });
    assert_eq!(pipeline.step("vad").unwrap().stage.identity()["run"][3], "${from.clips}");
    assert_eq!(pipeline.step("phrases").unwrap().stage.identity()["language"], "fr");
}

#[test]
fn kinds_that_do_not_exist_yet_are_named_honestly() {
    let parsed = parse(
        "schema = 1\n[pipeline]\nname = \"x\"\n[stage.a]\nuses = \"merge\"\nfrom = { adapter = \"b\" }\n[stage.b]\nuses = \"import\"\n",
    );
    assert_eq!(messages(&parsed), ["unknown stage kind `merge`", "unknown stage kind `import`"]);
}

#[test]
fn shipped_pipelines_are_sound() {
    let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    for file in files(&pipelines) {
        let text = fs::read_to_string(&file).unwrap();
        let parsed = Pipeline::parse(STAGES, &text, &file, &CommandLineOverrides::default(), &|_| None);
        let shown: String = parsed.diagnostics.iter().map(|diagnostic| diagnostic.render(&file, &text, false)).collect();
        assert!(parsed.pipeline.is_some() && parsed.diagnostics.is_empty(), "{shown}");
    }
}

#[test]
fn the_example_of_the_readme_is_sound() {
    let page = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let (readme, guide) = (page("README.md"), page("docs/guide/pipeline-file.md"));
    let examples_of =
        |text: &str| -> Vec<String> { text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect() };
    // The README shows a complete file; the guide shows fragments, one of them with a matrix.
    let examples: Vec<String> = examples_of(&readme).into_iter().take(1).chain(examples_of(&guide)).collect();
    let file = Path::new("pipeline.toml");
    let variants = examples.iter().find(|example| example.contains("[matrix]")).unwrap();
    let variants: String = variants.lines().filter(|line| !line.starts_with("include")).map(|line| format!("{line}\n")).collect();
    for text in [examples[0].to_owned(), format!("{}{variants}", examples[0])] {
        let overrides = CommandLineOverrides {
            profiles: text.contains("[matrix]").then(|| "spanish".to_owned()).into_iter().collect(),
            ..CommandLineOverrides::default()
        };
        let parsed = Pipeline::parse(STAGES, &text, file, &overrides, &|_| None);
        let shown: String = parsed.diagnostics.iter().map(|diagnostic| diagnostic.render(file, &text, false)).collect();
        assert!(parsed.pipeline.is_some() && parsed.diagnostics.is_empty(), "{shown}");
    }
}

/// The English stages are identical to those of `first-run.toml`, so their results are up to date in the second pipeline.
#[test]
fn second_language_begins_where_first_run_ends() {
    let steps = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(name);
        let parsed = Pipeline::parse(STAGES, &fs::read_to_string(&file).unwrap(), &file, &CommandLineOverrides::default(), &|_| None);
        let pipeline = parsed.pipeline.unwrap();
        let steps = pipeline.steps.into_iter();
        steps.map(|step| (step.name, (step.stage.kind(), step.stage.identity(), step.seed, step.from))).collect::<BTreeMap<_, _>>()
    };
    let (first, second) = (steps("first-run.toml"), steps("second-language.toml"));
    for name in ["phrases", "uploads", "dataset", "model"] {
        assert_eq!(second[name], first[name], "the stage `{name}` of second-language.toml is not that of first-run.toml");
    }
}

#[test]
fn the_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/schema.json");
    let current = format!("{}\n", serde_json::to_string_pretty(&pipeline::manifest::schema(STAGES)).unwrap());
    if updating() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &current).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == current, "pipelines/schema.json is not what `voxpipe schema` prints; UPDATE=1 writes it");
}

#[test]
fn the_schema_knows_each_kind() {
    let schema = pipeline::manifest::schema(KINDS);
    assert_eq!(schema, pipeline::manifest::schema(KINDS));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], serde_json::json!(["schema", "pipeline"]));
    assert_eq!(schema["properties"]["schema"]["description"], "The version of the file format: 1.");
    let stage = &schema["$defs"]["StageTable"];
    let choices = stage["allOf"].as_array().unwrap();
    assert_eq!(choices.len(), KINDS.len());
    let train = choices.iter().find(|choice| choice["if"]["properties"]["uses"]["const"] == "train").unwrap();
    let with = train["then"]["properties"]["with"]["$ref"].as_str().unwrap();
    let with = schema.pointer(with.trim_start_matches('#')).unwrap();
    assert_eq!(with["properties"]["base"]["description"], "The model to start from.");
    assert_eq!(with["additionalProperties"], false);
    assert_eq!(train["then"]["properties"]["from"]["additionalProperties"], false);
    for reference in schema.to_string().split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(schema.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

/// For completion in editors: every kind, every input and every setting, at all levels, has a description.
#[test]
fn every_kind_input_and_setting_is_described_to_editors() {
    let schema = pipeline::manifest::schema(STAGES);
    let described = |value: &serde_json::Value| value["description"].as_str().is_some_and(|text| text.len() > 3);
    let mut bare = Vec::new();
    for entry in STAGES {
        let kind = entry.kind();
        let uses = schema["$defs"]["StageTable"]["properties"]["uses"]["oneOf"].as_array().unwrap();
        assert!(uses.iter().any(|choice| choice["const"] == kind && described(choice)), "{kind}");
        let choices = schema["$defs"]["StageTable"]["allOf"].as_array().unwrap();
        let then = &choices.iter().find(|choice| choice["if"]["properties"]["uses"]["const"] == kind).unwrap()["then"]["properties"];
        for port in entry.ports().iter().filter(|port| port.name != "*") {
            assert!(described(&then["from"]["properties"][port.name]), "{kind}: {}", port.name);
        }
        assert!(then["with"].as_object().is_some_and(|with| !with.is_empty()), "{kind} has no settings");
    }
    let mut waiting = vec![("the file".to_owned(), &schema)];
    while let Some((name, value)) = waiting.pop() {
        for (key, property) in value["properties"].as_object().into_iter().flatten().filter(|_| !name.ends_with("then")) {
            let tag = property.get("const").is_some();
            if !described(property) && !tag && !name.contains(".if") {
                bare.push(format!("{name}: {key}"));
            }
        }
        let inner = value.as_object().into_iter().flatten().map(|(key, inner)| (format!("{name}.{key}"), inner));
        waiting.extend(inner.chain(value.as_array().into_iter().flatten().map(|inner| (name.clone(), inner))));
    }
    assert!(bare.is_empty(), "without a description:\n{}", bare.join("\n"));
}

#[test]
fn stages_are_well_formed() {
    let mut seen = std::collections::BTreeSet::new();
    for entry in STAGES.iter().chain(KINDS) {
        assert!(!entry.kind().is_empty() && !entry.about().is_empty());
        assert!(entry.kind().chars().all(|character| character.is_ascii_lowercase() || character == '-'), "{}", entry.kind());
        let names: Vec<&str> = entry.ports().iter().map(|port| port.name).collect();
        assert!(names.iter().collect::<std::collections::BTreeSet<_>>().len() == names.len(), "{}: a port twice", entry.kind());
    }
    for entry in STAGES {
        assert!(seen.insert(entry.kind()), "{} twice", entry.kind());
    }
}

const SMALL: &str = r#"
schema = 1
[pipeline]
name = "small"
[params]
lr = 5e-5
epochs = 3
language = "en"
who = "${params.language}-${env.VOICE}"
[stage.train]
uses = "train"
from = { data = "data" }
with = { learning_rate = "${params.lr}", epochs = "${params.epochs}", base = "models/${params.who}/$${params.lr}" }
[stage.data]
uses = "dataset"
from = { clips = ["b", "a"] }
after = ["note"]
[stage.b]
uses = "recordings"
from = { phrases = "phrases" }
[stage.a]
uses = "recordings"
from.phrases = "phrases"
[stage.phrases]
uses = "phrases"
with = { language = "${params.language}" }
[stage.note]
uses = "command"
with = { run = ["echo", "${params.lr}", "$${HOME}"] }
[profile.base]
set = { lr = 1.0 }
[profile.smoke]
extends = "base"
set = { "stage.train.with.epochs" = 0.1, "stage.train.with.lora.r" = 2 }
"#;

fn with_set(pairs: &[(&str, &str)]) -> CommandLineOverrides {
    CommandLineOverrides {
        set: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..CommandLineOverrides::default()
    }
}

#[test]
fn params_keep_their_type_and_are_written_out_inside_strings() {
    let pipeline = good(SMALL);
    let with = pipeline.step("train").unwrap().stage.identity();
    assert_eq!((&with["learning_rate"], &with["epochs"]), (&5e-5.into(), &3.0.into()));
    assert_eq!(with["base"], "models/en-anna/${params.lr}");
    assert_eq!(
        pipeline.step("note").unwrap().stage.identity()["run"],
        serde_json::json!(["echo", "5e-5", "$${HOME}"]).clone(),
        "a command unescapes itself"
    );
}

#[test]
fn steps_come_after_what_they_need_and_otherwise_as_in_the_file() {
    let pipeline = good(SMALL);
    let names: Vec<&str> = pipeline.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["phrases", "b", "a", "note", "data", "train"]);
    assert_eq!(pipeline.step("data").unwrap().from["clips"], ["b", "a"]);
    assert_eq!(pipeline.step("data").unwrap().needs().into_iter().collect::<Vec<_>>(), ["a", "b", "note"]);
}

#[test]
fn seeds_depend_on_the_pipeline_and_the_name_only() {
    let pipeline = good(SMALL);
    let again = good(&SMALL.replace("epochs = 3", "epochs = 4"));
    for (one, other) in pipeline.steps.iter().zip(&again.steps) {
        assert_eq!(one.seed, other.seed);
        assert!(one.seed < 1 << 53);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"voxpipe seed").update(&0u64.to_le_bytes()).update(b"train");
    let first: [u8; 8] = hasher.finalize().as_bytes()[..8].try_into().unwrap();
    assert_eq!(pipeline.step("train").unwrap().seed, u64::from_le_bytes(first) & ((1 << 53) - 1));
    let seeded = good(&SMALL.replace("name = \"small\"", "name = \"small\"\nseed = 1"));
    assert_ne!(seeded.step("train").unwrap().seed, pipeline.step("train").unwrap().seed);
}

#[test]
fn the_root_is_found_from_the_file() {
    for (file, root, expected) in
        [("pipeline.toml", ".", "."), ("a/b/pipeline.toml", ".", "a/b"), ("a/p.toml", "..", "a/.."), ("/x/p.toml", "work", "/x/work")]
    {
        let text = SMALL.replace("name = \"small\"", &format!("name = \"small\"\nroot = \"{root}\""));
        let parsed = Pipeline::parse(KINDS, &text, Path::new(file), &CommandLineOverrides::default(), &env);
        assert_eq!(parsed.pipeline.unwrap().root, Path::new(expected));
    }
}

#[test]
fn what_is_set_on_the_command_line_wins_over_the_profile_and_the_file() {
    let train = |overrides: &CommandLineOverrides| {
        let parsed = parse_with(SMALL, overrides);
        parsed.pipeline.unwrap_or_else(|| panic!("{}", rendered(&parsed.diagnostics, SMALL))).step("train").unwrap().stage.identity()
    };
    let smoke = CommandLineOverrides { profiles: vec!["smoke".to_owned()], ..CommandLineOverrides::default() };
    let with = train(&smoke);
    assert_eq!((&with["learning_rate"], &with["epochs"], &with["lora"]["r"]), (&1.0.into(), &0.1.into(), &2.into()));

    let with =
        train(&CommandLineOverrides { profiles: vec!["smoke".to_owned()], ..with_set(&[("lr", "2.0"), ("stage.train.with.epochs", "7")]) });
    assert_eq!((&with["learning_rate"], &with["epochs"], &with["lora"]["r"]), (&2.0.into(), &7.0.into(), &2.into()));

    let with = train(&with_set(&[("stage.train.with.base", "mistralai/Voxtral"), ("stage.train.with.lora", "{ r = 4 }")]));
    assert_eq!((&with["base"], &with["lora"]["r"]), (&"mistralai/Voxtral".into(), &4.into()));
    assert_eq!(parse_with(SMALL, &with_set(&[("pipeline.seed", "9")])).pipeline.unwrap().seed, 9);
}

#[test]
fn profiles_are_laid_over_each_other_from_left_to_right() {
    let text = format!("{SMALL}[profile.long]\nextends = \"base\"\nset = {{ epochs = 9, \"stage.train.with.epochs\" = 8 }}\n");
    let train = |names: &[&str]| {
        let overrides =
            CommandLineOverrides { profiles: names.iter().map(|name| (*name).to_owned()).collect(), ..CommandLineOverrides::default() };
        let parsed = parse_with(&text, &overrides);
        let with =
            parsed.pipeline.unwrap_or_else(|| panic!("{}", rendered(&parsed.diagnostics, &text))).step("train").unwrap().stage.identity();
        (with["learning_rate"].as_f64().unwrap(), with["epochs"].as_f64().unwrap(), with["lora"]["r"].as_u64().unwrap())
    };
    assert_eq!(train(&["smoke", "long"]), (1.0, 8.0, 2));
    assert_eq!(train(&["long", "smoke"]), (1.0, 0.1, 2));
    assert_eq!(train(&["base"]), (1.0, 3.0, 0));

    // The common ancestor is applied once: it does not undo the overrides of the first profile.
    let text = text.replace("set = { \"stage.train.with.epochs\" = 0.1,", "set = { lr = 4.0, \"stage.train.with.epochs\" = 0.1,");
    let overrides = CommandLineOverrides { profiles: vec!["smoke".to_owned(), "long".to_owned()], ..CommandLineOverrides::default() };
    assert_eq!(parse_with(&text, &overrides).pipeline.unwrap().step("train").unwrap().stage.identity()["learning_rate"], 4.0);
}

fn with_files(files: &[(&str, &str)], overrides: &CommandLineOverrides) -> (ManifestSources, ParsedPipeline) {
    let look = |path: &Path| match files.iter().find(|(name, _)| Path::new(name) == path) {
        Some((_, text)) => Ok(vec![(path.to_owned(), (*text).to_owned())]),
        None => Err("there is no such file".to_owned()),
    };
    let sources = ManifestSources::gather(files[0].1, Path::new(files[0].0), &look);
    let parsed = Pipeline::parse_sources(KINDS, &sources, Path::new(files[0].0), overrides, &env);
    (sources, parsed)
}

#[test]
fn a_file_is_laid_over_what_it_includes() {
    let files = [
        (
            "p/pipeline.toml",
            "schema = 1\ninclude = [\"../shared/voice.toml\", \"more.toml\"]\n[pipeline]\nname = \"x\"\n[params]\ncount = 3\n",
        ),
        ("shared/voice.toml", "include = [\"base.toml\"]\n[params]\nlanguage = \"fr\"\ncount = 2\n[profile.long]\nset = { count = 9 }\n"),
        (
            "shared/base.toml",
            "[params]\nlanguage = \"en\"\ncount = 1\n[stage.a]\nuses = \"phrases\"\nwith = { language = \"${params.language}\", count = \"${params.count}\", source = \"s\" }\n",
        ),
        ("p/more.toml", "[stage.a]\nwith = { source = \"t\" }\n"),
    ];
    let phrases = |overrides: &CommandLineOverrides| {
        let (_, parsed) = with_files(&files, overrides);
        parsed.pipeline.unwrap_or_else(|| panic!("{}", rendered(&parsed.diagnostics, files[0].1))).step("a").unwrap().stage.identity()
    };
    assert_eq!(phrases(&CommandLineOverrides::default()), serde_json::json!({ "language": "fr", "count": 3, "source": "t" }));
    let long = CommandLineOverrides { profiles: vec!["long".to_owned()], ..with_set(&[("language", "de")]) };
    assert_eq!(phrases(&long), serde_json::json!({ "language": "de", "count": 9, "source": "t" }));

    let (sources, _) = with_files(&files, &long);
    let origin = |key: &str| {
        let found = pipeline::manifest::origin::all(&sources, &long).into_iter().find(|origin| origin.key == key).unwrap();
        (found.value, found.place)
    };
    assert_eq!(origin("stage.a.uses"), ("\"phrases\"".to_owned(), "shared/base.toml:5:8".to_owned()));
    assert_eq!(origin("params.count"), ("9".to_owned(), "shared/voice.toml:6:17".to_owned()));
    assert_eq!(origin("params.language"), ("de".to_owned(), "--set language=de".to_owned()));
    assert_eq!(origin("pipeline.name").1, "p/pipeline.toml:4:8");

    // A diagnostic shows its source line, in whichever file that is.
    let wrong = [files[0], files[1], (files[2].0, &files[2].1.replace("\"phrases\"", "\"phrasse\"")), files[3]];
    let (_, parsed) = with_files(&wrong, &CommandLineOverrides::default());
    let shown = rendered(&parsed.diagnostics, files[0].1);
    assert!(
        shown.contains(" --> shared/base.toml:5:8\n  |\n5 | uses = \"phrasse\"\n  |        ^^^^^^^^^ did you mean `phrases`?"),
        "{shown}"
    );
    assert_eq!(parsed.diagnostics[0].to_json(Path::new("p/pipeline.toml"), files[0].1)["place"]["file"], "shared/base.toml");
}

#[test]
fn mistakes_on_the_command_line_are_shown_there() {
    for (key, value, expected) in [
        ("lrr", "1", "error: unknown param `lrr`\n --> the command line\n  |\n1 | --set lrr=1\n  |       ^^^ did you mean `lr`?\n"),
        ("stage.trian.with.epochs", "1", "unknown stage `trian`"),
        ("stage.train.with.epochs", "many", "1 | --set stage.train.with.epochs=many\n  |                               ^^^^"),
        ("stage.train.with.epoch", "1", "1 | --set stage.train.with.epoch=1\n  |       ^^^^^^^^^^^^^^^^^^^^^^ did you mean `epochs`?"),
        ("stage.train.with.lora", "{ r = ", "1 | --set stage.train.with.lora={ r = \n"),
        ("stage.train.uses.x", "1", "`stage.train.uses` is a string, not a table"),
        ("stage.train", "1", "`stage.train` is a whole stage"),
        ("schema.x", "1", "`schema.x` cannot be set"),
        ("a..b", "1", "`a..b` is not a key"),
    ] {
        let parsed = parse_with(SMALL, &with_set(&[("language", "\"fr\""), (key, value)]));
        assert!(parsed.pipeline.is_none());
        let shown = rendered(&parsed.diagnostics, SMALL);
        assert!(shown.contains(expected), "{key}={value}:\n{shown}");
    }
    let shown = rendered(&parse_with(SMALL, &with_set(&[("lr", "fast")])).diagnostics, SMALL);
    assert!(shown.contains("`lr` is a number, not `fast`"), "{shown}");
    // A value that is invalid only where it is used, such as a text by its quotes: both places are reported.
    let shown = rendered(&parse_with(SMALL, &with_set(&[("lr", "'fast'")])).diagnostics, SMALL);
    assert!(shown.contains("`with.learning_rate` must be a number, not a string"), "{shown}");
    assert!(
        shown.contains("with = { learning_rate = \"${params.lr}\"") && shown.contains("--> the command line  the value of `params.lr`"),
        "{shown}"
    );

    let smoek = CommandLineOverrides { profiles: vec!["smoek".to_owned()], ..CommandLineOverrides::default() };
    let shown = rendered(&parse_with(SMALL, &smoek).diagnostics, SMALL);
    assert!(shown.contains("1 | -p smoek\n  |    ^^^^^ did you mean `smoke`?"), "{shown}");
}

#[test]
fn a_secret_is_never_in_what_is_said_of_it() {
    let text = SMALL.replace("${env.VOICE}", "${env.HF_TOKEN}");
    let shown = rendered(&parse(&text).diagnostics, &text);
    assert!(shown.contains("looks like a secret") && !shown.contains("hf_secret"), "{shown}");
}

#[test]
fn windows_line_ends_change_nothing() {
    let text = SMALL.replace('\n', "\r\n");
    assert_eq!(good(&text).steps.len(), 6);
    let text = text.replace("\"dataset\"", "\"datset\"");
    let shown = rendered(&parse(&text).diagnostics, &text);
    assert!(shown.contains("| uses = \"datset\"\n   |        ^^^^^^^^ did you mean `dataset`?"), "{shown}");
}

#[test]
fn durations_and_bounds() {
    let step = |line: &str| {
        let text = SMALL.replace("from = { data = \"data\" }", &format!("from = {{ data = \"data\" }}\n{line}"));
        parse(&text).pipeline.map(|pipeline| (pipeline.step("train").unwrap().timeout, pipeline.step("train").unwrap().require.clone()))
    };
    for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43200), ("2d", 172_800), ("1h30m", 5400), ("1h 30m", 5400)] {
        assert_eq!(step(&format!("timeout = \"{text}\"")).unwrap().0, Some(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["", "90", "0s", "1.5h", "h", "-1h", "30m1h", "99999999999999999999s", "99999999999999999d", "1é"] {
        assert!(step(&format!("timeout = \"{text}\"")).is_none(), "{text}");
    }
    for (text, comparison, limit) in [
        ("< 0.15", Comparison::Less, 0.15),
        ("<=1", Comparison::LessOrEqual, 1.0),
        ("> -2e3", Comparison::Greater, -2000.0),
        (" >= 100 ", Comparison::GreaterOrEqual, 100.0),
    ] {
        assert_eq!(step(&format!("require = {{ wer = \"{text}\" }}")).unwrap().1["wer"], MetricBound { comparison, limit });
    }
    for text in ["0.15", "= 1", "<", "< x", "< nan", "< inf", "=< 1", "< 1 2"] {
        assert!(step(&format!("require = {{ wer = \"{text}\" }}")).is_none(), "{text}");
    }
    assert!(
        MetricBound { comparison: Comparison::Less, limit: 1.0 }.holds(0.5)
            && !MetricBound { comparison: Comparison::Less, limit: 1.0 }.holds(f64::NAN)
    );
}

#[test]
fn a_pipeline_can_be_drawn() {
    let pipeline = good(&SMALL.replace("from = { data = \"data\" }", "from = { data = \"data\" }\nrequire = { loss = \"< 0.5\" }"));
    assert_eq!(
        pipeline::graph::draw::text(&pipeline),
        "\
small
  phrases  phrases     → phrases
  b        recordings  → clips  ← phrases = phrases
  a        recordings  → clips  ← phrases = phrases
  note     command     → files
  data     dataset     → dataset  ← clips = b + a, after note
  train    train       → model  ← data = data
                       only if loss < 0.5
results: train
"
    );
    let mermaid = pipeline::graph::draw::mermaid(&pipeline);
    assert!(mermaid.starts_with("flowchart TD\n  s0[\"phrases<br/>phrases\"]\n"), "{mermaid}");
    assert!(mermaid.contains("  s1 -->|\"clips\"| s4\n") && mermaid.contains("  s3 -.-> s4\n"), "{mermaid}");
    assert!(mermaid.contains("s5[\"train<br/>train<br/>loss &lt; 0.5\"]"), "{mermaid}");
    let dot = pipeline::graph::draw::dot(&pipeline);
    assert!(dot.contains("  \"train\" [label=\"train (train)\\nloss < 0.5\"];\n"), "{dot}");
    assert!(
        dot.contains(
            "  \"b\" -> \"data\" [label=\"clips\"];\n  \"a\" -> \"data\" [label=\"clips\"];\n  \"note\" -> \"data\" [style=dashed];"
        ),
        "{dot}"
    );
}

#[test]
fn an_editor_is_told_that_a_reference_may_stand_for_a_number() {
    let schema = pipeline::manifest::schema(KINDS);
    let train = &schema["$defs"]["Train"]["properties"];
    assert_eq!(train["learning_rate"]["anyOf"][0]["type"], "number");
    assert_eq!(train["learning_rate"]["anyOf"][1]["$ref"], "#/$defs/Reference");
    assert_eq!(train["base"]["type"], "string");
    assert_eq!(schema["$defs"]["PipelineTable"]["properties"]["seed"]["type"], "integer");
}

/// Parses the real stages; only the intended mistakes are reported.
#[test]
fn the_real_stages_read_their_settings_from_a_file() {
    let text = "schema = 1\n[pipeline]\nname = \"x\"\n[params]\nlr = 5e-5\n[stage.adapter]\nuses = \"train\"\nfrom = { data = \"data\" }\n\
        with = { learning_rate = \"${params.lr}\", epochs = 2, epoch = 3 }\n";
    let parsed = Pipeline::parse(STAGES, text, Path::new("pipeline.toml"), &CommandLineOverrides::default(), &|_| None);
    assert_eq!(messages(&parsed), ["unknown stage `data`", "unknown key `epoch` in `with`"]);
    assert_eq!(parsed.diagnostics[1].hint.as_deref(), Some("did you mean `epochs`?"));
}

/// Fuzzing: a randomly damaged file never panics the parser, and every diagnostic can be rendered.
#[test]
fn damaged_files_never_stop_the_program() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let example = fs::read_to_string(folder("good/example.toml")).unwrap();
    let pieces = [
        "\"", "'", "[", "]", "{", "}", "=", ".", ",", "\n", "\r", "\t", "#", "${", "}", "é", "日", "0", "-", "stage", "\u{0}", "\"\"\"",
        "[[",
    ];
    for round in 0..600 {
        let mut text = if round % 2 == 0 { example.clone() } else { SMALL.to_owned() };
        for _ in 0..random.random_range(1..6) {
            let mut at = random.random_range(0..=text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            if random.random_bool(0.5) {
                text.insert_str(at, pieces[random.random_range(0..pieces.len())]);
            } else {
                let end = (at + random.random_range(0..12)).min(text.len());
                if text.is_char_boundary(end) {
                    text.replace_range(at..end, "");
                }
            }
        }
        let overrides = if round % 3 == 0 {
            with_set(&[("lr", "1"), ("stage.train.with.epochs", &text[..text.floor_char_boundary(20)])])
        } else {
            CommandLineOverrides::default()
        };
        let parsed = parse_with(&text, &overrides);
        assert_eq!(parsed.pipeline.is_none(), parsed.diagnostics.iter().any(Diagnostic::is_error));
        for diagnostic in &parsed.diagnostics {
            assert!(diagnostic.argument.is_some() || diagnostic.span.end <= text.len(), "{diagnostic:?}");
            let drawn = diagnostic.render(Path::new("p.toml"), &text, true);
            assert!(drawn.contains('^'));
            diagnostic.to_json(Path::new("p.toml"), &text);
        }
    }
}

/// Former names of settings are accepted in the file, in `--set` and in `recover`, but not together with the current name.
#[test]
fn former_names_of_settings_are_read() {
    let file = |with: &str, rest: &str| {
        format!(
            "schema = 1\n[pipeline]\nname = \"p\"\n[stage.data]\nuses = \"import\"\nwith = {{ folder = \"d\" }}\n[stage.set]\nuses = \"dataset\"\nfrom = {{ clips = \"data\" }}\n[stage.a]\nuses = \"train\"\nfrom = {{ data = \"set\" }}\n{rest}\
             with = {{ base = \"m\", {with} }}\n"
        )
    };
    let identity = |text: &str, set: &[(&str, &str)]| {
        let parsed = Pipeline::parse(STAGES, text, Path::new("pipeline.toml"), &with_set(set), &env);
        assert!(parsed.diagnostics.is_empty(), "{}", rendered(&parsed.diagnostics, text));
        parsed.pipeline.unwrap().step("a").unwrap().stage.settings()
    };
    let current = "gradient_checkpointing = true, save_steps = 7, save_total_limit = 5, lr_scheduler = \"cosine\"";
    let former = "recompute = true, checkpoint_steps = 7, keep_checkpoints = 5, schedule = \"cosine\"";
    let wanted = identity(&file(current, ""), &[]);
    assert_eq!(wanted["lr_scheduler"], "cosine");
    assert_eq!(identity(&file(former, ""), &[]), wanted);
    let set = [("recompute", "true"), ("checkpoint_steps", "7"), ("keep_checkpoints", "5"), ("schedule", "\"cosine\"")];
    let set = set.map(|(key, value)| (format!("stage.a.with.{key}"), value));
    assert_eq!(identity(&file("", ""), &set.iter().map(|(key, value)| (key.as_str(), *value)).collect::<Vec<_>>()), wanted);

    let recover = "stall = \"1h\"\nrecover = [{ on = \"out-of-memory\", set = { recompute = true } }]\n";
    let text = file("", recover);
    let step = Pipeline::parse(STAGES, &text, Path::new("pipeline.toml"), &CommandLineOverrides::default(), &env).pipeline.unwrap();
    let step = step.step("a").unwrap();
    assert_eq!(step.stall_timeout, Some(std::time::Duration::from_secs(3600)));
    let changes = step.retry.recoveries(&voxpipe::error::Error::new("").kind(voxpipe::error::ErrorKind::OutOfMemory)).next().unwrap();
    assert_eq!(step.stage.changed(changes).unwrap().settings()["gradient_checkpointing"], true);

    let both = file("recompute = true, gradient_checkpointing = false", "");
    let parsed = Pipeline::parse(STAGES, &both, Path::new("pipeline.toml"), &CommandLineOverrides::default(), &env);
    let shown = rendered(&parsed.diagnostics, &both);
    assert!(shown.contains("`recompute` is the former name of `gradient_checkpointing`") && shown.contains("keep only"), "{shown}");
}
