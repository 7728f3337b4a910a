//! Forced alignment: which part of a long text is said in which piece of a recording.
//!
//! The recording is cut at pauses, and the model transcribes each piece. The words it heard are matched with the words of the text over the
//! whole recording; equal words are anchors. Between anchors, the model scores the possible divisions of the text
//! ([`score_texts`](super::text_score)), and the most probable one is taken. A piece is certain if the model heard the same words, or if
//! the given words are nearly as probable as what it heard.

mod words;

use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use words::{Unit, matches, units};

/// What the model heard in a piece.
#[derive(Clone, Debug, PartialEq)]
pub struct HeardPiece {
    /// Its transcript.
    pub text: String,
    /// Log-probability (natural) of the transcript.
    pub log_probability: f64,
}

/// The part of the text that belongs to a piece.
#[derive(Clone, Debug, PartialEq)]
pub struct AlignedPiece {
    /// The part as it is written; empty if the text has nothing for this piece.
    pub text: String,
    /// From 0 to 1: `e^(d / 10)`, where `d` ≤ 0 is by how much the log-probability of `text` is below that of what the model heard; 1 if the
    /// model heard the same words. Short passages are only as certain as what is around them.
    pub confidence: f64,
}

/// Text and recording, aligned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextAlignment {
    /// One for each piece.
    pub pieces: Vec<AlignedPiece>,
    /// Passages of the text that belong to no piece.
    pub left_over: Vec<String>,
}

/// Log-probability of a piece that the text does not have, and of the first of some words that nobody says.
const SKIP: f64 = -10.0;
/// Log-probability of each further word that nobody says: who leaves a word out leaves out its sentence.
const SKIP_MORE: f64 = -2.0;
/// Most words in a row that nobody says between two anchors.
const LONGEST_SKIP: usize = 60;
/// Difference of log-probabilities at which the confidence is 1/e.
const SCALE: f64 = 10.0;
/// Most texts that are scored for one piece, the likeliest by spelling first.
const CANDIDATES: usize = 24;
/// How many units a cut may lie from where it is expected, beside those that were not heard.
const BAND: usize = 5;
/// Confidence below which the anchors in a piece are doubted.
const DOUBT: f64 = 0.5;

/// Log-probabilities of texts for a piece: the first argument is its index.
pub type ScorePiece<'a> = dyn FnMut(usize, &[&str]) -> Result<Vec<f64>> + 'a;

/// Aligns `text` with the pieces of a recording.
pub fn align(text: &str, heard: &[HeardPiece], score: &mut ScorePiece) -> Result<TextAlignment> {
    let mut aligner = Aligner::new(text, heard);
    let mut pieces = aligner.divide_all(score)?;
    // A wrong anchor shows as a piece whose text does not fit: without it, the text around it is divided again.
    let doubted: BTreeSet<usize> = (0..heard.len()).filter(|piece| pieces[*piece].1 < DOUBT).collect();
    if !doubted.is_empty() {
        aligner.anchors.retain(|(_, piece)| !doubted.contains(piece));
        let again = aligner.divide_all(score)?;
        let total = |pieces: &[Placed]| pieces.iter().map(|(_, confidence)| confidence).sum::<f64>();
        if total(&again) > total(&pieces) {
            pieces = again;
        }
    }
    let pieces = supported(&aligner, &pieces);
    let mut left_over = Vec::new();
    let mut from = 0;
    for (range, _) in pieces.iter().filter(|(range, _)| !range.is_empty()).chain([&(aligner.given.len()..aligner.given.len(), 1.0)]) {
        if range.start > from {
            left_over.push(aligner.text(from..range.start).to_owned());
        }
        from = range.end;
    }
    let pieces = pieces.into_iter().map(|(range, confidence)| AlignedPiece { text: aligner.text(range).to_owned(), confidence }).collect();
    Ok(TextAlignment { pieces, left_over })
}

/// Words in a row that agree by chance are hardly ever this many.
const CONVINCING: usize = 3;
/// Pieces on either side that support a short one.
const AROUND: usize = 3;
/// Part of its confidence that a short piece has if none of those around it was heard as it is given.
const ALONE: f64 = 0.2;
/// Share of the pieces around it that support a piece in full: a model mishears some.
const ENOUGH: f64 = 0.75;

/// Lowers the confidence of short pieces that nothing around them supports. One word may be heard by chance in a recording of another text, or
/// be as probable as what was heard; that it stands between words that were heard as they are given is what makes it certain.
fn supported(aligner: &Aligner, pieces: &[Placed]) -> Vec<Placed> {
    let exact: Vec<bool> = pieces.iter().enumerate().map(|(piece, (range, _))| aligner.is_heard(piece, range)).collect();
    let support = |piece: usize| {
        let around = (piece.saturating_sub(AROUND)..(piece + AROUND + 1).min(exact.len())).filter(|other| *other != piece);
        let (heard, number) = around.fold((0, 0), |(heard, number), other| (heard + usize::from(exact[other]), number + 1));
        if number == 0 { 1.0 } else { ALONE + (1.0 - ALONE) * (heard as f64 / f64::from(number) / ENOUGH).min(1.0) }
    };
    let sure = |piece: usize, range: &Range<usize>| exact[piece] && range.len() >= CONVINCING;
    let lowered = |(piece, (range, confidence)): (usize, &Placed)| {
        let factor = if sure(piece, range) { 1.0 } else { support(piece) };
        (range.clone(), confidence * factor)
    };
    pieces.iter().enumerate().map(lowered).collect()
}

struct Aligner<'a> {
    whole: &'a str,
    given: Vec<Unit>,
    heard: &'a [HeardPiece],
    /// The units that the model heard in each piece.
    keys: Vec<Vec<String>>,
    /// Units of the text that the model heard, with the pieces, in order.
    anchors: Vec<(usize, usize)>,
    /// Log-probabilities that were computed: by piece, first unit and unit after the last one.
    scored: BTreeMap<(usize, usize, usize), f64>,
}

/// Units of a piece, and the confidence that they are said there.
type Placed = (Range<usize>, f64);

/// A way to divide units among the first pieces of a stretch.
#[derive(Clone, Default)]
struct Division {
    score: f64,
    placed: Vec<Placed>,
}

impl<'a> Aligner<'a> {
    fn new(whole: &'a str, heard: &'a [HeardPiece]) -> Self {
        let given = units(whole);
        let keys: Vec<Vec<String>> = heard.iter().map(|piece| units(&piece.text).into_iter().map(|unit| unit.key).collect()).collect();
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        let mut id = |key| {
            let next = ids.len() as u32;
            *ids.entry(key).or_insert(next)
        };
        let a: Vec<u32> = given.iter().map(|unit| id(unit.key.as_str())).collect();
        let b: Vec<(u32, usize)> = keys
            .iter()
            .enumerate()
            .flat_map(|(piece, keys)| keys.iter().map(move |key| (key.as_str(), piece)))
            .map(|(key, piece)| (id(key), piece))
            .collect();
        let flat: Vec<u32> = b.iter().map(|(id, _)| *id).collect();
        let anchors = matches(&a, &flat).into_iter().filter_map(|(unit, at)| Some((unit, b.get(at)?.1))).collect();
        Self { whole, given, heard, keys, anchors, scored: BTreeMap::new() }
    }

    /// The text of some units as it is written.
    fn text(&self, range: Range<usize>) -> &'a str {
        let end = |range: &Range<usize>| range.end.checked_sub(1).and_then(|last| self.given.get(last)).map(|unit| unit.place.end);
        match (self.given.get(range.start), end(&range)) {
            (Some(first), Some(last)) if !range.is_empty() => self.whole.get(first.place.start..last).unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether the model heard exactly these units in a piece.
    fn is_heard(&self, piece: usize, range: &Range<usize>) -> bool {
        let given = self.given.get(range.clone()).unwrap_or_default();
        let given: String = given.iter().map(|unit| unit.key.as_str()).collect();
        !given.is_empty() && self.keys.get(piece).is_some_and(|keys| keys.concat() == given)
    }

    /// The units of each piece with their confidence.
    fn divide_all(&mut self, score: &mut ScorePiece) -> Result<Vec<Placed>> {
        let number = self.heard.len();
        // A cut before a piece lies behind the anchors of all pieces before it, and not behind those of the later ones.
        let mut low = vec![0; number + 1];
        let mut high = vec![self.given.len(); number + 1];
        for (unit, piece) in &self.anchors {
            low[piece + 1] = low[piece + 1].max(unit + 1);
            high[*piece] = high[*piece].min(*unit);
        }
        for cut in 1..=number {
            low[cut] = low[cut].max(low[cut - 1]);
        }
        for cut in (0..number).rev() {
            high[cut] = high[cut].min(high[cut + 1]);
        }
        (low[number], high[0]) = (self.given.len(), 0);
        let certain = |cut: usize| low[cut] == high[cut];
        let mut pieces = Vec::new();
        let mut first = 0;
        for last in 0..number {
            // Each stretch between two certain cuts is divided on its own.
            if certain(last + 1) {
                pieces.extend(self.divide(first..last + 1, &low, &high, score)?);
                first = last + 1;
            }
        }
        Ok(pieces)
    }

    /// Divides the units between two certain cuts among the pieces between them.
    fn divide(&mut self, pieces: Range<usize>, low: &[usize], high: &[usize], score: &mut ScorePiece) -> Result<Vec<Placed>> {
        let (from, to) = (low[pieces.start], low[pieces.end]);
        if pieces.len() == 1 && self.is_heard(pieces.start, &(from..to)) {
            return Ok(vec![(from..to, 1.0)]);
        }
        // Where cuts are expected, by the length of what was heard.
        let lengths: Vec<usize> = pieces.clone().map(|piece| self.keys[piece].len().max(1)).collect();
        let (total, mut before) = (lengths.iter().sum::<usize>(), 0);
        let mut expected = vec![from];
        for length in &lengths {
            before += length;
            expected.push(from + (to - from) * before / total);
        }
        let band = BAND + (to - from).abs_diff(total).min(LONGEST_SKIP);
        let near = |cut: usize, at: usize| {
            let place = expected[cut - pieces.start];
            at >= low[cut] && at <= high[cut] && at.abs_diff(place) <= band
        };
        // The best division of the pieces so far for each position of the next cut. Words that nobody says may come first.
        let first = (from..=to.min(from + LONGEST_SKIP)).map(|at| (at, Division { score: skipped(at - from), placed: Vec::new() }));
        let mut reached: BTreeMap<usize, Division> = first.collect();
        for piece in pieces.clone() {
            let own = self.heard[piece].log_probability;
            let starts: Vec<usize> = reached.keys().copied().collect();
            let is_last = piece + 1 == pieces.end;
            let mut ranges: Vec<Range<usize>> = starts
                .iter()
                .flat_map(|start| (*start..=to.min(start + 2 * self.keys[piece].len() + 2 * BAND)).map(move |end| *start..end))
                .filter(|range| !range.is_empty() && (is_last || near(piece + 1, range.end)))
                .collect();
            let heard: String = self.keys[piece].concat();
            let distance = |range: &Range<usize>| {
                let given: String = self.given[range.clone()].iter().map(|unit| unit.key.as_str()).collect();
                spelling_distance(&given, &heard)
            };
            ranges.sort_by_cached_key(|range| (distance(range), range.start, range.end));
            ranges.truncate(CANDIDATES);
            self.score(piece, &ranges, score)?;
            let mut next: BTreeMap<usize, Division> = BTreeMap::new();
            for (start, so_far) in &reached {
                let options = ranges.iter().filter(|range| range.start == *start).cloned().chain(std::iter::once(*start..*start));
                for range in options {
                    let gain = if range.is_empty() {
                        SKIP
                    } else if self.is_heard(piece, &range) {
                        0.0
                    } else {
                        self.scored.get(&(piece, range.start, range.end)).copied().unwrap_or(f64::NEG_INFINITY) - own
                    };
                    // Words that nobody says may follow.
                    for end in range.end..=to.min(range.end + LONGEST_SKIP) {
                        if is_last && end != to || !is_last && !near(piece + 1, end) && end != *start {
                            continue;
                        }
                        let score = so_far.score + gain + skipped(end - range.end);
                        if score.is_finite() && next.get(&end).is_none_or(|best| score > best.score) {
                            let confidence = if range.is_empty() { 0.0 } else { (gain.min(0.0) / SCALE).exp() };
                            let mut placed = so_far.placed.clone();
                            placed.push((range.clone(), confidence));
                            next.insert(end, Division { score, placed });
                        }
                    }
                }
            }
            reached = next;
            if reached.is_empty() {
                break;
            }
        }
        // No division is possible: the text has far more or far fewer words than were heard.
        let nothing = || pieces.clone().map(|_| (from..from, 0.0)).collect();
        Ok(reached.remove(&to).map_or_else(nothing, |best| best.placed))
    }

    /// Computes the log-probabilities of units for a piece that are not known yet.
    fn score(&mut self, piece: usize, ranges: &[Range<usize>], score: &mut ScorePiece) -> Result<()> {
        let new: Vec<Range<usize>> = ranges
            .iter()
            .filter(|range| !self.scored.contains_key(&(piece, range.start, range.end)) && !self.is_heard(piece, range))
            .cloned()
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let texts: Vec<&str> = new.iter().map(|range| self.text(range.clone())).collect();
        for (range, found) in new.iter().zip(score(piece, &texts)?) {
            self.scored.insert((piece, range.start, range.end), found);
        }
        Ok(())
    }
}

/// Log-probability of words that nobody says.
fn skipped(words: usize) -> f64 {
    if words == 0 { 0.0 } else { SKIP + SKIP_MORE * (words - 1) as f64 }
}

/// Number of characters to insert, delete or replace.
fn spelling_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (count, one) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = count + 1;
        for (at, other) in b.iter().enumerate() {
            let both = diagonal + usize::from(one != *other);
            diagonal = row[at + 1];
            row[at + 1] = both.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as a model with a bad ear would hear them, and a score by the spelling of what is really said.
    fn aligned(text: &str, said: &[(&str, &str)]) -> TextAlignment {
        let heard: Vec<HeardPiece> =
            said.iter().map(|(_, heard)| HeardPiece { text: (*heard).to_owned(), log_probability: -1.0 }).collect();
        let key = |text: &str| units(text).into_iter().map(|unit| unit.key).collect::<String>();
        align(text, &heard, &mut |piece, texts| {
            Ok(texts.iter().map(|text| -1.0 - 4.0 * spelling_distance(&key(text), &key(said[piece].0)) as f64).collect())
        })
        .unwrap()
    }

    fn texts(alignment: &TextAlignment) -> Vec<&str> {
        alignment.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn what_was_heard_right_is_certain() {
        let found = aligned("One two, three. Four five!", &[("one two three", "One two three."), ("four five", "four five")]);
        assert_eq!(texts(&found), ["One two, three.", "Four five!"]);
        assert!(found.pieces.iter().all(|piece| piece.confidence == 1.0) && found.left_over.is_empty());
    }

    #[test]
    fn words_that_were_misheard_find_their_piece() {
        let found = aligned(
            "Alpha bravo charlie. Delta echo, foxtrot golf. Hotel.",
            &[("alpha bravo", "Alpha bra"), ("charlie delta", "Charlotte."), ("echo", "Gecko"), ("foxtrot golf hotel", "fox hotel")],
        );
        assert_eq!(texts(&found), ["Alpha bravo", "charlie. Delta", "echo,", "foxtrot golf. Hotel."]);
        // Nothing was heard as it is given, so nothing is certain, however probable it is.
        assert!(found.pieces.iter().all(|piece| (0.18..=ALONE).contains(&piece.confidence)), "{found:?}");
    }

    #[test]
    fn what_is_not_said_or_not_written_is_left_out() {
        let found = aligned(
            "Alpha bravo. Never said here. Delta echo.",
            &[("alpha bravo", "alpha bravo"), ("an announcement", "an announcement"), ("delta echo", "delta echo")],
        );
        assert_eq!((found.pieces[0].text.as_str(), found.pieces[2].text.as_str()), ("Alpha bravo.", "Delta echo."));
        assert!(found.pieces[1].confidence < 0.1, "{found:?}");
        let found = aligned("alpha bravo delta echo", &[("alpha", "alpha"), ("noise", ""), ("bravo delta echo", "bravo delta echo")]);
        assert_eq!(texts(&found), ["alpha", "", "bravo delta echo"]);
        assert_eq!(found.pieces[1].confidence, 0.0);
        let found =
            aligned("alpha bravo. Nobody says this long sentence. charlie", &[("alpha bravo", "alpha bravo"), ("charlie", "Sharlie")]);
        assert_eq!((texts(&found), found.left_over.len()), (vec!["alpha bravo.", "charlie"], 1));
        let found = aligned("alpha bravo charlie", &[("alpha", "alpha"), ("charlie", "charlie")]);
        assert_eq!((texts(&found), found.left_over.as_slice()), (vec!["alpha", "charlie"], &["bravo".to_owned()][..]));
    }

    #[test]
    fn a_wrong_text_is_not_certain() {
        let text = "Alpha bravo charlie. Delta sierra foxtrot. Golf hotel india.";
        let said = [
            ("alpha bravo charlie", "alpha bravo charlie"),
            ("delta echo foxtrot", "delta echo foxtrot"),
            ("golf hotel india", "golf hotel"),
        ];
        let found = aligned(text, &said);
        assert_eq!(texts(&found)[1], "Delta sierra foxtrot.");
        assert!(found.pieces[1].confidence < 0.5 && found.pieces[0].confidence == 1.0 && found.pieces[2].confidence > 0.6, "{found:?}");
    }

    #[test]
    fn a_word_is_as_certain_as_what_is_around_it() {
        let alone = aligned("alpha bravo charlie", &[("x", "Xerxes"), ("bravo", "bravo"), ("y", "Yorick")]);
        assert_eq!((texts(&alone)[1], alone.pieces[1].confidence), ("bravo", ALONE));
        let said = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf"]
            .map(|word| (word, if word == "delta" { "Dealt" } else { word }));
        let among = aligned("alpha bravo charlie delta echo foxtrot golf", &said);
        assert!(among.pieces[3].confidence > 0.9 && among.pieces[2].confidence == 1.0, "{among:?}");
    }

    #[test]
    fn nothing_at_all_is_no_panic() {
        assert_eq!(aligned("", &[]).pieces, []);
        assert_eq!(texts(&aligned("", &[("a", "a")])), [""]);
        assert_eq!(aligned("a b", &[]).left_over, ["a b"]);
        assert!(aligned("one", &[("", ""), ("", ""), ("", "")]).pieces.iter().all(|piece| piece.confidence < 0.5));
        let far = "word ".repeat(200);
        assert!(aligned(&far, &[("x", "x"), ("y", "y")]).pieces.iter().all(|piece| piece.confidence < 0.5));
    }
}
