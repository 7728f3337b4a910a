//! JSON tables: one object per line, an array of objects, or one object that maps file names to texts. An object may also be a conversation
//! as ms-swift, axolotl and LLaMA-Factory write it, or a task of Label Studio.

use super::{BadRow, Cell, DecodedText, RowOrBad, RowSink, TableRow, label_studio};
use crate::data::columns::Columns;
use crate::data::ingest::is_audio;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Keys under which an object holds its list of rows.
const LISTS: &[&str] = &["data", "rows", "items", "samples", "clips", "utterances", "annotations", "tasks"];

/// Turns JSON objects into rows; column names are shared between the rows.
#[derive(Debug)]
pub struct JsonLines {
    table: Arc<str>,
    names: BTreeMap<String, Arc<str>>,
}

impl JsonLines {
    /// A reader of a table.
    pub fn new(table: &str) -> Self {
        Self { table: table.into(), names: BTreeMap::new() }
    }

    /// The rows of one line; a task of Label Studio has one for each of its regions.
    pub fn rows(&mut self, line: usize, text: &str) -> Vec<RowOrBad> {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => self.of(line, value),
            Err(error) => {
                let why = error.to_string();
                // The place in the line is of use, its line number is not.
                let why = why.split(" at line ").next().unwrap_or(&why).to_owned();
                vec![Err(BadRow::new(&self.table, line, format!("no JSON object: {why} at column {}", error.column())))]
            }
        }
    }

    fn of(&mut self, line: usize, value: Value) -> Vec<RowOrBad> {
        let Value::Object(object) = value else {
            return vec![Err(BadRow::new(&self.table, line, "each row must be a JSON object"))];
        };
        if label_studio::is_task(&object) {
            let rows = label_studio::rows(&object);
            return rows.into_iter().map(|row| self.row(line, row)).collect();
        }
        let row = if is_conversation(&object) { conversation(object) } else { Ok(object) };
        vec![self.row(line, row)]
    }

    fn row(&mut self, line: usize, row: Result<Map<String, Value>, String>) -> RowOrBad {
        let object = row.map_err(|reason| BadRow::new(&self.table, line, reason))?;
        let cells = object.into_iter().map(|(name, value)| (self.name(&name), Cell::of_json(value))).collect();
        Ok(TableRow { table: Arc::clone(&self.table), line, cells })
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        let lower = name.to_lowercase();
        Arc::clone(self.names.entry(lower).or_insert_with_key(|name| name.as_str().into()))
    }
}

/// Reads a table; see [`super::read_bytes`].
pub(super) fn read(shown: &str, decoded: &DecodedText, ending: &str, each: &mut RowSink) -> Result<()> {
    let text = decoded.text.as_str();
    let mut reader = JsonLines::new(shown);
    let mut take = |rows: Vec<RowOrBad>| -> Result<bool> {
        for row in rows {
            if !each(row)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let starts_list = text.trim_start().starts_with('[');
    if starts_list && (ending == "json" || text.lines().count() > 1 && text.trim_end().ends_with(']') && !text.contains("]\n[")) {
        for (line, element) in elements(text) {
            if !take(reader.rows(line, element))? {
                break;
            }
        }
        return Ok(());
    }
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let first: Option<Map<String, Value>> = serde_json::from_str(first).ok();
    let is_lines = ending != "json" || first.as_ref().is_some_and(|row| !is_mapping(row));
    if !is_lines && let Ok(whole) = serde_json::from_str::<Map<String, Value>>(text) {
        for row in within(whole) {
            if !take(reader.of(1, row))? {
                break;
            }
        }
        return Ok(());
    }
    if ending == "json" && first.is_none() && text.lines().filter(|line| line.starts_with('{')).count() < 2 {
        let why = serde_json::from_str::<Value>(text).map_or_else(|error| error.to_string(), |_| "no object".to_owned());
        return Err(Error::new(format!("`{shown}` is no JSON: {why}")).hint("export it again as JSON or JSON Lines"));
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let rows = if decoded.damaged.contains(&(index + 1)) {
            vec![Err(BadRow::new(shown, index + 1, "it has bytes that are no UTF-8"))]
        } else {
            reader.rows(index + 1, line)
        };
        if !take(rows)? {
            break;
        }
    }
    Ok(())
}

/// The elements of a JSON array with the lines they begin on. A broken element does not hide those after it.
fn elements(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let Some(open) = bytes.iter().position(|byte| *byte == b'[') else { return found };
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let (mut begin, mut line) = (open + 1, 1 + bytes.get(..open).map_or(0, |start| start.iter().filter(|byte| **byte == b'\n').count()));
    let mut begin_line = line;
    let mut add = |begin: usize, end: usize, line: usize| {
        let element = text.get(begin..end).unwrap_or_default();
        let skipped = element.chars().take_while(|character| character.is_whitespace()).filter(|character| *character == '\n').count();
        if !element.trim().is_empty() {
            found.push((line + skipped, element.trim()));
        }
    };
    for (at, byte) in bytes.iter().enumerate().skip(open + 1) {
        if *byte == b'\n' {
            line += 1;
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            // No text of JSON has a line break: the quote before it is a fault of this element alone.
            b'\n' if in_text => in_text = false,
            _ if in_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            b']' => {
                add(begin, at, begin_line);
                return found;
            }
            b',' if depth == 0 => {
                add(begin, at, begin_line);
                (begin, begin_line) = (at + 1, line);
            }
            _ => {}
        }
    }
    add(begin, bytes.len(), begin_line);
    found
}

/// Whether an object is a whole table: it holds a list of rows, or its keys are file names.
fn is_mapping(object: &Map<String, Value>) -> bool {
    let listed = LISTS.iter().any(|key| object.get(*key).and_then(Value::as_array).is_some_and(|list| list.iter().all(Value::is_object)));
    let columns = Columns::default();
    let is_row = object.keys().any(|key| columns.is_read(key)) || label_studio::is_task(object) || is_conversation(object);
    !is_row
        && (listed || object.keys().next().is_some_and(|key| is_audio(Path::new(key))) || object.values().all(|value| value.is_object()))
}

/// The rows in one object.
fn within(mut object: Map<String, Value>) -> Vec<Value> {
    for key in LISTS {
        if object.get(*key).is_some_and(Value::is_array)
            && let Some(Value::Array(list)) = object.remove(*key)
        {
            return list;
        }
    }
    let columns = Columns::default();
    if object.keys().any(|key| columns.is_read(key)) {
        return vec![Value::Object(object)];
    }
    let row = |(name, value): (String, Value)| {
        let mut row = match value {
            Value::Object(row) => row,
            text => Map::from_iter([("text".to_owned(), text)]),
        };
        row.entry("audio").or_insert(Value::String(name));
        Value::Object(row)
    };
    object.into_iter().map(row).collect()
}

const TURNS: &[&str] = &["messages", "conversations", "conversation"];
const SOUNDS: &[&str] = &["audios", "audio", "audio_path", "audio_paths"];

/// Whether an object is a conversation with sound.
fn is_conversation(object: &Map<String, Value>) -> bool {
    TURNS.iter().any(|key| object.get(*key).is_some_and(Value::is_array))
        || object.get("audios").is_some_and(Value::is_array) && ["response", "output"].iter().any(|key| object.contains_key(*key))
}

/// A conversation as a row: its sound, and what the assistant answers.
fn conversation(mut object: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut sounds: Vec<String> = Vec::new();
    let mut answers: Vec<String> = Vec::new();
    for key in SOUNDS {
        match object.remove(*key) {
            Some(Value::String(one)) => sounds.push(one),
            Some(Value::Array(several)) => {
                sounds.extend(several.iter().filter_map(|one| one.as_str().or_else(|| one.get("path")?.as_str())).map(str::to_owned));
            }
            Some(Value::Object(one)) => sounds.extend(one.get("path").and_then(Value::as_str).map(str::to_owned)),
            _ => {}
        }
    }
    let turns = TURNS.iter().find_map(|key| object.remove(*key));
    for turn in turns.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let role = turn.get("role").or_else(|| turn.get("from")).and_then(Value::as_str).unwrap_or_default();
        let content = turn.get("content").or_else(|| turn.get("value"));
        if matches!(role, "assistant" | "gpt" | "model") {
            answers.push(spoken(content));
        } else if role != "system" {
            sounds.extend(heard(content));
        }
    }
    for key in ["response", "output"] {
        if turns.is_none()
            && let Some(Value::String(answer)) = object.remove(key)
        {
            answers.push(answer);
        }
    }
    for key in ["instruction", "input", "query", "system", "tools", "images", "videos"] {
        object.remove(key);
    }
    let [sound] = sounds.as_slice() else { return Err(format!("its conversation names {} sounds, not one", sounds.len())) };
    let [answer] = answers.as_slice() else { return Err(format!("its conversation has {} answers, not one", answers.len())) };
    // Qwen3-ASR has the language in front of the transcript.
    let parted = answer.strip_prefix("language ").and_then(|rest| rest.split_once("<asr_text>"));
    let text = parted.map_or(answer.as_str(), |(_, text)| text);
    if let Some((language, _)) = parted {
        object.entry("language").or_insert_with(|| language.trim().into());
    }
    object.insert("audio".to_owned(), sound.as_str().into());
    object.insert("text".to_owned(), text.into());
    Ok(object)
}

/// The text of an answer.
fn spoken(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.as_str().or_else(|| part.get("text")?.as_str()));
            texts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

/// The sounds that a question names.
fn heard(content: Option<&Value>) -> Vec<String> {
    match content {
        // ms-swift may have the path in the text.
        Some(Value::String(text)) => {
            text.split("<audio>").skip(1).filter_map(|rest| Some(rest.split_once("</audio>")?.0.trim().to_owned())).collect()
        }
        Some(Value::Array(parts)) => {
            let sound = |part: &Value| {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                let name = ["path", "audio", "url", "audio_url", "audio_path"].iter().find_map(|key| {
                    let named = part.get(*key)?;
                    named.as_str().or_else(|| named.get("url")?.as_str())
                });
                name.filter(|_| kind.contains("audio")).map(str::to_owned)
            };
            parts.iter().filter_map(sound).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        read(name, &super::super::decode(text.as_bytes()), &super::super::ending(name), &mut |row| {
            found.push(match row {
                Ok(row) => {
                    let cells: Vec<String> = row.cells.iter().map(|(name, cell)| format!("{name}={}", cell.text())).collect();
                    format!("{} {}", row.line, cells.join(" "))
                }
                Err(bad) => format!("{}! {}", bad.place, bad.reason),
            });
            Ok(true)
        })
        .unwrap();
        found
    }

    #[test]
    fn every_form_of_json_gives_rows() {
        for (name, text, expected) in [
            (
                "t.jsonl",
                "{\"a\":1}\n\n{\"a\":\n{\"B\":null}\n",
                &["1 a=1", "t.jsonl:3! no JSON object: EOF while parsing a value at column 5", "4 b="][..],
            ),
            ("t.json", "{\"a\":1}\n{\"a\":2}\n", &["1 a=1", "2 a=2"]),
            (
                "t.json",
                "[\n {\"a\": \"x,]\"},\n {\"a\": },\n {\"a\": [1, {}]}\n]",
                &["2 a=x,]", "t.json:3! no JSON object: expected value at column 7", "4 a=[1,{}]"],
            ),
            (
                "t.json",
                "[{\"a\": 1}, 3, {\"a\"",
                &["1 a=1", "t.json:1! each row must be a JSON object", "t.json:1! no JSON object: EOF while parsing an object at column 4"],
            ),
            ("t.json", "{\n\"a.wav\": \"Hi\",\n\"b.wav\": {\"text\": \"Yo\"}}", &["1 audio=a.wav text=Hi", "1 audio=b.wav text=Yo"]),
            ("t.json", "{\"a.wav\": \"Hi\"}", &["1 audio=a.wav text=Hi"]),
            ("t.json", "{\"version\": 1, \"data\": [{\"a\": 1}]}", &["1 a=1"]),
        ] {
            assert_eq!(rows(name, text), expected, "{text}");
        }
    }

    #[test]
    fn conversations_are_a_sound_and_an_answer() {
        for (text, expected) in [
            (
                r#"{"messages":[{"role":"user","content":"<audio>Transcribe."},{"role":"assistant","content":"Hi."}],"audios":["a.wav"]}"#,
                "1 audio=a.wav text=Hi.",
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"audio","path":"a.wav"},{"type":"text","text":"?"}]},{"role":"assistant","content":[{"type":"text","text":"Hi."}]}]}"#,
                "1 audio=a.wav text=Hi.",
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"audio_url","audio_url":{"url":"a.wav"}}]},{"role":"assistant","content":"Hi."}]}"#,
                "1 audio=a.wav text=Hi.",
            ),
            (
                r#"{"messages":[{"role":"user","content":"<audio>a.wav</audio>?"},{"role":"assistant","content":"Hi."}]}"#,
                "1 audio=a.wav text=Hi.",
            ),
            (
                r#"{"conversations":[{"from":"human","value":"<audio>?"},{"from":"gpt","value":"language German<asr_text>Hallo."}],"audios":["a.wav"]}"#,
                "1 audio=a.wav language=German text=Hallo.",
            ),
            (r#"{"query":"<audio>?","response":"Hi.","audios":["a.wav"]}"#, "1 audio=a.wav text=Hi."),
            (
                r#"{"messages":[{"role":"assistant","content":"Hi."}],"audios":["a.wav","b.wav"]}"#,
                "t.jsonl:1! its conversation names 2 sounds, not one",
            ),
            (r#"{"messages":[{"role":"user","content":"x"}],"audios":["a.wav"]}"#, "t.jsonl:1! its conversation has 0 answers, not one"),
        ] {
            assert_eq!(rows("t.jsonl", text), [expected], "{text}");
        }
    }
}
