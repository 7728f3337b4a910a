//! The command line: one variant and one short function for each subcommand.
//!
//! Results go to standard output, everything else to standard error; with `--json` the result is one JSON value. How a command
//! ended is its exit code, see [`Exit`].

mod archive;
mod bench;
mod diff;
mod doctor;
mod download_progress;
mod gc;
mod history;
mod init;
mod lock;
mod look;
mod merge;
mod migrate;
mod plot;
mod project;
mod prompt;
mod provenance;
mod repro;
mod run;
mod stream;
mod studio;
mod summary;
mod sweep;
mod tracking;
mod transcribe;
mod worker;

use crate::error::{Error, Result};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use pipeline::exit::Exit;
use pipeline::graph::draw;
use pipeline::process::reaper;
use serde_json::Value;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// From recordings to a fine-tuned, evaluated, published Voxtral speech recogniser, driven by one pipeline.toml.
#[derive(Parser)]
#[command(name = "voxpipe", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done · 1 a stage or a file failed · 2 the file or the command line is wrong · 3 another run holds the lock · \
4 the environment lacks something · 10 parked for a person · 11 timed out · 12 a gate was not met · 13 repeated with other bytes · 14 something would run · 75 interrupted, run again to go on · 130 interrupted twice, ended at once";

#[derive(Subcommand)]
enum Command {
    /// Write a commented pipeline.toml to begin with
    Init(init::Init),
    /// Run what is not up to date; go on where an earlier run stopped
    Run(run::Run),
    /// The same as `run`: whatever was finished is kept, whatever was begun goes on
    Resume(run::Run),
    /// Run every combination of [matrix], and the rest of the pipeline for the best of them
    Sweep(sweep::Sweep),
    /// Say what a run would do, and why; nothing is written
    Plan {
        #[command(flatten)]
        project: Project,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Ask as if `run --force STAGE` had been said
        #[arg(long, value_name = "STAGE")]
        force: Vec<String>,
        /// End with exit code 14 if anything would run, with 12 if only a gate is not met
        #[arg(long)]
        exit_code: bool,
    },
    /// Look for mistakes in the pipeline file; every one is reported
    Check {
        #[command(flatten)]
        project: Project,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Say of every value in which file, profile or argument it was written
        #[arg(long)]
        show_origin: bool,
    },
    /// Say why a stage would run, file by file and setting by setting
    Why {
        /// The stage
        stage: String,
        #[command(flatten)]
        project: Project,
        /// Compare with what went in in this run, an id or `latest` or `previous`
        #[arg(long, value_name = "RUN")]
        vs: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say how each stage stands: fresh, stale, parked or failed
    Status {
        #[command(flatten)]
        project: Project,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what happened in a run
    Logs(history::Logs),
    /// List the runs of this project
    Runs {
        #[command(flatten)]
        project: Project,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Summarise one run
    Show {
        /// Its id, as `voxpipe runs` lists it; the newest if left out or `latest`
        #[arg(default_value = "latest")]
        run: String,
        #[command(flatten)]
        project: Project,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare two runs in settings, data and numbers
    Diff(diff::Diff),
    /// Repeat a run in a fresh place and say whether it makes the same bytes
    Repro(repro::Repro),
    /// Remove what nothing needs any more
    Gc(gc::Gc),
    /// Say what is kept, check it, pin it
    #[command(subcommand)]
    Cache(gc::Cache),
    /// Write a run with its results into one file
    Export(archive::Export),
    /// Take in a run that was exported
    Import(archive::Import),
    /// Draw the curves of trainings, running or done
    Plot(plot::Plot),
    /// Tell Trackio of runs that are over
    #[command(subcommand)]
    Track(tracking::Track),
    /// Write down what a model hears in audio files
    Transcribe(Box<transcribe::Transcribe>),
    /// Walk the whole journey in the browser: record, train, publish
    Studio(studio::Studio),
    /// Read sentences aloud in the browser, for the pipeline's `recordings` stage
    Record(studio::RecordArgs),
    /// Try a model in the browser, or by programs that know OpenAI's transcription API
    Demo(studio::Demo),
    /// Merge an adapter into its base model: a full model in a folder of its own
    Merge(merge::Merge),
    /// Write down which commit each repository of the Hub is, so that results do not change when a branch moves
    Lock(lock::Lock),
    /// Bring a pipeline file up to the version of the format that this program reads
    Migrate(migrate::Migrate),
    /// Look at this machine: devices, memory, Hub; and see that the device computes right
    Doctor(doctor::Doctor),
    /// Measure a device: its ceilings, single operations, training steps and transcription
    Bench(bench::Bench),
    /// Carry out one stage as its job's folder describes it
    #[command(hide = true)]
    Work {
        /// The job's folder
        folder: PathBuf,
    },
    /// End what another voxpipe started when that one is killed
    #[command(hide = true)]
    Guard,
    /// Print the JSON Schema of pipeline files
    Schema,
    /// Draw the stages and what flows between them
    Graph {
        #[command(flatten)]
        project: Project,
        /// How
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// The same as `--format json`
        #[arg(long, conflicts_with = "format")]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Which pipeline, and with which changes.
#[derive(Args, Clone)]
struct Project {
    /// The pipeline file
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

/// Changes to the file, made from outside.
#[derive(Args, Clone, Default)]
struct Changes {
    /// Apply `[profile.NAME]`; may be repeated, each is laid over those before it
    #[arg(short, long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// Set a parameter or a key of the file; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Refuse repositories of the Hub that `voxpipe lock` has not pinned
    #[arg(long)]
    locked: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// A Mermaid flowchart
    Mermaid,
    /// Graphviz
    Dot,
    /// A picture for a page
    Svg,
    /// For programs
    Json,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.trim().is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.trim().to_owned(), value.to_owned())) }
}

/// The program: reads its arguments, does what they say, and says how it went.
pub fn main() -> ExitCode {
    if std::env::var_os("VOXPIPE_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("VOXPIPE_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { Exit::Done as u8 });
        }
    };
    reaper::configure("guard");
    match cli.command.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // An error without a message: whoever read the output has gone, and nothing is wrong.
            if error.message.is_empty() {
                return ExitCode::from(Exit::Done as u8);
            }
            complain(&error);
            ExitCode::from(Exit::from(&error) as u8)
        }
    }
}

impl Command {
    fn run(self) -> Result<u8> {
        let done = |()| Exit::Done as u8;
        match self {
            Self::Init(init) => init.go().map(done),
            Self::Run(run) | Self::Resume(run) => run.go(),
            Self::Sweep(sweep) => sweep.go(),
            Self::Plan { project, json, force, exit_code } => look::plan(&project, &force, exit_code, json),
            Self::Check { project, json, show_origin } => look::check(&project, json, show_origin),
            Self::Why { stage, project, vs, json } => look::why(&project, &stage, vs.as_deref(), json).map(done),
            Self::Status { project, json } => look::status(&project, json).map(done),
            Self::Logs(logs) => logs.print().map(done),
            Self::Runs { project, json } => history::runs(&project, json).map(done),
            Self::Show { run, project, json } => history::show(&project, &run, json).map(done),
            Self::Diff(diff) => diff.print().map(done),
            Self::Repro(repro) => repro.go(),
            Self::Gc(gc) => gc.go().map(done),
            Self::Cache(cache) => cache.go(),
            Self::Export(export) => export.go().map(done),
            Self::Import(import) => import.go().map(done),
            Self::Plot(plot) => plot.draw().map(done),
            Self::Track(track) => track.go().map(done),
            Self::Transcribe(transcribe) => transcribe.go(),
            Self::Studio(studio) => studio.go().map(done),
            Self::Record(record) => record.go().map(done),
            Self::Demo(demo) => demo.go().map(done),
            Self::Merge(merge) => merge.go().map(done),
            Self::Lock(lock) => lock.go().map(done),
            Self::Migrate(migrate) => migrate.go(),
            Self::Doctor(doctor) => doctor.go().map(done),
            Self::Bench(bench) => bench.go().map(done),
            Self::Work { folder } => worker::work(folder),
            Self::Guard => {
                reaper::stand();
                Ok(Exit::Done as u8)
            }
            Self::Schema => print(&format!("{:#}\n", pipeline::manifest::schema(crate::stages::STAGES))).map(done),
            Self::Graph { project, format, json } => {
                let pipeline = project.pipeline()?;
                match if json { Format::Json } else { format } {
                    Format::Json => print_json(draw::json(&pipeline)),
                    Format::Text => print(&draw::text(&pipeline)),
                    Format::Mermaid => print(&draw::mermaid(&pipeline)),
                    Format::Dot => print(&draw::dot(&pipeline)),
                    Format::Svg => print(&draw::svg(&pipeline)),
                }
                .map(done)
            }
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "voxpipe", &mut script);
                print(&String::from_utf8_lossy(&script)).map(done)
            }
        }
    }
}

/// Prints a result. When nobody reads it any more the program ends quietly: an error without a message.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::new("")),
        Err(error) => Err(Error::from(error).context("cannot write to standard output")),
        Ok(()) => Ok(()),
    }
}

/// The version of what `--json` prints; `docs/reference/json.md` says what is in it.
const SHAPES: u32 = 1;

/// Prints a result for programs, with the version of its shape.
fn print_json(mut value: Value) -> Result<()> {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("v".to_owned(), SHAPES.into());
    }
    print(&format!("{value:#}\n"))
}

/// Says something a person should know, beside the result.
fn note(message: &str) {
    let _ = io::stderr().write_all(format!("note: {message}\n").as_bytes());
}

fn complain(error: &Error) {
    let mut text = format!("error: {}\n", error.message);
    if let Some(hint) = &error.hint {
        text.push_str(&format!("  = {hint}\n"));
    }
    let _ = io::stderr().write_all(text.as_bytes());
}
