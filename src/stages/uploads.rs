//! `uploads`: imports existing audio files and their transcripts.
//!
//! Transcripts and audio files are matched by name: by relative path first, then by file name, then by file name without extension; never
//! by position. Unmatched files, unmatched transcripts and unusable files are reported.

use crate::data::clip_row::ClipRow;
use crate::data::ingest::{AudioCandidate, IngestLimits, ingest_audio, is_audio, rounded};
use crate::data::phrase::PhraseRow;
use crate::data::text::{count, first_few, normalized, unique_stems};
use crate::data::{ingest, table};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use pipeline::artifact::ArtifactKind;
use pipeline::manifest::one_or_many::OneOrMany;
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use unicode_normalization::UnicodeNormalization;
use voxpipe_io::jsonl;
use voxtral::audio::Channel;
use voxtral::tokenizer::prompt::check_language;

/// Import existing audio files with their transcripts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uploads {
    /// Audio files, folders (searched recursively) or glob patterns such as `clips/*.flac`.
    pub audio: OneOrMany,
    /// Transcripts: a .csv, .tsv or .jsonl file with a file column (`audio_path`, `file_name`, `path` …) and a text column (`text`,
    /// `sentence`, `transcript` …), or `txt` if each audio file has a .txt file of the same name next to it.
    pub transcripts: String,
    /// Language of rows without one, as an ISO 639-1 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Speaker of rows without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Minimum clip duration in seconds; shorter clips are rejected.
    #[serde(default = "default_min_seconds")]
    pub min_seconds: f64,
    /// Maximum clip duration in seconds; longer clips are rejected.
    #[serde(default = "default_max_seconds")]
    pub max_seconds: f64,
    /// Fail if a file is unusable, or if an audio file or a transcript has no match. Default: warn and continue without them.
    #[serde(default)]
    pub strict: bool,
}

fn default_min_seconds() -> f64 {
    0.2
}

fn default_max_seconds() -> f64 {
    30.0
}

const FILE: &[&str] = &["audio_path", "audio", "file_name", "audio_filepath", "path", "file"];
const TEXT: &[&str] = &["text", "transcription", "sentence", "transcript", "normalized_text"];
const LANGUAGE: &[&str] = &["language", "lang", "locale"];
const SPEAKER: &[&str] = &["speaker", "speaker_id", "client_id"];

impl Stage for Uploads {
    const KIND: &'static str = "uploads";
    const ABOUT: &'static str = "imports existing audio files with their transcripts";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port {
        name: "phrases",
        kinds: &[ArtifactKind::Phrases],
        arity: Arity::Optional,
        about: "the sentences to read, to report which of them have a clip",
    }];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Clips
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if self.audio.as_slice().iter().all(|entry| entry.trim().is_empty()) {
            errors.push(SettingError::new("audio", "`audio` is empty").hint("name a folder: `audio = \"recordings\"`"));
        }
        for entry in self.audio.as_slice().iter().filter(|entry| is_pattern(entry)) {
            if let Err(error) = glob::Pattern::new(entry) {
                errors.push(
                    SettingError::new("audio", format!("`{entry}` is not a valid glob pattern: {error}")).hint("`*` matches any name"),
                );
            }
        }
        let known = ["csv", "tsv", "jsonl", "ndjson"];
        let ending = Path::new(&self.transcripts).extension().and_then(|it| it.to_str()).unwrap_or_default().to_lowercase();
        if self.transcripts != "txt" && !known.contains(&ending.as_str()) {
            let message = format!("`{}` is neither a table nor `txt`", self.transcripts);
            errors.push(
                SettingError::new("transcripts", message)
                    .hint("name a .csv, .tsv or .jsonl file, or write `txt` for one .txt file per clip"),
            );
        }
        if let Some(language) = self.language.as_deref().filter(|language| !is_language(language)) {
            let message = format!("`{language}` is not a two-letter language code");
            errors.push(SettingError::new("language", message).hint("write an ISO 639-1 code such as `en`"));
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("`min_seconds` {} and `max_seconds` {} exclude every clip", self.min_seconds, self.max_seconds);
            errors.push(SettingError::new("max_seconds", message).hint("set `max_seconds` above `min_seconds`"));
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        let mut sources: Vec<PathBuf> = Vec::new();
        for entry in self.audio.as_slice() {
            if is_pattern(entry) {
                sources.push(pattern_folder(entry));
            } else {
                sources.push(entry.into());
                if self.transcripts == "txt" && is_audio(Path::new(entry)) {
                    sources.push(Path::new(entry).with_extension("txt"));
                }
            }
        }
        if self.transcripts != "txt" {
            sources.push(self.transcripts.clone().into());
        }
        sources.sort();
        sources.dedup();
        sources
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let sounds = self.sounds(cx)?;
        let Paired { clips, files_without_text, texts_without_file, ignored } =
            if self.transcripts == "txt" { self.match_txt_files(&sounds)? } else { self.match_table(cx, &sounds)? };

        let phrases = match cx.optional("phrases") {
            Some(phrases) => Some(PhraseRow::read_all(&phrases.path.join("phrases.jsonl"))?),
            None => None,
        };
        let by_text: BTreeMap<String, &PhraseRow> = phrases.iter().flatten().map(|phrase| (normalized(&phrase.text), phrase)).collect();

        let wished = clips.iter().map(|clip| (clip.sound.shown.as_str(), clip.sound.stem()));
        let stems = unique_stems(wished);
        let candidates: Vec<AudioCandidate> = clips
            .iter()
            .map(|clip| AudioCandidate {
                path: clip.sound.path.clone(),
                shown: clip.sound.shown.clone(),
                stem: stems[&clip.sound.shown].clone(),
                span: None,
                channel: Channel::Mix,
            })
            .collect();
        let limits = IngestLimits { min: self.min_seconds, max: self.max_seconds };
        let taken = ingest_audio(&candidates, &cx.out.join("audio"), limits, |done| {
            cx.progress(done as u64, candidates.len() as u64, "clips", "");
            !cx.stopping()
        })?;

        let mut records = Vec::new();
        let mut rejected = Vec::new();
        let mut covered = BTreeSet::new();
        let mut without_phrase = Vec::new();
        for ((clip, candidate), taken) in clips.iter().zip(&candidates).zip(taken) {
            let seconds = match taken {
                Ok(clip) => clip.seconds,
                Err(reason) => {
                    rejected.push((candidate.shown.clone(), reason));
                    continue;
                }
            };
            let mut rest = Map::new();
            let phrase = by_text.get(&normalized(&clip.text));
            match phrase {
                Some(phrase) => {
                    covered.insert(phrase.id.as_str());
                    rest.insert("phrase".to_owned(), phrase.id.clone().into());
                }
                None if phrases.is_some() => without_phrase.push(candidate.shown.as_str()),
                None => {}
            }
            records.push(ClipRow {
                audio_path: format!("audio/{}.wav", candidate.stem),
                text: clip.text.clone(),
                language: clip.language.clone().or_else(|| self.language.clone()).or_else(|| phrase.map(|phrase| phrase.language.clone())),
                duration: Some(seconds),
                speaker: clip.speaker.clone().or_else(|| self.speaker.clone()),
                source: Some(candidate.shown.clone()),
                rest,
            });
        }

        let mut problems = Vec::new();
        let mut add_problem = |number: usize, what: String, list: &[String]| {
            if number > 0 {
                problems.push(format!("{what}: {}", first_few(list, 5)));
            }
        };
        let files = |number| count(number, "file");
        let names: Vec<String> = rejected.iter().map(|(_, reason)| reason.clone()).collect();
        add_problem(rejected.len(), format!("{} unusable", files(rejected.len())), &names);
        add_problem(files_without_text.len(), format!("{} without a transcript", files(files_without_text.len())), &files_without_text);
        let names: Vec<String> = texts_without_file.iter().map(|text| format!("{} ({})", text.name, text.reason)).collect();
        add_problem(names.len(), format!("{} without an audio file", count(names.len(), "transcript")), &names);
        if self.strict && !problems.is_empty() {
            let error = Error::new(problems.join("; ")).hint("fix these, or set `strict = false` to continue without them");
            return Err(error.context("`strict` is set and some files cannot be used"));
        }
        problems.iter().for_each(|message| cx.warn(message));
        if records.is_empty() {
            return Err(Error::new(format!("none of {} gave a usable clip; {}", files(sounds.len()), problems.join("; ")))
                .hint("check that the file names in the transcripts are right, and that the files can be played"));
        }

        let seconds = rounded(records.iter().filter_map(|record| record.duration).sum());
        let mut report = json!({
            "files": sounds.len(),
            "clips": records.len(),
            "seconds": seconds,
            "rejected": rejected.iter().map(|(file, reason)| json!({"file": file, "reason": reason})).collect::<Vec<_>>(),
            "files_without_text": files_without_text,
            "texts_without_file": texts_without_file,
            "ignored_columns": ignored,
        });
        let mut summary = format!("{} from {}, {seconds:.0} s in all", count(records.len(), "clip"), files(sounds.len()));
        if let Some(phrases) = &phrases {
            let missing: Vec<&str> = phrases.iter().map(|phrase| phrase.id.as_str()).filter(|id| !covered.contains(id)).collect();
            let coverage = format!("{} of {} have a clip", covered.len(), count(phrases.len(), "phrase"));
            if !missing.is_empty() {
                cx.warn(format!("{coverage}; missing: {}", first_few(&missing, 5)));
            }
            if !without_phrase.is_empty() {
                cx.note(format!(
                    "{} with a transcript that matches no phrase: {}",
                    count(without_phrase.len(), "clip"),
                    first_few(&without_phrase, 5)
                ));
            }
            report["phrases"] =
                json!({"total": phrases.len(), "covered": covered.len(), "missing": missing, "clips_without_phrase": without_phrase});
            summary = format!("{summary}; {coverage}");
        }
        jsonl::write(&cx.out.join("clips.jsonl"), &records)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(StageOutcome::Done(StageResult::new(summary).metric("clips", records.len() as f64).metric("seconds", seconds)))
    }
}

/// An audio file.
#[derive(Clone, Debug)]
struct Sound {
    path: PathBuf,
    shown: String,
}

impl Sound {
    fn stem(&self) -> &str {
        self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }
}

/// An audio file with its transcript.
struct Clip<'a> {
    sound: &'a Sound,
    text: String,
    language: Option<String>,
    speaker: Option<String>,
}

/// A transcript without an audio file.
#[derive(Serialize)]
struct Orphan {
    place: String,
    name: String,
    reason: String,
}

/// Matched audio files and transcripts, and what has no match.
struct Paired<'a> {
    /// In the order of the files.
    clips: Vec<Clip<'a>>,
    files_without_text: Vec<String>,
    texts_without_file: Vec<Orphan>,
    /// Table columns that are not used.
    ignored: Vec<String>,
}

impl Uploads {
    /// Finds the audio files of the setting `audio`, sorted by path.
    fn sounds(&self, cx: &Context) -> Result<Vec<Sound>> {
        let mut found: BTreeMap<PathBuf, String> = BTreeMap::new();
        for entry in self.audio.as_slice() {
            let path = cx.path(entry);
            let mut add = |file: PathBuf| {
                let file = plain(&file);
                let root = plain(&cx.root);
                let shown = slashed(file.strip_prefix(&root).unwrap_or(&file));
                found.insert(file, shown);
            };
            if is_pattern(entry) {
                let pattern = format!("{}/{entry}", glob::Pattern::escape(&cx.root.to_string_lossy()));
                let pattern = if Path::new(entry).is_absolute() { entry.clone() } else { pattern };
                let matches = glob::glob(&pattern).map_err(|error| {
                    Error::new(format!("`{entry}` is not a valid glob pattern: {error}"))
                        .kind(ErrorKind::InvalidInput)
                        .hint("`*` matches any name")
                })?;
                let before =
                    matches.map(|path| path.map_err(|error| Error::from(std::io::Error::from(error)))).collect::<Result<Vec<_>>>()?;
                let sounds: Vec<PathBuf> = before.into_iter().filter(|path| path.is_file() && is_audio(path)).collect();
                if sounds.is_empty() {
                    return Err(Error::new(format!("no audio file matches `{entry}`")).hint("fix the pattern in `audio`"));
                }
                sounds.into_iter().for_each(&mut add);
            } else if path.is_dir() {
                ingest::files(&path)?.into_iter().filter(|file| is_audio(file)).for_each(&mut add);
            } else if path.is_file() {
                add(path);
            } else {
                return Err(
                    Error::new(format!("`{entry}` in `audio` does not exist")).hint("fix the path; it is relative to the project root")
                );
            }
        }
        if found.is_empty() {
            return Err(Error::new(format!("no audio files in {}", first_few(self.audio.as_slice(), 3)))
                .hint("add WAV, FLAC, MP3, OGG or M4A files, or fix `audio`"));
        }
        Ok(found.into_iter().map(|(path, shown)| Sound { path, shown }).collect())
    }

    /// Matches each audio file with the .txt file of the same name (`transcripts = "txt"`).
    fn match_txt_files<'a>(&self, sounds: &'a [Sound]) -> Result<Paired<'a>> {
        let mut paired = Paired { clips: Vec::new(), files_without_text: Vec::new(), texts_without_file: Vec::new(), ignored: Vec::new() };
        let mut folders = BTreeSet::new();
        let mut stems = BTreeSet::new();
        for sound in sounds {
            folders.extend(sound.path.parent().map(Path::to_owned));
            stems.insert(sound.path.with_extension(""));
            let file = sound.path.with_extension("txt");
            if !file.is_file() {
                paired.files_without_text.push(sound.shown.clone());
                continue;
            }
            let shown = slashed(&Path::new(&sound.shown).with_extension("txt"));
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read `{shown}`"))?;
            let text = text.trim_start_matches('\u{feff}').split_whitespace().collect::<Vec<_>>().join(" ");
            if text.is_empty() {
                return Err(Error::new(format!("{shown}:1: the transcript is empty")).hint("write the transcript, or remove the clip"));
            }
            paired.clips.push(Clip { sound, text, language: None, speaker: None });
        }
        for folder in folders {
            for file in fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()? {
                let path = file.path();
                if path.extension().is_some_and(|ending| ending == "txt") && !stems.contains(&path.with_extension("")) {
                    let name = file.file_name().to_string_lossy().into_owned();
                    paired.texts_without_file.push(Orphan { place: name.clone(), name, reason: "no sound beside it".to_owned() });
                }
            }
        }
        paired.texts_without_file.sort_by(|a, b| a.place.cmp(&b.place));
        Ok(paired)
    }

    /// Matches the rows of the transcript table with audio files.
    fn match_table<'a>(&self, cx: &Context, sounds: &'a [Sound]) -> Result<Paired<'a>> {
        let path = cx.path(&self.transcripts);
        let rows = table::read(&path, &self.transcripts)?;
        let mut bases = vec![path.parent().unwrap_or(Path::new("")).to_owned(), cx.root.clone()];
        bases.extend(
            self.audio.as_slice().iter().map(|entry| cx.path(if is_pattern(entry) { pattern_folder(entry) } else { entry.into() })),
        );
        let index = Index::new(sounds, bases);
        let mut taken: BTreeMap<usize, (usize, Clip)> = BTreeMap::new();
        let mut texts_without_file = Vec::new();
        let mut ignored = BTreeSet::new();
        for row in &rows {
            let place = format!("{}:{}", row.table, row.line);
            let (file_column, name) = row.required(FILE)?;
            let (text_column, text) = row.required(TEXT)?;
            let first = |columns: &[&str]| columns.iter().find_map(|column| row.get(column)).map(str::to_owned);
            let language = first(LANGUAGE);
            if let Some(language) = language.as_deref().filter(|language| !is_language(language)) {
                return Err(Error::new(format!("{place}: `{language}` is not a two-letter language code"))
                    .hint("write an ISO 639-1 code such as `en`, or leave it empty"));
            }
            let known =
                |column: &&str| *column == file_column || *column == text_column || LANGUAGE.contains(column) || SPEAKER.contains(column);
            ignored.extend(row.columns().filter(|column| !known(column)).map(str::to_owned));
            match index.find(name) {
                Ok(found) => {
                    if let Some((line, _)) = taken.get(&found) {
                        return Err(
                            Error::new(format!("{place}: `{name}` already has a transcript on line {line}")).hint("keep one row per file")
                        );
                    }
                    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    taken.insert(found, (row.line, Clip { sound: &sounds[found], text, language, speaker: first(SPEAKER) }));
                }
                Err(reason) => texts_without_file.push(Orphan { place, name: name.to_owned(), reason }),
            }
        }
        let without = |(number, sound): (usize, &Sound)| (!taken.contains_key(&number)).then(|| sound.shown.clone());
        let files_without_text = sounds.iter().enumerate().filter_map(without).collect();
        Ok(Paired {
            clips: taken.into_values().map(|(_, clip)| clip).collect(),
            files_without_text,
            texts_without_file,
            ignored: ignored.into_iter().collect(),
        })
    }
}

/// Index of the audio files, to look up the file names of a table.
struct Index {
    bases: Vec<PathBuf>,
    sounds: Vec<String>,
    paths: BTreeMap<String, Vec<usize>>,
    bare_paths: BTreeMap<String, Vec<usize>>,
    names: BTreeMap<String, Vec<usize>>,
    stems: BTreeMap<String, Vec<usize>>,
}

impl Index {
    fn new(sounds: &[Sound], bases: Vec<PathBuf>) -> Self {
        let by = |key: &dyn Fn(&Path) -> PathBuf| {
            let mut map: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (number, sound) in sounds.iter().enumerate() {
                map.entry(slashed(&key(&sound.path))).or_default().push(number);
            }
            map
        };
        Self {
            bases,
            sounds: sounds.iter().map(|sound| sound.shown.clone()).collect(),
            paths: by(&Path::to_owned),
            bare_paths: by(&|path| path.with_extension("")),
            names: by(&|path| path.file_name().unwrap_or_default().into()),
            stems: by(&|path| path.file_stem().unwrap_or_default().into()),
        }
    }

    /// The index of the audio file that a table calls `name`, or the reason why there is no unique one.
    fn find(&self, name: &str) -> Result<usize, String> {
        let name = name.replace('\\', "/");
        let named = Path::new(&name);
        let bare = if is_audio(named) { named.with_extension("") } else { named.to_owned() };
        let below = |map: &BTreeMap<String, Vec<usize>>, name: &Path| -> Vec<usize> {
            let found = self.bases.iter().filter_map(|base| map.get(&slashed(&plain(&base.join(name)))));
            found.flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
        };
        let by_name = |map: &BTreeMap<String, Vec<usize>>, name: &Path| -> Vec<usize> {
            map.get(&slashed(Path::new(name.file_name().unwrap_or_default()))).cloned().unwrap_or_default()
        };
        let tries = [below(&self.paths, named), below(&self.bare_paths, &bare), by_name(&self.names, named), by_name(&self.stems, &bare)];
        match tries.into_iter().find(|found| !found.is_empty()).as_deref() {
            Some([one]) => Ok(*one),
            Some(several) => {
                let names: Vec<&str> = several.iter().map(|number| self.sounds[*number].as_str()).collect();
                Err(format!("fits {} files: {}", names.len(), first_few(&names, 3)))
            }
            None => Err("no file of that name".to_owned()),
        }
    }
}

fn is_language(code: &str) -> bool {
    check_language(code).is_ok()
}

fn is_pattern(entry: &str) -> bool {
    entry.contains(['*', '?', '['])
}

/// The folder in front of the first wildcard of a pattern.
fn pattern_folder(entry: &str) -> PathBuf {
    let fixed = Path::new(entry).components().take_while(|part| !is_pattern(&part.as_os_str().to_string_lossy()));
    let folder: PathBuf = fixed.collect();
    if folder.as_os_str().is_empty() { ".".into() } else { folder }
}

/// Resolves `.` and `..` lexically, without accessing the disk.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// The path with `/` as separator and in Unicode NFC, independent of the file system.
fn slashed(path: &Path) -> String {
    let mut text: String = path.to_string_lossy().nfc().collect();
    if std::path::MAIN_SEPARATOR != '/' {
        text = text.replace(std::path::MAIN_SEPARATOR, "/");
    }
    text
}
