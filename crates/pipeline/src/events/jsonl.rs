//! The run log: events as JSON Lines.
//!
//! `{"v":1,"time":"2026-11-22T15:01:07.120Z","run":"2026-11-22-3","event":"stage-started","stage":"train",…}`

use super::reporter::Reporter;
use crate::error::{Error, Result, ResultExt};
use crate::events::{Event, VERSION};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// An event with its time and run id: a line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct EventLine {
    /// The time of the event, in UTC.
    pub time: String,
    /// The run id.
    pub run: String,
    /// The event.
    pub event: Event,
}

impl EventLine {
    /// The text of the line, without a line break. The fields common to all events come first.
    pub fn text(&self) -> Result<String> {
        let mut event = serde_json::to_value(&self.event)?;
        let fields = event.as_object_mut().ok_or_else(|| Error::new("an event is not a JSON object"))?;
        fields.remove("run");
        let name = fields.remove("event").unwrap_or_default();
        let mut text = format!(r#"{{"v":{VERSION},"time":{},"run":{},"event":{name}"#, json!(self.time), json!(self.run));
        for (key, value) in fields {
            text.push_str(&format!(",{}:{value}", json!(key)));
        }
        text.push('}');
        Ok(text)
    }

    /// Parses a line; `None` for an unknown event of a newer version.
    fn read(text: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let value: Value = serde_json::from_slice(text)?;
        let newer = value.get("v").and_then(Value::as_u64).is_some_and(|version| version > u64::from(VERSION));
        let field = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (time, run) = (field("time"), field("run"));
        match serde_json::from_value(value) {
            Ok(event) => Ok(Some(Self { time, run, event })),
            Err(_) if newer => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Buffered lines are written when they exceed this many bytes.
const MOST_WAITING: usize = 64 * 1024;

/// A reporter that writes every event as a JSON line.
pub struct JsonLinesReporter<W: Write> {
    to: W,
    /// Buffered lines: consecutive `stage-fresh` events are written together.
    waiting: String,
    name: String,
    run: String,
}

impl JsonLinesReporter<File> {
    /// Writes to a new file; truncates an existing one.
    pub fn create(path: &Path, run: &str) -> Result<Self> {
        let to = File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self::new(to, path.display().to_string(), run))
    }
}

impl<W: Write + Send> JsonLinesReporter<W> {
    /// Writes to `to`; `name` is its name in error messages.
    pub fn new(to: W, name: impl Into<String>, run: &str) -> Self {
        Self { to, waiting: String::new(), name: name.into(), run: run.to_owned() }
    }
}

impl<W: Write> Drop for JsonLinesReporter<W> {
    fn drop(&mut self) {
        let _ = self.to.write_all(self.waiting.as_bytes());
    }
}

impl<W: Write + Send> Reporter for JsonLinesReporter<W> {
    fn report_event(&mut self, event: &Event) -> Result<(), Error> {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        if let Event::StageFresh { stage, summary, kept } = event {
            let (run, stage, summary) = (Value::from(self.run.as_str()), Value::from(stage.as_str()), Value::from(summary.as_str()));
            let mut line = format!(r#"{{"v":{VERSION},"time":"{time}","run":{run},"event":"stage-fresh""#);
            for (name, digits) in [("digest", &kept.digest), ("fingerprint", &kept.fingerprint)] {
                if !digits.is_empty() {
                    line.push_str(&format!(r#","{name}":"{digits}""#));
                }
            }
            line.push_str(&format!(r#","stage":{stage},"summary":{summary}}}"#));
            self.waiting.push_str(&line);
            self.waiting.push('\n');
            if self.waiting.len() < MOST_WAITING {
                return Ok(());
            }
        } else {
            self.waiting.push_str(&EventLine { time, run: self.run.clone(), event: event.clone() }.text()?);
            self.waiting.push('\n');
        }
        let lines = std::mem::take(&mut self.waiting);
        match self.to.write_all(lines.as_bytes()).and_then(|()| self.to.flush()) {
            // A reader that closed the pipe is not worth a warning: an empty message gives none.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::new("")),
            written => written.with_context(|| format!("cannot write events to `{}`", self.name)),
        }
    }
}

/// Reads a run log.
///
/// Skips an unfinished last line of a killed run, and unknown events of newer versions.
///
/// # Errors
/// If the file cannot be read or a line is damaged.
pub fn read(path: &Path) -> Result<Vec<EventLine>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    parse(&bytes[..whole]).map_err(|error| error.context(path.display()))
}

/// Parses complete lines; see [`read`].
pub fn parse(bytes: &[u8]) -> Result<Vec<EventLine>> {
    let mut lines = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        match EventLine::read(line) {
            Ok(line) => lines.extend(line),
            Err(error) => {
                return Err(Error::new(format!("line {}: {error}", number + 1)).hint("remove this line; the other lines can be read"));
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ResultRef;

    #[test]
    fn what_is_written_is_read_and_a_torn_end_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let event = Event::Note { stage: "train".into(), message: "hello\nthere".into() };
        let mut log = JsonLinesReporter::create(&path, "2026-11-22-3").unwrap();
        let kept = ResultRef { fingerprint: "0f".into(), digest: "1e".into() };
        let fresh = Event::StageFresh { stage: "a".into(), summary: "b \"c\"".into(), kept };
        log.report_event(&fresh).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"", "fresh events are buffered");
        log.report_event(&event).unwrap();
        let time = read(&path).unwrap()[0].time.clone();
        let plain = EventLine { time, run: "2026-11-22-3".into(), event: fresh }.text().unwrap();
        assert_eq!(String::from_utf8(fs::read(&path).unwrap()).unwrap().lines().next().unwrap(), plain);
        let mut log = JsonLinesReporter::create(&path, "2026-11-22-3").unwrap();
        log.report_event(&event).unwrap();
        log.report_event(&event).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(br#"{"v":1,"time":"2"#), "{}", String::from_utf8_lossy(&bytes));
        for cut in bytes.len() / 2..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(read(&path).unwrap().len(), 1, "cut at {cut}");
        }
        fs::write(&path, [&bytes, b"{\"v\":2,\"event\":\"later\"}\n".as_slice()].concat()).unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines.iter().map(|line| (line.run.as_str(), &line.event)).collect::<Vec<_>>(), [("2026-11-22-3", &event); 2]);
        fs::write(&path, [b"{\"v\":1\n", bytes.as_slice()].concat()).unwrap();
        assert!(read(&path).unwrap_err().message.contains("events.jsonl: line 1"), "a damaged line is not skipped silently");
    }
}
