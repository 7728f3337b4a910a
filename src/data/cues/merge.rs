//! Cues of a useful length: margins at their sides, and short neighbours joined.

use super::Cue;
use pipeline::stage::SettingError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the cues of a long recording become clips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CueSettings {
    /// Seconds of the recording to add before and after each cue, at most to the middle of the gap to the next one.
    #[serde(skip_serializing_if = "is_zero")]
    pub padding: f64,
    /// Cues that follow each other are joined until a clip has this many seconds. 0 makes one clip of each cue.
    #[serde(skip_serializing_if = "is_zero")]
    pub merge_seconds: f64,
    /// Longest gap in seconds across which cues are joined. Default: 0.5.
    #[serde(skip_serializing_if = "is_half")]
    pub merge_gap: f64,
    /// Tiers of a TextGrid or ELAN file to read. Default: those that hold utterances; several are several speakers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<String>,
}

impl Default for CueSettings {
    fn default() -> Self {
        Self { padding: 0.0, merge_seconds: 0.0, merge_gap: 0.5, tiers: Vec::new() }
    }
}

impl CueSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with the settings.
    pub fn check(&self) -> Vec<SettingError> {
        let named = [("padding", self.padding), ("merge_seconds", self.merge_seconds), ("merge_gap", self.merge_gap)];
        let wrong = named.into_iter().filter(|(_, value)| !(value.is_finite() && *value >= 0.0));
        let error = |(name, value): (&str, f64)| {
            SettingError::new(&format!("cues.{name}"), format!("{value} is no length")).hint("write a number of seconds, 0 or more")
        };
        wrong.map(error).collect()
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_half(value: &f64) -> bool {
    *value == 0.5
}

/// Joins short cues and adds margins. `cues` are in the order of their starts; a joined cue has at most `longest` seconds.
pub fn merged(cues: &[Cue], settings: &CueSettings, longest: f64) -> Vec<Cue> {
    let mut merged: Vec<Cue> = Vec::new();
    for cue in cues {
        let joins = |last: &&mut Cue| {
            let gap = cue.start - last.end;
            last.speaker == cue.speaker
                && last.end - last.start < settings.merge_seconds
                // Overlapping cues are spoken at the same time: their words have no order.
                && (-0.05..=settings.merge_gap).contains(&gap)
                && cue.end - last.start + 2.0 * settings.padding <= longest
        };
        match merged.last_mut().filter(joins) {
            Some(last) => {
                last.text = format!("{} {}", last.text, cue.text);
                last.end = last.end.max(cue.end);
            }
            None => merged.push(cue.clone()),
        }
    }
    if settings.padding > 0.0 {
        let spans: Vec<(f64, f64)> = merged.iter().map(|cue| (cue.start, cue.end)).collect();
        for (index, cue) in merged.iter_mut().enumerate() {
            let before = index.checked_sub(1).and_then(|before| spans.get(before)).map_or(0.0, |(_, end)| (end + cue.start) / 2.0);
            let after = spans.get(index + 1).map_or(f64::INFINITY, |(start, _)| (start + cue.end) / 2.0);
            // Where cues overlap the middle lies inside: they get no margin there.
            cue.start = (cue.start - settings.padding).max(before).min(cue.start).max(0.0);
            cue.end = (cue.end + settings.padding).min(after).max(cue.end);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cue(start: f64, end: f64, text: &str, speaker: &str) -> Cue {
        Cue { start, end, text: text.to_owned(), speaker: Some(speaker.to_owned()), line: 1 }
    }

    fn spans(cues: &[Cue]) -> Vec<(f64, f64, &str)> {
        cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str())).collect()
    }

    #[test]
    fn neighbours_are_joined_up_to_the_wanted_length() {
        let cues = [
            cue(0.0, 1.0, "a", "x"),
            cue(1.2, 2.0, "b", "x"),
            cue(2.1, 4.0, "c", "x"),
            cue(4.0, 5.0, "d", "y"),
            cue(6.0, 7.0, "e", "y"),
            cue(6.5, 7.5, "f", "y"),
        ];
        assert_eq!(merged(&cues, &CueSettings::default(), 30.0).len(), 6, "one clip for each cue");
        let settings = CueSettings { merge_seconds: 2.5, ..CueSettings::default() };
        let wanted = [(0.0, 4.0, "a b c"), (4.0, 5.0, "d"), (6.0, 7.0, "e"), (6.5, 7.5, "f")];
        assert_eq!(spans(&merged(&cues, &settings, 30.0)), wanted);
        let wanted = [(0.0, 2.0, "a b"), (2.1, 4.0, "c"), (4.0, 5.0, "d"), (6.0, 7.0, "e"), (6.5, 7.5, "f")];
        assert_eq!(spans(&merged(&cues, &settings, 3.0)), wanted);
    }

    #[test]
    fn margins_end_in_the_middle_of_a_gap() {
        let cues = [cue(0.1, 1.0, "a", "x"), cue(1.1, 2.0, "b", "x"), cue(3.0, 4.0, "c", "x"), cue(3.9, 5.0, "d", "x")];
        let settings = CueSettings { padding: 0.25, ..CueSettings::default() };
        let wanted = [(0.0, 1.05, "a"), (1.05, 2.25, "b"), (2.75, 4.0, "c"), (3.9, 5.25, "d")];
        for ((start, end, text), (from, to, said)) in spans(&merged(&cues, &settings, 30.0)).into_iter().zip(wanted) {
            assert!((start - from).abs() < 1e-9 && (end - to).abs() < 1e-9 && text == said, "{text}: {start} {end}");
        }
    }
}
