//! `voxpipe report`: a run, or the sweep of a pipeline, on one page.
//!
//! Everything is read from the run history and the store: nothing is computed anew and no clock is asked, so a report of the same run is the
//! same text. `gather.rs` collects the facts as JSON, which `--json` prints; `page.rs` renders them with `templates/report`.

mod gather;
mod page;
mod settings;
mod sweep;

use super::summary::{find_of, run_and_project};
use super::{Project, note, print, print_json};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use clap::Args;
use pipeline::cache::store::Store;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use voxpipe_io::secrets::redactor::Redactor;
use voxpipe_io::write::write_atomic;

/// Options of `voxpipe report`.
#[derive(Args)]
pub(super) struct ReportArgs {
    /// Run id, `latest`, `previous`, or `sweep` for the combinations of [matrix]; with a pipeline file, the newest run of that pipeline
    #[arg(default_value = "latest", value_name = "RUN|sweep")]
    of: String,
    #[command(flatten)]
    project: Project,
    /// Write one HTML page that needs no other file and no network; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ReportArgs {
    /// Prints the report, or writes it as a page.
    pub(super) fn go(&self) -> Result<()> {
        let (of, project) = run_and_project(&self.of, &self.project)?;
        if let Some(path) = self.html.as_deref().filter(|path| *path != Path::new("-")) {
            check_target(path)?;
        }
        let store = Store::open_readonly(&project.root()?)?;
        let sweep = of == "sweep";
        let mut data = if sweep { sweep::gather(&store, &project)? } else { gather::of_run(&store, &find_of(&store, &of, &project)?)? };
        redact(&mut data, &Redactor::of_environment().0);
        if self.json {
            return print_json(data);
        }
        let Some(path) = &self.html else {
            return print(&if sweep { sweep::text(&data) } else { gather::text(&data) });
        };
        let page = if sweep { sweep::page(&data)? } else { page::of_run(&data)? };
        if path == Path::new("-") {
            return print(&page);
        }
        write_atomic(path, page.as_bytes())?;
        note(&format!("wrote `{}`", path.display()));
        Ok(())
    }
}

/// Stands near the beginning of each page, so that a page may replace an older one, and nothing else.
const MARK: &str = "<meta name=\"generator\" content=\"voxpipe report\">";

/// Checks that a page may be written to a path: what is there, if anything, is a page of `voxpipe report` or empty.
fn check_target(path: &Path) -> Result<()> {
    let mut start = Vec::new();
    let is_file = match fs::metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) => meta.is_file(),
    };
    if is_file {
        let reading = || format!("cannot read `{}`", path.display());
        File::open(path).and_then(|file| file.take(1024).read_to_end(&mut start)).with_context(reading)?;
    }
    if is_file && (start.is_empty() || String::from_utf8_lossy(&start).contains(MARK)) {
        return Ok(());
    }
    let what = if is_file { "is not a page of `voxpipe report` and is not overwritten" } else { "is not a file" };
    Err(Error::new(format!("`{}` {what}", path.display()))
        .kind(ErrorKind::InvalidInput)
        .hint("name another file, such as `--html report.html`, or `-` for standard output"))
}

/// Replaces secrets in all texts, names included. What stages printed was redacted when it was recorded; settings and pipeline files were not.
fn redact(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => *text = redactor.redact(text),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, redactor)),
        Value::Object(fields) => {
            for (name, mut field) in std::mem::take(fields) {
                redact(&mut field, redactor);
                fields.insert(redactor.redact(&name), field);
            }
        }
        _ => {}
    }
}

/// A size in bytes in words.
fn bytes(size: u64) -> String {
    match size {
        0..=9_999 => format!("{size} B"),
        10_000..=9_999_999 => format!("{:.0} kB", size as f64 / 1e3),
        10_000_000..=9_999_999_999 => format!("{:.0} MB", size as f64 / 1e6),
        _ => format!("{:.1} GB", size as f64 / 1e9),
    }
}

/// A number as people write it: at most four significant digits, integers whole.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => format!("{number:.0}"),
        Some(number) if number != 0.0 && !(1e-3..1e6).contains(&number.abs()) => format!("{number:.3e}"),
        Some(number) => {
            let text = format!("{number:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        None => json!(value).as_str().map_or_else(|| "–".to_owned(), str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_at_any_depth() {
        let mut redactor = Redactor::default();
        redactor.add_all(["word-4-word".into(), "another".into()].into_iter());
        let mut value = json!({ "a": ["key word-4-word!", { "b": "another" }], "n": 1, "another": 2 });
        redact(&mut value, &redactor);
        assert_eq!(value, json!({ "a": ["key [redacted]!", { "b": "[redacted]" }], "n": 1, "[redacted]": 2 }));
    }

    #[test]
    fn numbers_and_sizes_are_short() {
        let numbers: Vec<String> = [json!(3), json!(0.25), json!(1e-5), json!(12.345_678), json!(null)].iter().map(number).collect();
        assert_eq!(numbers, ["3", "0.25", "1.000e-5", "12.3457", "–"]);
        assert_eq!([bytes(12), bytes(123_456), bytes(45_600_000), bytes(12_340_000_000)], ["12 B", "123 kB", "46 MB", "12.3 GB"]);
    }
}
