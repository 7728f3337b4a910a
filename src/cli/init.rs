//! `voxpipe init`: creates a commented pipeline.toml from a template.

use super::prompt::is_interactive;
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

const TEMPLATE_TEXT: &str = include_str!("../../templates/pipeline.toml");
const DEFAULT_BASE: &str = "mistralai/Voxtral-Mini-3B-2507";
const FILE: &str = "pipeline.toml";
const SCHEMA: &str = "schema.json";

/// Options of `voxpipe init`. On a terminal, it asks for those that are missing.
#[derive(Args)]
pub(super) struct Init {
    /// Project folder; created if it does not exist
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Template to start from [default: record]
    #[arg(long, alias = "case", value_enum)]
    template: Option<Template>,
    /// Pipeline name [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
    /// Spoken language as an ISO 639-1 code [default: en]
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Base model: a Hub repository or a folder; required with `--template hub` [default: mistralai/Voxtral-Mini-3B-2507]
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// Folder of the recordings, relative to the project folder [default: recordings]
    #[arg(long, value_name = "FOLDER")]
    recordings: Option<String>,
    /// Transcripts of existing recordings: a CSV, TSV or JSONL file, or `txt` for one text file next to each recording
    #[arg(long, value_name = "FILE")]
    transcripts: Option<String>,
    /// Print the written files as JSON
    #[arg(long)]
    json: bool,
}

/// The kind of project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Template {
    /// Record prompts first
    Record,
    /// Use existing recordings with transcripts
    Recordings,
    /// Use existing recordings and continue from a fine-tuned model on the Hub
    Hub,
}

/// Template variables.
#[derive(Serialize)]
struct Values {
    #[serde(rename = "case")]
    template: Template,
    name: String,
    language: String,
    base: String,
    folder: String,
    transcripts: String,
    published: String,
    /// Whether prompts in the language are built in.
    pack: bool,
}

impl Values {
    /// What a person has to do before the first run: existing recordings must be there.
    fn first_step(&self, folder: &Path) -> Option<String> {
        if matches!(self.template, Template::Record) || folder.join(&self.folder).exists() {
            return None;
        }
        let transcripts = match self.transcripts.as_str() {
            "txt" => "a .txt file with the transcript beside each".to_owned(),
            table => format!("their transcripts into `{table}` (columns `file` and `text`)"),
        };
        Some(format!("put the recordings into the folder `{}`, and {transcripts}", folder.join(&self.folder).display()))
    }
}

impl Init {
    /// Writes the pipeline file and the JSON Schema for editors. Existing files are not overwritten.
    pub(super) fn go(self) -> Result<()> {
        let file = self.folder.join(FILE);
        let exists = || Error::new(format!("`{}` already exists and is not overwritten", file.display())).kind(ErrorKind::InvalidInput);
        if file.symlink_metadata().is_ok() {
            return Err(exists().hint("choose another folder, or move the file"));
        }
        let values = self.values()?;
        let first_step = values.first_step(&self.folder);
        let text = filled(values, &file)?;
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create `{}`", self.folder.display())).map_err(environment)?;
        if !write_new(&file, &text)? {
            return Err(exists());
        }
        let schema = self.folder.join(SCHEMA);
        let with_schema = write_new(&schema, &format!("{:#}\n", pipeline::manifest::schema(STAGES)))?;
        if self.json {
            return print_json(json!({ "file": file, "schema": with_schema.then_some(&schema) }));
        }
        let and_schema = if with_schema { format!(" and `{}` (JSON Schema for editors)", schema.display()) } else { String::new() };
        let change_folder = if self.folder == Path::new(".") { String::new() } else { format!("cd {} && ", self.folder.display()) };
        let first = first_step.map(|step| format!("{step}\n")).unwrap_or_default();
        print(&format!("wrote `{}`{and_schema}\n{first}review it, then run: {change_folder}voxpipe run\n", file.display()))
    }

    fn values(&self) -> Result<Values> {
        let asks = is_interactive() && !self.json;
        let template = match self.template {
            Some(template) => template,
            None if asks => ask_template()?,
            None => Template::Record,
        };
        let or_ask = |given: &Option<String>, question: &str, default: &str| match given {
            Some(given) => Ok(given.clone()),
            None if asks => ask(question, default),
            None => Ok(default.to_owned()),
        };
        let own = std::path::absolute(&self.folder).ok().and_then(|path| Some(safe_name(path.file_name()?.to_str()?).to_lowercase()));
        let name = or_ask(&self.name, "Pipeline name?", &own.unwrap_or_else(|| "my-voice".to_owned()))?;
        let language = or_ask(&self.language, "Spoken language (ISO 639-1 code)?", "en")?;
        let base = match (template, &self.base) {
            (Template::Hub, None) if !asks => {
                return Err(Error::new("template `hub` needs a base model").kind(ErrorKind::InvalidInput).hint("add `--base OWNER/NAME`"));
            }
            (Template::Hub, None) => ask("Base model to continue from (OWNER/NAME)?", DEFAULT_BASE)?,
            (_, base) => base.clone().unwrap_or_else(|| DEFAULT_BASE.to_owned()),
        };
        let folder = or_ask(&self.recordings, "Folder of the recordings?", "recordings")?;
        let transcripts = match template {
            Template::Record => String::new(),
            Template::Recordings | Template::Hub => {
                or_ask(&self.transcripts, "Transcripts (CSV, TSV or JSONL file, or `txt`)?", &format!("{folder}/transcripts.csv"))?
            }
        };
        let published = format!("published/{}", safe_name(&name));
        Ok(Values { template, name, language, base, folder, transcripts, published, pack: true })
    }
}

/// Renders the pipeline file: with the built-in prompts if there are any in the language, else with a file of the user's prompts.
fn filled(mut values: Values, file: &Path) -> Result<String> {
    let text = template::render(FILE, TEMPLATE_TEXT, &values)?;
    let mistakes = |text: &str| Pipeline::parse(STAGES, text, file, &CommandLineOverrides::default(), &|_| None).diagnostics;
    if mistakes(&text).is_empty() {
        return Ok(text);
    }
    values.pack = false;
    let text = template::render(FILE, TEMPLATE_TEXT, &values)?;
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

/// Writes a new file. Returns false, without writing, if it already exists.
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

fn ask_template() -> Result<Template> {
    loop {
        let question = "1  Record prompts first\n2  Use existing recordings with transcripts\n\
            3  Use existing recordings and continue from a fine-tuned model on the Hub\nWhich template?";
        match ask(question, "1")?.as_str() {
            "1" => return Ok(Template::Record),
            "2" => return Ok(Template::Recordings),
            "3" => return Ok(Template::Hub),
            _ => {}
        }
    }
}

/// Asks a question on the terminal; an empty answer gives the default.
fn ask(question: &str, default: &str) -> Result<String> {
    let mut out = io::stderr().lock();
    write!(out, "{question} [{default}] ").and_then(|()| out.flush())?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(Error::new("input ended before all questions were answered; nothing was written").kind(ErrorKind::InvalidInput));
    }
    let answer = line.trim();
    Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
}
