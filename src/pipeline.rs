//! A pipeline whose names are resolved and whose ports fit: everything there is to know before looking at the disk.
//!
//! [`Pipeline::parse`] is a function of its arguments. It goes on after a mistake: a stage whose settings cannot be read still
//! has a name others may refer to, so a file with five mistakes gets five complaints, and no sixth that follows from them.

use crate::artifact::ArtifactKind;
use crate::diagnostic::{Diagnostic, did_you_mean, join, list};
use crate::manifest::{Header, Manifest, StageTable};
use crate::overrides::{Arguments, Overrides};
use crate::stage::{AnyStage, Arity, Complaint, Entry, Port, STAGES};
use crate::substitute::{Substitution, Trail};
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A checked `pipeline.toml`.
pub struct Pipeline {
    /// `[pipeline] name`.
    pub name: String,
    /// The folder relative paths start from: that of the file, joined with `[pipeline] root`.
    pub root: PathBuf,
    /// `[pipeline] seed`.
    pub seed: u64,
    /// The steps in an order in which every step comes after those it needs (ties in file order).
    pub steps: Vec<Step>,
}

/// What came of a text.
#[derive(Debug)]
pub struct Parsed {
    /// The pipeline, if there is no error among the diagnostics.
    pub pipeline: Option<Pipeline>,
    /// Everything there is to say, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// One `[stage.NAME]`.
pub struct Step {
    /// NAME.
    pub name: String,
    /// The kind with its settings.
    pub stage: Box<dyn AnyStage>,
    /// Port → names of the steps whose results go in.
    pub from: BTreeMap<String, Vec<String>>,
    /// Steps that must be done first although no data flows.
    pub after: Vec<String>,
    /// Derived from the pipeline's seed and the step's name.
    pub seed: u64,
    /// Gates: metric name → bound.
    pub require: BTreeMap<String, Bound>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How often it is tried again after a failure.
    pub retries: u32,
}

/// What a gate asks of a number, as in `require = { wer = "< 0.15" }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The comparison.
    pub comparison: Comparison,
    /// The number on its right.
    pub limit: f64,
}

/// A comparison a gate may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Pipeline {
    /// Reads the text of a `pipeline.toml`. `file` is only used as the place relative paths start from; nothing is read.
    pub fn parse(text: &str, file: &Path, overrides: &Overrides, env: &dyn Fn(&str) -> Option<String>) -> Parsed {
        Self::parse_with(STAGES, text, file, overrides, env)
    }

    /// As [`Pipeline::parse`], with other kinds of stages.
    pub fn parse_with(
        registry: &[&dyn Entry],
        text: &str,
        file: &Path,
        overrides: &Overrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Parsed {
        let mut arguments = Arguments::after(text);
        let (manifest, mut diagnostics) = Manifest::read(text, overrides, &mut arguments);
        let pipeline = manifest.map(|manifest| Resolver { registry, text, env, found: &mut diagnostics }.pipeline(manifest, file));
        for diagnostic in &mut diagnostics {
            arguments.place(diagnostic);
        }
        diagnostics.sort_by(Diagnostic::in_order);
        diagnostics.dedup();
        let sound = !diagnostics.iter().any(Diagnostic::is_error);
        Parsed { pipeline: pipeline.filter(|_| sound), diagnostics }
    }

    /// The step of a name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }
}

impl Step {
    /// The names of all steps that must be done first, each once, sorted.
    pub fn needs(&self) -> BTreeSet<&str> {
        self.from.values().flatten().chain(&self.after).map(String::as_str).collect()
    }
}

/// The seed of a step: 53 bits, so that it is the same number in JSON.
pub fn derived_seed(seed: u64, step: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"voxpipe seed").update(&seed.to_le_bytes()).update(step.as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first) & ((1 << 53) - 1)
}

/// A stage on its way to a [`Step`].
struct Draft<'t> {
    name: Spanned<String>,
    table: StageTable<'t>,
    /// The kind, if `uses` names one.
    entry: Option<&'t dyn Entry>,
    /// The stage, if its settings can be read.
    stage: Option<Box<dyn AnyStage>>,
    /// Port → upstreams, as far as both exist.
    from: Vec<(Spanned<String>, Vec<Spanned<String>>)>,
    require: BTreeMap<String, Bound>,
    timeout: Option<Duration>,
}

struct Resolver<'a, 'f> {
    registry: &'a [&'a dyn Entry],
    text: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    found: &'f mut Vec<Diagnostic>,
}

impl<'a> Resolver<'a, '_> {
    fn pipeline(mut self, manifest: Manifest<'a>, file: &Path) -> Pipeline {
        let Manifest { pipeline, params, mut stage, matrix, .. } = manifest;
        let header = pipeline.unwrap_or_default();
        self.header(&header);
        if let Some(matrix) = matrix {
            self.not_yet(matrix.span(), "[matrix]", "one pipeline is run, with the values of [params]");
        }
        let params = params.as_ref().map(Spanned::get_ref);

        let mut names: Vec<Spanned<String>> = stage.keys().cloned().collect();
        names.sort_by_key(|name| name.span().start);
        if names.is_empty() && !self.found.iter().any(|other| other.message.starts_with("`stage")) {
            self.found.push(Diagnostic::error(0..0, "the pipeline has no stages").hint("add a `[stage.NAME]` table with `uses = \"…\"`"));
        }
        let mut drafts: Vec<Draft<'a>> = Vec::new();
        for name in names {
            if let Some(table) = stage.remove(name.get_ref().as_str()) {
                drafts.push(Draft { name, table, entry: None, stage: None, from: Vec::new(), require: BTreeMap::new(), timeout: None });
            }
        }
        for draft in &mut drafts {
            self.name(&draft.name);
            self.kind(draft);
            self.settings(draft, params);
            self.limits(draft);
        }
        self.edges(&mut drafts);
        self.kinds_fit(&drafts);
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
        Pipeline { name: header.name.map(Spanned::into_inner).unwrap_or_default(), root, seed: header.seed, steps }
    }

    fn header(&mut self, header: &Header) {
        if let Some(name) = header.name.as_ref().filter(|name| name.get_ref().trim().is_empty()) {
            self.found.push(Diagnostic::error(name.span(), "the pipeline's name is empty"));
        }
        for value in header.name.iter().chain([&header.root]).filter(|value| value.get_ref().contains("${")) {
            let message = format!("`${{…}}` is replaced only inside a stage's `with`, not in \"{}\"", value.get_ref());
            self.found.push(Diagnostic::error(value.span(), message).hint("write the value itself"));
        }
    }

    /// Stage names become folder names, keys of `--set` and labels in a graph.
    fn name(&mut self, name: &Spanned<String>) {
        let written = name.get_ref();
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
            let unknown = Diagnostic::error(uses.span(), format!("no stage kind is called `{}`", uses.get_ref()));
            self.found.push(unknown.maybe_hint(did_you_mean(uses.get_ref(), kinds())).note(format!("stage kinds: {}", list(kinds()))));
        }
    }

    /// Lets the stage read its `with`.
    fn settings(&mut self, draft: &mut Draft<'a>, params: Option<&DeTable<'a>>) {
        let Some(entry) = draft.entry else { return };
        let mut with = draft.table.with.take().unwrap_or_else(|| Spanned::new(draft.place(), DeTable::new()));
        let ports = (entry.kind() == "command").then(|| {
            let ports = draft.table.from.iter().flat_map(|from| from.get_ref().keys());
            ports.map(|port| port.get_ref().as_str()).collect()
        });
        let mut trail = Trail::default();
        Substitution { text: self.text, params, env: self.env, ports }.table(with.get_mut(), &mut trail);
        let unresolved = !trail.found.is_empty();
        self.found.append(&mut trail.found);

        let mut complaints = match entry.parse(with.clone()) {
            Ok(stage) => {
                // A reference that leads nowhere still stands there as text, which the stage need not judge.
                let complaints = if unresolved { Vec::new() } else { stage.check() };
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
    }

    /// Reads `timeout` and `require`, and says what this version does not act on.
    fn limits(&mut self, draft: &mut Draft<'a>) {
        let table = &draft.table;
        if let Some(timeout) = &table.timeout {
            match duration(timeout.get_ref()) {
                Some(duration) => draft.timeout = Some(duration),
                None => self.found.push(
                    Diagnostic::error(timeout.span(), format!("\"{}\" is not a duration", timeout.get_ref()))
                        .hint("write \"90s\", \"15m\", \"12h\", \"2d\" or \"1h30m\""),
                ),
            }
        }
        for (metric, bound) in &table.require {
            match self::bound(bound.get_ref()) {
                Some(bound) => _ = draft.require.insert(metric.get_ref().clone(), bound),
                None => self.found.push(
                    Diagnostic::error(bound.span(), format!("\"{}\" is not a bound for `{}`", bound.get_ref(), metric.get_ref()))
                        .hint("write \"< 0.15\", \"<= 0.15\", \"> 100\" or \">= 100\""),
                ),
            }
        }
        let resources = table.resources.as_ref().map(|resources| (resources.span(), "resources", "every stage may use the whole machine"));
        let recover = table.recover.as_ref().map(|recover| (recover.span(), "recover", "a failed stage keeps its settings"));
        let on = table.retry.as_ref().and_then(|retry| retry.on.as_ref());
        let on = on.map(|on| (on.span(), "retry.on", "a stage is tried again after any failure"));
        for (span, what, instead) in resources.into_iter().chain(recover).chain(on) {
            self.not_yet(span, what, instead);
        }
    }

    fn not_yet(&mut self, span: Range<usize>, what: &str, instead: &str) {
        let message = format!("`{what}` is read, but this version does not act on it yet");
        self.found.push(Diagnostic::warning(span, message.replace("`[", "[").replace("]`", "]")).hint(instead));
    }

    /// Checks that the ports of `from` and the stages named in `from` and `after` exist.
    fn edges(&mut self, drafts: &mut [Draft<'a>]) {
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
                self.only_stages(&names, &mut upstreams);
                let several = upstreams.len();
                let single = draft.entry.and_then(|entry| port_of(entry, port.get_ref())).filter(|port| port.arity != Arity::Many);
                if let Some(single) = single.filter(|_| several > 1) {
                    let makers = list(upstreams.iter().map(|name| name.get_ref().as_str()));
                    let complaint =
                        Diagnostic::error(span.clone(), format!("`{}` takes one {}, not {several}", port.get_ref(), kinds_of(single)));
                    self.found.push(complaint.hint(format!("choose one of {makers}")));
                }
                if upstreams.is_empty()
                    && self
                        .text
                        .get(span.clone())
                        .is_some_and(|text| text.trim_start_matches('[').trim().trim_end_matches(']').trim().is_empty())
                {
                    self.found.push(
                        Diagnostic::error(span, format!("`{}` is given nothing", port.get_ref()))
                            .hint("name a stage, or leave the port out"),
                    );
                }
                draft.from.push((port, upstreams));
            }
            let mut after = std::mem::take(&mut draft.table.after);
            self.only_stages(&names, &mut after);
            draft.table.after = after;
            self.missing_ports(draft);
        }
    }

    /// Complains of names that are no stages or stand there twice, and takes them out.
    fn only_stages(&mut self, names: &[String], upstreams: &mut Vec<Spanned<String>>) {
        let mut seen = BTreeSet::new();
        upstreams.retain(|upstream| {
            if !names.contains(upstream.get_ref()) {
                let (hint, known) = crate::manifest::suggest_stage(upstream.get_ref(), names.iter().map(String::as_str));
                let unknown = Diagnostic::error(upstream.span(), format!("no stage is called `{}`", upstream.get_ref()));
                self.found.push(unknown.maybe_hint(hint).note(known));
                return false;
            }
            let new = seen.insert(upstream.get_ref().clone());
            if !new {
                self.found
                    .push(Diagnostic::error(upstream.span(), format!("`{}` stands here twice", upstream.get_ref())).hint("remove one"));
            }
            new
        });
    }

    fn unknown_port(&mut self, draft: &Draft<'a>, port: &Spanned<String>) {
        let Some(entry) = draft.entry else { return };
        let ports = || entry.ports().iter().map(|port| port.name);
        let complaint = Diagnostic::error(port.span(), format!("`{}` has no input called `{}`", entry.kind(), port.get_ref()));
        let inputs: Vec<String> = entry.ports().iter().map(|port| format!("`{}` ({})", port.name, port.about)).collect();
        let known =
            if inputs.is_empty() { format!("`{}` takes no inputs", entry.kind()) } else { format!("inputs: {}", inputs.join(", ")) };
        self.found.push(complaint.maybe_hint(did_you_mean(port.get_ref(), ports())).note(known));
    }

    fn missing_ports(&mut self, draft: &Draft<'a>) {
        let Some(entry) = draft.entry else { return };
        for port in entry.ports().iter().filter(|port| port.name != "*" && port.arity != Arity::Optional) {
            if !draft.from.iter().any(|(given, _)| given.get_ref() == port.name) {
                // A misspelt port was told of already.
                let misspelt = draft.from.iter().any(|(given, _)| {
                    port_of(entry, given.get_ref()).is_none() && crate::diagnostic::closest(given.get_ref(), [port.name]).is_some()
                });
                if !misspelt {
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

    /// Checks that what flows in fits the port.
    fn kinds_fit(&mut self, drafts: &[Draft<'a>]) {
        let made: BTreeMap<&str, ArtifactKind> =
            drafts.iter().filter_map(|draft| Some((draft.name.get_ref().as_str(), draft.stage.as_ref()?.output()))).collect();
        for draft in drafts {
            let Some(entry) = draft.entry else { continue };
            for (port_name, upstreams) in &draft.from {
                let Some(port) = port_of(entry, port_name.get_ref()).filter(|port| !port.kinds.is_empty()) else { continue };
                for upstream in upstreams {
                    let Some(kind) = made.get(upstream.get_ref().as_str()).filter(|kind| !port.kinds.contains(kind)) else { continue };
                    let message = format!(
                        "`{}` takes {}, but `{}` makes {}",
                        port_name.get_ref(),
                        article(&kinds_of(port)),
                        upstream.get_ref(),
                        article(&kind.to_string())
                    );
                    let fitting: Vec<&str> = made
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

    /// The drafts' indices, what is needed before what needs it, and otherwise as in the file.
    fn order(&mut self, drafts: &[Draft<'a>]) -> Vec<usize> {
        let index: BTreeMap<&str, usize> = drafts.iter().enumerate().map(|(index, draft)| (draft.name.get_ref().as_str(), index)).collect();
        // An edge leads from what is needed to what needs it, and knows where the file says so.
        let mut graph: DiGraph<usize, Range<usize>> = DiGraph::new();
        let nodes: Vec<NodeIndex> = (0..drafts.len()).map(|index| graph.add_node(index)).collect();
        for (needing, draft) in drafts.iter().enumerate() {
            for upstream in draft.from.iter().flat_map(|(_, upstreams)| upstreams).chain(&draft.table.after) {
                if let Some(needed) = index.get(upstream.get_ref().as_str()) {
                    graph.add_edge(nodes[*needed], nodes[needing], upstream.span());
                }
            }
        }
        for ring in tarjan_scc(&graph) {
            let alone = ring.len() == 1 && !graph.contains_edge(ring[0], ring[0]);
            if !alone {
                self.cycle(&graph, &ring, drafts);
            }
        }
        topological(&graph)
    }

    /// Tells of the shortest ring through the first stage of a knot.
    fn cycle(&mut self, graph: &DiGraph<usize, Range<usize>>, knot: &[NodeIndex], drafts: &[Draft<'a>]) {
        let Some(first) = knot.iter().copied().min_by_key(|node| graph[*node]) else { return };
        let name = |node: NodeIndex| drafts[graph[node]].name.get_ref().as_str();
        let ring = ring_through(graph, first);
        if let [edge] = ring.as_slice() {
            let message = format!("`{}` needs its own result", name(first));
            return self.found.push(Diagnostic::error(graph[*edge].clone(), message).hint("name another stage"));
        }
        let mut places: Vec<(Range<usize>, String)> = Vec::new();
        let mut names = vec![name(first)];
        for edge in &ring {
            if let Some((needed, needing)) = graph.edge_endpoints(*edge) {
                places.push((graph[*edge].clone(), format!("`{}` needs `{}`", name(needing), name(needed))));
                names.push(name(needing));
            }
        }
        places.sort_by_key(|(span, _)| span.start);
        let mut places = places.into_iter();
        let Some((place, told)) = places.next() else { return };
        let mut complaint = Diagnostic::error(place, format!("the stages need each other in a circle: {}", names.join(" → "))).hint(told);
        for (place, told) in places {
            complaint = complaint.related(place, told);
        }
        self.found.push(complaint.note("remove one of these references"));
    }
}

impl Draft<'_> {
    /// Where to point for what is not there.
    fn place(&self) -> Range<usize> {
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
            retries: self.table.retry.and_then(|retry| retry.times).map_or(0, Spanned::into_inner),
        })
    }
}

/// The port a key of `from` means.
fn port_of(entry: &dyn Entry, name: &str) -> Option<&'static Port> {
    let ports = entry.ports().iter();
    ports.clone().find(|port| port.name == name).or_else(|| ports.clone().find(|port| port.name == "*"))
}

fn kinds_of(port: &Port) -> String {
    match port.kinds {
        [] => "result".to_owned(),
        kinds => join(kinds.iter().map(ToString::to_string).collect(), "or"),
    }
}

/// "a dataset", but "phrases".
fn article(noun: &str) -> String {
    let plural = noun.split_whitespace().next().is_some_and(|first| first.trim_end_matches(',').ends_with('s')) || noun == "published";
    if plural { noun.to_owned() } else { format!("a {noun}") }
}

/// Kahn's algorithm, always taking the stage that comes first in the file. What hangs in a knot is left out.
fn topological(graph: &DiGraph<usize, Range<usize>>) -> Vec<usize> {
    let mut waiting: BTreeMap<usize, usize> =
        graph.node_indices().map(|node| (graph[node], graph.edges_directed(node, petgraph::Incoming).count())).collect();
    let mut order = Vec::new();
    while let Some(next) = waiting.iter().find(|(_, needs)| **needs == 0).map(|(index, _)| *index) {
        waiting.remove(&next);
        order.push(next);
        for needing in graph.neighbors(NodeIndex::new(next)) {
            if let Some(needs) = waiting.get_mut(&graph[needing]) {
                *needs -= 1;
            }
        }
    }
    order
}

/// The edges of the shortest way from a node back to itself.
fn ring_through(graph: &DiGraph<usize, Range<usize>>, first: NodeIndex) -> Vec<petgraph::graph::EdgeIndex> {
    use petgraph::visit::EdgeRef;
    let mut came_by = BTreeMap::new();
    let mut queue = VecDeque::from([first]);
    while let Some(node) = queue.pop_front() {
        let mut edges: Vec<_> = graph.edges(node).collect();
        edges.sort_by_key(|edge| edge.weight().start);
        for edge in edges {
            if edge.target() == first {
                let mut ring = vec![edge.id()];
                let mut at = node;
                while let Some((id, before)) = came_by.get(&at).copied().filter(|_| at != first) {
                    ring.push(id);
                    at = before;
                }
                ring.reverse();
                return ring;
            }
            came_by.entry(edge.target()).or_insert_with(|| {
                queue.push_back(edge.target());
                (edge.id(), node)
            });
        }
    }
    Vec::new()
}

/// A stage's complaint at the place of the setting it names, or of the innermost table that is there.
fn placed(complaint: Complaint, with: &Spanned<DeTable<'_>>) -> Diagnostic {
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

/// "90s", "15m", "12h", "2d" and sums of them ("1h30m").
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0u64;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest[digits..].chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        if unit >= last_unit {
            return None;
        }
        last_unit = unit;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = rest[digits + 1..].trim_start();
    }
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// "< 0.15"
fn bound(text: &str) -> Option<Bound> {
    let text = text.trim();
    let (comparison, limit) =
        [("<=", Comparison::LessOrEqual), (">=", Comparison::GreaterOrEqual), ("<", Comparison::Less), (">", Comparison::Greater)]
            .into_iter()
            .find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?.trim())))?;
    let limit: f64 = limit.parse().ok()?;
    limit.is_finite().then_some(Bound { comparison, limit })
}

impl Bound {
    /// Whether a number meets it. What is not a number meets nothing.
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Less => value < self.limit,
            Comparison::LessOrEqual => value <= self.limit,
            Comparison::Greater => value > self.limit,
            Comparison::GreaterOrEqual => value >= self.limit,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.comparison {
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        };
        write!(f, "{sign} {}", self.limit)
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.name)
            .field("root", &self.root)
            .field("seed", &self.seed)
            .field("steps", &self.steps)
            .finish()
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("kind", &self.stage.kind())
            .field("with", &self.stage.identity())
            .field("from", &self.from)
            .field("after", &self.after)
            .field("seed", &self.seed)
            .field("require", &self.require)
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .finish()
    }
}
