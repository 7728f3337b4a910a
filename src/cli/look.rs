//! Commands that look at a pipeline and its state and change nothing: `plan`, `check`, `why`, `status`.

use super::project::plural;
use super::run::known;
use super::summary::{Summary, find};
use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::RepoRevision;
use crate::report::terminal::duration;
use pipeline::cache::content::ContentDiff;
use pipeline::cache::store::{AttemptEnd, StageHistory, Store};
use pipeline::exit::Exit;
use pipeline::graph::Pipeline;
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use pipeline::manifest::origin;
use pipeline::plan::why::Why;
use pipeline::plan::{FreshnessCheck, Plan, PlannedStep, StepState, why};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// `voxpipe plan`: gives the exit code.
pub(super) fn plan(project: &Project, force: &[String], exit_code: bool, json: bool) -> Result<u8> {
    let (sources, pipeline) = project.with_sources()?;
    known(&pipeline, force)?;
    let store = project.look(&pipeline)?;
    let plan = Plan::of(&pipeline, &store, &force.iter().cloned().collect())?;
    let ((run, may, fresh), (certain, all)) = (plan.counts(), plan.times());
    let gate = plan.steps.iter().any(|step| matches!(step.state, StepState::GateUnmet(..)));
    let code = match run {
        _ if !exit_code => Exit::Done,
        1.. => Exit::Pending,
        0 if gate => Exit::Gate,
        0 => Exit::Done,
    } as u8;
    if json {
        let with_time = |step: &PlannedStep| {
            let mut value = named(step, step.state.json());
            value["seconds"] = json!(step.took);
            value
        };
        let steps: Vec<_> = plan.steps.iter().map(with_time).collect();
        let counts = json!({ "run": run, "may": may, "fresh": fresh });
        let files: Vec<_> = sources.files().collect();
        print_json(json!({
            "pipeline": pipeline.name,
            "steps": steps,
            "counts": counts,
            "seconds": { "run": certain, "all": all },
            "files": files,
            "changes": project.changes(),
        }))?;
        return Ok(code);
    }
    let rows = plan.steps.iter().map(|step| {
        let (word, mut sentence) = step.state.words();
        if let Some(took) = step.took {
            sentence.push_str(&format!(" ({} last time)", duration(took)));
        }
        (step.stage.as_str(), word, sentence)
    });
    let mut counts = vec![format!("{run} to run")];
    if may > 0 {
        counts.push(format!("{may} after that"));
    }
    counts.push(format!("{fresh} fresh"));
    let read = project.read_from(&sources).map(|read| format!("from {read}\n")).unwrap_or_default();
    let time = match (certain, all) {
        (Some(certain), Some(all)) if all > certain => {
            format!("; about {}, {} if all that follows runs too", duration(certain), duration(all))
        }
        (Some(time), _) | (None, Some(time)) => format!("; about {}", duration(time)),
        _ => String::new(),
    };
    print(&format!("{read}{}{}{time}; nothing was written\n", table(rows), counts.join(", ")))?;
    Ok(code)
}

/// `voxpipe check`.
pub(super) fn check(project: &Project, json: bool, show_origin: bool) -> Result<u8> {
    let (sources, mut parsed) = project.parse()?;
    // A value of an axis is tried with the first values of the others, so that a wrong one is told of before the sweep.
    let mut more = Vec::new();
    for combination in parsed.matrix.iter().flat_map(one_by_one) {
        more.extend(project.parse_unpinned(&sources, Some(&combination)).diagnostics);
    }
    for diagnostic in more {
        if !parsed.diagnostics.contains(&diagnostic) {
            parsed.diagnostics.push(diagnostic);
        }
    }
    let origins = if show_origin { origin::all(&sources, &project.overrides()) } else { Vec::new() };
    let files: Vec<String> = sources.files().map(|file| file.display().to_string()).collect();
    let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let failed = errors > 0 || parsed.pipeline.is_none();
    let mut missing = Vec::new();
    // Stages whose every repository is a certain commit.
    let mut revisions: BTreeSet<String> = BTreeSet::new();
    for step in parsed.pipeline.iter_mut().flat_map(|pipeline| &mut pipeline.steps) {
        let mut pinned = true;
        step.stage.pin(&mut |_| {
            pinned = false;
            None
        });
        revisions.extend(pinned.then(|| step.name.clone()));
    }
    for step in parsed.pipeline.iter().flat_map(|pipeline| &pipeline.steps) {
        let root = parsed.pipeline.as_ref().map(|pipeline| pipeline.root.clone()).unwrap_or_default();
        missing.extend(step.stage.sources().into_iter().filter(|path| !root.join(path).exists()).map(|path| (step.name.clone(), path)));
    }
    if json {
        let diagnostics: Vec<_> =
            parsed.diagnostics.iter().map(|diagnostic| diagnostic.to_json(&project.file, sources.own_text())).collect();
        let missing: Vec<_> = missing.iter().map(|(stage, path)| json!({ "stage": stage, "path": path })).collect();
        let mut value = json!({ "ok": !failed, "diagnostics": diagnostics, "missing": missing, "files": files });
        if show_origin {
            value["origins"] = json!(origins);
        }
        print_json(value)?;
    } else {
        project.tell(&sources, &parsed.diagnostics);
        for (stage, path) in &missing {
            let text = match path.to_str().and_then(RepoRevision::parse) {
                Some(repository) => {
                    // A commit in the file, or one that the lock file put there.
                    let hint = if repository.is_pinned() || revisions.contains(stage) { "" } else { "; `voxpipe lock` pins its commit" };
                    format!("note: stage `{stage}` reads `{repository}`; there is no such folder, so it is a repository of the Hub{hint}")
                }
                None => format!("warning: stage `{stage}` reads `{}`, which is not there", path.display()),
            };
            let _ = writeln!(io::stderr(), "{text}");
        }
        print(&table(origins.iter().map(|origin| (origin.key.as_str(), origin.value.as_str(), origin.place.clone()))))?;
        match &parsed.pipeline {
            Some(pipeline) if !failed => print(&format!("{}: {}, no errors\n", files.join(" + "), plural(pipeline.steps.len(), "stage")))?,
            _ => drop(writeln!(io::stderr(), "{}", plural(errors, "error"))),
        }
    }
    Ok(if failed { Exit::Usage } else { Exit::Done } as u8)
}

/// Combinations in which every value of every axis occurs.
fn one_by_one(matrix: &SweepMatrix) -> Vec<SweepCombination> {
    let mut seen = BTreeSet::new();
    let mut new = |combination: &SweepCombination| {
        let pairs: Vec<(usize, usize)> = combination.0.iter().copied().enumerate().collect();
        pairs.into_iter().filter(|pair| seen.insert(*pair)).count() > 0
    };
    matrix.combinations.iter().filter(|combination| new(combination)).cloned().collect()
}

/// `voxpipe why STAGE`.
pub(super) fn why(project: &Project, stage: &str, vs: Option<&str>, json: bool) -> Result<()> {
    let pipeline = project.pipeline()?;
    known(&pipeline, &[stage.to_owned()])?;
    let store = project.look(&pipeline)?;
    let plan = Plan::of(&pipeline, &store, &BTreeSet::new())?;
    let versus = vs.map(|run| versus(&pipeline, &store, &plan, stage, run)).transpose()?;
    let Some(step) = plan.steps.into_iter().find(|step| step.stage == stage) else { return Ok(()) };
    if json {
        let mut value = named(&step, step.state.json());
        if let Some((run, reasons)) = versus {
            value["vs"] = json!({ "run": run, "reasons": reasons });
        }
        return print_json(value);
    }
    print(&match (versus, &step.state) {
        (Some((run, reasons)), _) if reasons.is_empty() => format!("`{stage}` is what it was in run {run}\n"),
        (Some((run, reasons)), _) => format!("`{stage}` is not what it was in run {run}:\n{}", told(&reasons)),
        (None, StepState::Stale(reasons)) => format!("`{stage}` runs:\n{}", told(reasons)),
        (None, other) => {
            let (word, sentence) = other.words();
            let verb = match word {
                "fresh" => "is fresh",
                "shared" => "is in the shared cache",
                "gate" => "is fresh, but does not pass its gate",
                "waits" => "waits",
                _ => "cannot run",
            };
            format!("`{stage}` {verb}: {sentence}\n")
        }
    })
}

/// What is different now from what went into a stage in a run; the run's id comes first.
fn versus(pipeline: &Pipeline, store: &Store, plan: &Plan, stage: &str, run: &str) -> Result<(String, Vec<Why>)> {
    let run = find(store, run)?;
    let summary = Summary::of(store, &run)?;
    let lacking = |what: String| Error::new(what).kind(ErrorKind::InvalidInput).hint("`voxpipe show RUN` says how each stage ended");
    let Some(then) = summary.stage(stage) else { return Err(lacking(format!("run {run} has no stage `{stage}`"))) };
    let Some(old) = then.record(store).map(|record| record.ingredients) else {
        return Err(lacking(format!("there is nothing to compare with: run {run} kept no result of `{stage}`, it was {}", then.result)));
    };
    let Some(step) = pipeline.step(stage) else { return Ok((run, Vec::new())) };
    let artifact = |step: &PlannedStep| match &step.state {
        StepState::Fresh(artifact) | StepState::Shared(artifact) | StepState::GateUnmet(artifact, _) => {
            Some((step.stage.clone(), (**artifact).clone()))
        }
        _ => None,
    };
    let done: BTreeMap<_, _> = plan.steps.iter().filter_map(artifact).collect();
    let force = BTreeSet::new();
    let judge = FreshnessCheck { pipeline, store, force: &force };
    let mut new = judge.ingredients(step, &done)?;
    let unknown: BTreeSet<&String> = step.from.values().flatten().filter(|name| !done.contains_key(*name)).collect();
    if !unknown.is_empty() {
        new.inputs.clone_from(&old.inputs);
    }
    let mut reasons = why::differences(&old, &new, |was, is| judge.compare(was, is));
    reasons.extend(unknown.into_iter().map(|stage| Why::UpstreamWillRun { stage: stage.clone() }));
    Ok((run, reasons))
}

/// Reasons one below the other, with every file they speak of.
pub(super) fn told(reasons: &[Why]) -> String {
    let mut text = String::new();
    for reason in reasons {
        text.push_str(&format!("  {reason}\n"));
        for line in files(reason) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// Every file of a reason, where the sentence names only the first few.
fn files(reason: &Why) -> Vec<String> {
    let changes = match reason {
        Why::Source { changes, .. } | Why::Input { changes, .. } | Why::PromiseChanged { changes, .. } => changes.clone(),
        _ => ContentDiff::default(),
    };
    let marked = |mark: &'static str, paths: Vec<String>| paths.into_iter().map(move |path| format!("{mark} {path}"));
    marked("+", changes.added).chain(marked("-", changes.removed)).chain(marked("~", changes.changed)).collect()
}

/// `voxpipe status`.
pub(super) fn status(project: &Project, json: bool) -> Result<()> {
    let pipeline = project.pipeline()?;
    let store = project.look(&pipeline)?;
    let plan = Plan::of(&pipeline, &store, &BTreeSet::new())?;
    let standing: Vec<_> =
        plan.steps.iter().map(|step| (step, stands(&step.state, store.last(&pipeline.name, &step.stage).as_deref()))).collect();
    if json {
        let steps: Vec<_> = standing
            .iter()
            .map(|(step, (word, sentence, last))| {
                let mut value = named(step, step.state.json());
                value["status"] = json!(word);
                value["sentence"] = json!(sentence);
                value["last"] = last.clone();
                value
            })
            .collect();
        return print_json(json!({ "pipeline": pipeline.name, "run": store.runs()?.last(), "steps": steps }));
    }
    print(&table(standing.iter().map(|(step, (word, sentence, _))| (step.stage.as_str(), *word, sentence.clone()))))
}

/// How a step stands: what became of the last try, unless its result is there.
fn stands(state: &StepState, last: Option<&StageHistory>) -> (&'static str, String, Value) {
    let (word, sentence) = state.words();
    let now = if word == "run" { "stale" } else { word };
    let end = last.map(|last| &last.tried.end);
    let told = end.map_or(Value::Null, |end| json!(end));
    match (state, end) {
        (StepState::Fresh(_) | StepState::Shared(_) | StepState::GateUnmet(..), _) => (now, sentence, told),
        (_, Some(AttemptEnd::Parked { have, need, message })) => ("parked", format!("{have}/{need}  {message}"), told),
        (_, Some(AttemptEnd::Failed { message })) => ("failed", message.lines().next().unwrap_or_default().to_owned(), told),
        (_, Some(AttemptEnd::Begun)) => ("begun", "it is running, or the program was killed meanwhile".to_owned(), told),
        (_, Some(AttemptEnd::Interrupted)) => ("interrupted", "run again to go on".to_owned(), told),
        _ => (now, sentence, told),
    }
}

fn named(step: &PlannedStep, mut value: Value) -> Value {
    value["stage"] = json!(step.stage);
    value["kind"] = json!(step.kind);
    value
}

/// Three columns.
fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str, String)>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = |of: fn(&(&str, &str, String)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (first, second) = (width(|row| row.0.chars().count()), width(|row| row.1.chars().count()));
    rows.iter().map(|(stage, word, text)| format!("{}\n", format!("  {stage:<first$}  {word:<second$}  {text}").trim_end())).collect()
}
