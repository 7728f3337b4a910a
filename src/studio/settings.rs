//! Pipeline file API: create it from a template, change settings or the whole text. Edits keep comments and formatting.

use super::project::StudioProject;
use super::{ApiError, ApiResult, blocking, json};
use crate::stages::STAGES;
use crate::stages::phrases;
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use pipeline::diagnostics::Diagnostic;
use pipeline::diagnostics::toml_schema;
use pipeline::manifest::foreach::name_in_file;
use serde::Deserialize;
use serde_json::{Map, Value, json as value};
use std::fs;
use std::sync::{Arc, PoisonError};
use toml_edit::{DocumentMut, InlineTable, Item, Table};
use voxpipe_io::write::write_atomic;

type Shared = State<Arc<StudioProject>>;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new()
        .route("/api/languages", get(languages))
        .route("/api/begin", post(begin))
        .route("/api/settings", get(settings).post(change))
        .route("/api/pipeline", get(pipeline).put(write))
        .route("/api/schema", get(schema))
}

async fn languages() -> ApiResult {
    json(phrases::languages())
}

/// Answers on the first page, from which the pipeline file is created.
#[derive(Deserialize)]
struct Beginning {
    language: String,
    /// `record` (record sentences) or `recordings` (use existing recordings).
    way: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    base: Option<String>,
    /// The user's own sentences, one per line.
    #[serde(default)]
    text: Option<String>,
    /// `embedded`, `granary` or `file`.
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    settings: Map<String, Value>,
}

async fn begin(State(project): Shared, axum::Json(said): axum::Json<Beginning>) -> ApiResult {
    blocking(move || {
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !["record", "recordings"].contains(&said.way.as_str()) {
            return Err(ApiError::bad("`way` must be `record` or `recordings`"));
        }
        voxtral::tokenizer::prompt::check_language(&said.language).map_err(|error| ApiError::bad(error.message))?;
        if !project.file.is_file() {
            let mut arguments = vec!["init", ".", "--template", &said.way, "--language", &said.language];
            for (flag, describe) in [("--name", &said.name), ("--base", &said.base)] {
                arguments
                    .extend(describe.iter().filter(|describe| !describe.starts_with('-')).flat_map(|describe| [flag, describe.as_str()]));
            }
            if said.way == "recordings" {
                arguments.extend(["--recordings", "uploads", "--transcripts", "uploads/transcripts.csv"]);
            }
            project.ask(&arguments)?;
        }
        let mut document = project.document()?.ok_or_else(|| ApiError::conflict("pipeline.toml was deleted"))?;
        if let Some(stage) = project.stages("phrases").first() {
            let stage = name_in_file(stage);
            let place = |key: &str| format!("stage.{stage}.with.{key}");
            set(&mut document, &place("language"), &value!(said.language))?;
            let own = said.text.as_deref().map(str::trim).filter(|text| !text.is_empty());
            let source = if own.is_some() { Some("file") } else { said.source.as_deref() };
            if let Some(own) = own {
                let lines: Vec<&str> = own.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                write_atomic(&project.project_root().join("phrases.txt"), format!("{}\n", lines.join("\n")).as_bytes())?;
                set(&mut document, &place("file"), &value!("phrases.txt"))?;
                set(&mut document, &place("count"), &value!(lines.len()))?;
            } else {
                unset(&mut document, &place("file"));
            }
            if let Some(source) = source {
                set(&mut document, &place("source"), &value!(source))?;
            }
        }
        for (key, describe) in &said.settings {
            set(&mut document, key, describe)?;
        }
        project.write(&document.to_string())?;
        json(project.with_diagnostics()?)
    })
    .await
}

/// Returns the pipeline file as JSON.
async fn settings(State(project): Shared) -> ApiResult {
    blocking(move || {
        let sources = project.sources().ok_or_else(|| ApiError::missing("no pipeline.toml yet"))?;
        let slip = |found: Vec<Diagnostic>| found.into_iter().next().map_or_else(String::new, |first| first.message);
        let mut values = sources.values().map_err(|found| ApiError::conflict(slip(found)))?;
        for (_, stage) in values["stage"].as_object_mut().into_iter().flatten() {
            for (former, current) in renamed_settings_of(stage["uses"].as_str().unwrap_or_default()) {
                if let Some(with) = stage["with"].as_object_mut()
                    && let Some(value) = with.remove(&former)
                {
                    with.entry(current).or_insert(value);
                }
            }
        }
        json(values)
    })
    .await
}

#[derive(Deserialize)]
struct Changes {
    set: Map<String, Value>,
}

async fn change(State(project): Shared, axum::Json(changes): axum::Json<Changes>) -> ApiResult {
    blocking(move || {
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut document = project.document()?.ok_or_else(|| ApiError::missing("no pipeline.toml yet"))?;
        for (key, describe) in &changes.set {
            replace_former_name(&project, &mut document, key);
            if describe.is_null() { unset(&mut document, key) } else { set(&mut document, key, describe)? }
        }
        project.write(&document.to_string())?;
        json(project.with_diagnostics()?)
    })
    .await
}

async fn pipeline(State(project): Shared) -> ApiResult {
    blocking(
        move || if project.file.is_file() { json(project.with_diagnostics()?) } else { Err(ApiError::missing("no pipeline.toml yet")) },
    )
    .await
}

/// Saves the text from the editor, even with errors, and returns the diagnostics.
async fn write(State(project): Shared, text: String) -> ApiResult {
    blocking(move || {
        let _one_at_a_time = project.writing.lock().unwrap_or_else(PoisonError::into_inner);
        project.write(&text)?;
        json(project.with_diagnostics()?)
    })
    .await
}

async fn schema(State(project): Shared) -> ApiResult {
    blocking(move || json(project.describe(&["schema"])?)).await
}

impl StudioProject {
    /// The text of the pipeline file, with its diagnostics.
    fn with_diagnostics(&self) -> Result<Value, ApiError> {
        let text = fs::read_to_string(&self.file).map_err(|_| ApiError::missing("no pipeline.toml yet"))?;
        Ok(value!({ "text": text, "check": self.describe(&["check", self.name(), "--json"])? }))
    }
}

/// Sets a dotted key such as `stage.adapter.with.epochs`; missing tables are created.
pub(super) fn set(document: &mut DocumentMut, key: &str, describe: &Value) -> Result<(), ApiError> {
    let parts: Vec<&str> = key.split('.').collect();
    let (last, way) = parts.split_last().filter(|(last, _)| !last.is_empty()).ok_or_else(|| ApiError::bad("empty setting name"))?;
    let new = to_toml(describe).ok_or_else(|| ApiError::bad(format!("invalid value for `{key}`")))?;
    let mut at: &mut Item = document.as_item_mut();
    for part in way {
        let inline = at.is_inline_table();
        let table = at.as_table_like_mut().ok_or_else(|| ApiError::bad(format!("cannot set `{key}`: the parent is not a table")))?;
        at = table.entry(part).or_insert_with(|| if inline { Item::Value(InlineTable::new().into()) } else { Item::Table(Table::new()) });
    }
    let table = at.as_table_like_mut().ok_or_else(|| ApiError::bad(format!("cannot set `{key}`: the parent is not a table")))?;
    match table.get_mut(last) {
        // Keep the comment after the value.
        Some(Item::Value(old)) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        _ => drop(table.insert(last, Item::Value(new))),
    }
    Ok(())
}

/// The renamed settings of a stage kind, as (former name, current name).
fn renamed_settings_of(kind: &str) -> Vec<(String, String)> {
    let Some(factory) = STAGES.iter().find(|factory| factory.kind() == kind) else { return Vec::new() };
    let mut generator = toml_schema::generator();
    let schema = factory.schema(&mut generator).to_value();
    toml_schema::renamed_settings(&schema, &generator.take_definitions(true))
}

/// Removes the former name of a setting that is about to be written under its current one: `stage.NAME.with.KEY`.
fn replace_former_name(project: &StudioProject, document: &mut DocumentMut, key: &str) {
    let ["stage", name, "with", setting] = key.split('.').collect::<Vec<_>>()[..] else { return };
    let Some(stage) = project.pipeline().stages.into_iter().find(|stage| name_in_file(&stage.name) == name) else { return };
    if let Some((former, _)) = renamed_settings_of(&stage.kind).into_iter().find(|(_, current)| current == setting) {
        unset(document, &format!("stage.{name}.with.{former}"));
    }
}

/// Removes a dotted key, if it exists.
fn unset(document: &mut DocumentMut, key: &str) {
    let parts: Vec<&str> = key.split('.').collect();
    let Some((last, way)) = parts.split_last() else { return };
    let mut at: Option<&mut Item> = Some(document.as_item_mut());
    for part in way {
        at = at.and_then(|item| item.as_table_like_mut()).and_then(|table| table.get_mut(part));
    }
    if let Some(table) = at.and_then(|item| item.as_table_like_mut()) {
        table.remove(last);
    }
}

/// A JSON value as TOML; `None` for null, which TOML cannot express.
fn to_toml(describe: &Value) -> Option<toml_edit::Value> {
    Some(match describe {
        Value::Null => return None,
        Value::Bool(describe) => (*describe).into(),
        Value::Number(number) => number.as_i64().map_or_else(|| number.as_f64().map(toml_edit::Value::from), |whole| Some(whole.into()))?,
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => toml_edit::Value::Array(items.iter().map(to_toml).collect::<Option<_>>()?),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, describe)| Some((key.as_str(), to_toml(describe)?))).collect::<Option<Vec<_>>>()?;
            toml_edit::Value::InlineTable(entries.into_iter().collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_in_place_and_the_rest_stays() {
        let text = "# mine\n[params]\nepochs = 3   # few\n\n[stage.a]\nuses = \"train\"\nwith = { lora = { r = 8 } }\n";
        let mut document: DocumentMut = text.parse().unwrap();
        let mut put = |key: &str, describe: Value| set(&mut document, key, &describe).map_err(|warning| warning.1);
        put("params.epochs", value!(5)).unwrap();
        put("stage.a.with.lora.r", value!(16)).unwrap();
        put("stage.a.with.eval.split", value!("validation")).unwrap();
        put("params.list", value!(["a", 1.5])).unwrap();
        assert!(put("params.epochs.x", value!(1)).is_err() && put("", value!(1)).is_err() && put("a.b", Value::Null).is_err());
        unset(&mut document, "stage.a.uses");
        unset(&mut document, "no.such.key");
        assert_eq!(
            document.to_string(),
            "# mine\n[params]\nepochs = 5   # few\nlist = [\"a\", 1.5]\n\n[stage.a]\nwith = { lora = { r = 16 } , eval = { split = \"validation\" } }\n"
        );
    }
}
