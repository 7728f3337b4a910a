//! The command-line interface: one module for each subcommand.
//!
//! Results go to standard output, messages to standard error. With `--json` the result is one JSON value. The exit codes are in [`Exit`].

mod axes;
mod bench;
mod cache;
mod check;
mod check_folder;
mod diff;
mod doctor;
mod download_progress;
mod export;
mod gc;
mod graph;
mod help;
mod import;
mod init;
mod lock;
mod logs;
mod merge;
mod migrate;
mod plan;
mod plot;
mod project;
mod prompt;
mod provenance;
mod report;
mod repro;
mod run;
mod runs;
mod selection;
mod show;
mod signals;
mod status;
mod stream;
mod studio;
mod summary;
mod sweep;
mod table;
mod trackio;
mod transcribe;
mod twins;
mod why;
mod worker;

use crate::error::{Error, Result};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use pipeline::exit::Exit;
use pipeline::process::reaper;
use serde_json::Value;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

/// Fine-tune, evaluate and publish Voxtral speech recognizers from one pipeline.toml
#[derive(Parser)]
#[command(name = "voxpipe", version, arg_required_else_help = true, after_help = help::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a commented pipeline.toml
    Init(init::Init),
    /// Run every stage that is not up to date, continuing where an earlier run stopped
    Run(run::Run),
    /// Same as `run`: finished stages are kept, interrupted ones continue
    Resume(run::Run),
    /// Run every combination of [matrix], then the rest of the pipeline for the best one
    Sweep(sweep::Sweep),
    /// Show what a run would do and why, without writing anything
    Plan(plan::Plan),
    /// Validate the pipeline file; of a folder of recordings, say what would be read
    Check(check::Check),
    /// Explain why a stage would run, file by file and setting by setting
    Why(why::Why),
    /// Show the state of each stage and its last attempt
    Status(status::Status),
    /// Print the event log of a run
    Logs(logs::Logs),
    /// List the runs of this project
    Runs(runs::Runs),
    /// Summarize one run
    Show(show::Show),
    /// Compare the settings, data and metrics of two runs
    Diff(diff::Diff),
    /// Report on a run or a sweep: settings, data, curves, scores and provenance on one page
    Report(report::ReportArgs),
    /// Repeat a run in a fresh folder and check that its results are byte-identical
    Repro(repro::Repro),
    /// Remove unused results
    Gc(gc::Gc),
    /// Show disk usage, verify results, pin runs
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Write a run and its results to an archive
    Export(export::Export),
    /// Read a run from an archive
    Import(import::Import),
    /// Plot training curves, also while a training is running
    Plot(plot::Plot),
    /// Send finished runs to Trackio
    #[command(subcommand, alias = "track")]
    Trackio(trackio::Trackio),
    /// Transcribe audio files
    Transcribe(Box<transcribe::Transcribe>),
    /// Record, train and publish in the browser
    Studio(studio::Studio),
    /// Record prompts in the browser for the pipeline's `recordings` stage
    Record(studio::RecordArgs),
    /// Serve a model as a web page and an OpenAI-compatible transcription API
    Demo(studio::Demo),
    /// Merge a LoRA adapter into its base model
    Merge(merge::Merge),
    /// Pin the commit of every Hub repository in pipeline.lock
    Lock(lock::Lock),
    /// Update a pipeline file to the current schema version
    Migrate(migrate::Migrate),
    /// Check this machine: devices, memory, Hub access, numerical self-test
    Doctor(doctor::Doctor),
    /// Benchmark a device: peak rates, single operations, training steps, transcription
    Bench(bench::Bench),
    /// Run one stage as described by a job folder
    #[command(hide = true)]
    Work {
        /// Job folder
        folder: PathBuf,
    },
    /// Terminate the child processes of a voxpipe process that is killed
    #[command(hide = true)]
    Guard,
    /// Print the JSON Schema of pipeline files
    Schema,
    /// Draw the stages and their connections
    Graph(graph::Graph),
    /// Print a shell completion script
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

/// The pipeline file and the command-line changes to it.
#[derive(Args, Clone)]
struct Project {
    /// Pipeline file [default: pipeline.toml in this folder, or in the nearest folder above]
    #[arg(value_name = "FILE")]
    named: Option<PathBuf>,
    /// The file that was found where none was named.
    #[arg(skip)]
    found: OnceLock<PathBuf>,
    #[command(flatten)]
    changes: Changes,
}

/// Changes to the pipeline file made on the command line.
#[derive(Args, Clone, Default)]
struct Changes {
    /// Apply `[profile.NAME]`; repeatable, later profiles override earlier ones
    #[arg(short, long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// Override a parameter or a key of the pipeline file; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Fail if a Hub repository is not pinned in pipeline.lock
    #[arg(long)]
    locked: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.trim().is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.trim().to_owned(), value.to_owned())) }
}

/// The top-level clap command.
fn program() -> clap::Command {
    help::with_headings(Cli::command())
}

/// Parses the arguments of the process.
fn parse() -> Result<Cli, clap::Error> {
    let mut program = program();
    let matches = program.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut program))
}

/// The command line, for pages that are generated from it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program: parses the arguments, runs the subcommand, reports an error, and returns the exit code.
pub fn main() -> ExitCode {
    if std::env::var_os("VOXPIPE_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("VOXPIPE_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
    }
    let cli = match parse() {
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
            // An error without a message means that standard output was closed by its reader, which is not a failure.
            if error.message.is_empty() {
                return ExitCode::from(Exit::Done as u8);
            }
            print_error(&error);
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
            Self::Plan(plan) => plan.print(),
            Self::Check(check) => check.print(),
            Self::Why(why) => why.print().map(done),
            Self::Status(status) => status.print().map(done),
            Self::Logs(logs) => logs.print().map(done),
            Self::Runs(runs) => runs.print().map(done),
            Self::Show(show) => show.print().map(done),
            Self::Diff(diff) => diff.print().map(done),
            Self::Report(report) => report.go().map(done),
            Self::Repro(repro) => repro.go(),
            Self::Gc(gc) => gc.go().map(done),
            Self::Cache(cache) => cache.go(),
            Self::Export(export) => export.go().map(done),
            Self::Import(import) => import.go().map(done),
            Self::Plot(plot) => plot.draw().map(done),
            Self::Trackio(trackio) => trackio.go().map(done),
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
            Self::Graph(graph) => graph.print().map(done),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut program(), "voxpipe", &mut script);
                print(&String::from_utf8_lossy(&script)).map(done)
            }
        }
    }
}

/// Prints a result to standard output. A closed pipe gives an error without a message, which ends the program quietly.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::new("")),
        Err(error) => Err(Error::from(error).context("cannot write to standard output")),
        Ok(()) => Ok(()),
    }
}

/// Version of the `--json` output, which `docs/reference/json.md` describes.
const JSON_VERSION: u32 = 1;

/// Prints a result as JSON, with the format version as field `v`.
fn print_json(mut value: Value) -> Result<()> {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("v".to_owned(), JSON_VERSION.into());
    }
    print(&format!("{value:#}\n"))
}

/// Prints a note to standard error.
fn note(message: &str) {
    let _ = io::stderr().write_all(format!("note: {message}\n").as_bytes());
}

/// Prints an error and its hint to standard error.
fn print_error(error: &Error) {
    let mut text = format!("error: {}\n", error.message);
    if let Some(hint) = &error.hint {
        text.push_str(&format!("  = {hint}\n"));
    }
    let _ = io::stderr().write_all(text.as_bytes());
}
