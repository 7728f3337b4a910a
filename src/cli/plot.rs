//! `voxpipe plot`: plots the metrics of finished and running trainings in the terminal or as SVG.

use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::plot;
use crate::plot::{PlotCurve, PlotPanel};
use clap::Args;
use pipeline::cache::store::Store;
use pipeline::diagnostics::{did_you_mean, list};
use pipeline::events::metrics_log::MetricsRow;
use pipeline::events::{Event, jsonl as log, metrics_log};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;

/// Options of `voxpipe plot`.
#[derive(Args)]
pub(super) struct Plot {
    /// Stages, run ids, or files such as loss.jsonl [default: every training of the pipeline]
    #[arg(value_name = "STAGE|RUN|FILE")]
    of: Vec<String>,
    /// Plot only this metric, such as loss, eval_wer or grad_norm; repeatable
    #[arg(short, long, value_name = "NAME")]
    metric: Vec<String>,
    /// Write an SVG file
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    svg: Option<PathBuf>,
    /// Width in columns [default: width of the terminal]
    #[arg(long, value_name = "COLUMNS")]
    width: Option<usize>,
    /// Pipeline file [default: pipeline.toml in this folder, or in the nearest folder above]
    #[arg(long)]
    file: Option<PathBuf>,
    /// Print the data points as JSON
    #[arg(long)]
    json: bool,
}

/// A training with its metrics.
struct Training {
    name: String,
    rows: Vec<MetricsRow>,
}

/// Metrics plotted by default, in addition to the validation metrics (`eval_…`).
const DEFAULT_METRICS: [&str; 2] = ["loss", "learning_rate"];

/// When a stage has metrics.
const NO_METRICS: &str = "a `train` stage has metrics after its first step, a `command` stage once its program prints some";

impl Plot {
    /// Plots the selected trainings.
    pub(super) fn draw(&self) -> Result<()> {
        let trainings = self.trainings()?;
        let metrics = self.metrics(&trainings)?;
        if self.json {
            let curves: Vec<_> = trainings
                .iter()
                .flat_map(|training| metrics.iter().map(move |metric| (training, metric, points(training, metric))))
                .filter(|(.., points)| !points.is_empty())
                .map(|(training, metric, points)| {
                    let (steps, values): (Vec<u64>, Vec<_>) =
                        points.into_iter().map(|(step, value)| (step as u64, voxpipe_io::metrics::number(value))).unzip();
                    json!({ "training": training.name, "metric": metric, "steps": steps, "values": values })
                })
                .collect();
            return print_json(json!({ "curves": curves }));
        }
        let panels: Vec<PlotPanel> = panels(&trainings, &metrics);
        if let Some(path) = &self.svg {
            return fs::write(path, plot::svg(&panels)).with_context(|| format!("cannot write `{}`", path.display()));
        }
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        print(&plot::terminal(&panels, self.width.unwrap_or_else(columns), color))
    }

    fn trainings(&self) -> Result<Vec<Training>> {
        // Elsewhere the first argument is the pipeline file.
        let (pipelines, named): (Vec<&String>, Vec<&String>) =
            self.of.iter().partition(|of| of.ends_with(".toml") && Path::new(of).is_file());
        let pipeline_file = match pipelines[..] {
            [] => self.file.clone(),
            [one] => Some(PathBuf::from(one)),
            _ => {
                let error = Error::new("several pipeline files").kind(ErrorKind::InvalidInput);
                return Err(error.hint("name one, and the stages, runs or metrics files to plot"));
            }
        };
        let (files, others): (Vec<&String>, Vec<&String>) = named.into_iter().partition(|of| Path::new(of).is_file());
        let mut found = files.into_iter().map(|file| of_file(Path::new(file))).collect::<Result<Vec<_>>>()?;
        if others.is_empty() && !found.is_empty() {
            return Ok(found);
        }
        let plots_all = others.is_empty();
        let project = Project::at(pipeline_file);
        let (_, parsed) = project.parse()?;
        let store = Store::open_readonly(&project.root()?)?;
        let name = parsed.pipeline.as_ref().map_or(String::new(), |pipeline| pipeline.name.clone());
        let stages: Vec<String> = parsed.pipeline.iter().flat_map(|pipeline| &pipeline.steps).map(|step| step.name.clone()).collect();
        let runs = store.runs()?;
        for of in others {
            let run = if of == "latest" { runs.last() } else { runs.iter().find(|run| *run == of) };
            if let Some(run) = run {
                let of_run = of_run(&store, &runs, run)?;
                if of_run.is_empty() {
                    return Err(Error::new(format!("run {run} has no metrics"))
                        .kind(ErrorKind::InvalidInput)
                        .hint("plot a stage instead: it shows the newest result"));
                }
                found.extend(of_run);
            } else if stages.contains(of) {
                found.push(of_stage(&store, &name, of)?.ok_or_else(|| {
                    Error::new(format!("stage `{of}` has no metrics yet")).kind(ErrorKind::InvalidInput).hint(NO_METRICS)
                })?);
            } else if let Some(group) = parsed.pipeline.as_ref().and_then(|pipeline| pipeline.steps_named(of).ok()) {
                // The name of a `foreach`: the stages that have metrics.
                let before = found.len();
                for stage in group {
                    found.extend(of_stage(&store, &name, stage)?);
                }
                if found.len() == before {
                    return Err(Error::new(format!("no stage of `{of}` has metrics yet")).kind(ErrorKind::InvalidInput).hint(NO_METRICS));
                }
            } else {
                let known = stages.iter().chain(&runs).map(String::as_str);
                let hint = did_you_mean(of, known.clone()).unwrap_or_else(|| match (parsed.pipeline.is_some(), known.clone().next()) {
                    (false, _) => {
                        format!("`{}` has errors, so its stages are not known: `voxpipe check` shows them", project.file().display())
                    }
                    (true, None) => "a path names a file such as loss.jsonl".to_owned(),
                    (true, Some(_)) => format!("known names: {}", list(known)),
                });
                return Err(Error::new(format!("no stage, run or file is called `{of}`")).kind(ErrorKind::InvalidInput).hint(hint));
            }
        }
        if plots_all {
            for stage in &stages {
                found.extend(of_stage(&store, &name, stage)?);
            }
        }
        if found.is_empty() {
            return Err(Error::new("no metrics yet").kind(ErrorKind::InvalidInput).hint("start a training with `voxpipe run`"));
        }
        Ok(found)
    }

    /// The names of the metrics to plot.
    fn metrics(&self, trainings: &[Training]) -> Result<Vec<String>> {
        let known: BTreeSet<&str> =
            trainings.iter().flat_map(|training| &training.rows).flat_map(|row| row.values.keys()).map(String::as_str).collect();
        if let Some(unknown) = self.metric.iter().find(|metric| !known.contains(metric.as_str())) {
            let known = known.iter().copied();
            let hint = did_you_mean(unknown, known.clone()).unwrap_or_else(|| format!("known metrics: {}", list(known)));
            return Err(Error::new(format!("no metric is called `{unknown}`")).kind(ErrorKind::InvalidInput).hint(hint));
        }
        if !self.metric.is_empty() {
            return Ok(self.metric.clone());
        }
        let default = DEFAULT_METRICS.into_iter().filter(|metric| known.contains(metric));
        let mut metrics: Vec<String> =
            default.chain(known.iter().copied().filter(|metric| metric.starts_with("eval_"))).map(str::to_owned).collect();
        if metrics.is_empty() {
            metrics = known.iter().filter(|metric| **metric != "epoch").map(|metric| (*metric).to_owned()).collect();
        }
        Ok(metrics)
    }
}

/// One panel for each metric; training and validation loss share a panel.
fn panels(trainings: &[Training], metrics: &[String]) -> Vec<PlotPanel> {
    let both = metrics.iter().any(|metric| metric == "loss");
    let mut panels = Vec::new();
    for metric in metrics.iter().filter(|metric| !(both && *metric == "eval_loss")) {
        let shown = if metric == "loss" && metrics.iter().any(|metric| metric == "eval_loss") {
            vec!["loss", "eval_loss"]
        } else {
            vec![metric.as_str()]
        };
        let mut curves = Vec::new();
        for training in trainings {
            for metric in &shown {
                let points = points(training, metric);
                if !points.is_empty() {
                    let name = if *metric == "eval_loss" && shown.len() > 1 {
                        format!("{} held out", training.name)
                    } else {
                        training.name.clone()
                    };
                    curves.push(PlotCurve { name, points });
                }
            }
        }
        panels.push(PlotPanel { title: metric.replace('_', " "), curves });
    }
    panels
}

fn points(training: &Training, metric: &str) -> Vec<(f64, f64)> {
    training.rows.iter().filter_map(|row| Some((row.step as f64, *row.values.get(metric)?))).collect()
}

/// Reads a metrics log, or a metrics file of a result.
fn of_file(path: &Path) -> Result<Training> {
    let rows = match metrics_log::read(path) {
        Ok((_, rows)) => rows,
        Err(_) => jsonl::read::<MetricsRow>(path)?.into_iter().map(|(_, row)| row).collect(),
    };
    Ok(Training { name: path.display().to_string(), rows })
}

/// The newest metrics of a stage: from its metrics log while it runs, else from its result.
fn of_stage(store: &Store, pipeline: &str, stage: &str) -> Result<Option<Training>> {
    let age = |path: &Path| fs::symlink_metadata(path).and_then(|file| file.modified()).ok();
    let link = store.latest(pipeline, stage);
    let mut newest = None;
    for path in store.scratch_files(metrics_log::FILE) {
        // A run may remove the log at any moment; then the result is there.
        if let Ok((head, rows)) = metrics_log::read(&path)
            && head.pipeline == pipeline
            && head.stage == stage
            && age(&path) > newest.as_ref().and_then(|(age, _)| *age)
        {
            newest = Some((age(&path), rows));
        }
    }
    if let Some((when, rows)) = newest
        && when > age(&link)
    {
        return Ok(Some(Training { name: stage.to_owned(), rows }));
    }
    let mut rows = rows_of_result(&link)?;
    // Programs report their metrics to the log of the run.
    for run in store.runs()?.iter().rev() {
        if !rows.is_empty() {
            break;
        }
        rows = logged_metrics(store, run)?.remove(stage).map(|logged| logged.rows).unwrap_or_default();
    }
    Ok((!rows.is_empty()).then(|| Training { name: stage.to_owned(), rows }))
}

/// The metrics in the result of a training; none if it has no such files.
pub(super) fn rows_of_result(folder: &Path) -> Result<Vec<MetricsRow>> {
    let mut rows = Vec::new();
    for name in ["loss.jsonl", "eval.jsonl"] {
        let path = folder.join(name);
        if path.exists() {
            rows.extend(jsonl::read::<MetricsRow>(&path)?.into_iter().map(|(_, row)| row));
        }
    }
    Ok(rows)
}

/// The metrics of a stage in the event log of a run.
#[derive(Default)]
struct LoggedMetrics {
    rows: Vec<MetricsRow>,
    /// Id of the metrics log and the step after which this run continued it.
    journal: Option<(String, u64)>,
}

fn logged_metrics(store: &Store, run: &str) -> Result<BTreeMap<String, LoggedMetrics>> {
    let mut stages: BTreeMap<String, LoggedMetrics> = BTreeMap::new();
    for line in log::read(&store.log(run))? {
        match line.event {
            Event::Journal { stage, id, step, .. } => {
                let logged = stages.entry(stage).or_default();
                match &mut logged.journal {
                    // A retry repeats the steps after the checkpoint.
                    Some((known, after)) if *known == id => *after = step.min(*after),
                    other => {
                        *other = Some((id, step));
                        logged.rows.clear();
                    }
                }
                logged.rows.retain(|row| row.step <= step);
            }
            Event::Metrics { stage, step, values } => {
                stages.entry(stage).or_default().rows.push(MetricsRow { step, time: None, values });
            }
            _ => {}
        }
    }
    Ok(stages)
}

/// The metrics of the trainings of a run, by stage. The first steps of a training that continued from a checkpoint are in the logs of earlier runs.
pub(super) fn stages_of_run(store: &Store, runs: &[String], run: &str) -> Result<BTreeMap<String, Vec<MetricsRow>>> {
    let mut found = logged_metrics(store, run)?;
    found.retain(|_, logged| !logged.rows.is_empty());
    for earlier in runs.iter().take_while(|other| *other != run).collect::<Vec<_>>().into_iter().rev() {
        if found.values().all(|logged| logged.journal.as_ref().is_none_or(|(_, after)| *after == 0)) {
            break;
        }
        for (stage, before) in logged_metrics(store, earlier)? {
            let Some(logged) = found.get_mut(&stage) else { continue };
            if let (Some((id, after)), Some((before_id, before_after))) = (&mut logged.journal, before.journal)
                && *after > 0
                && *id == before_id
            {
                let mut rows: Vec<MetricsRow> = before.rows.into_iter().filter(|row| row.step <= *after).collect();
                rows.append(&mut logged.rows);
                logged.rows = rows;
                *after = before_after.min(*after);
            }
        }
    }
    Ok(found.into_iter().map(|(stage, logged)| (stage, logged.rows)).collect())
}

/// The trainings of a run, named by the run.
fn of_run(store: &Store, runs: &[String], run: &str) -> Result<Vec<Training>> {
    let found = stages_of_run(store, runs, run)?;
    let several = found.len() > 1;
    let name = |stage: String| if several { format!("{run} {stage}") } else { run.to_owned() };
    Ok(found.into_iter().map(|(stage, rows)| Training { name: name(stage), rows }).collect())
}

/// Width of the terminal in columns, at most 200.
fn columns() -> usize {
    let from_environment = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let from_terminal = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    from_environment.or_else(from_terminal).filter(|columns| *columns > 0).unwrap_or(80).min(200)
}
