//! Resolves a manifest into a pipeline: stage kinds, settings, limits and edges, with diagnostics for every mistake.

use super::limits::MetricBound;
use super::{MachineResources, Pipeline, RecoveryRule, ResourceRequest, StageRetry, Step, derived_seed, limits};
use crate::diagnostics::{Diagnostic, Severity, did_you_mean, list};
use crate::manifest::foreach::{ForeachStages, name_in_file};
use crate::manifest::interpolate::{Interpolation, InterpolationTrail};
use crate::manifest::{Manifest, PipelineTable, RecoverTable, StageTable};
use crate::stage::{AnyStage, SettingError, StageFactory};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Resolves a manifest and collects diagnostics.
pub(super) struct Resolver<'a, 'f> {
    pub(super) registry: &'a [&'a dyn StageFactory],
    pub(super) text: &'a str,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) foreach: &'f ForeachStages<'a>,
    pub(super) found: &'f mut Vec<Diagnostic>,
}

/// A partially resolved stage, before it becomes a [`Step`].
pub(super) struct Draft<'t> {
    pub(super) name: Spanned<String>,
    pub(super) table: StageTable<'t>,
    /// The stage kind, if `uses` names a known one.
    pub(super) entry: Option<&'t dyn StageFactory>,
    /// The settings, with their spans.
    pub(super) with: Option<Spanned<DeTable<'t>>>,
    /// The stage, if its settings are valid.
    pub(super) stage: Option<Box<dyn AnyStage>>,
    /// Input port → existing upstream stages.
    pub(super) from: Vec<(Spanned<String>, Vec<Spanned<String>>)>,
    pub(super) require: BTreeMap<String, MetricBound>,
    pub(super) timeout: Option<Duration>,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) resources: ResourceRequest,
    pub(super) retry: StageRetry,
}

impl<'a> Resolver<'a, '_> {
    pub(super) fn pipeline(mut self, manifest: Manifest<'a>, file: &Path) -> Pipeline {
        let Manifest { pipeline, params, mut stage, tracking, cache, resources, slurm, .. } = manifest;
        let header = pipeline.unwrap_or_default();
        self.header(&header);
        let tracking = self.tracking(tracking);
        let machines = self.machines(resources, slurm);
        let cache = self.cache(cache);
        let params = params.as_ref().map(Spanned::get_ref);

        let mut names: Vec<Spanned<String>> = stage.keys().cloned().collect();
        names.sort_by_cached_key(|name| (name.span().start, self.foreach.entry(name.get_ref()).map(|(position, _)| position)));
        let misspelled = self.found.iter().any(|other| other.hint.as_deref() == Some("did you mean `stage`?"));
        if names.is_empty() && self.foreach.is_empty() && !misspelled && !self.found.iter().any(|other| other.message.starts_with("`stage"))
        {
            self.found.push(Diagnostic::error(0..0, "the pipeline has no stages").hint("add a `[stage.NAME]` table with `uses = \"…\"`"));
        }
        let mut drafts: Vec<Draft<'a>> = Vec::new();
        for name in names {
            if let Some(table) = stage.remove(name.get_ref().as_str()) {
                drafts.push(Draft {
                    name,
                    table,
                    entry: None,
                    with: None,
                    stage: None,
                    from: Vec::new(),
                    require: BTreeMap::new(),
                    timeout: None,
                    stall_timeout: None,
                    resources: ResourceRequest::default(),
                    retry: StageRetry::default(),
                });
            }
        }
        for draft in &mut drafts {
            self.name(&draft.name);
            self.kind(draft);
            self.settings(draft, params);
            self.limits(draft, &machines);
        }
        self.edges(&mut drafts);
        self.kinds_fit(&drafts);
        self.inputs(&drafts);
        self.outputs(&drafts);
        let order = self.order(&drafts);

        let mut drafts: Vec<Option<Draft<'a>>> = drafts.into_iter().map(Some).collect();
        let in_order = order.into_iter().filter_map(|index| drafts.get_mut(index).and_then(Option::take));
        let steps = in_order.filter_map(|draft| draft.into_step(header.seed)).collect();
        let folder = file.parent().unwrap_or(Path::new(""));
        let root = match header.root.get_ref().as_str() {
            "." if folder.as_os_str().is_empty() => PathBuf::from("."),
            "." => folder.to_owned(),
            root => folder.join(root),
        };
        Pipeline {
            name: header.name.map(Spanned::into_inner).unwrap_or_default(),
            root,
            seed: header.seed,
            steps,
            tracking,
            cache,
            machines,
            left_out: Vec::new(),
            held: BTreeSet::new(),
            file: file.to_owned(),
        }
    }

    fn header(&mut self, header: &PipelineTable) {
        if let Some(name) = header.name.as_ref().filter(|name| name.get_ref().trim().is_empty()) {
            self.found.push(Diagnostic::error(name.span(), "the pipeline's name is empty"));
        }
        for value in header.name.iter().chain([&header.root]).filter(|value| value.get_ref().contains("${")) {
            let message = format!("`${{…}}` is replaced only inside a stage's `with`, not in \"{}\"", value.get_ref());
            self.found.push(Diagnostic::error(value.span(), message).hint("write the value itself"));
        }
    }

    /// Checks a stage name: it is used as a folder name, a key of `--set` and a graph label.
    fn name(&mut self, name: &Spanned<String>) {
        // What stands in brackets was checked with the entries of the `foreach`.
        let written = if self.foreach.entry(name.get_ref()).is_some() { name_in_file(name.get_ref()) } else { name.get_ref() };
        let fine = |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
        if written.is_empty() || !written.chars().all(fine) || written.starts_with('-') {
            let message = format!("`{written}` cannot be the name of a stage");
            self.found.push(Diagnostic::error(name.span(), message).hint("use letters, digits, `-` and `_`"));
        }
    }

    fn kind(&mut self, draft: &mut Draft<'a>) {
        let Some(uses) = draft.table.uses.as_ref() else { return };
        draft.entry = self.registry.iter().copied().find(|entry| entry.kind() == uses.get_ref());
        if draft.entry.is_none() {
            let kinds = || self.registry.iter().map(|entry| entry.kind());
            let unknown = Diagnostic::error(uses.span(), format!("unknown stage kind `{}`", uses.get_ref()));
            self.found.push(unknown.maybe_hint(did_you_mean(uses.get_ref(), kinds())).note(format!("stage kinds: {}", list(kinds()))));
        }
    }

    /// Interpolates, parses and checks `with`.
    fn settings(&mut self, draft: &mut Draft<'a>, params: Option<&DeTable<'a>>) {
        let Some(entry) = draft.entry else { return };
        let mut with = draft.table.with.take().unwrap_or_else(|| Spanned::new(draft.place(), DeTable::new()));
        let ports = (entry.kind() == "command").then(|| {
            let ports = draft.table.from.iter().flat_map(|from| from.get_ref().keys());
            ports.map(|port| port.get_ref().as_str()).collect()
        });
        let mut trail = InterpolationTrail::default();
        let each = self.foreach.entry(draft.name.get_ref()).map(|(_, entry)| entry);
        Interpolation { text: self.text, params, env: self.env, ports, each }.table(with.get_mut(), &mut trail);
        let unresolved = !trail.found.is_empty();
        self.found.append(&mut trail.found);

        let mut complaints = match entry.parse(with.clone()) {
            Ok(stage) => {
                // Unresolved references are still in the settings as text: skip the stage's own checks.
                let complaints = if unresolved { Vec::new() } else { stage.check() };
                if !unresolved && complaints.is_empty() {
                    let warned = stage.warnings(!draft.table.require.is_empty()).into_iter();
                    self.found.extend(warned.map(|warning| Diagnostic { severity: Severity::Warning, ..placed(warning, &with) }));
                }
                draft.stage = Some(stage);
                complaints.into_iter().map(|complaint| placed(complaint, &with)).collect()
            }
            Err(complaints) => complaints,
        };
        if unresolved {
            complaints.retain(|complaint| !self.text.get(complaint.span.clone()).is_some_and(|written| written.contains("${")));
        }
        for complaint in &mut complaints {
            if let Some(origin) = trail.origins.iter().find(|origin| origin.reference == complaint.span) {
                *complaint = complaint.clone().related(origin.value.clone(), format!("the value of `params.{}`", origin.name));
            }
        }
        self.found.append(&mut complaints);
        draft.with = Some(with).filter(|_| !unresolved);
    }

    /// Checks the settings that depend on how many inputs each port has.
    fn inputs(&mut self, drafts: &[Draft<'a>]) {
        for draft in drafts {
            let (Some(stage), Some(with)) = (&draft.stage, &draft.with) else { continue };
            let counts = draft.from.iter().map(|(port, upstreams)| (port.get_ref().as_str(), upstreams.len())).collect();
            self.found.extend(stage.check_inputs(&counts).into_iter().map(|complaint| placed(complaint, with)));
        }
    }

    /// Checks that the stages of a `foreach` do not write to one place.
    fn outputs(&mut self, drafts: &[Draft<'a>]) {
        let mut writers: BTreeMap<(&str, PathBuf), &str> = BTreeMap::new();
        for draft in drafts.iter().filter(|draft| self.foreach.entry(draft.name.get_ref()).is_some()) {
            let name = draft.name.get_ref().as_str();
            for path in draft.stage.iter().flat_map(|stage| stage.external_outputs()) {
                let message = format!("`{}` would be written by each stage of the `foreach`", path.display());
                if writers.insert((name_in_file(name), path), name).is_some() {
                    let place = draft.with.as_ref().map_or_else(|| draft.place(), Spanned::span);
                    self.found.push(Diagnostic::error(place, message).hint("make it another place for each: write `${each}` in it"));
                }
            }
        }
    }

    /// Resolves `timeout`, `stall_timeout`, `require`, `resources`, `retry` and `recover`.
    fn limits(&mut self, draft: &mut Draft<'a>, machines: &MachineResources) {
        draft.timeout = draft.table.timeout.as_ref().and_then(|timeout| self.duration(timeout));
        draft.stall_timeout = draft.table.stall_timeout.as_ref().and_then(|stall_timeout| self.duration(stall_timeout));
        let table = &draft.table;
        for (metric, bound) in &table.require {
            match limits::bound(bound.get_ref()) {
                Some(bound) => _ = draft.require.insert(metric.get_ref().clone(), bound),
                None => self.found.push(
                    Diagnostic::error(bound.span(), format!("\"{}\" is not a bound for `{}`", bound.get_ref(), metric.get_ref()))
                        .hint("write \"< 0.15\", \"<= 0.15\", \"> 100\" or \">= 100\""),
                ),
            }
        }
        self.needs(draft, machines);
        self.retry(draft);
    }

    /// Resolves `retry` and `recover`. Overrides in `recover` are tried here, so that invalid ones are reported before the run, not after a
    /// failure.
    fn retry(&mut self, draft: &mut Draft<'a>) {
        if let Some(retry) = draft.table.retry.take() {
            draft.retry.times = retry.times.map(Spanned::into_inner);
            draft.retry.on = retry.on.map(Spanned::into_inner).unwrap_or_default();
            draft.retry.backoff = retry.backoff.as_ref().and_then(|backoff| self.duration(backoff));
        }
        let Some(recover) = draft.table.recover.take() else { return };
        let span = recover.span();
        for RecoverTable { on, set } in recover.into_inner() {
            let tried = draft.stage.as_ref().filter(|stage| stage.check().is_empty()).map(|stage| stage.changed(&set));
            if set.is_empty() {
                let nothing = Diagnostic::error(span.clone(), "an entry of `recover` changes no setting");
                self.found.push(nothing.hint("write `set = { batch_size = \"/2\" }`, or use `retry`"));
            } else if let Some(Err(error)) = tried {
                self.found.push(Diagnostic::error(span.clone(), format!("`recover`: {}", error.message)));
            }
            draft.retry.recover.push(RecoveryRule { on, set });
        }
    }
}

impl Draft<'_> {
    /// The span for a diagnostic about something missing.
    pub(super) fn place(&self) -> Range<usize> {
        self.table.uses.as_ref().map_or_else(|| self.name.span(), Spanned::span)
    }

    fn into_step(self, seed: u64) -> Option<Step> {
        let name = self.name.into_inner();
        let names = |all: Vec<Spanned<String>>| all.into_iter().map(Spanned::into_inner).collect::<Vec<_>>();
        Some(Step {
            seed: derived_seed(seed, &name),
            name,
            stage: self.stage?,
            from: self.from.into_iter().map(|(port, upstreams)| (port.into_inner(), names(upstreams))).collect(),
            after: names(self.table.after),
            require: self.require,
            timeout: self.timeout,
            stall_timeout: self.stall_timeout,
            resources: self.resources,
            retry: self.retry,
        })
    }
}

/// A setting error as a diagnostic at the setting's span, or at the innermost enclosing value that exists.
fn placed(complaint: SettingError, with: &Spanned<DeTable<'_>>) -> Diagnostic {
    let mut span = with.span();
    let mut value: Option<&DeValue<'_>> = None;
    for key in &complaint.path {
        let inner = match value {
            None => with.get_ref().get(key.as_str()),
            Some(DeValue::Table(table)) => table.get(key.as_str()),
            Some(DeValue::Array(array)) => key.parse::<usize>().ok().and_then(|index| array.get(index)),
            Some(_) => None,
        };
        let Some(inner) = inner else { break };
        span = inner.span();
        value = Some(inner.get_ref());
    }
    Diagnostic::error(span, complaint.message).maybe_hint(complaint.hint)
}
