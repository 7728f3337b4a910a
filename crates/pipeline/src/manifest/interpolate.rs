//! Interpolation of `${params.x}`, `${env.X}` and `${each}` in a stage's `with`, before the stage reads it.
//!
//! A string that consists of one reference becomes the param's value and keeps its type. Inside a longer string, and everywhere in
//! the settings of a `command` stage, the value is converted to text. `$${` is an escaped `${`. An interpolated value gets the span
//! of its reference, so diagnostics point there; `InterpolationTrail::origins` records where the value was defined.
//! Environment variables that look like secrets are rejected, because settings are stored, printed and published.

use crate::diagnostics::{Diagnostic, did_you_mean, list};
use crate::manifest::foreach::ForeachEntry;
use crate::manifest::include::moved;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use voxpipe_io::secrets;

/// What references can refer to.
pub(crate) struct Interpolation<'a, 't> {
    /// The source text, to find the span of a reference inside a string.
    pub(crate) text: &'a str,
    /// `[params]`
    pub(crate) params: Option<&'a DeTable<'t>>,
    /// Looks up an environment variable.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// The input ports of a `command` stage, which resolves `${from.PORT}` and `${out}` itself at run time; `None` for other kinds.
    pub(crate) ports: Option<Vec<&'a str>>,
    /// What `${each}` stands for in a stage that a `foreach` made.
    pub(crate) each: Option<&'a ForeachEntry<'t>>,
}

/// The origin of an interpolated value.
pub(crate) struct InterpolatedValue {
    /// The span of the reference.
    pub(crate) reference: Range<usize>,
    /// The span of the param's value.
    pub(crate) value: Range<usize>,
    /// The name of the param.
    pub(crate) name: String,
}

/// Origins and diagnostics collected during interpolation.
#[derive(Default)]
pub(crate) struct InterpolationTrail {
    pub(crate) origins: Vec<InterpolatedValue>,
    pub(crate) found: Vec<Diagnostic>,
}

impl<'t> Interpolation<'_, 't> {
    /// Interpolates every reference in a table.
    pub(crate) fn table(&self, table: &mut DeTable<'t>, trail: &mut InterpolationTrail) {
        for (_, value) in table.iter_mut() {
            self.value(value, trail);
        }
    }

    /// Interpolates every reference in a value.
    pub(crate) fn value(&self, value: &mut Spanned<DeValue<'t>>, trail: &mut InterpolationTrail) {
        let span = value.span();
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, trail),
            DeValue::Array(array) => array.iter_mut().for_each(|item| self.value(item, trail)),
            DeValue::String(text) if text.contains("${") => {
                let text = text.to_string();
                if let Some(new) = self.string(&text, span, &mut Vec::new(), trail) {
                    *value = new;
                }
            }
            _ => {}
        }
    }

    /// The interpolated value of a string; `None` if a reference cannot be resolved.
    fn string(
        &self,
        text: &str,
        span: Range<usize>,
        within: &mut Vec<String>,
        trail: &mut InterpolationTrail,
    ) -> Option<Spanned<DeValue<'t>>> {
        let parts = match parts(text) {
            Ok(parts) => parts,
            Err(message) => {
                trail.found.push(Diagnostic::error(span, message).hint("close it with `}`, or write `$${` for a literal `${`"));
                return None;
            }
        };
        if let [Part::Reference(reference)] = parts.as_slice() {
            return match self.reference(reference, &span, within, trail)? {
                // The settings of a command are arguments of its program: text, whatever the type of the param.
                Some(value) => match to_text(value.get_ref()).filter(|_| self.ports.is_some()) {
                    Some(text) => Some(Spanned::new(span, DeValue::String(Cow::Owned(text)))),
                    None => Some(moved(value, &|_| span.clone())),
                },
                None => Some(Spanned::new(span, DeValue::String(Cow::Owned(text.to_owned())))),
            };
        }
        let mut out = String::new();
        let mut complete = true;
        for part in parts {
            match part {
                Part::Text(text) => out.push_str(text),
                // A stage that resolves `${…}` itself removes the escape itself.
                Part::Escape => out.push_str(if self.ports.is_some() { "$${" } else { "${" }),
                Part::Reference(reference) => match self.reference(reference, &span, within, trail) {
                    None => complete = false,
                    Some(None) => out.push_str(&format!("${{{reference}}}")),
                    Some(Some(value)) => match to_text(value.get_ref()) {
                        Some(text) => out.push_str(&text),
                        None => {
                            let what = crate::diagnostics::toml_schema::kind_of(value.get_ref());
                            let message = format!("`${{{reference}}}` is {what}, which cannot be interpolated into a longer string");
                            trail.found.push(Diagnostic::error(self.place(&span, reference), message).hint("make it the whole string"));
                            complete = false;
                        }
                    },
                },
            }
        }
        complete.then(|| Spanned::new(span, DeValue::String(Cow::Owned(out))))
    }

    /// The value of a reference: `None` after an error, `Some(None)` if the stage resolves it at run time.
    fn reference(
        &self,
        reference: &str,
        span: &Range<usize>,
        within: &mut Vec<String>,
        trail: &mut InterpolationTrail,
    ) -> Option<Option<Spanned<DeValue<'t>>>> {
        let place = self.place(span, reference);
        if let Some(name) = reference.strip_prefix("params.") {
            return self.param(name, place, span, within, trail).map(Some);
        }
        if let Some(name) = reference.strip_prefix("env.") {
            return match self.variable(name, place.clone()) {
                Ok(value) => Some(Some(Spanned::new(place, DeValue::String(Cow::Owned(value))))),
                Err(complaint) => {
                    trail.found.push(*complaint);
                    None
                }
            };
        }
        if is_each(reference) {
            let value = self
                .each
                .ok_or_else(|| Box::new(outside_foreach(reference, place.clone())))
                .and_then(|each| each.value(reference, place.clone()));
            return match value {
                Ok(value) => Some(Some(moved(Spanned::new(place.clone(), value.clone()), &|_| place.clone()))),
                Err(complaint) => {
                    trail.found.push(*complaint);
                    None
                }
            };
        }
        if let Some(ports) = self.ports.as_ref() {
            // The stage validates its own references, but it does not know its `from`: check the ports here.
            if let Some(port) = reference.strip_prefix("from.") {
                let port = port.split_once('.').map_or(port, |(port, _)| port);
                if !ports.contains(&port) {
                    let message = format!("`${{{reference}}}`: the stage has no input `{port}`");
                    let known = if ports.is_empty() {
                        "the stage has no `from`".to_owned()
                    } else {
                        format!("`from` has {}", list(ports.iter().copied()))
                    };
                    trail.found.push(Diagnostic::error(place, message).maybe_hint(did_you_mean(port, ports.iter().copied())).note(known));
                    return None;
                }
            }
            return Some(None);
        }
        let known = if reference == "out" || reference.starts_with("from.") {
            Diagnostic::error(place, format!("`${{{reference}}}` is available in `command` stages only"))
        } else {
            let params = self.names().into_iter().map(|name| format!("params.{name}")).collect::<Vec<_>>();
            let guess = params
                .iter()
                .find(|name| name.strip_prefix("params.") == Some(reference))
                .map(|name| format!("did you mean `${{{name}}}`?"));
            let guess = guess.or_else(|| did_you_mean(reference, params.iter().map(String::as_str)));
            Diagnostic::error(place, format!("unknown reference `${{{reference}}}`"))
                .maybe_hint(guess)
                .note("a reference is `${params.NAME}`, `${env.NAME}` or, with `foreach`, `${each}`; write `$${` for a literal `${`")
        };
        trail.found.push(known);
        None
    }

    fn param(
        &self,
        name: &str,
        place: Range<usize>,
        string_span: &Range<usize>,
        within: &mut Vec<String>,
        trail: &mut InterpolationTrail,
    ) -> Option<Spanned<DeValue<'t>>> {
        let Some(value) = self.params.and_then(|params| params.get(name)) else {
            let names = self.names();
            let known =
                if names.is_empty() { "the file has no [params]".to_owned() } else { format!("params: {}", list(names.iter().copied())) };
            let unknown = Diagnostic::error(place, format!("unknown param `{name}`"));
            trail.found.push(unknown.maybe_hint(did_you_mean(name, names.iter().copied())).note(known));
            return None;
        };
        if within.iter().any(|outer| outer == name) {
            let cycle = within.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(" → ");
            trail.found.push(Diagnostic::error(place, format!("params refer to each other in a cycle: {cycle}")));
            return None;
        }
        for reference in [place, string_span.clone()] {
            trail.origins.push(InterpolatedValue { reference, value: value.span(), name: name.to_owned() });
        }
        match value.get_ref() {
            DeValue::String(text) if text.contains("${") => {
                within.push(name.to_owned());
                // Params are shared by all stages, so they cannot use references that only one stage resolves.
                let shared = Interpolation { text: self.text, params: self.params, env: self.env, ports: None, each: None };
                let value = shared.string(text, value.span(), within, trail);
                within.pop();
                value
            }
            _ => Some(value.clone()),
        }
    }

    fn variable(&self, name: &str, place: Range<usize>) -> Result<String, Box<Diagnostic>> {
        let refused = |message: String| {
            let hint = "remove it; a command gets it by `env = [\"NAME\"]`";
            Err(Box::new(
                Diagnostic::error(place.clone(), message).hint(hint).note("stages that need a token read it from the environment"),
            ))
        };
        if secrets::is_secret_name(name) {
            return refused(format!("`${{env.{name}}}` looks like a secret; secrets are not allowed in settings"));
        }
        let Some(value) = (self.env)(name) else {
            let unset = Diagnostic::error(place, format!("the environment variable `{name}` is not set"));
            return Err(Box::new(unset.hint(format!("set it: `{name}=… voxpipe …`"))));
        };
        match secrets::find(&value) {
            Some(found) => {
                refused(format!("the value of `${{env.{name}}}` looks like {}; secrets are not allowed in settings", found.what))
            }
            None => Ok(value),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.params.map(|params| params.keys().map(|key| key.get_ref().as_ref()).collect()).unwrap_or_default()
    }

    /// The span of a reference inside its string, or of the whole string if TOML escapes hide the reference.
    fn place(&self, span: &Range<usize>, reference: &str) -> Range<usize> {
        place_in(self.text, span, reference)
    }
}

/// The span of a reference inside the string at `span`, or of the whole string if TOML escapes hide the reference.
fn place_in(text: &str, span: &Range<usize>, reference: &str) -> Range<usize> {
    let needle = format!("${{{reference}}}");
    match text.get(span.clone()).and_then(|written| written.find(&needle)) {
        Some(at) => span.start + at..span.start + at + needle.len(),
        None => span.clone(),
    }
}

/// Whether a reference is `${each}` or `${each.NAME}`.
pub(crate) fn is_each(reference: &str) -> bool {
    reference == "each" || reference.starts_with("each.")
}

/// The diagnostic for `${each}` in a place that no `foreach` fills.
pub(crate) fn outside_foreach(reference: &str, place: Range<usize>) -> Diagnostic {
    let message = format!("`${{{reference}}}` is available only in a stage with `foreach`");
    Diagnostic::error(place, message).hint("add `foreach = [\"de\", \"fr\"]` to the stage")
}

/// A string in which `${each}` is filled in and other references stay; `None` if it has no `${each}`.
pub(crate) fn fill_each(
    written: &str,
    span: &Range<usize>,
    entry: &ForeachEntry<'_>,
    text: &str,
) -> Result<Option<String>, Box<Diagnostic>> {
    // What is no reference is reported where the string is read.
    let Ok(parts) = parts(written) else { return Ok(None) };
    let mut out = String::new();
    let mut filled = false;
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Escape => out.push_str("$${"),
            Part::Reference(reference) if is_each(reference) => {
                let place = place_in(text, span, reference);
                let value = entry.value(reference, place.clone())?;
                let Some(text) = to_text(value) else {
                    let what = crate::diagnostics::toml_schema::kind_of(value);
                    return Err(Box::new(Diagnostic::error(
                        place,
                        format!("`${{{reference}}}` is {what}, which can be used only in `with`"),
                    )));
                };
                out.push_str(&text);
                filled = true;
            }
            Part::Reference(reference) => out.push_str(&format!("${{{reference}}}")),
        }
    }
    Ok(filled.then_some(out))
}

/// A part of a string.
enum Part<'a> {
    Text(&'a str),
    /// `$${`
    Escape,
    /// The text between `${` and `}`.
    Reference(&'a str),
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            parts.push(Part::Text(&rest[..at - 1]));
            parts.push(Part::Escape);
            rest = &rest[at + 2..];
            continue;
        }
        if at > 0 {
            parts.push(Part::Text(&rest[..at]));
        }
        let Some(length) = rest[at + 2..].find('}') else { return Err(format!("`{}` has no `}}`", &rest[at..])) };
        parts.push(Part::Reference(rest[at + 2..at + 2 + length].trim()));
        rest = &rest[at + 3 + length..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

/// A scalar as text; `None` for arrays and tables.
pub(crate) fn to_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.to_string()),
        DeValue::Float(float) => Some(float.to_string()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Datetime(datetime) => Some(datetime.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
