//! Leakage: speakers, sentences and recordings that are in training and in a held-out split.

use super::{Clip, Sound};
use crate::data::text::{count, first_few, normalized};
use crate::error::{Error, ErrorKind, Result};
use petgraph::unionfind::UnionFind;
use pipeline::stage::Context;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use voxtral::audio::read_wav16k;
use voxtral::audio::speech::fingerprint::{SimilarClips, same_recording, similar_clips};

/// What to do with training clips whose sentence or recording is held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeakageAction {
    /// Keep them, and tell it.
    #[default]
    Warn,
    /// Leave them out of `train`, and tell it.
    Drop,
}

impl LeakageAction {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) fn is_warn(&self) -> bool {
        *self == Self::Warn
    }
}

/// Clips listed for each kind of leakage.
const LISTED: usize = 100;

/// What is in several splits.
#[derive(Debug, Default)]
pub(super) struct Leakage {
    /// Speakers of train who are held out too, with the held-out splits.
    speakers: BTreeMap<String, BTreeSet<&'static str>>,
    all_speakers: usize,
    /// Training clips whose sentence is held out, with a clip that has it.
    texts: Vec<(usize, usize)>,
    /// Training clips whose recording is held out, with that clip.
    recordings: Vec<(usize, usize)>,
    /// Near-duplicates within one split.
    copies: Vec<(usize, usize)>,
    /// Near-duplicates with different texts.
    conflicts: Vec<(usize, usize)>,
}

/// Pairs of clips that are the same recording: louder, cut, padded or encoded another way.
pub(super) fn near_duplicates(cx: &Context, clips: &[(&Clip, &Sound)]) -> Result<Vec<SimilarClips>> {
    let candidates = similar_clips(clips.iter().map(|(_, sound)| &sound.fingerprint));
    // Clips that are linked already need not be compared: of many copies, each is compared with about one.
    let mut linked = UnionFind::new(clips.len());
    let mut found = Vec::new();
    for some in candidates.chunks(AT_ONCE) {
        let open: Vec<SimilarClips> = some.iter().copied().filter(|pair| !linked.equiv(pair.first, pair.second)).collect();
        // The pairs of one clip follow each other: it is read once for all of them.
        let groups: Vec<&[SimilarClips]> = open.chunk_by(|one, next| one.first == next.first).collect();
        let verified: Vec<Result<Vec<SimilarClips>>> = groups
            .into_par_iter()
            .map(|pairs| {
                if cx.stopping() {
                    let error = Error::new("interrupted while comparing the clips");
                    return Err(error.kind(ErrorKind::Interrupted).hint("run again to continue"));
                }
                let read = |at: usize| read_wav16k(&clips[at].0.path);
                let first = read(pairs[0].first)?;
                let same = |pair: &&SimilarClips| -> Result<bool> { Ok(same_recording(&first, &read(pair.second)?, pair.shift)) };
                pairs.iter().filter_map(|pair| same(&pair).map(|same| same.then_some(*pair)).transpose()).collect()
            })
            .collect();
        for pair in verified.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            linked.union(pair.first, pair.second);
            found.push(pair);
        }
    }
    Ok(found)
}

/// Pairs that are compared in parallel before the links among them count.
const AT_ONCE: usize = 512;

impl Leakage {
    pub(super) fn of(clips: &[(&Clip, &Sound)], splits: &[&'static str], similar: &[SimilarClips]) -> Self {
        let held_out = |at: usize| splits[at] != "train";
        let mut leakage = Self::default();
        let mut speakers: BTreeMap<&str, BTreeSet<&'static str>> = BTreeMap::new();
        let mut held: BTreeMap<String, usize> = BTreeMap::new();
        let texts: Vec<String> = clips.iter().map(|(clip, _)| normalized(&clip.record.text)).collect();
        for (at, (clip, _)) in clips.iter().enumerate() {
            if let Some(speaker) = clip.record.speaker.as_deref() {
                speakers.entry(speaker).or_default().insert(splits[at]);
            }
            if held_out(at) && !texts[at].is_empty() {
                held.entry(texts[at].clone()).or_insert(at);
            }
        }
        leakage.all_speakers = speakers.len();
        for (speaker, mut splits) in speakers {
            if splits.remove("train") && !splits.is_empty() {
                leakage.speakers.insert(speaker.to_owned(), splits);
            }
        }
        leakage.texts = (0..clips.len()).filter(|at| !held_out(*at)).filter_map(|at| Some((at, *held.get(&texts[at])?))).collect();
        // Of many copies only some pairs were compared; all that are linked are copies of each other.
        let mut linked = UnionFind::<usize>::new(clips.len());
        for SimilarClips { first, second, .. } in similar {
            linked.union(*first, *second);
            if held_out(*first) == held_out(*second) {
                leakage.copies.push((*first, *second));
            }
            if texts[*first] != texts[*second] {
                leakage.conflicts.push((*first, *second));
            }
        }
        let held: BTreeMap<usize, usize> = (0..clips.len()).rev().filter(|at| held_out(*at)).map(|at| (linked.find(at), at)).collect();
        let copied = |at: usize| Some((at, *held.get(&linked.find(at))?));
        leakage.recordings = (0..clips.len()).filter(|at| !held_out(*at)).filter_map(copied).collect();
        leakage.recordings.sort_unstable();
        leakage.recordings.dedup_by_key(|(train, _)| *train);
        leakage
    }

    /// Training clips whose sentence or recording is held out, with the reason.
    pub(super) fn to_drop(&self, clips: &[(&Clip, &Sound)], splits: &[&str]) -> BTreeMap<usize, String> {
        let reason = |what: &str, held: usize| {
            format!("is left out of `train`: its {what} is that of {} in `{}`", clips[held].0.shown, splits[held])
        };
        let texts = self.texts.iter().map(|(at, held)| (*at, reason("sentence", *held)));
        texts.chain(self.recordings.iter().map(|(at, held)| (*at, reason("recording", *held)))).collect()
    }

    /// Warnings for what makes scores look better than they are.
    pub(super) fn warnings(&self, clips: &[(&Clip, &Sound)], by_speaker: bool) -> Vec<String> {
        let shown = |pairs: &[(usize, usize)]| {
            let pairs: Vec<String> =
                pairs.iter().map(|(one, other)| format!("{} and {}", clips[*one].0.shown, clips[*other].0.shown)).collect();
            first_few(&pairs, 3)
        };
        let mut warnings = Vec::new();
        let drop = "`leakage = \"drop\"` leaves them out of `train`";
        if !self.texts.is_empty() {
            let clips = count(self.texts.len(), "training clip");
            warnings.push(format!("{clips} with a sentence that is held out as well: {}; {drop}", shown(&self.texts)));
        }
        if !self.recordings.is_empty() {
            let clips = count(self.recordings.len(), "training clip");
            warnings.push(format!("{clips} with a recording that is held out as well: {}; {drop}", shown(&self.recordings)));
        }
        if !self.conflicts.is_empty() {
            let pairs = count(self.conflicts.len(), "pair");
            warnings.push(format!("{pairs} of clips with nearly the same sound and different texts: {}", shown(&self.conflicts)));
        }
        if by_speaker && !self.speakers.is_empty() {
            warnings.push(self.speaker_line());
        }
        warnings
    }

    /// What is worth knowing and no fault.
    pub(super) fn notes(&self, by_speaker: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if !by_speaker && self.all_speakers > 1 && !self.speakers.is_empty() {
            notes.push(format!("{}; `split = {{ by = \"speaker\" }}` keeps them apart", self.speaker_line()));
        }
        if !self.copies.is_empty() {
            notes.push(format!("{} of clips with nearly the same sound within one split", count(self.copies.len(), "pair")));
        }
        notes
    }

    fn speaker_line(&self) -> String {
        let names: Vec<&String> = self.speakers.keys().collect();
        format!("{} of {} are in `train` and held out: {}", names.len(), count(self.all_speakers, "speaker"), first_few(&names, 3))
    }

    /// For `report.json`.
    pub(super) fn json(&self, clips: &[(&Clip, &Sound)], splits: &[&str]) -> Value {
        let pairs = |pairs: &[(usize, usize)]| {
            let pair = |(one, other): &(usize, usize)| {
                let [one, other] =
                    [*one, *other].map(|at| json!({"clip": clips[at].0.shown, "split": splits[at], "text": clips[at].0.record.text}));
                json!([one, other])
            };
            json!({"count": pairs.len(), "pairs": pairs.iter().take(LISTED).map(pair).collect::<Vec<_>>()})
        };
        json!({
            "speakers": {
                "count": self.speakers.len(),
                "of": self.all_speakers,
                "names": self.speakers.iter().take(LISTED).map(|(name, splits)| json!({"speaker": name, "held_out_in": splits})).collect::<Vec<_>>(),
            },
            "texts": pairs(&self.texts),
            "near_duplicates": pairs(&self.recordings),
            "near_duplicates_within_a_split": pairs(&self.copies),
            "near_duplicates_with_two_texts": pairs(&self.conflicts),
        })
    }
}
