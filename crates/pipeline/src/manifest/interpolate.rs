//! `${params.x}` and `${env.X}` in a stage's settings, replaced before the stage reads them.
//!
//! A string that is nothing but a reference becomes the param's value with its type; inside a longer string the value is
//! written out, and so it is everywhere in the settings of a command, which are words for its program. `$${` stands for `${`.
//! What is put in takes the place of the reference, so a stage that complains about the value complains where the reference
//! stands, and `InterpolationTrail::origins` still knows where the value was written.
//! Secrets never enter settings, because settings are kept, shown and published.

use crate::manifest::diagnostic::{Diagnostic, did_you_mean, list};
use crate::manifest::include::moved;
use std::borrow::Cow;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What references may refer to.
pub(crate) struct Interpolation<'a, 't> {
    /// The file, to find the place of a reference inside a string.
    pub(crate) text: &'a str,
    /// `[params]`
    pub(crate) params: Option<&'a DeTable<'t>>,
    /// The environment.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// The ports of a stage that fills in `${from.PORT}` and `${out}` itself when it runs; `None` for all others.
    pub(crate) ports: Option<Vec<&'a str>>,
}

/// Where a value that was put in came from.
pub(crate) struct InterpolatedValue {
    /// The place of the reference.
    pub(crate) reference: Range<usize>,
    /// The place of the param's value.
    pub(crate) value: Range<usize>,
    /// The param.
    pub(crate) name: String,
}

/// What came of the replacing.
#[derive(Default)]
pub(crate) struct InterpolationTrail {
    pub(crate) origins: Vec<InterpolatedValue>,
    pub(crate) found: Vec<Diagnostic>,
}

impl<'t> Interpolation<'_, 't> {
    /// Replaces every reference in a table.
    pub(crate) fn table(&self, table: &mut DeTable<'t>, trail: &mut InterpolationTrail) {
        for (_, value) in table.iter_mut() {
            self.value(value, trail);
        }
    }

    fn value(&self, value: &mut Spanned<DeValue<'t>>, trail: &mut InterpolationTrail) {
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

    /// The value a string stands for; nothing when a reference in it leads nowhere.
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
                trail.found.push(Diagnostic::error(span, message).hint("close it with `}`, or write `$${` for the characters `${`"));
                return None;
            }
        };
        if let [Part::Reference(reference)] = parts.as_slice() {
            return match self.reference(reference, &span, within, trail)? {
                // The settings of a command are words for its program, whatever the type of the param.
                Some(value) => match written_out(value.get_ref()).filter(|_| self.ports.is_some()) {
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
                // A stage that knows `${…}` itself has to see the difference.
                Part::Escape => out.push_str(if self.ports.is_some() { "$${" } else { "${" }),
                Part::Reference(reference) => match self.reference(reference, &span, within, trail) {
                    None => complete = false,
                    Some(None) => out.push_str(&format!("${{{reference}}}")),
                    Some(Some(value)) => match written_out(value.get_ref()) {
                        Some(text) => out.push_str(&text),
                        None => {
                            let what = crate::manifest::schema::kind_of(value.get_ref());
                            let message = format!("`${{{reference}}}` is {what}, which cannot stand inside a longer string");
                            trail.found.push(Diagnostic::error(self.place(&span, reference), message).hint("let it be the whole string"));
                            complete = false;
                        }
                    },
                },
            }
        }
        complete.then(|| Spanned::new(span, DeValue::String(Cow::Owned(out))))
    }

    /// What a reference stands for: `None` after a complaint, `Some(None)` when the stage will know.
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
        if let Some(ports) = self.ports.as_ref() {
            // Which other references there are is for the stage to say; it cannot know what `from` holds, though.
            if let Some(port) = reference.strip_prefix("from.") {
                let port = port.split_once('.').map_or(port, |(port, _)| port);
                if !ports.contains(&port) {
                    let message = format!("`${{{reference}}}`: nothing comes in as `{port}`");
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
            Diagnostic::error(place, format!("`${{{reference}}}` has a meaning only in stages that use `command`"))
        } else {
            let params = self.names().into_iter().map(|name| format!("params.{name}")).collect::<Vec<_>>();
            let guess = params
                .iter()
                .find(|name| name.strip_prefix("params.") == Some(reference))
                .map(|name| format!("did you mean `${{{name}}}`?"));
            let guess = guess.or_else(|| did_you_mean(reference, params.iter().map(String::as_str)));
            Diagnostic::error(place, format!("`${{{reference}}}` refers to nothing"))
                .maybe_hint(guess)
                .note("a reference is `${params.NAME}` or `${env.NAME}`; `$${` stands for the characters `${`")
        };
        trail.found.push(known);
        None
    }

    fn param(
        &self,
        name: &str,
        place: Range<usize>,
        whole: &Range<usize>,
        within: &mut Vec<String>,
        trail: &mut InterpolationTrail,
    ) -> Option<Spanned<DeValue<'t>>> {
        let Some(value) = self.params.and_then(|params| params.get(name)) else {
            let names = self.names();
            let known =
                if names.is_empty() { "the file has no [params]".to_owned() } else { format!("params: {}", list(names.iter().copied())) };
            let unknown = Diagnostic::error(place, format!("no param is called `{name}`"));
            trail.found.push(unknown.maybe_hint(did_you_mean(name, names.iter().copied())).note(known));
            return None;
        };
        if within.iter().any(|outer| outer == name) {
            let ring = within.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(" → ");
            trail.found.push(Diagnostic::error(place, format!("params refer to each other in a circle: {ring}")));
            return None;
        }
        for reference in [place, whole.clone()] {
            trail.origins.push(InterpolatedValue { reference, value: value.span(), name: name.to_owned() });
        }
        match value.get_ref() {
            DeValue::String(text) if text.contains("${") => {
                within.push(name.to_owned());
                // A param belongs to all stages: what only one of them could fill in does not belong here.
                let plain = Interpolation { text: self.text, params: self.params, env: self.env, ports: None };
                let value = plain.string(text, value.span(), within, trail);
                within.pop();
                value
            }
            _ => Some(value.clone()),
        }
    }

    fn variable(&self, name: &str, place: Range<usize>) -> Result<String, Box<Diagnostic>> {
        if looks_secret(name) {
            let message = format!("`${{env.{name}}}` looks like a secret, and secrets never enter settings");
            return Err(Box::new(
                Diagnostic::error(place, message)
                    .hint("remove it")
                    .note("stages that need a token read it from the environment themselves"),
            ));
        }
        (self.env)(name).ok_or_else(|| {
            Box::new(
                Diagnostic::error(place, format!("the environment variable `{name}` is not set"))
                    .hint(format!("set it: `{name}=… voxpipe …`")),
            )
        })
    }

    fn names(&self) -> Vec<&str> {
        self.params.map(|params| params.keys().map(|key| key.get_ref().as_ref()).collect()).unwrap_or_default()
    }

    /// The place of a reference inside the string that holds it, or the string where escapes hide it.
    fn place(&self, span: &Range<usize>, reference: &str) -> Range<usize> {
        let needle = format!("${{{reference}}}");
        match self.text.get(span.clone()).and_then(|written| written.find(&needle)) {
            Some(at) => span.start + at..span.start + at + needle.len(),
            None => span.clone(),
        }
    }
}

/// A piece of a string.
enum Part<'a> {
    Text(&'a str),
    /// `$${`
    Escape,
    /// What stands between `${` and `}`.
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

/// A scalar as it stands in a longer string.
fn written_out(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.to_string()),
        DeValue::Float(float) => Some(float.to_string()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Datetime(datetime) => Some(datetime.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Whether a variable's name says that its value is nobody's business: `HF_TOKEN`, `API_KEYS`, `MYSQL_PASSWORD2`.
fn looks_secret(name: &str) -> bool {
    const WORDS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL"];
    let name = name.to_uppercase();
    name.split(|character: char| !character.is_alphanumeric()).any(|part| {
        let part = part.trim_end_matches(|character: char| character.is_ascii_digit());
        let part = part.strip_suffix('S').unwrap_or(part);
        WORDS.iter().any(|word| part.ends_with(word))
    })
}

#[cfg(test)]
mod tests {
    use super::looks_secret;

    #[test]
    fn secrets_are_told_by_their_names() {
        for name in
            ["HF_TOKEN", "hf_token", "HFTOKEN", "API_KEY", "APIKEYS", "MYSQL_PASSWORD2", "CLIENT_SECRET_FILE", "AWS_SECRET_ACCESS_KEY"]
        {
            assert!(looks_secret(name), "{name}");
        }
        for name in ["HOME", "TOKENIZER_DIR", "KEYBOARD", "DATA", "SECRETARY"] {
            assert!(!looks_secret(name), "{name}");
        }
    }
}
