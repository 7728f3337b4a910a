//! Tekken tokenizer (byte-level BPE): text to token ids and back, as in mistral-common.
//!
//! `tekken.json` holds a pre-tokenization pattern, byte pieces in merge order, and the names of the special tokens. Special tokens come
//! first: the id of a piece is its rank plus the number of special tokens. The pattern splits the text into parts. A part that is a piece
//! is one token; any other part is merged from its bytes, lowest rank first. The first 256 pieces are the single bytes, so there is no
//! unknown token. Names of special tokens in a text are encoded as plain text, so user input cannot break the prompt.

mod bpe;
mod pretokenizer;
pub mod prompt;

use crate::error::{Error, Result, ResultExt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bpe::Vocabulary;
use pretokenizer::Pretokenizer;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// Tokenizer of one model.
pub struct Tokenizer {
    path: PathBuf,
    splitter: Pretokenizer,
    pieces: Vocabulary,
    /// Ids of the named special tokens.
    specials: BTreeMap<String, u32>,
    special_count: u32,
}

impl Tokenizer {
    /// Reads a `tekken.json` file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let file: File = serde_json::from_slice(&bytes).map_err(|error| {
            let what = if error.is_eof() { "the file ends too early".into() } else { error.to_string() };
            Error::new(format!("{}:{}: {what}", path.display(), error.line()))
                .hint("download the tokenizer file again; it must be a tekken.json")
        })?;
        Self::from_file(path, file).map_err(|error| match error.hint {
            Some(_) => error,
            None => error.hint("download the tokenizer file again, or use the one published with the model"),
        })
    }

    fn from_file(path: &Path, file: File<'_>) -> Result<Self> {
        let wrong = |what: String| Error::new(format!("{}: {what}", path.display()));
        let specials = special_tokens(&file).map_err(wrong)?;
        let pieces = pieces(&file).map_err(wrong)?;
        let splitter =
            Pretokenizer::new(&file.config.pattern).map_err(|error| wrong(format!("config.pattern is not a usable regex: {error}")))?;
        Ok(Self { path: path.to_owned(), splitter, pieces, specials, special_count: file.config.default_num_special_tokens })
    }

    /// Encodes a text to token ids, without adding special tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.splitter.each(text, |part| self.pieces.encode(part.as_bytes(), &mut ids));
        for id in &mut ids {
            *id += self.special_count;
        }
        ids
    }

    /// Decodes token ids to text. Special tokens are skipped, and so is a leading `lang:xx`, which belongs to the prompt. Invalid UTF-8 and
    /// ids beyond the vocabulary become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for run in ids.split(|&id| id < self.special_count) {
            let bytes: Vec<u8> = run.iter().flat_map(|&id| self.piece(id).unwrap_or("\u{fffd}".as_bytes()).iter().copied()).collect();
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        match text.strip_prefix("lang:") {
            Some(rest) if rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_lowercase()) => rest[2..].to_owned(),
            _ => text,
        }
    }

    /// Id of a special token by its name in the file. Unnamed special tokens are called `<SPECIAL_n>` after their id.
    pub fn special(&self, name: &str) -> Result<u32> {
        let unnamed = || {
            let id = name.strip_prefix("<SPECIAL_")?.strip_suffix('>')?.parse().ok()?;
            let free = id < self.special_count && self.specials.values().all(|named| *named != id) && name == format!("<SPECIAL_{id}>");
            free.then_some(id)
        };
        self.specials.get(name).copied().or_else(unnamed).ok_or_else(|| {
            Error::new(format!("{}: there is no special token `{name}`", self.path.display()))
                .hint("use the tekken.json of a Voxtral model; those of other Mistral models have no audio tokens")
        })
    }

    /// Number of ids, including special tokens.
    pub fn vocab_size(&self) -> usize {
        self.special_count as usize + self.pieces.len()
    }

    /// Bytes of a text token; `None` for special tokens and ids beyond the vocabulary.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        id.checked_sub(self.special_count).and_then(|rank| self.pieces.get(rank as usize))
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// The parts of `tekken.json` that are used.
#[derive(Deserialize)]
struct File<'a> {
    config: Config,
    #[serde(borrow)]
    vocab: Vec<Piece<'a>>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: u32,
    default_num_special_tokens: u32,
    version: String,
}

#[derive(Deserialize)]
struct Piece<'a> {
    rank: usize,
    #[serde(borrow)]
    token_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Special {
    rank: u32,
    token_str: String,
}

/// Special tokens of files that do not list them, which is allowed up to version 7.
const UNLISTED: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Names and ids of the named special tokens.
fn special_tokens(file: &File<'_>) -> Result<BTreeMap<String, u32>, String> {
    let version = &file.config.version;
    let number: u32 = version
        .strip_prefix('v')
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("config.version is `{version}`; expected a version like `v7`"))?;
    let count = file.config.default_num_special_tokens;
    let listed: Vec<(u32, &str)> = match &file.special_tokens {
        Some(listed) => listed.iter().map(|special| (special.rank, special.token_str.as_str())).collect(),
        None if number <= 7 => (0..).zip(UNLISTED).collect(),
        None => return Err(format!("special_tokens is missing; files of version {version} must list them")),
    };
    let mut names = BTreeMap::new();
    let mut ranks = BTreeMap::new();
    for (index, &(rank, name)) in listed.iter().enumerate() {
        if rank >= count {
            return Err(format!("special_tokens[{index}] (`{name}`) has rank {rank}, but config.default_num_special_tokens is {count}"));
        }
        if let Some(other) = ranks.insert(rank, name) {
            return Err(format!("special_tokens[{index}] (`{name}`) has rank {rank}, which `{other}` already has"));
        }
        if let Some(other) = names.insert(name.to_owned(), rank) {
            return Err(format!("special_tokens[{index}]: `{name}` is listed twice, with ranks {other} and {rank}"));
        }
    }
    Ok(names)
}

/// The byte pieces in use: files contain more entries than the model has ids for.
fn pieces(file: &File<'_>) -> Result<Vocabulary, String> {
    let Config { default_vocab_size: all, default_num_special_tokens: special, .. } = file.config;
    let used = all.saturating_sub(special) as usize;
    if used < 256 {
        return Err(format!("config.default_vocab_size is {all} with {special} special tokens, which leaves no room for the 256 bytes"));
    }
    if file.vocab.len() < used {
        return Err(format!(
            "vocab has {} entries, but config.default_vocab_size of {all} needs {used}; the file is truncated",
            file.vocab.len()
        ));
    }
    let mut pieces = Vocabulary::with_capacity(used);
    let mut bytes = Vec::new();
    for (index, entry) in file.vocab[..used].iter().enumerate() {
        let rank = entry.rank;
        if rank < index {
            return Err(format!("vocab[{index}] has rank {rank}, which vocab[{rank}] already has"));
        }
        if rank != index {
            return Err(format!("vocab[{index}] has rank {rank}, but the entries must be sorted by rank"));
        }
        bytes.clear();
        STANDARD
            .decode_vec(entry.token_bytes.as_bytes(), &mut bytes)
            .map_err(|error| format!("vocab[{index}]: token_bytes `{}` is not base64: {error}", entry.token_bytes))?;
        if bytes.is_empty() || index < 256 && bytes != [index as u8] {
            let expected = if index < 256 { format!("byte {index} alone") } else { "at least one byte".into() };
            return Err(format!("vocab[{index}]: token_bytes `{}` should be {expected}", entry.token_bytes));
        }
        pieces
            .push(&bytes)
            .map_err(|other| format!("vocab[{index}]: token_bytes `{}` is the same as that of vocab[{other}]", entry.token_bytes))?;
    }
    Ok(pieces)
}
