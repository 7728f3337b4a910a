//! Two pipeline files of one name in a project: they share the links in `latest/` and cannot run at the same time.

use pipeline::cache::store::Store;
use pipeline::diagnostics::Diagnostic;
use pipeline::graph::Pipeline;
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::include_files::read_included;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Larger files are no pipelines.
const LARGEST: u64 = 1 << 20;

/// A warning if another pipeline file of the project has the same name. Looked at are the files beside this one and in the project's root,
/// and those that ran.
pub(super) fn warning(sources: &ManifestSources, pipeline: &Pipeline) -> Option<Diagnostic> {
    let own: BTreeSet<(u64, u64)> = sources.files().filter_map(identity).collect();
    let (name, span) = sources.pipeline_name()?;
    let folder = pipeline.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut files = toml_files(folder);
    files.extend(toml_files(&pipeline.root));
    let ran = Store::open_readonly(&pipeline.root).map(|store| store.files_of(&name)).unwrap_or_default();
    files.extend(ran.into_iter().map(|file| pipeline.root.join(file)));
    let root = fs::canonicalize(&pipeline.root).ok();
    let mut seen = own;
    let twins: Vec<String> = files
        .into_iter()
        .filter(|file| identity(file).is_some_and(|file| seen.insert(file)))
        .filter(|file| {
            let Some((other, other_root)) = name_and_root(file) else { return false };
            Store::same_place(&other, &name) && fs::canonicalize(other_root).ok() == root
        })
        .map(|file| format!("`{}`", file.strip_prefix(".").unwrap_or(&file).display()))
        .collect();
    if twins.is_empty() {
        return None;
    }
    let message = format!("this project has two pipelines of the name `{name}`: the other one is {}", twins.join(" and "));
    let mut warning = Diagnostic::warning(span, message)
        .hint("give each its own name")
        .note(format!("both write the links `.voxpipe/latest/{name}`, and only one of them can run at a time"));
    sources.place(&mut warning);
    Some(warning)
}

fn name_and_root(file: &Path) -> Option<(String, PathBuf)> {
    let text = fs::read_to_string(file).ok()?;
    let sources = ManifestSources::gather(&text, file, &read_included);
    let root = sources.project_root(file);
    let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
    // Other programs have TOML files with names as well.
    sources.values().ok()?.get("stage")?;
    Some((sources.pipeline_name()?.0, root))
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    files.sort();
    files
}

/// Device and inode of a file that may be a pipeline: one file may have several paths.
fn identity(file: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(file).ok()?;
    (meta.is_file() && meta.len() <= LARGEST).then(|| (meta.dev(), meta.ino()))
}
