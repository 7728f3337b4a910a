//! ELAN annotations (`.eaf`): XML with time slots in milliseconds and tiers of annotations.
//!
//! Tiers that depend on another one (`PARENT_REF`) hold translations, words or remarks about it, and are left out. The speaker is the
//! participant of a tier, or its name if there are several tiers. See "ELAN Annotation Format" (EAF) of the Max Planck Institute.

use super::{Cue, CueFile, choose_tiers};
use crate::error::{Error, Result};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::collections::BTreeMap;

/// A tier as the file has it.
#[derive(Default)]
struct Tier {
    name: String,
    participant: Option<String>,
    dependent: bool,
    /// The two time slots, the text and the line.
    annotations: Vec<(String, String, String, usize)>,
}

/// Reads the annotations of the chosen tiers.
pub(super) fn parse(text: &str, shown: &str, wanted: &[String]) -> Result<CueFile> {
    let mut reader = Reader::from_str(text);
    let (mut slots, mut tiers): (BTreeMap<String, Option<f64>>, Vec<Tier>) = (BTreeMap::new(), Vec::new());
    let mut file = CueFile::default();
    let mut in_value = false;
    let mut seen = (0, 1);
    loop {
        let event = reader.read_event();
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX).min(text.len());
        // Counted as the file is read: counting from the beginning for each element would take quadratic time.
        seen = (at, seen.1 + text.as_bytes().get(seen.0..at).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count());
        let line = seen.1;
        let damaged =
            |what: &dyn std::fmt::Display| Error::new(format!("{shown}:{line}: not an ELAN file: {what}")).hint("save it again in ELAN");
        let event = event.map_err(|error| damaged(&error))?;
        match event {
            Event::Start(element) | Event::Empty(element) => {
                let attribute = |name: &str| attribute(&element, name).map_err(|error| damaged(&error));
                match element.local_name().as_ref() {
                    "MEDIA_DESCRIPTOR" => {
                        let named = attribute("RELATIVE_MEDIA_URL")?.or(attribute("MEDIA_URL")?);
                        file.audio = file.audio.take().or(named.map(|url| url.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()));
                    }
                    "TIME_SLOT" => {
                        let time = attribute("TIME_VALUE")?.and_then(|time| time.parse::<f64>().ok()).map(|time| time / 1000.0);
                        slots.insert(attribute("TIME_SLOT_ID")?.unwrap_or_default(), time);
                    }
                    "TIER" => tiers.push(Tier {
                        name: attribute("TIER_ID")?.unwrap_or_default(),
                        participant: attribute("PARTICIPANT")?.filter(|name| !name.trim().is_empty()),
                        dependent: attribute("PARENT_REF")?.is_some(),
                        annotations: Vec::new(),
                    }),
                    "ALIGNABLE_ANNOTATION" => {
                        let slot = |name: &str| attribute(name).map(Option::unwrap_or_default);
                        let annotation = (slot("TIME_SLOT_REF1")?, slot("TIME_SLOT_REF2")?, String::new(), line);
                        tiers.last_mut().ok_or_else(|| damaged(&"an annotation outside of a tier"))?.annotations.push(annotation);
                    }
                    "ANNOTATION_VALUE" => in_value = true,
                    _ => {}
                }
            }
            Event::End(element) if element.local_name().as_ref() == "ANNOTATION_VALUE" => in_value = false,
            Event::Text(said) if in_value => append(&mut tiers, &said),
            Event::CData(said) if in_value => append(&mut tiers, &said),
            Event::GeneralRef(reference) if in_value => {
                let character = reference.resolve_char_ref().map_err(|error| damaged(&error))?;
                let named =
                    character.map(String::from).or_else(|| quick_xml::escape::resolve_predefined_entity(&reference).map(str::to_owned));
                append(&mut tiers, &named.ok_or_else(|| damaged(&format!("unknown character `&{};`", &*reference)))?);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if slots.is_empty() && tiers.is_empty() {
        return Err(Error::new(format!("{shown}:1: not an ELAN file: it has no tiers")).hint("save it again in ELAN"));
    }
    let names: Vec<&str> = tiers
        .iter()
        .filter(|tier| !tier.annotations.is_empty() && (!tier.dependent || wanted.contains(&tier.name)))
        .map(|tier| tier.name.as_str())
        .collect();
    let chosen = choose_tiers(&names, wanted, shown)?;
    for tier in tiers.iter().filter(|tier| chosen.contains(&tier.name.as_str())) {
        let speaker = tier.participant.clone().or_else(|| (chosen.len() > 1).then(|| tier.name.clone()));
        for (first, last, text, line) in &tier.annotations {
            match (slots.get(first).copied().flatten(), slots.get(last).copied().flatten()) {
                (Some(start), Some(end)) => file.add(Cue { start, end, text: text.clone(), speaker: speaker.clone(), line: *line }),
                _ => file.problem(*line, "has no times"),
            }
        }
    }
    let left: Vec<String> =
        tiers.iter().filter(|tier| !chosen.contains(&tier.name.as_str())).map(|tier| format!("`{}`", tier.name)).collect();
    if !left.is_empty() {
        file.notes.push(format!("the tiers {} were not used", left.join(", ")));
    }
    Ok(file)
}

/// Appends to the text of the newest annotation.
fn append(tiers: &mut [Tier], said: &str) {
    if let Some((_, _, text, _)) = tiers.last_mut().and_then(|tier| tier.annotations.last_mut()) {
        text.push_str(said);
    }
}

fn attribute(element: &BytesStart, name: &str) -> std::result::Result<Option<String>, quick_xml::Error> {
    match element.try_get_attribute(name)? {
        Some(attribute) => Ok(Some(attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned())),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
 <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"><MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/talks/talk.wav" MIME_TYPE="audio/x-wav" RELATIVE_MEDIA_URL="./talk.wav"/></HEADER>
 <TIME_ORDER><TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1500"/>
  <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="2000"/><TIME_SLOT TIME_SLOT_ID="ts4"/></TIME_ORDER>
 <TIER LINGUISTIC_TYPE_REF="default-lt" PARTICIPANT="Anna" TIER_ID="A">
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2"><ANNOTATION_VALUE>Bread &amp; butter &#233;</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4"><ANNOTATION_VALUE>no time</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
 </TIER>
 <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="B">
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3"><ANNOTATION_VALUE>Yes.</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
 </TIER>
 <TIER LINGUISTIC_TYPE_REF="translation" PARENT_REF="A" TIER_ID="A-en">
  <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a1"><ANNOTATION_VALUE>a translation</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
 </TIER>
</ANNOTATION_DOCUMENT>"#;

    #[test]
    fn annotations_are_read_with_their_speakers() {
        let file = parse(FILE, "talk.eaf", &[]).unwrap();
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.speaker.as_deref(), cue.line)).collect();
        assert_eq!(found, [(0.0, 1.5, "Bread & butter é", Some("Anna"), 7), (1.5, 2.0, "Yes.", Some("B"), 11)]);
        assert_eq!(file.audio.as_deref(), Some("talk.wav"));
        assert_eq!((file.problems[0].line, file.problems[0].reason.as_str()), (8, "has no times"));
        assert_eq!(file.notes, ["the tiers `A-en` were not used"]);
    }

    #[test]
    fn a_damaged_file_names_its_line() {
        for (text, start) in [
            (&FILE[..900], "talk.eaf:"),
            ("<ANNOTATION_DOCUMENT></WRONG>", "talk.eaf:1: not an ELAN file"),
            ("<html/>", "talk.eaf:1: not an ELAN file: it has no tiers"),
        ] {
            match parse(text, "talk.eaf", &[]) {
                Err(error) => assert!(error.message.starts_with(start), "{error}"),
                // A file that ends early has fewer annotations; the reader does not ask for closing tags.
                Ok(file) => assert!(file.cues.len() < 2 && text.len() > 100, "{file:?}"),
            }
        }
    }
}
