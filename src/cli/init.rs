//! `voxpipe init`: a commented pipeline.toml to begin with.

use super::prompt::somebody_is_there;
use super::{print, print_json};
use crate::data::template;
use crate::data::text::safe_name;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::stages::STAGES;
use clap::{Args, ValueEnum};
use pipeline::graph::Pipeline;
use pipeline::manifest::overrides::CommandLineOverrides;
use serde::Serialize;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = include_str!("../../templates/pipeline.toml");
const BASE: &str = "mistralai/Voxtral-Mini-3B-2507";
const FILE: &str = "pipeline.toml";
const SCHEMA: &str = "schema.json";

/// What to begin with. On a terminal, what is not said is asked.
#[derive(Args)]
pub(super) struct Init {
    /// The project's folder; made if it is not there
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Which template to start from: how the recordings come in
    #[arg(long = "template", alias = "case", value_enum, value_name = "TEMPLATE")]
    case: Option<Case>,
    /// What the pipeline is called; the folder's name if left out
    #[arg(long)]
    name: Option<String>,
    /// The language that is spoken, as an ISO 639-1 code
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// The model to start from: a repository of the Hub or a folder
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// The folder of the recordings, seen from the project's folder
    #[arg(long, value_name = "FOLDER")]
    recordings: Option<String>,
    /// Where the texts of existing recordings are: a CSV, TSV or JSONL file, or `txt` for a text file beside each
    #[arg(long, value_name = "FILE")]
    transcripts: Option<String>,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// Where somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    /// Sentences are still to be read aloud
    Record,
    /// There are recordings with their texts
    Recordings,
    /// There are recordings, and a model on the Hub to go on from
    Hub,
}

/// What the template is filled with.
#[derive(Serialize)]
struct Values {
    case: Case,
    name: String,
    language: String,
    base: String,
    folder: String,
    transcripts: String,
    published: String,
    /// Whether there are sentences in the language.
    pack: bool,
}

impl Init {
    /// Writes the file, and the schema that editors read beside it. Nothing that is there is overwritten.
    pub(super) fn go(self) -> Result<()> {
        let file = self.folder.join(FILE);
        let exists = || Error::new(format!("`{}` is there already, and is not overwritten", file.display())).kind(ErrorKind::InvalidInput);
        if file.symlink_metadata().is_ok() {
            return Err(exists().hint("choose another folder, or move the file away"));
        }
        let values = self.values()?;
        let text = filled(values, &file)?;
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot make `{}`", self.folder.display())).map_err(environment)?;
        if !write_new(&file, &text)? {
            return Err(exists());
        }
        let schema = self.folder.join(SCHEMA);
        let with_schema = write_new(&schema, &format!("{:#}\n", pipeline::manifest::schema(STAGES)))?;
        if self.json {
            return print_json(json!({ "file": file, "schema": with_schema.then_some(&schema) }));
        }
        let beside = if with_schema { format!(" and `{}`, by which editors complete keys", schema.display()) } else { String::new() };
        let there = if self.folder == Path::new(".") { String::new() } else { format!("cd {} && ", self.folder.display()) };
        print(&format!("wrote `{}`{beside}\nlook through it, then: {there}voxpipe run\n", file.display()))
    }

    fn values(&self) -> Result<Values> {
        let asks = somebody_is_there() && !self.json;
        let case = match self.case {
            Some(case) => case,
            None if asks => ask_case()?,
            None => Case::Record,
        };
        let or_ask = |given: &Option<String>, question: &str, default: &str| match given {
            Some(given) => Ok(given.clone()),
            None if asks => ask(question, default),
            None => Ok(default.to_owned()),
        };
        let own = std::path::absolute(&self.folder).ok().and_then(|path| Some(safe_name(path.file_name()?.to_str()?).to_lowercase()));
        let name = or_ask(&self.name, "What is the pipeline called?", &own.unwrap_or_else(|| "my-voice".to_owned()))?;
        let language = or_ask(&self.language, "Which language is spoken (ISO 639-1 code)?", "en")?;
        let base = match (case, &self.base) {
            (Case::Hub, None) if !asks => {
                return Err(Error::new("no model is named to go on from").kind(ErrorKind::InvalidInput).hint("add `--base OWNER/NAME`"));
            }
            (Case::Hub, None) => ask("Which model goes it on from (OWNER/NAME)?", BASE)?,
            (_, base) => base.clone().unwrap_or_else(|| BASE.to_owned()),
        };
        let folder = or_ask(&self.recordings, "In which folder are the recordings, or will be?", "recordings")?;
        let transcripts = match case {
            Case::Record => String::new(),
            Case::Recordings | Case::Hub => {
                or_ask(&self.transcripts, "Where are their texts (a table, or `txt`)?", &format!("{folder}/transcripts.csv"))?
            }
        };
        let published = format!("published/{}", safe_name(&name));
        Ok(Values { case, name, language, base, folder, transcripts, published, pack: true })
    }
}

/// The text of the file: with sentences of ours where there are some in the language, or else with a file of the user's.
fn filled(mut values: Values, file: &Path) -> Result<String> {
    let text = template::render(FILE, TEMPLATE, &values)?;
    let mistakes = |text: &str| Pipeline::parse(STAGES, text, file, &CommandLineOverrides::default(), &|_| None).diagnostics;
    if mistakes(&text).is_empty() {
        return Ok(text);
    }
    values.pack = false;
    let text = template::render(FILE, TEMPLATE, &values)?;
    match mistakes(&text).into_iter().next() {
        None => Ok(text),
        Some(mistake) => {
            let error = Error::new(mistake.message).kind(ErrorKind::InvalidInput);
            Err(match mistake.hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
    }
}

/// Writes a file that is not there yet; says whether it was not.
fn write_new(path: &Path, text: &str) -> Result<bool> {
    let writing = || format!("cannot write `{}`", path.display());
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(writing).map_err(environment),
        Ok(mut file) => file.write_all(text.as_bytes()).with_context(writing).map_err(environment).map(|()| true),
    }
}

fn environment(error: Error) -> Error {
    error.environment()
}

fn ask_case() -> Result<Case> {
    loop {
        let question = "1  Sentences are still to be read aloud\n2  There are recordings with their texts\n3  There are recordings, and a model on the Hub to go on from\nWhere do you stand?";
        match ask(question, "1")?.as_str() {
            "1" => return Ok(Case::Record),
            "2" => return Ok(Case::Recordings),
            "3" => return Ok(Case::Hub),
            _ => {}
        }
    }
}

/// Asks on the terminal; an empty answer is the default.
fn ask(question: &str, default: &str) -> Result<String> {
    let mut out = io::stderr().lock();
    write!(out, "{question} [{default}] ").and_then(|()| out.flush())?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(Error::new("the questions were not answered; nothing was written").kind(ErrorKind::InvalidInput));
    }
    let answer = line.trim();
    Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
}
