//! Validates the edges: `from` and `after` name existing stages, ports exist, and artifact kinds fit the ports.

use super::resolver::{Draft, Resolver};
use crate::artifact::ArtifactKind;
use crate::diagnostics::{Diagnostic, closest, did_you_mean, join, list};
use crate::manifest::foreach::split_name;
use crate::manifest::interpolate::{is_each, outside_foreach};
use crate::manifest::suggest_stage;
use crate::stage::{Arity, Port, StageFactory};
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

impl<'a> Resolver<'a, '_> {
    /// Checks that the ports of `from` and the stages named in `from` and `after` exist.
    pub(super) fn edges(&mut self, drafts: &mut [Draft<'a>]) {
        let names: Vec<String> = drafts.iter().map(|draft| draft.name.get_ref().clone()).collect();
        for draft in drafts {
            let entries = draft.table.from.iter().flat_map(|from| from.get_ref().iter());
            let mut entries: Vec<_> =
                entries.map(|(port, upstreams)| (port.clone(), upstreams.get_ref().names(upstreams.span()), upstreams.span())).collect();
            entries.sort_by_key(|(port, ..)| port.span().start);
            for (port, mut upstreams, span) in entries {
                let known = draft.entry.is_none_or(|entry| port_of(entry, port.get_ref()).is_some());
                if !known {
                    self.unknown_port(draft, &port);
                }
                self.only_stages(&names, draft.name.get_ref(), &mut upstreams);
                let several = upstreams.len();
                let single = draft.entry.and_then(|entry| port_of(entry, port.get_ref())).filter(|port| port.arity != Arity::Many);
                if let Some(single) = single.filter(|_| several > 1) {
                    let choices = list(upstreams.iter().map(|name| name.get_ref().as_str()));
                    let complaint =
                        Diagnostic::error(span.clone(), format!("`{}` takes one {}, not {several}", port.get_ref(), kinds_of(single)));
                    self.found.push(complaint.hint(format!("choose one of {choices}")));
                }
                if upstreams.is_empty()
                    && self
                        .text
                        .get(span.clone())
                        .is_some_and(|text| text.trim_start_matches('[').trim().trim_end_matches(']').trim().is_empty())
                {
                    self.found
                        .push(Diagnostic::error(span, format!("`{}` is empty", port.get_ref())).hint("name a stage, or remove the port"));
                }
                draft.from.push((port, upstreams));
            }
            let mut after = std::mem::take(&mut draft.table.after);
            self.only_stages(&names, draft.name.get_ref(), &mut after);
            draft.table.after = after;
            self.missing_ports(draft);
        }
    }

    /// Replaces the names of stages with a `foreach` in `from` and `after` of the stage `of` by those of the stages they stand for. Reports and
    /// removes unknown and duplicate names.
    fn only_stages(&mut self, names: &[String], of: &str, upstreams: &mut Vec<Spanned<String>>) {
        let mut seen = BTreeSet::new();
        if !self.foreach.is_empty() {
            let written = std::mem::take(upstreams);
            for name in written {
                match self.foreach.upstream(&name, of) {
                    Ok(Some(stages)) => upstreams.extend(stages),
                    Ok(None) => upstreams.push(name),
                    Err(complaint) => self.found.push(*complaint),
                }
            }
        }
        upstreams.retain(|upstream| {
            if !names.contains(upstream.get_ref()) {
                self.unknown_stage(names, upstream);
                return false;
            }
            let new = seen.insert(upstream.get_ref().clone());
            if !new {
                self.found.push(Diagnostic::error(upstream.span(), format!("`{}` is listed twice", upstream.get_ref())).hint("remove one"));
            }
            new
        });
    }

    fn unknown_stage(&mut self, names: &[String], upstream: &Spanned<String>) {
        let written = upstream.get_ref().as_str();
        if let Some(reference) = written.split_once("${").and_then(|(_, rest)| rest.split_once('}')).map(|(reference, _)| reference.trim())
        {
            if is_each(reference) {
                return self.found.push(outside_foreach(reference, upstream.span()));
            }
            let message = format!("`${{{reference}}}` is replaced only inside a stage's `with`, not in \"{written}\"");
            return self.found.push(Diagnostic::error(upstream.span(), message).hint("write the name of the stage itself"));
        }
        let unknown = Diagnostic::error(upstream.span(), format!("unknown stage `{written}`"));
        if let Some((stage, _)) = split_name(written).filter(|(stage, _)| names.iter().any(|name| name == stage)) {
            return self.found.push(unknown.hint(format!("`{stage}` has no `foreach`: write `{stage}`")));
        }
        if let Some(hint) = self.foreach.suggest(written) {
            return self.found.push(unknown.hint(hint));
        }
        let (hint, known) = suggest_stage(written, names.iter().map(String::as_str));
        self.found.push(unknown.maybe_hint(hint).note(known));
    }

    fn unknown_port(&mut self, draft: &Draft<'a>, port: &Spanned<String>) {
        let Some(entry) = draft.entry else { return };
        let ports = || entry.ports().iter().map(|port| port.name);
        let complaint = Diagnostic::error(port.span(), format!("`{}` has no input `{}`", entry.kind(), port.get_ref()));
        let inputs: Vec<String> = entry.ports().iter().map(|port| format!("`{}` ({})", port.name, port.about)).collect();
        let known =
            if inputs.is_empty() { format!("`{}` takes no inputs", entry.kind()) } else { format!("inputs: {}", inputs.join(", ")) };
        self.found.push(complaint.maybe_hint(did_you_mean(port.get_ref(), ports())).note(known));
    }

    fn missing_ports(&mut self, draft: &Draft<'a>) {
        let Some(entry) = draft.entry else { return };
        for port in entry.ports().iter().filter(|port| port.name != "*" && port.arity != Arity::Optional) {
            if !draft.from.iter().any(|(given, _)| given.get_ref() == port.name) {
                // A misspelled port has already been reported.
                let misspelled = draft
                    .from
                    .iter()
                    .any(|(given, _)| port_of(entry, given.get_ref()).is_none() && closest(given.get_ref(), [port.name]).is_some());
                if !misspelled {
                    let place = draft.table.from.as_ref().map_or_else(|| draft.place(), Spanned::span);
                    let message = format!("`{}` needs {} as `{}`", draft.name.get_ref(), article(&kinds_of(port)), port.name);
                    self.found.push(
                        Diagnostic::error(place, message)
                            .hint(format!("from = {{ {} = \"…\" }}", port.name))
                            .note(format!("`{}`: {}", port.name, port.about)),
                    );
                }
            }
        }
    }

    /// Checks that upstream results have a kind that the port accepts.
    pub(super) fn kinds_fit(&mut self, drafts: &[Draft<'a>]) {
        let outputs: BTreeMap<&str, ArtifactKind> =
            drafts.iter().filter_map(|draft| Some((draft.name.get_ref().as_str(), draft.stage.as_ref()?.output()))).collect();
        for draft in drafts {
            let Some(entry) = draft.entry else { continue };
            let given: Vec<&str> = draft.from.iter().map(|(port, _)| port.get_ref().as_str()).collect();
            let place = || draft.table.from.as_ref().map_or_else(|| draft.place(), Spanned::span);
            if let Some((message, hint)) = draft.stage.as_ref().and_then(|stage| stage.port_conflicts(&given)) {
                self.found.push(Diagnostic::error(place(), format!("`{}` {message}", draft.name.get_ref())).hint(hint));
            }
            if let Some((message, hint)) = draft.stage.as_ref().and_then(|stage| stage.port_warnings(&given)) {
                self.found.push(Diagnostic::warning(place(), format!("`{}` {message}", draft.name.get_ref())).hint(hint));
            }
            for (port_name, upstreams) in &draft.from {
                let Some(port) = port_of(entry, port_name.get_ref()).filter(|port| !port.kinds.is_empty()) else { continue };
                for upstream in upstreams {
                    let Some(kind) = outputs.get(upstream.get_ref().as_str()).filter(|kind| !port.kinds.contains(kind)) else { continue };
                    let message = format!(
                        "`{}` takes {}, but `{}` produces {}",
                        port_name.get_ref(),
                        article(&kinds_of(port)),
                        upstream.get_ref(),
                        article(&kind.to_string())
                    );
                    let fitting: Vec<&str> = outputs
                        .iter()
                        .filter(|(name, kind)| port.kinds.contains(kind) && **name != draft.name.get_ref().as_str())
                        .map(|(name, _)| *name)
                        .collect();
                    let mut complaint = Diagnostic::error(upstream.span(), message);
                    if !fitting.is_empty() {
                        let names = fitting.iter().map(|name| format!("`{name}`")).collect();
                        complaint = complaint.hint(format!("{} would fit", join(names, "or")));
                    }
                    self.found.push(complaint);
                }
            }
        }
    }
}

/// The port for a key of `from`; `*` matches any name.
fn port_of(entry: &dyn StageFactory, name: &str) -> Option<&'static Port> {
    let ports = entry.ports().iter();
    ports.clone().find(|port| port.name == name).or_else(|| ports.clone().find(|port| port.name == "*"))
}

fn kinds_of(port: &Port) -> String {
    match port.kinds {
        [] => "result".to_owned(),
        kinds => join(kinds.iter().map(ToString::to_string).collect(), "or"),
    }
}

/// The noun with an indefinite article: "a dataset", but "phrases".
fn article(noun: &str) -> String {
    let plural = noun.split_whitespace().next().is_some_and(|first| first.trim_end_matches(',').ends_with('s')) || noun == "published";
    if plural { noun.to_owned() } else { format!("a {noun}") }
}
