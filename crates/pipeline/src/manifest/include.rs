//! The texts a pipeline is written in: its file and the files that one includes.
//!
//! They lie one behind the other in a single text, the pipeline's file first, so that a span alone says which file it is in. Each is read
//! as TOML for itself, and the trees are laid over each other: what is included is the ground, in the order in which it is named, and a file
//! wins over what it includes. Values keep their spans, so a complaint about an included value is shown where that value is written.
//!
//! Nothing here reads the disk: whoever gathers the texts is asked for them.

use crate::diagnostics::toml_schema::unreadable;
use crate::diagnostics::{Diagnostic, IncludedFile};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The key that names files to include.
pub const INCLUDE: &str = "include";

/// How many files may stand between the pipeline's and one that is included.
const DEEPEST: usize = 16;

/// Gives the files that a path or pattern means, sorted, each with its text; or says what is wrong with it.
pub type FileProvider<'a> = dyn Fn(&Path) -> Result<Vec<(PathBuf, String)>, String> + 'a;

/// A tree of values with their places.
pub(crate) type Tree<'t> = Spanned<DeTable<'t>>;

/// All texts of a pipeline.
#[derive(Debug, Default)]
pub struct ManifestSources {
    /// The files one behind the other, each followed by a newline of ours.
    text: String,
    /// The pipeline's file, then the included ones in the order in which they were met.
    parts: Vec<Part>,
    /// The parts in the order in which they are laid over each other.
    layers: Vec<usize>,
    /// What is wrong with an `include`.
    found: Vec<Diagnostic>,
}

/// One file.
#[derive(Debug)]
struct Part {
    /// Where its text lies.
    place: Range<usize>,
    /// What a diagnostic shows; nothing for the pipeline's own file.
    shown: Option<Arc<IncludedFile>>,
    path: PathBuf,
}

/// The trees of all files, laid over each other.
pub(crate) struct MergedToml<'t> {
    pub(crate) tree: Tree<'t>,
    /// What is wrong with an `include`.
    pub(crate) found: Vec<Diagnostic>,
    /// What the included files say of the format they are written in.
    pub(crate) schemas: Vec<Spanned<DeValue<'t>>>,
}

impl ManifestSources {
    /// A file that includes nothing; if it names files to include, that is a mistake.
    pub fn alone(text: &str, file: &Path) -> Self {
        Self::gather(text, file, &|_| Err("it is not read here".to_owned()))
    }

    /// A file with everything it includes.
    pub fn gather(text: &str, file: &Path, look: &FileProvider<'_>) -> Self {
        let mut sources = Self::default();
        sources.add(text, plain(file), look, &mut Vec::new());
        sources
    }

    /// All texts, as spans count their bytes.
    pub fn text(&self) -> &str {
        // Without the newline behind the last file, which nobody wrote.
        self.text.strip_suffix('\n').unwrap_or(&self.text)
    }

    /// The text of the pipeline's own file.
    pub fn own_text(&self) -> &str {
        self.parts.first().map_or("", |part| &self.text[part.place.clone()])
    }

    /// The files: the pipeline's own, then those included.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The files with their texts, as [`ManifestSources::files`].
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.parts.iter().map(|part| (part.path.as_path(), &self.text[part.place.clone()]))
    }

    /// What all files together say, as plain values: for a page that shows settings. The mistakes if one of them is not TOML.
    pub fn values(&self) -> Result<Value, Vec<Diagnostic>> {
        let merged = self.tree()?;
        Value::deserialize(toml::de::Deserializer::from(merged.tree)).map_err(|error| vec![unreadable(&error, 0..0)])
    }

    /// `[pipeline] name`, with the place it stands at.
    pub fn pipeline_name(&self) -> Option<(String, Range<usize>)> {
        let merged = self.tree().ok()?;
        let name = merged.tree.get_ref().get("pipeline")?.get_ref().as_table()?.get("name")?;
        Some((name.get_ref().as_str()?.to_owned(), name.span()))
    }

    /// The folder that relative paths of the pipeline start from: that of the file, joined with `[pipeline] root`.
    pub fn project_root(&self, file: &Path) -> PathBuf {
        let folder = file.parent().unwrap_or(Path::new(""));
        let tree = self.tree().ok();
        let pipeline = tree.as_ref().and_then(|merged| merged.tree.get_ref().get("pipeline")?.get_ref().as_table()?.get("root"));
        pipeline.and_then(|root| root.get_ref().as_str()).map_or_else(|| folder.to_owned(), |root| folder.join(root))
    }

    /// Whether everything that the pipeline's file names was included.
    pub(crate) fn is_whole(&self) -> bool {
        let tree = DeTable::parse_recoverable(self.own_text()).0;
        let is_list =
            |names: &Spanned<DeValue<'_>>| names.get_ref().as_array().is_some_and(|names| names.iter().all(|name| name.get_ref().is_str()));
        self.found.is_empty() && tree.get_ref().get(INCLUDE).is_none_or(is_list)
    }

    /// Where `[pipeline] root` stands in the text of all files, if it does.
    pub fn root_place(&self) -> Option<Range<usize>> {
        let merged = self.tree().ok()?;
        Some(merged.tree.get_ref().get("pipeline")?.get_ref().as_table()?.get("root")?.span())
    }

    /// The names of all profiles.
    pub fn profile_names(&self) -> Vec<String> {
        let merged = self.tree().ok();
        let profiles = merged.as_ref().and_then(|merged| merged.tree.get_ref().get("profile")?.get_ref().as_table());
        profiles.into_iter().flat_map(|profiles| profiles.keys()).map(|name| name.get_ref().to_string()).collect()
    }

    fn add(&mut self, text: &str, path: PathBuf, look: &FileProvider<'_>, within: &mut Vec<PathBuf>) {
        let start = self.text.len();
        let shown = (!self.parts.is_empty()).then(|| Arc::new(IncludedFile { path: path.clone(), text: text.to_owned() }));
        let index = self.parts.len();
        self.parts.push(Part { place: start..start + text.len(), shown, path: path.clone() });
        self.text.push_str(text);
        self.text.push('\n');
        // A file that cannot name the key is not parsed twice. A quoted key may spell it with escapes.
        if (text.contains(INCLUDE) || text.contains('\\'))
            && let (tree, slips) = DeTable::parse_recoverable(text)
            && slips.is_empty()
            && let Some(DeValue::Array(names)) = tree.get_ref().get(INCLUDE).map(Spanned::get_ref)
        {
            within.push(path.clone());
            for name in names {
                if let Some(written) = name.get_ref().as_str() {
                    let place = name.span().start + start..name.span().end + start;
                    self.include(written, place, &path, look, within);
                }
            }
            within.pop();
        }
        self.layers.push(index);
    }

    fn include(&mut self, written: &str, place: Range<usize>, from: &Path, look: &FileProvider<'_>, within: &mut Vec<PathBuf>) {
        let complain = |message: String| Diagnostic::error(place.clone(), message);
        let folder = from.parent().unwrap_or(Path::new(""));
        if written.contains("${") {
            let message = format!("`${{…}}` is replaced only inside a stage's `with`, not in \"{written}\"");
            return self.found.push(complain(message).hint("write the path itself"));
        }
        if within.len() > DEEPEST {
            return self.found.push(complain("files include each other too deeply".to_owned()).hint("name the file in the pipeline's own"));
        }
        match look(&plain(&folder.join(written))) {
            Err(message) => {
                self.found
                    .push(complain(format!("`{written}` cannot be included: {message}")).hint("paths start at the folder of this file"));
            }
            Ok(files) => {
                for (path, text) in files {
                    if within.contains(&path) {
                        let ring: Vec<String> = within.iter().chain([&path]).map(|path| path.display().to_string()).collect();
                        self.found.push(complain(format!("files include each other in a cycle: {}", ring.join(" → "))));
                    } else if !self.parts.iter().any(|part| part.path == path) {
                        // Named twice it is laid down once, where it was named first.
                        self.add(&text, path, look, within);
                    }
                }
            }
        }
    }

    /// The tree of all files, or the first slip of syntax in each.
    pub(crate) fn tree(&self) -> Result<MergedToml<'_>, Vec<Diagnostic>> {
        let mut slips = Vec::new();
        let mut trees: Vec<Option<Tree<'_>>> = Vec::new();
        for part in &self.parts {
            let text = &self.text[part.place.clone()];
            let (tree, found) = DeTable::parse_recoverable(text);
            // What follows the first slip is mostly its echo.
            let place = |slip: &toml::de::Error| slip.span().map_or(text.len(), |span| span.start);
            if let Some(first) = found.iter().min_by_key(|slip| place(slip)) {
                slips.push(broken(text.len(), part.place.start, first));
            }
            trees.push(Some(if part.place.start == 0 { tree } else { moved_tree(tree, part.place.start) }));
        }
        if !slips.is_empty() {
            return Err(slips);
        }
        let tree = Spanned::new(0..0, DeTable::new());
        let mut laid = MergedToml { tree, found: self.found.clone(), schemas: Vec::new() };
        let mut whole: Option<Tree<'_>> = None;
        for &layer in &self.layers {
            let Some(mut tree) = trees.get_mut(layer).and_then(Option::take) else { continue };
            if layer != 0 {
                take_own(&mut tree, &mut laid);
            }
            whole = Some(match whole {
                None => tree,
                Some(below) => laid_over(below, tree),
            });
        }
        Ok(MergedToml { tree: whole.unwrap_or(laid.tree), ..laid })
    }

    /// Moves what lies in an included file to the place it has there.
    pub fn place(&self, diagnostic: &mut Diagnostic) {
        if diagnostic.argument.is_none() {
            diagnostic.file = self.find(&mut diagnostic.span);
        }
        for related in diagnostic.related.iter_mut().filter(|related| related.argument.is_none()) {
            related.file = self.find(&mut related.span);
        }
    }

    fn find(&self, span: &mut Range<usize>) -> Option<Arc<IncludedFile>> {
        let part = self.parts.iter().rev().find(|part| span.start >= part.place.start)?;
        *span = span.start - part.place.start..span.end.max(span.start) - part.place.start;
        part.shown.clone()
    }

    /// `defaults/train.toml:12:9` for a place in any of the files.
    pub(crate) fn name(&self, at: usize) -> Option<String> {
        let part = self.parts.iter().find(|part| part.place.start <= at && at <= part.place.end)?;
        let before = self.text.get(part.place.start..at)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
        Some(format!("{}:{line}:{column}", part.path.display()))
    }
}

/// Takes what concerns only the included file itself out of its tree.
fn take_own<'t>(tree: &mut Tree<'t>, laid: &mut MergedToml<'t>) {
    if let Some(names) = tree.get_mut().remove(INCLUDE) {
        let all_text = names.get_ref().as_array().is_some_and(|names| names.iter().all(|name| name.get_ref().as_str().is_some()));
        if !all_text {
            let wrong = Diagnostic::error(names.span(), "`include` must be an array of strings");
            laid.found.push(wrong.hint("for example [\"defaults.toml\"]"));
        }
    }
    laid.schemas.extend(tree.get_mut().remove("schema"));
}

/// A path without `.` and, where that is plain from its letters, without `..`: each file has one name here.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

/// Lays one table over another: tables are merged, anything else is replaced.
fn laid_over<'t>(below: Tree<'t>, above: Tree<'t>) -> Tree<'t> {
    let span = above.span();
    let mut table = below.into_inner();
    for (key, value) in above.into_inner() {
        let name = key.get_ref().clone();
        let value = match (table.remove(name.as_ref()).map(separate), separate(value)) {
            (Some((was, DeValue::Table(below))), (span, DeValue::Table(above))) => {
                let inner = laid_over(Spanned::new(was, below), Spanned::new(span.clone(), above));
                Spanned::new(span, DeValue::Table(inner.into_inner()))
            }
            (_, (span, value)) => Spanned::new(span, value),
        };
        table.insert(key, value);
    }
    Spanned::new(span, table)
}

fn separate<T>(value: Spanned<T>) -> (Range<usize>, T) {
    (value.span(), value.into_inner())
}

fn moved_tree(tree: Tree<'_>, by: usize) -> Tree<'_> {
    let to = |span: Range<usize>| span.start + by..span.end + by;
    let span = to(tree.span());
    let table = tree.into_inner();
    let table = table.into_iter().map(|(key, value)| (Spanned::new(to(key.span()), key.into_inner()), moved(value, &to)));
    Spanned::new(span, table.collect())
}

/// The value with every span in it moved.
pub(crate) fn moved<'t>(value: Spanned<DeValue<'t>>, to: &dyn Fn(Range<usize>) -> Range<usize>) -> Spanned<DeValue<'t>> {
    let span = to(value.span());
    let value = match value.into_inner() {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|item| moved(item, to)).collect()),
        DeValue::Table(table) => DeValue::Table(
            table.into_iter().map(|(key, value)| (Spanned::new(to(key.span()), key.into_inner()), moved(value, to))).collect(),
        ),
        scalar => scalar,
    };
    Spanned::new(span, value)
}

/// The name of a key, with its place.
pub(crate) fn key_name(key: &Spanned<Cow<'_, str>>) -> Spanned<String> {
    Spanned::new(key.span(), key.get_ref().to_string())
}

/// A syntax error of the TOML itself.
fn broken(length: usize, start: usize, error: &toml::de::Error) -> Diagnostic {
    let at = error.span().unwrap_or(length..length);
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Diagnostic::error(at.start + start..at.end + start, format!("this is not TOML: {message}"))
}
