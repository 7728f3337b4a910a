//! `command`: runs any program as a stage.
//!
//! The program is started without a shell in the project root, with input and output folders substituted into its arguments. It runs in its
//! own process group, so it is stopped together with everything it started. Its output lines become notes; a line that is a JSON object
//! with `progress` or `metrics` becomes a progress or metrics event. Secret environment variables are passed on only if requested, and
//! their values are redacted in the output.

mod code;
mod environment;
mod events;
mod group;
mod lines;
mod promised;
mod template;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use environment::{Container, Prepared};
use events::OutputReporter;
use group::Group;
use pipeline::artifact::ArtifactKind;
use pipeline::cache::programs;
use pipeline::process::reaper;
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult, gpu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use template::Template;
use voxpipe_io::secrets::is_secret_name;
use voxpipe_io::secrets::redactor::Redactor;

/// Run any program; the files that it writes to `${out}` are the result.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments, started without a shell in the project root. `${from.PORT}` becomes the folder of an input
    /// (`${from.PORT.0}`, `${from.PORT.1}` … if there are several; the argument `${from.PORT...}` becomes one argument for each), `${out}` the output folder, `${scratch}` a folder that is kept between
    /// attempts, `${seed}` the stage's seed. A printed line such as `{"progress": {"done": 3, "total": 10}, "metrics": {"loss": 0.4}}`
    /// reports progress and metrics; the last value of each metric becomes a metric of the result.
    pub run: Vec<String>,
    /// Source files and folders of the program; the stage reruns when they change. What interpreters, editors and version control leave in a
    /// folder (`__pycache__`, `*.pyc`, `.ipynb_checkpoints`, `.git`, swap and backup files) is no code.
    #[serde(default)]
    pub code: Vec<PathBuf>,
    /// Further files in the folders of `code` that are no code, as patterns like those of `.gitignore`: `*.log` and `notes.txt` match at any
    /// depth, `/build` and `data/*.csv` from the folder on, `cache/` matches folders only, and `!keep.pyc` takes a match back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Programs the result depends on, by name in PATH or by path; the stage reruns when the executable file changes. For an interpreter
    /// this does not cover the packages it loads: list their lockfile or requirements file in `code`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Environment variables for the program, such as `{ OMP_NUM_THREADS = "1" }`. Like arguments, they are part of the fingerprint and may
    /// contain `${…}` references.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Container image to run the program in, pinned by its digest: `docker.io/library/python@sha256:…`. It is run by the first of
    /// `apptainer`, `singularity`, `podman` and `docker` that is in PATH, or by the one that VOXPIPE_CONTAINER_ENGINE names. The program sees
    /// the project and its inputs read-only at their own paths, may write to `${out}` and `${scratch}`, and gets `variables` and `env`, but no
    /// other variable. Default: the program runs on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Lockfile of uv, `uv.lock`, with `pyproject.toml` beside it: the program runs in an environment with exactly these packages, made by
    /// `uv run --locked`. The stage reruns when one of the two files, or `.python-version`, changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uv: Option<PathBuf>,
    /// Artifact kind of the result in `${out}`, which is checked for the files of that kind. Default: `files`, no requirements.
    #[serde(default = "files")]
    pub output: ArtifactKind,
    /// Names of secret environment variables to pass to the program. By default, variables with a secret name, such as `API_TOKEN` or
    /// `DB_PASS`, or with a value that looks like a token are withheld. The values are redacted in what the program prints.
    #[serde(default)]
    pub env: Vec<String>,
}

const KNOWN: &str = "use ${out}, ${scratch}, ${seed} or ${from.PORT}; `$${` is a literal `${`";

fn files() -> ArtifactKind {
    ArtifactKind::Files
}

impl Stage for Command {
    const KIND: &'static str = "command";
    const ABOUT: &'static str = "runs any program";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[Port { name: "*", kinds: &[], arity: Arity::Many, about: "any input of the program, as `${from.NAME}` in `run`" }];

    fn output(&self) -> ArtifactKind {
        self.output
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if self.run.first().is_none_or(|program| program.trim().is_empty()) {
            errors.push(SettingError::new("run", "`run` is empty").hint("write the program and its arguments: [\"python\", \"step.py\"]"));
        }
        for (index, argument) in self.run.iter().enumerate() {
            match Template::parse(argument).map(|template| template.all_of().map(|(port, alone)| (port.to_owned(), alone))) {
                Err(message) => errors.push(SettingError::new(&format!("run.{index}"), message).hint(KNOWN)),
                Ok(Some((port, false))) => {
                    let message = format!("`${{from.{port}...}}` must be an argument of its own");
                    errors.push(SettingError::new(&format!("run.{index}"), message).hint("it becomes one argument for each input"));
                }
                Ok(Some((port, true))) if index == 0 => {
                    let message = format!("`${{from.{port}...}}` cannot be the program");
                    errors.push(SettingError::new("run.0", message).hint("write the program first"));
                }
                Ok(_) => {}
            }
        }
        if !self.uses_out() && self.output != ArtifactKind::Files {
            let message = format!("the program gets no `${{out}}`, so it cannot make the `output` of kind `{}`", self.output);
            errors.push(SettingError::new("run", message).hint("pass `${out}` to it, the folder to write into"));
        }
        for (index, path) in self.code.iter().enumerate() {
            if path.to_string_lossy().contains(['*', '?']) {
                let message = format!("`{}` is a pattern, but `code` takes only files and folders", path.display());
                errors.push(SettingError::new(&format!("code.{index}"), message).hint("name the folder, which includes every file in it"));
            }
        }
        for (index, pattern) in self.ignore.iter().enumerate() {
            if let Some(message) = code::mistake(pattern) {
                errors.push(SettingError::new(&format!("ignore.{index}"), message).hint("write patterns like those of a `.gitignore`"));
            }
        }
        for (index, tool) in self.tools.iter().enumerate().filter(|(_, tool)| tool.trim().is_empty()) {
            errors.push(
                SettingError::new(&format!("tools.{index}"), format!("`{tool}` is not a program name"))
                    .hint("write a name such as \"python3\""),
            );
        }
        for (name, value) in &self.variables {
            let error = |message: String| SettingError { path: vec!["variables".to_owned(), name.clone()], message, hint: None };
            if !is_variable(name) || value.contains('\0') {
                errors.push(error(format!("`{name}` cannot be set as an environment variable")).hint("use letters, digits and `_`"));
            } else if is_secret_name(name) {
                let message = format!("`{name}` looks like a secret; secrets are not allowed in settings");
                errors.push(error(message).hint(format!("set it in the environment and add it to `env = [\"{name}\"]`")));
            } else if let Err(message) = Template::parse(value) {
                errors.push(error(message).hint(KNOWN));
            } else if let Some(port) = Template::parse(value).ok().and_then(|template| Some(template.all_of()?.0.to_owned())) {
                let message = format!("`${{from.{port}...}}` stands for several arguments, and a variable has one value");
                errors.push(error(message).hint("use it in `run`"));
            } else if self.env.contains(name) {
                errors.push(
                    error(format!("`{name}` is also in `env`, which takes its value from the environment")).hint("remove one of them"),
                );
            }
        }
        for (index, name) in self.env.iter().enumerate() {
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!("`{name}` is not a valid environment variable name");
                errors.push(SettingError::new(&format!("env.{index}"), message).hint("write names only, never values"));
            }
        }
        errors.extend(environment::check(self));
        errors
    }

    fn check_inputs(&self, counts: &BTreeMap<&str, usize>) -> Vec<SettingError> {
        let complaint = |path: Vec<String>, text: &str| {
            let (message, hint) = Template::parse(text).ok()?.check_inputs(counts)?;
            Some(SettingError { path, message, hint: Some(hint) })
        };
        let arguments = self.run.iter().enumerate().map(|(index, text)| (vec!["run".to_owned(), index.to_string()], text));
        let variables = self.variables.iter().map(|(name, text)| (vec!["variables".to_owned(), name.clone()], text));
        arguments.chain(variables).filter_map(|(path, text)| complaint(path, text)).collect()
    }

    fn warnings(&self, has_gates: bool) -> Vec<SettingError> {
        // A program that only measures something for a gate needs no folder.
        if self.uses_out() || has_gates {
            return Vec::new();
        }
        let message =
            "the program gets no `${out}`, so the result of this stage is empty: files that it writes elsewhere are not part of it";
        vec![SettingError::new("run", message).hint("pass `${out}`, the folder to write into, as an argument or in `variables`")]
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.code.iter().cloned().chain(environment::sources(self.uv.as_ref())).collect()
    }

    fn missing_on_machine(&self) -> Option<Error> {
        self.unset_variable().or_else(|| environment::lacks(self))
    }

    fn programs(&self) -> Vec<String> {
        self.tools.clone()
    }

    fn reads(&self, file: &str) -> bool {
        code::counts(file, false, &self.ignore)
    }

    fn enters(&self, folder: &str) -> bool {
        code::counts(folder, true, &self.ignore)
    }

    /// What `ignore` leaves out is not there for the fingerprint; the patterns themselves change no result.
    fn identity(&self) -> Value {
        let mut settings = serde_json::to_value(self).unwrap_or(Value::Null);
        settings.as_object_mut().map(|settings| settings.remove("ignore"));
        settings
    }

    fn portable_settings(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    fn uses_scratch(&self) -> bool {
        self.uv.is_some() || self.run.iter().chain(self.variables.values()).any(|text| text.contains("${scratch}"))
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let root = std::path::absolute(&cx.root).with_context(|| "cannot resolve the project root")?;
        let mut arguments = Vec::new();
        for argument in &self.run {
            arguments.extend(Template::parse(argument).map_err(Error::new)?.fill_all(cx)?);
        }
        let (program, arguments) = arguments.split_first().ok_or_else(|| Error::new("`run` is empty"))?;
        // On the node of a cluster nobody has looked yet.
        if let Some(error) = self.unset_variable() {
            return Err(error);
        }

        if let Some(tool) = self.tools.iter().find(|tool| programs::find(tool, &root).is_none_or(|path| !root.join(path).is_file())) {
            return Err(Error::new(format!("program `{tool}`, listed in `tools`, not found"))
                .environment()
                .hint(format!("install `{tool}`, or remove it from `tools`")));
        }

        let fill = |(name, value): (&String, &String)| Ok((name.clone(), Template::parse(value).map_err(Error::new)?.fill(cx)?));
        let variables = self.variables.iter().map(fill).collect::<Result<Vec<_>>>()?;
        let Prepared { mut command, container } = environment::prepare(self, cx, &root, &resolve(&root, program), arguments, &variables)?;
        command.current_dir(&root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let is_asked = |name: &OsString| self.env.iter().any(|asked| **asked == **name);
        let (mut redactor, secrets) = Redactor::of_environment().clone();
        for name in secrets.iter().filter(|name| !is_asked(name)) {
            command.env_remove(name);
        }
        // Whoever names a variable here says that it is secret.
        redactor.add_all(self.env.iter().filter_map(std::env::var_os));
        if !cx.gpus.is_empty() {
            command.env(gpu::VISIBLE, cx.gpus.iter().map(|card| card.id.as_str()).collect::<Vec<_>>().join(","));
        }
        reaper::start_reaper();
        if let Some(liveness) = &cx.liveness {
            liveness.inherit()?;
        }
        let group = Group::start(&mut command).map_err(|error| not_started(&self.run[0], arguments, error))?;
        let mut output = OutputReporter::new(cx, redactor);
        let status = group.finish(cx, &mut output)?;
        let engine = container.as_ref().map(Container::engine);
        if let Some(container) = container.filter(|_| status.code().is_some()) {
            container.ended();
        }
        if cx.stopping() && !status.success() {
            return Err(Error::new(format!("`{}` was interrupted", self.run[0]))
                .kind(ErrorKind::Interrupted)
                .hint("run again to restart it"));
        }
        if let Some(engine) = engine.filter(|_| status.code() == Some(environment::ENGINE_FAILED)) {
            return Err(failed(&engine, status, &output.tail)
                .environment()
                .hint("the container was not started: check that the engine works, and that it can get the image"));
        }
        if !status.success() {
            return Err(failed(&self.run[0], status, &output.tail));
        }
        let found = promised::check(self.output, &cx.out).map_err(|error| {
            let hint = error.hint.clone().unwrap_or_else(|| format!("make the program write a valid result of kind `{}`", self.output));
            error.context(format!("`{}` succeeded, but its result does not match `output = \"{}\"`", self.run[0], self.output)).hint(hint)
        })?;
        let mut made = StageResult::new(format!("`{}` made {found}", self.run[0]));
        made.metrics = output.metrics;
        Ok(StageOutcome::Done(made))
    }
}

impl Command {
    /// The error of the first variable of `env` that is not set.
    fn unset_variable(&self) -> Option<Error> {
        let name = self.env.iter().find(|name| std::env::var_os(name).is_none())?;
        let error = Error::new(format!("environment variable `{name}`, listed in `env`, is not set")).environment();
        Some(error.hint(format!("set `{name}` before running, or remove it from `env`")))
    }

    /// Whether the program is told where to write its result.
    fn uses_out(&self) -> bool {
        self.run.iter().chain(self.variables.values()).any(|text| text.contains("${out}"))
    }
}

/// The path to execute: a program with a slash is relative to the project root; any other is searched in `PATH` by the system.
fn resolve(root: &Path, program: &OsString) -> PathBuf {
    let path = Path::new(program);
    if path.components().count() > 1 { root.join(path) } else { path.to_owned() }
}

/// Whether a text is a valid environment variable name.
fn is_variable(name: &str) -> bool {
    let fine = |character: char| character.is_ascii_alphanumeric() || character == '_';
    !name.is_empty() && name.chars().all(fine) && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// The error for a program that could not be started.
fn not_started(program: &str, arguments: &[OsString], error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::ArgumentListTooLong {
        let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
        return Error::new(format!(
            "cannot start `{program}`: its {} arguments have {bytes} bytes, more than the system allows",
            arguments.len()
        ))
        .kind(ErrorKind::InvalidInput)
        .hint("join the inputs in several stages, some hundreds each");
    }
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "install it, or write its path in `run`; a path with a slash is relative to the project root",
        io::ErrorKind::PermissionDenied => "make the file executable (`chmod +x`), or run it with its interpreter",
        _ => "try to start it by hand",
    };
    Error::new(format!("cannot start `{program}`: {error}")).environment().hint(hint)
}

/// The error for a program that failed, with its last output lines.
fn failed(program: &str, status: ExitStatus, tail: &VecDeque<String>) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".to_owned(),
    };
    let last = match tail.len() {
        0 => "; it printed nothing".to_owned(),
        1 => format!("; its last line:\n  {}", tail[0]),
        lines => format!("; its last {lines} lines:\n{}", tail.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")),
    };
    let hint = match status.code() {
        Some(127) => "a program or script it calls was not found",
        Some(126) => "something it calls is not executable",
        None => "it may have run out of memory, or someone may have killed it",
        Some(_) => "fix the program or its arguments, then run again",
    };
    Error::new(format!("`{program}` {how}{last}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// New settings must not invalidate existing results.
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
            ignore: vec![],
            tools: vec![],
            variables: BTreeMap::new(),
            container: None,
            uv: None,
            output: files(),
            env: vec![],
        };
        assert!(command("--in=${from.clips}/a/${out}${seed}${scratch}$${HOME}").check().is_empty());
        for (argument, message) in [("${ou}", "unknown reference `${ou}`"), ("${out", "has no `}`"), ("${from.}", "unknown reference")] {
            let errors = command(argument).check();
            assert_eq!(errors.len(), 1, "{argument}");
            assert!(errors[0].message.contains(message), "{}", errors[0].message);
            assert_eq!(errors[0].path, ["run", "1"]);
        }
    }
}
