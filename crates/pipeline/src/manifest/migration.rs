//! From older versions of the file format to the one this program reads.
//!
//! A pipeline says which version it is written in, `schema = N`. For each version that was given up there is a step here which makes the
//! next one of it, by edits at places in the text, so that comments and layout stay. Steps follow each other until the version of today is
//! reached. There has been one version so far, so there is no step yet; a file that names no version gets the line that does.

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::SCHEMA;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What came of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum MigratedFile {
    /// It was right as it is.
    Current,
    /// It was written in an older version.
    Changed {
        /// As it is now.
        text: String,
        /// The version it had; none if it named none.
        from: Option<u64>,
        /// What was done, a sentence for each version.
        steps: Vec<&'static str>,
    },
}

/// Makes one version of the next older one.
struct Step {
    /// The version it starts from; the next one is made of it.
    from: u64,
    about: &'static str,
    edits: fn(&DeTable<'_>) -> Vec<Edit>,
}

/// A part of the text and what takes its place.
type Edit = (Range<usize>, String);

/// One for each version that was given up, the oldest first.
const STEPS: &[Step] = &[];

/// Brings a text up to the version of today. One that names none is taken for the first; `states` says whether it has to name one.
pub fn migrate(text: &str, states: bool) -> Result<MigratedFile> {
    through(text, states, STEPS, SCHEMA)
}

fn through(text: &str, states: bool, steps: &[Step], newest: u64) -> Result<MigratedFile> {
    let written = version(text)?;
    let mut now = written.as_ref().map_or(1, |(version, _)| *version);
    let wrong = |message: String, hint: &str| Error::new(message).kind(ErrorKind::InvalidInput).hint(hint);
    if now > newest {
        return Err(wrong(
            format!("the file is written in schema {now}, and this voxpipe knows {newest} at most: it cannot be taken back"),
            "use a newer voxpipe, the one the file was written for",
        ));
    }
    let mut new = text.to_owned();
    let mut done = Vec::new();
    while now < newest {
        let step = steps.iter().find(|step| step.from == now).ok_or_else(|| {
            wrong(format!("there has never been a schema {now}"), &format!("write `schema = {newest}`, if the file is new"))
        })?;
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
        // Behind the comment at the top, before the first key or table.
        let first = new.lines().take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let at: usize = first.map(|line| line.len() + 1).sum::<usize>().min(new.len());
        let newline = if at == new.len() && !new.is_empty() && !new.ends_with('\n') { "\n" } else { "" };
        new.insert_str(at, &format!("{newline}schema = {newest}\n"));
        done.push("names its version");
    }
    if new == text {
        return Ok(MigratedFile::Current);
    }
    Ok(MigratedFile::Changed { text: new, from: written.map(|(version, _)| version), steps: done })
}

/// The version a text names, with its place.
fn version(text: &str) -> Result<Option<(u64, Range<usize>)>> {
    let (tree, slips) = DeTable::parse_recoverable(text);
    let usage = |message: String| Error::new(message).kind(ErrorKind::InvalidInput).hint("`voxpipe check` shows the place");
    if let Some(slip) = slips.first() {
        return Err(usage(format!("this is not TOML: {}", slip.message().lines().collect::<Vec<_>>().join(", "))));
    }
    let Some(schema) = tree.get_ref().get("schema") else { return Ok(None) };
    let number = match schema.get_ref() {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    };
    let number = number.ok_or_else(|| usage("`schema` must be a whole number".to_owned()))?;
    Ok(Some((number, Spanned::span(schema))))
}

/// The text with its edits, which do not touch each other.
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

    /// As a step of tomorrow would be written: `[pipeline] title` became `name`.
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
    fn steps_follow_each_other_and_comments_stay() {
        let text = "# mine\nschema = 1 # old\n[pipeline]\ntitle = \"x\" # title\n";
        let expected = "# mine\nschema = 3 # old\n[pipeline]\nname = \"x\" # title\n";
        let steps = vec!["`title` is called `name`", "nothing to do"];
        assert_eq!(
            through(text, true, &[RENAME, NOTHING], 3).unwrap(),
            MigratedFile::Changed { text: expected.to_owned(), from: Some(1), steps }
        );
        assert_eq!(through(expected, true, &[RENAME, NOTHING], 3).unwrap(), MigratedFile::Current);
        // An included file need not say its version, and is still brought along.
        let MigratedFile::Changed { text, .. } = through("[pipeline]\ntitle = 1\n", false, &[RENAME, NOTHING], 3).unwrap() else {
            panic!()
        };
        assert_eq!(text, "[pipeline]\nname = 1\n");
    }

    #[test]
    fn what_is_newer_or_never_was_is_refused() {
        for (text, message) in [
            ("schema = 2\n", "is written in schema 2, and this voxpipe knows 1 at most"),
            ("schema = 0\n", "there has never been a schema 0"),
            ("schema = \"1\"\n", "`schema` must be a whole number"),
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
