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

/// Joins short cues and adds margins; neither makes a clip of more than `longest` seconds. `cues` are in the order of their starts.
/// `gaps` are the parts of cues that cannot be used: nothing is joined across them, and no margin reaches into them.
pub fn merged(cues: &[Cue], gaps: &[(f64, f64)], settings: &CueSettings, longest: f64) -> Vec<Cue> {
    let gaps = apart(gaps);
    let lost_between = |from: f64, to: f64| gaps.get(gaps.partition_point(|gap| gap.1 < from)).is_some_and(|gap| gap.0 <= to);
    let mut merged: Vec<Cue> = Vec::new();
    for cue in cues {
        let joins = |last: &&mut Cue| {
            let gap = cue.start - last.end;
            last.speaker == cue.speaker
                && last.end - last.start < settings.merge_seconds
                // Overlapping cues are spoken at the same time: their words have no order.
                && (-0.05..=settings.merge_gap).contains(&gap)
                && cue.end.max(last.end) - last.start + 2.0 * settings.padding <= longest
                && !lost_between(last.end, cue.start)
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
            let (start, end) = (cue.start, cue.end);
            let before = index.checked_sub(1).and_then(|before| spans.get(before)).map_or(0.0, |(_, end)| (end + start) / 2.0);
            let after = spans.get(index + 1).map_or(f64::INFINITY, |(start, _)| (start + end) / 2.0);
            let lost = gaps.partition_point(|gap| gap.0 < start).checked_sub(1).and_then(|last| gaps.get(last));
            let before = lost.map_or(before, |gap| before.max(gap.1));
            let lost = gaps.get(gaps.partition_point(|gap| gap.1 <= end));
            let after = lost.map_or(after, |gap| after.min(gap.0));
            let padding = settings.padding.min((longest - (end - start)) / 2.0).max(0.0);
            // Where cues overlap the middle lies inside: they get no margin there.
            cue.start = (start - padding).max(before).min(start).max(0.0);
            cue.end = (end + padding).min(after).max(end);
        }
    }
    merged
}

/// Parts in order, those that touch as one.
fn apart(parts: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut parts = parts.to_vec();
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut apart: Vec<(f64, f64)> = Vec::new();
    for part in parts {
        match apart.last_mut().filter(|last| part.0 <= last.1) {
            Some(last) => last.1 = last.1.max(part.1),
            None => apart.push(part),
        }
    }
    apart
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
        assert_eq!(merged(&cues, &[], &CueSettings::default(), 30.0).len(), 6, "one clip for each cue");
        let settings = CueSettings { merge_seconds: 2.5, ..CueSettings::default() };
        let wanted = [(0.0, 4.0, "a b c"), (4.0, 5.0, "d"), (6.0, 7.0, "e"), (6.5, 7.5, "f")];
        assert_eq!(spans(&merged(&cues, &[], &settings, 30.0)), wanted);
        let wanted = [(0.0, 2.0, "a b"), (2.1, 4.0, "c"), (4.0, 5.0, "d"), (6.0, 7.0, "e"), (6.5, 7.5, "f")];
        assert_eq!(spans(&merged(&cues, &[], &settings, 3.0)), wanted);
    }

    #[test]
    fn margins_end_in_the_middle_of_a_gap() {
        let cues = [cue(0.1, 1.0, "a", "x"), cue(1.1, 2.0, "b", "x"), cue(3.0, 4.0, "c", "x"), cue(3.9, 5.0, "d", "x")];
        let settings = CueSettings { padding: 0.25, ..CueSettings::default() };
        let wanted = [(0.0, 1.05, "a"), (1.05, 2.25, "b"), (2.75, 4.0, "c"), (3.9, 5.25, "d")];
        for ((start, end, text), (from, to, said)) in spans(&merged(&cues, &[], &settings, 30.0)).into_iter().zip(wanted) {
            assert!((start - from).abs() < 1e-9 && (end - to).abs() < 1e-9 && text == said, "{text}: {start} {end}");
        }
    }

    #[test]
    fn nothing_is_joined_or_heard_across_what_was_left_out() {
        let cues = [cue(1.0, 2.0, "a", "x"), cue(3.0, 4.0, "b", "x"), cue(4.2, 5.0, "c", "x"), cue(6.0, 7.0, "d", "x")];
        let settings = CueSettings { padding: 0.5, merge_seconds: 8.0, merge_gap: 3.0, ..CueSettings::default() };
        let found = |gaps: &[(f64, f64)]| -> Vec<(f64, f64, String)> {
            merged(&cues, gaps, &settings, 30.0).into_iter().map(|cue| (cue.start, cue.end, cue.text)).collect()
        };
        assert_eq!(found(&[]), [(0.5, 7.5, "a b c d".to_owned())]);
        let wanted = [(0.5, 2.25, "a".to_owned()), (2.75, 5.0, "b c".to_owned()), (6.0, 7.5, "d".to_owned())];
        assert_eq!(found(&[(5.0, 6.0), (2.25, 2.75)]), wanted);
        // A part whose end is not known, and one without a length.
        assert_eq!(found(&[(7.0, f64::INFINITY), (4.0, 4.0)])[1], (4.1, 7.0, "c d".to_owned()));
        assert_eq!(found(&[(0.0, 1.0), (4.1, 4.1)])[0], (1.0, 4.1, "a b".to_owned()));
    }

    #[test]
    fn margins_make_no_clip_too_long() {
        let cues = [cue(10.0, 39.8, "a", "x"), cue(50.0, 82.0, "b", "x"), cue(90.0, 99.0, "c", "x"), cue(90.1, 95.0, "d", "x")];
        let settings = CueSettings { padding: 0.5, merge_seconds: 20.0, ..CueSettings::default() };
        for (cue, (from, to)) in merged(&cues, &[], &settings, 30.0).iter().zip([(9.9, 39.9), (50.0, 82.0), (89.5, 99.0), (90.1, 95.5)]) {
            assert!((cue.start - from).abs() < 1e-9 && (cue.end - to).abs() < 1e-9, "{cue:?}");
        }
    }
}
