//! `voxpipe check FOLDER`: says what would be read in a folder of recordings, and how.

use super::{print, print_json};
use crate::data::clip_items::LeftRow;
use crate::data::text::{count, first_few};
use crate::error::Result;
use crate::stages::import::preview::{FolderPreview, preview};
use pipeline::exit::Exit;
use std::collections::BTreeMap;
use std::path::Path;

/// Prints what is in a folder. Returns [`Exit::Usage`] if nothing in it could be read.
pub(super) fn go(folder: &Path, json: bool) -> Result<u8> {
    let found = preview(folder, &folder.display().to_string())?;
    let exit = if found.clips > 0 { Exit::Done } else { Exit::Usage };
    if json {
        print_json(serde_json::to_value(&found)?)?;
    } else {
        print(&text(&found))?;
    }
    Ok(exit as u8)
}

fn counts(map: &BTreeMap<String, usize>, noun: &str) -> String {
    map.iter().map(|(name, number)| format!("{number} {name}{noun}")).collect::<Vec<_>>().join(", ")
}

fn text(found: &FolderPreview) -> String {
    let mut lines = Vec::new();
    let recordings: usize = found.recordings.values().sum();
    let by_ending = if recordings > 0 { format!(" ({})", counts(&found.recordings, "")) } else { String::new() };
    lines.push(format!("{}: {}{by_ending}", found.folder, count(recordings, "recording")));
    for table in &found.tables {
        let split = table.split.as_ref().map(|split| format!(", split `{split}`")).unwrap_or_default();
        let name = if table.path.is_empty() { "texts" } else { &table.path };
        lines.push(format!("  {name}: {}, {}{split}", table.how, count(table.rows, "row")));
        if table.path.is_empty() {
            continue;
        }
        let columns: Vec<String> = table.columns.iter().map(|(role, name)| format!("{role} from `{name}`")).collect();
        if !columns.is_empty() {
            lines.push(format!("    {}", columns.join(", ")));
        }
    }
    lines.push(format!("  would give {}", count(found.clips, "clip")));
    let named = |map: &BTreeMap<String, usize>| map.keys().any(|name| name != "none");
    if named(&found.splits) {
        lines.push(format!("  splits: {}", counts(&found.splits, "")));
    }
    if named(&found.languages) {
        lines.push(format!("  languages: {}", counts(&found.languages, "")));
    }
    let mut left = |rows: &[LeftRow], what: &str| {
        if !rows.is_empty() {
            let rows: Vec<String> = rows.iter().map(|left| format!("{}: {}", left.row, left.reason)).collect();
            lines.push(format!("  {} {what}: {}", count(rows.len(), "row"), first_few(&rows, 5)));
        }
    };
    left(&found.bad_rows, "cannot be used");
    left(&found.missing, "without their recording");
    left(&found.repeated, "repeated");
    if !found.without_text.is_empty() {
        let number = count(found.without_text.len(), "recording");
        lines.push(format!("  {number} without a text: {}", first_few(&found.without_text, 5)));
    }
    if !found.ignored_columns.is_empty() {
        let names: Vec<&String> = found.ignored_columns.iter().collect();
        lines.push(format!("  columns that are not used: {}", first_few(&names, 10)));
    }
    if !found.need_ffmpeg.is_empty() {
        lines.push(format!("  the program ffmpeg is needed for: {}", found.need_ffmpeg.join(", ")));
    }
    lines.extend(found.notes.iter().map(|note| format!("  note: {note}")));
    if let Some(problem) = &found.problem {
        lines.push(format!("  not readable as it is: {problem}"));
        if recordings > 0 {
            lines.push("  recordings without any text can become drafts: `uploads` with `draft = true`".to_owned());
        }
    } else if found.clips > 0 {
        lines.push("  read it with:".to_owned());
        lines.push(format!("    [stage.clips]\n    uses = \"import\"\n    with = {{ folder = {:?} }}", found.folder));
    }
    lines.join("\n") + "\n"
}
