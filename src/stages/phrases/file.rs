//! Reads sentences from a file: one per line (.txt), or a column of a table (.csv, .tsv, .jsonl).

use super::Phrases;
use crate::data::phrase::PhraseRow;
use crate::data::table;
use crate::error::{Error, Result, ResultExt};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

impl Phrases {
    /// Reads one sentence per line. Ids count sentences, not lines, so empty lines do not matter.
    pub(super) fn lines(&self, text: &str, source: impl Fn(usize) -> String) -> Vec<PhraseRow> {
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.enumerate().map(|(index, (line, text))| self.phrase(None, index, text, source(line + 1))).collect()
    }

    fn phrase(&self, id: Option<&str>, index: usize, text: &str, source: String) -> PhraseRow {
        let id = id.map_or_else(|| format!("{}-{:04}", self.language, index + 1), str::to_owned);
        PhraseRow { id, text: text.split_whitespace().collect::<Vec<_>>().join(" "), language: self.language.clone(), source }
    }

    /// Reads a file; `written` is its path as written in the settings.
    pub(super) fn read(&self, path: &Path, written: &Path) -> Result<Vec<PhraseRow>> {
        let shown = written.display();
        let source = |line: usize| format!("{shown}, line {line}");
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default().to_lowercase();
        if extension == "txt" {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
            return Ok(self.lines(&text, source));
        }
        let rows = table::read(path, &shown.to_string())?;
        let mut ids = BTreeMap::new();
        let mut phrases = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let place = format!("{shown}:{}", row.line);
            let (_, text) = row.required(&["text", "sentence"])?;
            let id = row.get("id");
            if let Some(id) = &id {
                if crate::data::text::safe_name(id) != *id {
                    return Err(Error::new(format!("{place}: the id `{id}` is not a valid file name"))
                        .hint("use only letters, digits, `-`, `_` and `.`"));
                }
                if let Some(first) = ids.insert(id.to_lowercase(), row.line) {
                    return Err(Error::new(format!("{place}: the id `{id}` is already used on line {first}"))
                        .hint("give every sentence its own id"));
                }
            }
            phrases.push(self.phrase(id.as_deref(), index, &text, source(row.line)));
        }
        let missing = rows.iter().find(|row| row.get("id").is_none());
        if let (false, Some(row)) = (ids.is_empty(), missing) {
            return Err(Error::new(format!("{shown}:{}: `id` is missing, but other rows have one", row.line))
                .hint("give every sentence an id, or none"));
        }
        Ok(phrases)
    }
}
