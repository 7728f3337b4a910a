//! `command`: any program can be a stage.
//!
//! The program is started without a shell, in the project's root, with the folders it needs written into its arguments. It
//! leads a process group of its own, so that it can be stopped with everything it started. What it prints is told as notes;
//! a line that is a JSON object with `progress` or `metrics` is told as such. Nothing secret is handed over unasked, and what
//! is secret is blacked out wherever the program prints it.

use super::{Arity, Complaint, Context, Made, Outcome, Port, Stage};
use crate::artifact::ArtifactKind;
use crate::error::{Doing, Error, Exit, Result};
use crate::event::Event;
use crate::jsonl;
use crate::phrase::Phrase;
use crate::record::Record;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Runs a program of your own; what it leaves in `${out}` is the result.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments, started without a shell. `${from.PORT}` becomes the folder of an input (`${from.PORT.0}`,
    /// `${from.PORT.1}` … when there are several), `${out}` the folder for the result, `${scratch}` a folder kept between
    /// attempts, `${seed}` the stage's seed.
    pub run: Vec<String>,
    /// Files and folders the program is made of; the stage runs again when they change.
    #[serde(default)]
    pub code: Vec<PathBuf>,
    /// What the program leaves in `${out}`.
    #[serde(default = "files")]
    pub output: ArtifactKind,
    /// Names of secret environment variables the program may see; those whose names contain TOKEN, SECRET, PASSWORD or KEY
    /// are kept from it otherwise.
    #[serde(default)]
    pub env: Vec<String>,
}

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

    fn check(&self) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        if self.run.first().is_none_or(|program| program.trim().is_empty()) {
            complaints
                .push(Complaint::new("run", "no program is named").hint("write the program and its arguments: [\"python\", \"step.py\"]"));
        }
        for (index, argument) in self.run.iter().enumerate() {
            if let Err(message) = Template::parse(argument) {
                let known = "known are ${out}, ${scratch}, ${seed} and ${from.PORT}";
                complaints.push(Complaint::new(&format!("run.{index}"), message).hint(known));
            }
        }
        for (index, name) in self.env.iter().enumerate() {
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!("`{name}` is not the name of an environment variable");
                complaints.push(Complaint::new(&format!("env.{index}"), message).hint("write names only, never values"));
            }
        }
        complaints
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.code.clone()
    }

    fn run(&self, cx: &Context) -> Result<Outcome> {
        let root = std::path::absolute(&cx.root).doing(|| "cannot find the project's folder")?;
        let arguments =
            self.run.iter().map(|argument| Template::parse(argument).map_err(Error::new)?.fill(cx)).collect::<Result<Vec<_>>>()?;
        let (program, arguments) = arguments.split_first().ok_or_else(|| Error::new("no program is named in `run`"))?;
        let secrets = Secrets::of(std::env::vars_os(), &self.env);
        if let Some(name) = self.env.iter().find(|name| std::env::var_os(name).is_none()) {
            return Err(Error::new(format!("the environment variable `{name}`, which `env` asks for, is not set"))
                .exit(Exit::Environment)
                .advice(format!("set `{name}` before running, or take it out of `env`")));
        }

        let mut command = std::process::Command::new(resolve(&root, program));
        command.args(arguments).current_dir(&root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        for name in &secrets.withheld {
            command.env_remove(name);
        }
        die_with_parent(&mut command);
        let child = command.spawn().map_err(|error| not_started(&self.run[0], error))?;
        let mut voice = Voice::new(cx, secrets);
        let status = Group::new(child)?.finish(cx, &mut voice)?;
        if cx.stopping() && !status.success() {
            return Err(Error::new(format!("`{}` was stopped", self.run[0])).exit(Exit::Interrupted).advice("run again to start it anew"));
        }
        if !status.success() {
            return Err(failed(&self.run[0], status, &voice.tail));
        }
        let found = check_promised(self.output, &cx.out).map_err(|error| {
            let advice = error.advice.clone().unwrap_or_else(|| format!("make the program write its {} there", self.output));
            error
                .context(format!("`{}` ended well, but its result is not what `output = \"{}\"` promises", self.run[0], self.output))
                .advice(advice)
        })?;
        let mut made = Made::new(format!("`{}` made {found}", self.run[0]));
        made.metrics = voice.metrics;
        Ok(Outcome::Done(made))
    }
}

/// An argument with its `${…}` found.
struct Template(Vec<Piece>);

enum Piece {
    Text(String),
    Out,
    Scratch,
    Seed,
    From(String),
}

impl Template {
    fn parse(argument: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = argument;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("`${{` in `{argument}` has no `}}`"));
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "out" => Piece::Out,
                "scratch" => Piece::Scratch,
                "seed" => Piece::Seed,
                _ => match name.strip_prefix("from.") {
                    Some(port) if !port.is_empty() => Piece::From(port.to_owned()),
                    _ => return Err(format!("`${{{name}}}` is nothing a command knows")),
                },
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    fn fill(&self, cx: &Context) -> Result<OsString> {
        let mut filled = OsString::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push(text),
                Piece::Out => filled.push(std::path::absolute(&cx.out)?),
                Piece::Scratch => filled.push(std::path::absolute(&cx.scratch)?),
                Piece::Seed => filled.push(cx.seed.to_string()),
                Piece::From(name) => filled.push(std::path::absolute(input(cx, name)?)?),
            }
        }
        Ok(filled)
    }
}

/// The folder `${from.NAME}` stands for, NAME being a port or a port and a number.
fn input<'a>(cx: &'a Context, name: &str) -> Result<&'a Path> {
    let named = format!("`${{from.{name}}}` in `run` of stage `{}`", cx.stage);
    match cx.all(name) {
        [one] => return Ok(&one.path),
        [] => {}
        several => {
            return Err(Error::new(format!("{named} stands for {} folders", several.len())).advice(format!(
                "write `${{from.{name}.0}}` to `${{from.{name}.{}}}`, each in an argument of its own",
                several.len() - 1
            )));
        }
    }
    if let Some((port, Ok(index))) = name.rsplit_once('.').map(|(port, index)| (port, index.parse::<usize>()))
        && let Some(artifact) = cx.all(port).get(index)
    {
        return Ok(&artifact.path);
    }
    let ports = cx.inputs.iter().map(|(port, artifacts)| format!("{port} ({})", artifacts.len())).collect::<Vec<_>>();
    let advice = if ports.is_empty() { "add it to `from`".to_owned() } else { format!("`from` has: {}", ports.join(", ")) };
    Err(Error::new(format!("{named} stands for nothing")).exit(Exit::Usage).advice(advice))
}

/// A program written with a slash lies in the project; any other is looked for in `PATH`.
fn resolve(root: &Path, program: &OsString) -> PathBuf {
    let path = Path::new(program);
    if path.components().count() > 1 { root.join(path) } else { path.to_owned() }
}

fn not_started(program: &str, error: io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "install it, or write its path in `run`; a path with a slash starts at the project's root",
        io::ErrorKind::PermissionDenied => "make the file executable (`chmod +x`), or start it through its interpreter",
        _ => "see whether it starts by hand",
    };
    Error::new(format!("cannot start `{program}`: {error}")).exit(Exit::Environment).advice(advice)
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
    let advice = match status.code() {
        Some(127) => "a program or script it calls was not found",
        Some(126) => "something it calls may not be executed",
        None => "it may have run out of memory, or somebody ended it",
        Some(_) => "correct the program or its arguments and run again",
    };
    Error::new(format!("`{program}` {how}{last}")).advice(advice)
}

/// Asks the kernel to end the program when we are killed without a chance to do it ourselves.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut std::process::Command) {
    let ask = || rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this is a single `prctl`.
    #[allow(unsafe_code, reason = "the one way to say this before the program starts")]
    unsafe {
        command.pre_exec(ask);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut std::process::Command) {}

/// How long a program that is asked to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(5);
/// How often a quiet program is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// The running program and everything it started; nothing of it survives this value.
struct Group {
    child: Child,
    pid: Pid,
}

impl Group {
    fn new(mut child: Child) -> Result<Self> {
        match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(Self { child, pid }),
            None => {
                let _ = child.kill();
                Err(Error::new(format!("the system gave the program the impossible number {}", child.id())))
            }
        }
    }

    /// Listens until the program has ended, and ends it when the run should stop.
    fn finish(mut self, cx: &Context, voice: &mut Voice) -> Result<ExitStatus> {
        let (sender, lines) = sync_channel(256);
        let out = self.child.stdout.take().map(|pipe| listen(pipe, Source::Out, sender.clone()));
        let err = self.child.stderr.take().map(|pipe| listen(pipe, Source::Err, sender));
        let mut asked = None;
        loop {
            let glance = lines.recv_timeout(GLANCE);
            match glance {
                Ok(line) => voice.tell(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(2)),
            }
            if self.ended()? {
                break;
            }
            match asked {
                None if cx.stopping() => {
                    let _ = kill_process_group(self.pid, Signal::TERM);
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > GRACE => {
                    let _ = kill_process_group(self.pid, Signal::KILL);
                }
                _ => {}
            }
        }
        // The program has ended but is not yet reaped, so its number still names its group: whatever it left running ends too.
        let _ = kill_process_group(self.pid, Signal::KILL);
        drain(&lines, voice);
        drop((out, err));
        self.child.wait().doing(|| "cannot learn how the program ended")
    }

    fn ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(Error::from(io::Error::from(error)).context("cannot look after the program")),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Takes what is still in the pipes. A process that left the group may hold them open: we wait for it only briefly.
fn drain(lines: &Receiver<Line>, voice: &mut Voice) {
    let until = Instant::now() + GRACE;
    while Instant::now() < until
        && let Ok(line) = lines.recv_timeout(Duration::from_secs(1))
    {
        voice.tell(line);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Source {
    Out,
    Err,
}

struct Line {
    source: Source,
    text: String,
    /// Bytes of the line that were not kept.
    lost: u64,
}

/// The longest line we read; what is told is cut much shorter, but only after secrets were blacked out.
const LONGEST: u64 = 64 * 1024;

fn listen(pipe: impl Read + Send + 'static, source: Source, sender: SyncSender<Line>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let lost = if bytes.ends_with(b"\n") { 0 } else { skip_line(&mut reader) };
            // A progress bar rewrites its line with carriage returns: only its last state counts.
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
            if sender.send(Line { source, text: plain(text), lost }).is_err() {
                return;
            }
        }
    })
}

/// Reads up to the end of the line and says how much that was.
fn skip_line(reader: &mut impl BufRead) -> u64 {
    let mut skipped = 0;
    loop {
        let (used, end) = match reader.fill_buf() {
            Ok([]) | Err(_) => return skipped,
            Ok(buffer) => match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), false),
            },
        };
        reader.consume(used);
        if end {
            return skipped + used as u64 - 1;
        }
        skipped += used as u64;
    }
}

/// The text without terminal escapes and other control characters.
fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.next_if_eq(&'[').is_some() {
                while characters.next().is_some_and(|next| !('@'..='~').contains(&next)) {}
            }
        } else if character == '\t' {
            kept.push(' ');
        } else if !character.is_control() {
            kept.push(character);
        }
    }
    kept
}

/// The longest line told.
const TOLD: usize = 2000;
/// How many lines an error quotes.
const TAIL: usize = 20;

/// Tells what a program says.
struct Voice<'a> {
    cx: &'a Context,
    secrets: Secrets,
    tail: VecDeque<String>,
    metrics: BTreeMap<String, f64>,
    step: u64,
}

impl<'a> Voice<'a> {
    fn new(cx: &'a Context, secrets: Secrets) -> Self {
        Self { cx, secrets, tail: VecDeque::new(), metrics: BTreeMap::new(), step: 0 }
    }

    fn tell(&mut self, line: Line) {
        if line.text.trim().is_empty() {
            return;
        }
        if line.source == Source::Out && self.tell_values(&line.text) {
            return;
        }
        let text = self.secrets.redact(&line.text);
        let told = match text.char_indices().nth(TOLD) {
            Some((cut, _)) => format!("{} … ({} more bytes)", &text[..cut], (text.len() - cut) as u64 + line.lost),
            None if line.lost > 0 => format!("{text} … ({} more bytes)", line.lost),
            None => text,
        };
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(told.clone());
        self.cx.note(told);
    }

    /// Whether the line was `{"progress": …}` or `{"metrics": …}`.
    fn tell_values(&mut self, line: &str) -> bool {
        let Ok(Value::Object(object)) = serde_json::from_str(line) else { return false };
        match (object.get("progress"), object.get("metrics")) {
            (Some(Value::Object(progress)), _) => {
                let number = |key: &str| progress.get(key).and_then(Value::as_u64);
                let Some(done) = number("done") else { return false };
                let word = |key: &str| self.secrets.redact(progress.get(key).and_then(Value::as_str).unwrap_or_default());
                self.cx.progress(done, number("total").unwrap_or(0), &word("unit"), word("detail"));
                true
            }
            (None, Some(Value::Object(metrics))) => {
                let values: BTreeMap<String, f64> =
                    metrics.iter().filter_map(|(name, value)| Some((self.secrets.redact(name), value.as_f64()?))).collect();
                if values.is_empty() {
                    return false;
                }
                self.step = object.get("step").and_then(Value::as_u64).unwrap_or(self.step + 1);
                self.metrics.extend(values.clone());
                self.cx.emitter.emit(Event::Metrics { stage: self.cx.stage.clone(), step: self.step, values });
                true
            }
            _ => false,
        }
    }
}

/// Environment variables that are nobody's business.
struct Secrets {
    /// Names not handed to the program.
    withheld: Vec<OsString>,
    /// Values blacked out in what it prints, the longest first.
    values: Vec<String>,
}

/// Shorter values are words and numbers that occur everywhere, and blacking them out would hide what is not secret.
const SHORTEST_SECRET: usize = 6;

impl Secrets {
    fn of(environment: impl Iterator<Item = (OsString, OsString)>, allowed: &[String]) -> Self {
        let mut secrets = Self { withheld: Vec::new(), values: Vec::new() };
        for (name, value) in environment {
            let plain_name = name.to_string_lossy().to_uppercase();
            if !["TOKEN", "SECRET", "PASSWORD", "KEY"].iter().any(|word| plain_name.contains(word)) {
                continue;
            }
            secrets
                .values
                .extend(value.to_string_lossy().lines().map(str::trim).filter(|line| line.len() >= SHORTEST_SECRET).map(str::to_owned));
            if !allowed.iter().any(|allowed| **allowed == *name) {
                secrets.withheld.push(name);
            }
        }
        secrets.values.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        secrets.values.dedup();
        secrets
    }

    fn redact(&self, text: &str) -> String {
        self.values
            .iter()
            .fold(text.to_owned(), |text, secret| if text.contains(secret) { text.replace(secret, "[redacted]") } else { text })
    }
}

/// Checks that a folder holds what its kind promises, and says in words what was found.
fn check_promised(kind: ArtifactKind, folder: &Path) -> Result<String> {
    let object = |name: &str| -> Result<Map<String, Value>> {
        let path = present(folder, name)?;
        serde_json::from_str(&fs::read_to_string(&path)?).doing(|| path.display().to_string())
    };
    let records = |name: &str| -> Result<usize> {
        let path = present(folder, name)?;
        let records = Record::read_all(&path)?;
        for record in &records {
            present(folder, &record.audio_path).map_err(|error| error.context(path.display()))?;
        }
        Ok(records.len())
    };
    Ok(match kind {
        ArtifactKind::Phrases => format!("{} phrases", Phrase::read_all(&present(folder, "phrases.jsonl")?)?.len()),
        ArtifactKind::Clips => format!("{} clips", records("clips.jsonl")?),
        ArtifactKind::Dataset => {
            let all = records("data.jsonl")?;
            format!("a dataset of {all} clips, {} to train on and {} to test on", records("train.jsonl")?, records("test.jsonl")?)
        }
        ArtifactKind::Model => {
            let adapter = folder.join("adapter_config.json").exists();
            let (config, weights, found) = if adapter {
                ("adapter_config.json", "adapter_model.safetensors", "an adapter")
            } else {
                ("config.json", "model.safetensors", "a model")
            };
            object(config)?;
            present(folder, weights)?;
            object("training.json")?;
            found.to_owned()
        }
        ArtifactKind::Scores => {
            object("scores.json")?;
            format!("scores of {} clips", jsonl::read::<Map<String, Value>>(&present(folder, "clips.jsonl")?)?.len())
        }
        ArtifactKind::Card => {
            present(folder, "README.md")?;
            "a card".to_owned()
        }
        ArtifactKind::Published => {
            object("published.json")?;
            "something published".to_owned()
        }
        ArtifactKind::Demo => {
            present(folder, "README.md")?;
            "a demo".to_owned()
        }
        ArtifactKind::Files => match fs::read_dir(folder)?.count() {
            0 => "no files".to_owned(),
            1 => "1 file or folder".to_owned(),
            count => format!("{count} files and folders"),
        },
    })
}

fn present(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::new(format!("`{name}` is not there"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_withheld_and_blacked_out() {
        let environment = [("HF_TOKEN", "hf_abcdefgh"), ("MY_ApiKey", "sk-123456"), ("HOME", "/home/x"), ("USE_KEY", "1")];
        let secrets = Secrets::of(environment.iter().map(|(name, value)| ((*name).into(), (*value).into())), &["HF_TOKEN".to_owned()]);
        assert_eq!(secrets.withheld, ["MY_ApiKey", "USE_KEY"]);
        assert_eq!(secrets.redact("1 hf_abcdefgh sk-123456 /home/x"), "1 [redacted] [redacted] /home/x");
    }

    #[test]
    fn lines_become_plain_text() {
        assert_eq!(plain("\u{1b}[31mred\u{1b}[0m\tand\u{7} rest"), "red and rest");
    }

    #[test]
    fn placeholders_are_checked_before_anything_runs() {
        let command = |argument: &str| Command { run: vec!["x".into(), argument.into()], code: vec![], output: files(), env: vec![] };
        assert!(command("--in=${from.clips}/a/${out}${seed}${scratch}").check().is_empty());
        for (argument, message) in [("${ou}", "`${ou}` is nothing"), ("${out", "has no `}`"), ("${from.}", "is nothing")] {
            let complaints = command(argument).check();
            assert_eq!(complaints.len(), 1, "{argument}");
            assert!(complaints[0].message.contains(message), "{}", complaints[0].message);
            assert_eq!(complaints[0].path, ["run", "1"]);
        }
    }
}
