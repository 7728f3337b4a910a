//! A declarative pipeline runner: stages in a TOML file, content-addressed caching, crash-safe runs, and an explanation of every rebuild.
//!
//! It knows nothing of speech. A program brings its own kinds of stages: a struct whose fields are the settings, and a [`Stage`](stage::Stage)
//! implementation. Parsing with diagnostics, the JSON Schema, fingerprints, `plan`, `why`, retries, gates, resources and Slurm jobs follow.
//!
//! ```
//! use pipeline::artifact::ArtifactKind;
//! use pipeline::cache::store::Store;
//! use pipeline::error::{Error, Result};
//! use pipeline::events::Emitter;
//! use pipeline::graph::Pipeline;
//! use pipeline::manifest::overrides::CommandLineOverrides;
//! use pipeline::scheduler::PipelineRun;
//! use pipeline::stage::{Context, FactoryOf, Port, Stage, StageFactory, StageOutcome, StageResult};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! /// Writes a greeting.
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Greet {
//!     /// Whom to greet.
//!     name: String,
//! }
//!
//! impl Stage for Greet {
//!     const KIND: &'static str = "greet";
//!     const ABOUT: &'static str = "writes a greeting";
//!     const VERSION: u32 = 1;
//!     const INPUTS: &'static [Port] = &[];
//!
//!     fn output(&self) -> ArtifactKind {
//!         ArtifactKind::Files
//!     }
//!
//!     fn run(&self, cx: &Context) -> Result<StageOutcome> {
//!         std::fs::write(cx.out.join("greeting.txt"), format!("Hello, {}!\n", self.name))?;
//!         Ok(StageOutcome::Done(StageResult::new("a greeting")))
//!     }
//! }
//!
//! const KINDS: &[&dyn StageFactory] = &[&FactoryOf::<Greet>::NEW];
//!
//! # fn main() -> Result<()> {
//! # let folder = tempfile::tempdir()?;
//! let file = folder.path().join("pipeline.toml");
//! let text = r#"
//!     schema = 1
//!     [pipeline]
//!     name = "hello"
//!     [stage.hello]
//!     uses = "greet"
//!     with = { name = "${params.name}" }
//!     [params]
//!     name = "world"
//! "#;
//! let parsed = Pipeline::parse(KINDS, text, &file, &CommandLineOverrides::default(), &|_| None);
//! let pipeline = parsed.pipeline.ok_or_else(|| Error::new("the file has mistakes"))?;
//! let store = Store::open(&pipeline.root, "example")?;
//! let report = PipelineRun::new(&pipeline, &store, Emitter::silent(), store.begin_run()?).go();
//! assert_eq!(report.exit, 0);
//! let greeting = store.latest("hello", "hello").join("greeting.txt");
//! assert_eq!(std::fs::read_to_string(greeting)?, "Hello, world!\n");
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`manifest`] | the text: what `pipeline.toml` may say, includes, profiles, overrides, interpolation |
//! | [`diagnostics`] | every mistake at its place, with a hint |
//! | [`graph`] | the checked pipeline: resolved stages, typed ports, order |
//! | [`plan`] | what is up to date, what would run, and why |
//! | [`cache`] | fingerprints, content digests, the store, garbage collection, the remote cache |
//! | [`scheduler`] | runs the plan: worker pool, resources, attempts, retries |
//! | [`executor`] | where a stage runs: in this process or as a Slurm job |
//! | [`process`] | child processes: none outlives its run unseen |
//! | [`events`] | the stream of events, its log, and reporters |
//! | [`stage`] | the contract between the runner and a kind of stage |

pub mod artifact;
pub mod cache;
pub mod diagnostics;
pub mod events;
pub mod executor;
pub mod exit;
pub mod graph;
pub mod manifest;
pub mod plan;
pub mod process;
pub mod scheduler;
pub mod stage;

pub use voxpipe_io::error;
