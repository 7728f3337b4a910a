//! Migration of `pipeline.toml` from older schema versions to the current one.
//!
//! A pipeline declares its version with `schema = N`. Each former version has a step here that converts it to the next one with text
//! edits, so that comments and layout stay. Steps run in sequence up to the current version. There has been one version so far, so there
//! is no step yet; a file without `schema` gets the line.

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::SCHEMA;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Result of migrating a file.
#[derive(Debug, PartialEq, Eq)]
pub enum MigratedFile {
    /// It already has the current version.
    Current,
    /// It was converted.
    Changed {
        /// The new text.
        text: String,
        /// The version it declared, if any.
        from: Option<u64>,
        /// A description of each step that was applied.
        steps: Vec<&'static str>,
    },
}

/// Converts one version to the next.
struct Step {
    /// The version it converts from.
    from: u64,
    about: &'static str,
    edits: fn(&DeTable<'_>) -> Vec<Edit>,
}

/// A byte range of the text and its replacement.
type Edit = (Range<usize>, String);

/// One step per former version, oldest first.
const STEPS: &[Step] = &[];

/// Converts a text to the current version. A text without `schema` counts as version 1; it gets the line if `states` is true (the main
/// file, as opposed to an included file).
pub fn migrate(text: &str, states: bool) -> Result<MigratedFile> {
    through(text, states, STEPS, SCHEMA)
}

fn through(text: &str, states: bool, steps: &[Step], newest: u64) -> Result<MigratedFile> {
    let written = version(text)?;
    let mut now = written.as_ref().map_or(1, |(version, _)| *version);
    let wrong = |message: String, hint: &str| Error::new(message).kind(ErrorKind::InvalidInput).hint(hint);
    if now > newest {
        return Err(wrong(
            format!("the file is written in schema {now}, but this voxpipe reads schema {newest} at most; it cannot be downgraded"),
            "use a newer voxpipe",
        ));
    }
    let mut new = text.to_owned();
    let mut done = Vec::new();
    while now < newest {
        let step = steps
            .iter()
            .find(|step| step.from == now)
            .ok_or_else(|| wrong(format!("schema {now} does not exist"), &format!("write `schema = {newest}` if the file is new")))?;
        let (tree, _) = DeTable::parse_recoverable(&new);
        let edits = (step.edits)(tree.get_ref());
        new = edited(&new, edits);
        now += 1;
        if let Some((_, place)) = version(&new)? {
            new.replace_range(place, &now.to_string());
        }
        done.push(step.about);
    }
    if version(&new)?.is_none() && states {
        // After the comments at the top, before the first key or table.
        let first = new.lines().take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let at: usize = first.map(|line| line.len() + 1).sum::<usize>().min(new.len());
        let newline = if at == new.len() && !new.is_empty() && !new.ends_with('\n') { "\n" } else { "" };
        new.insert_str(at, &format!("{newline}schema = {newest}\n"));
        done.push("declares its schema version");
    }
    if new == text {
        return Ok(MigratedFile::Current);
    }
    Ok(MigratedFile::Changed { text: new, from: written.map(|(version, _)| version), steps: done })
}

/// The version that a text declares, with its span.
fn version(text: &str) -> Result<Option<(u64, Range<usize>)>> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let usage = |message: String| Error::new(message).kind(ErrorKind::InvalidInput).hint("`voxpipe check` shows the place");
    if let Some(error) = errors.first() {
        return Err(usage(format!("this is not TOML: {}", error.message().lines().collect::<Vec<_>>().join(", "))));
    }
    let Some(schema) = tree.get_ref().get("schema") else { return Ok(None) };
    let number = match schema.get_ref() {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| usage("`schema` must be an integer of at least 0".to_owned()))?;
    Ok(Some((number, Spanned::span(schema))))
}

/// Applies edits to the text; they must not overlap.
fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(place, _)| place.start);
    let mut new = text.to_owned();
    for (place, replacement) in edits.into_iter().rev() {
        if new.get(place.clone()).is_some() {
            new.replace_range(place, &replacement);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An example of a future step: `[pipeline] title` became `name`.
    const RENAME: Step = Step {
        from: 1,
        about: "`title` is called `name`",
        edits: |tree| {
            let table = tree.get("pipeline").and_then(|value| value.get_ref().as_table());
            let keys = table.into_iter().flat_map(|table| table.keys());
            keys.filter(|key| key.get_ref() == "title").map(|key| (key.span(), "name".to_owned())).collect()
        },
    };
    const NOTHING: Step = Step { from: 2, about: "nothing to do", edits: |_| Vec::new() };

    #[test]
    fn steps_run_in_sequence_and_comments_stay() {
        let text = "# mine\nschema = 1 # old\n[pipeline]\ntitle = \"x\" # title\n";
        let expected = "# mine\nschema = 3 # old\n[pipeline]\nname = \"x\" # title\n";
        let steps = vec!["`title` is called `name`", "nothing to do"];
        assert_eq!(
            through(text, true, &[RENAME, NOTHING], 3).unwrap(),
            MigratedFile::Changed { text: expected.to_owned(), from: Some(1), steps }
        );
        assert_eq!(through(expected, true, &[RENAME, NOTHING], 3).unwrap(), MigratedFile::Current);
        // An included file need not declare its version, and is still converted.
        let MigratedFile::Changed { text, .. } = through("[pipeline]\ntitle = 1\n", false, &[RENAME, NOTHING], 3).unwrap() else {
            panic!()
        };
        assert_eq!(text, "[pipeline]\nname = 1\n");
    }

    #[test]
    fn newer_and_nonexistent_versions_are_rejected() {
        for (text, message) in [
            ("schema = 2\n", "is written in schema 2, but this voxpipe reads schema 1 at most"),
            ("schema = 0\n", "schema 0 does not exist"),
            ("schema = \"1\"\n", "`schema` must be an integer"),
            ("schema = \n", "this is not TOML"),
        ] {
            let error = migrate(text, true).unwrap_err();
            assert!(error.message.contains(message) && error.kind == ErrorKind::InvalidInput, "{}", error.message);
        }
    }

    #[test]
    fn a_file_without_a_version_gets_one_below_its_first_comment() {
        let changed = |text: &str| match migrate(text, true).unwrap() {
            MigratedFile::Changed { text, from: None, .. } => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(changed("# mine\n\n[pipeline]\n"), "# mine\n\nschema = 1\n[pipeline]\n");
        assert_eq!(changed("[pipeline]\n"), "schema = 1\n[pipeline]\n");
        assert_eq!(changed("# only this"), "# only this\nschema = 1\n");
        assert_eq!(migrate("a = 1\n", false).unwrap(), MigratedFile::Current);
    }
}
