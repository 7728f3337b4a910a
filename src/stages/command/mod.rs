//! `command`: any program can be a stage.
//!
//! The program is started without a shell, in the project's root, with the folders it needs written into its arguments. It
//! leads a process group of its own, so that it can be stopped with everything it started. What it prints is told as notes;
//! a line that is a JSON object with `progress` or `metrics` is told as such. Nothing secret is handed over unasked, and what
//! is secret is blacked out wherever the program prints it.

mod events;
mod group;
mod lines;
mod promised;
mod secrets;
mod template;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use events::Voice;
use group::Group;
use pipeline::artifact::ArtifactKind;
use pipeline::process::reaper;
use pipeline::scheduler::gpu;
use pipeline::secrets::is_secret;
use pipeline::stage::{Lookups, Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use secrets::Secrets;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use template::Template;

/// Runs a program of your own; what it leaves in `${out}` is the result.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments, started without a shell. `${from.PORT}` becomes the folder of an input (`${from.PORT.0}`,
    /// `${from.PORT.1}` … when there are several), `${out}` the folder for the result, `${scratch}` a folder kept between
    /// attempts, `${seed}` the stage's seed. A line it prints like `{"progress": {"done": 3, "total": 10}, "metrics": {"loss": 0.4}}` is
    /// told as such, and the last value of each metric is one of the result's.
    pub run: Vec<String>,
    /// Files and folders the program is made of; the stage runs again when they change.
    #[serde(default)]
    pub code: Vec<PathBuf>,
    /// Programs the result depends on, by their names in PATH or their paths: the stage runs again when one of them is another.
    /// Of an interpreter that is the interpreter itself, not the packages it loads: name their list in `code`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Environment variables for the program, with their values: `{ OMP_NUM_THREADS = "1" }`. They are settings like the arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// What the program leaves in `${out}`.
    #[serde(default = "files")]
    pub output: ArtifactKind,
    /// Names of secret environment variables the program may see; those whose names contain TOKEN, SECRET, PASSWORD or KEY
    /// are kept from it otherwise.
    #[serde(default)]
    pub env: Vec<String>,
}

const KNOWN: &str = "known are ${out}, ${scratch}, ${seed} and ${from.PORT}; `$${` stands for `${`";

fn files() -> ArtifactKind {
    ArtifactKind::Files
}

impl Stage for Command {
    const KIND: &'static str = "command";
    const ABOUT: &'static str = "runs a program of your own";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[Port { name: "*", kinds: &[], arity: Arity::Many, about: "whatever the program reads, as `${from.NAME}` in `run`" }];

    fn output(&self) -> ArtifactKind {
        self.output
    }

    fn check(&self) -> Vec<SettingError> {
        let mut complaints = Vec::new();
        if self.run.first().is_none_or(|program| program.trim().is_empty()) {
            complaints.push(
                SettingError::new("run", "no program is named").hint("write the program and its arguments: [\"python\", \"step.py\"]"),
            );
        }
        for (index, argument) in self.run.iter().enumerate() {
            if let Err(message) = Template::parse(argument) {
                complaints.push(SettingError::new(&format!("run.{index}"), message).hint(KNOWN));
            }
        }
        for (index, path) in self.code.iter().enumerate() {
            if path.to_string_lossy().contains(['*', '?']) {
                let message = format!("`{}` is a pattern, and `code` takes files and folders", path.display());
                complaints.push(SettingError::new(&format!("code.{index}"), message).hint("name the folder: every file in it counts"));
            }
        }
        for (index, tool) in self.tools.iter().enumerate().filter(|(_, tool)| tool.trim().is_empty()) {
            complaints
                .push(SettingError::new(&format!("tools.{index}"), format!("`{tool}` is no program")).hint("write its name: \"python3\""));
        }
        for (name, value) in &self.variables {
            let complaint = |message: String| SettingError { path: vec!["variables".to_owned(), name.clone()], message, hint: None };
            if !is_variable(name) || value.contains('\0') {
                complaints.push(
                    complaint(format!("`{name}` cannot be an environment variable with this value")).hint("use letters, digits and `_`"),
                );
            } else if is_secret(OsStr::new(name)) {
                let message = format!("`{name}` looks like a secret, and secrets never enter settings");
                complaints.push(complaint(message).hint(format!("set it in the environment, and write env = [\"{name}\"]")));
            } else if let Err(message) = Template::parse(value) {
                complaints.push(complaint(message).hint(KNOWN));
            } else if self.env.contains(name) {
                complaints
                    .push(complaint(format!("`{name}` is in `env` too, which takes its value from outside")).hint("keep one of them"));
            }
        }
        for (index, name) in self.env.iter().enumerate() {
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!("`{name}` is not the name of an environment variable");
                complaints.push(SettingError::new(&format!("env.{index}"), message).hint("write names only, never values"));
            }
        }
        complaints
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.code.iter().cloned().chain(self.tools.iter().map(|tool| found(tool).unwrap_or_else(|| tool.into()))).collect()
    }

    fn lookups(&self) -> Lookups {
        let named: Vec<&String> = self.tools.iter().filter(|tool| !tool.contains('/')).collect();
        let variables = if named.is_empty() { Vec::new() } else { vec!["PATH".to_owned()] };
        // A program of the same name that appears earlier in PATH is another one.
        Lookups { variables, paths: named.into_iter().flat_map(|tool| candidates(tool)).collect() }
    }

    fn uses_scratch(&self) -> bool {
        self.run.iter().chain(self.variables.values()).any(|text| text.contains("${scratch}"))
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let root = std::path::absolute(&cx.root).with_context(|| "cannot find the project's folder")?;
        let arguments =
            self.run.iter().map(|argument| Template::parse(argument).map_err(Error::new)?.fill(cx)).collect::<Result<Vec<_>>>()?;
        let (program, arguments) = arguments.split_first().ok_or_else(|| Error::new("no program is named in `run`"))?;
        let secrets = Secrets::of(std::env::vars_os(), &self.env);
        if let Some(name) = self.env.iter().find(|name| std::env::var_os(name).is_none()) {
            return Err(Error::new(format!("the environment variable `{name}`, which `env` asks for, is not set"))
                .environment()
                .hint(format!("set `{name}` before running, or take it out of `env`")));
        }

        if let Some(tool) = self.tools.iter().find(|tool| found(tool).is_none_or(|path| !root.join(path).is_file())) {
            return Err(Error::new(format!("the program `{tool}`, which `tools` names, is not there"))
                .environment()
                .hint(format!("install `{tool}`, or take it out of `tools`")));
        }

        let mut command = std::process::Command::new(resolve(&root, program));
        command.args(arguments).current_dir(&root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        for name in &secrets.withheld {
            command.env_remove(name);
        }
        if !cx.gpus.is_empty() {
            command.env(gpu::VISIBLE, cx.gpus.iter().map(|card| card.id.as_str()).collect::<Vec<_>>().join(","));
        }
        for (name, value) in &self.variables {
            command.env(name, Template::parse(value).map_err(Error::new)?.fill(cx)?);
        }
        reaper::start_reaper();
        if let Some(liveness) = &cx.liveness {
            liveness.inherit()?;
        }
        let child = command.spawn().map_err(|error| not_started(&self.run[0], error))?;
        let mut voice = Voice::new(cx, secrets);
        let status = Group::new(child)?.finish(cx, &mut voice)?;
        if cx.stopping() && !status.success() {
            return Err(Error::new(format!("`{}` was stopped", self.run[0]))
                .kind(ErrorKind::Interrupted)
                .hint("run again to start it anew"));
        }
        if !status.success() {
            return Err(failed(&self.run[0], status, &voice.tail));
        }
        let found = promised::check(self.output, &cx.out).map_err(|error| {
            let hint = error.hint.clone().unwrap_or_else(|| format!("make the program write its {} there", self.output));
            error
                .context(format!("`{}` ended well, but its result is not what `output = \"{}\"` promises", self.run[0], self.output))
                .hint(hint)
        })?;
        let mut made = StageResult::new(format!("`{}` made {found}", self.run[0]));
        made.metrics = voice.metrics;
        Ok(StageOutcome::Done(made))
    }
}

/// A program written with a slash lies in the project; any other is looked for in `PATH`.
fn resolve(root: &Path, program: &OsString) -> PathBuf {
    let path = Path::new(program);
    if path.components().count() > 1 { root.join(path) } else { path.to_owned() }
}

/// The file of a program: one written with a slash lies in the project, any other is the first of its name in `PATH`.
fn found(tool: &str) -> Option<PathBuf> {
    if tool.contains('/') {
        return Some(tool.into());
    }
    candidates(tool).into_iter().last().filter(|file| file.is_file())
}

/// The paths at which a program is looked for in `PATH`, in order, up to the first at which it is.
fn candidates(tool: &str) -> Vec<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut tried = Vec::new();
    for file in std::env::split_paths(&folders).map(|folder| folder.join(tool)) {
        let found = file.is_file();
        tried.push(file);
        if found {
            break;
        }
    }
    tried
}

fn is_variable(name: &str) -> bool {
    let fine = |character: char| character.is_ascii_alphanumeric() || character == '_';
    !name.is_empty() && name.chars().all(fine) && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn not_started(program: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "install it, or write its path in `run`; a path with a slash starts at the project's root",
        io::ErrorKind::PermissionDenied => "make the file executable (`chmod +x`), or start it through its interpreter",
        _ => "see whether it starts by hand",
    };
    Error::new(format!("cannot start `{program}`: {error}")).environment().hint(hint)
}

fn failed(program: &str, status: ExitStatus, tail: &VecDeque<String>) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    let last = match tail.len() {
        0 => "; it printed nothing".to_owned(),
        lines => format!("; its last {lines} lines:\n{}", tail.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")),
    };
    let hint = match status.code() {
        Some(127) => "a program or script it calls was not found",
        Some(126) => "something it calls may not be executed",
        None => "it may have run out of memory, or somebody ended it",
        Some(_) => "correct the program or its arguments and run again",
    };
    Error::new(format!("`{program}` {how}{last}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// New settings must not throw away what people have.
    #[test]
    fn settings_that_are_not_used_leave_the_identity_as_it_was() {
        let command: Command = toml::from_str("run = [\"true\"]").unwrap();
        let expected = serde_json::json!({ "run": ["true"], "code": [], "output": "files", "env": [] });
        assert_eq!(Stage::identity(&command), expected);
    }

    #[test]
    fn placeholders_are_checked_before_anything_runs() {
        let command = |argument: &str| Command {
            run: vec!["x".into(), argument.into()],
            code: vec![],
            tools: vec![],
            variables: BTreeMap::new(),
            output: files(),
            env: vec![],
        };
        assert!(command("--in=${from.clips}/a/${out}${seed}${scratch}$${HOME}").check().is_empty());
        for (argument, message) in [("${ou}", "`${ou}` is nothing"), ("${out", "has no `}`"), ("${from.}", "is nothing")] {
            let complaints = command(argument).check();
            assert_eq!(complaints.len(), 1, "{argument}");
            assert!(complaints[0].message.contains(message), "{}", complaints[0].message);
            assert_eq!(complaints[0].path, ["run", "1"]);
        }
    }
}
