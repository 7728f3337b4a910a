//! Attempts at a step and retries after a failure: with the same settings, with `recover` settings, or as the user chooses.

use super::PipelineRun;
use crate::artifact::Artifact;
use crate::cache::fingerprint::FingerprintInputs;
use crate::error::{Error, ErrorKind};
use crate::events::Event;
use crate::executor::words;
use crate::graph::Step;
use crate::plan::FreshnessCheck;
use crate::stage::{SettingOverrides, describe_overrides};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// An attempt at a step.
#[derive(Clone)]
pub(super) struct Attempt {
    /// The number of the attempt, from 1.
    pub(super) number: u32,
    /// The fingerprint inputs, with the settings of this attempt.
    pub(super) inputs: FingerprintInputs,
    /// The step with overridden settings, if this attempt does not use the declared ones.
    changed: Option<Arc<Step>>,
    /// Descriptions of the overrides, in the order they were applied.
    pub(super) changes: Vec<String>,
    /// The delay before the attempt.
    pub(super) wait: Option<Duration>,
}

/// The question to the user after a failure.
#[derive(Debug)]
pub struct RetryQuestion<'a> {
    /// The stage that failed.
    pub stage: &'a str,
    /// The error.
    pub error: &'a Error,
    /// The possible retries, most promising first.
    pub offers: &'a [RetryOffer],
    /// Why the previous answer was rejected, if it was.
    pub complaint: Option<&'a str>,
}

/// A possible retry.
#[derive(Debug)]
pub struct RetryOffer {
    /// The overrides, such as `batch_size = 1, gradient_accumulation = 8`; `None` keeps the settings.
    pub settings: Option<String>,
    /// The effect, as a short phrase.
    pub about: &'static str,
    /// Whether the retry resumes from a checkpoint; otherwise it starts over.
    pub keeps_checkpoint: bool,
}

/// The user's answer.
#[derive(Debug)]
pub enum RetryAnswer {
    /// Retry with the offer at this index.
    Offer(usize),
    /// Retry with these settings.
    Settings(SettingOverrides),
    /// Do not retry.
    Leave,
}

impl Attempt {
    pub(super) fn first(inputs: &FingerprintInputs) -> Self {
        Self { number: 1, inputs: inputs.clone(), changed: None, changes: Vec::new(), wait: None }
    }

    /// The step with the settings of this attempt.
    pub(super) fn step<'a>(&'a self, declared: &'a Step) -> &'a Step {
        self.changed.as_deref().unwrap_or(declared)
    }

    fn again(&self) -> Self {
        Self { number: self.number + 1, wait: None, ..self.clone() }
    }
}

impl PipelineRun<'_> {
    /// The attempt after a failure; `None` if there is no retry.
    pub(super) fn next(&self, step: &Step, now: &Attempt, done: &BTreeMap<String, Artifact>, error: &Error) -> Option<Attempt> {
        let attempts = step.retry.times() + 1;
        if now.number < attempts {
            let failed = format!("attempt {} of {attempts} failed: {}", now.number, error.message);
            let wait = step.retry.wait(now.number);
            let when = wait.map_or_else(String::new, |wait| format!(" in {}", words(wait)));
            for changes in step.retry.recoveries(error) {
                if let Ok(Some(next)) = self.changed(step, now, done, changes) {
                    let start = if self.resumes(now, &next) { "resuming from its checkpoint" } else { "starting over" };
                    let settings = next.changes.last().cloned().unwrap_or_default();
                    self.warn(step, format!("{failed}; retrying{when} with {settings}, {start}"));
                    return Some(Attempt { wait, ..next });
                }
            }
            if step.retry.repeats(error) {
                self.warn(step, format!("{failed}; retrying{when}"));
                return Some(Attempt { wait, ..now.again() });
            }
        }
        self.asked(step, now, done, error)
    }

    /// Asks the user for the next attempt; `None` if the run is not interactive or the user declines.
    fn asked(&self, step: &Step, now: &Attempt, done: &BTreeMap<String, Artifact>, error: &Error) -> Option<Attempt> {
        let ask = self.ask.filter(|_| self.is_asked(error))?;
        let _asking = self.means.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.emitter.emit(Event::StageFailed { stage: step.name.clone(), message: error.message.clone(), hint: error.hint.clone() });
        let remedies = now.step(step).stage.recovery_suggestions(error.kind.into());
        let keeps_checkpoint = self.store.has_scratch(now.inputs.fingerprint());
        let mut retries = Vec::new();
        for remedy in remedies {
            if let Ok(Some(next)) = self.changed(step, now, done, &remedy.set) {
                let keeps_checkpoint = self.resumes(now, &next);
                retries.push((RetryOffer { settings: next.changes.last().cloned(), about: remedy.about, keeps_checkpoint }, next));
            }
        }
        retries.push((RetryOffer { settings: None, about: "same settings", keeps_checkpoint }, now.again()));
        let (offers, mut attempts): (Vec<RetryOffer>, Vec<Option<Attempt>>) =
            retries.into_iter().map(|(offer, attempt)| (offer, Some(attempt))).unzip();
        let mut complaint = None;
        loop {
            let question = RetryQuestion { stage: &step.name, error, offers: &offers, complaint: complaint.as_deref() };
            match ask(&question) {
                RetryAnswer::Leave => return None,
                RetryAnswer::Offer(index) => match attempts.get_mut(index).and_then(Option::take) {
                    Some(attempt) => return Some(attempt),
                    None => complaint = Some("no such choice".to_owned()),
                },
                RetryAnswer::Settings(changes) => match self.changed(step, now, done, &changes) {
                    Ok(Some(next)) => return Some(next),
                    Ok(None) => complaint = Some("these settings change nothing".to_owned()),
                    Err(error) => complaint = Some(error.message),
                },
            }
        }
    }

    /// Whether the user is asked after a failure. Invalid input is not offered for a retry: it must be fixed in the file.
    pub(super) fn is_asked(&self, error: &Error) -> bool {
        self.ask.is_some() && error.kind != ErrorKind::InvalidInput
    }

    /// The next attempt with overridden settings; `None` if they are equal to the current ones.
    fn changed(
        &self,
        step: &Step,
        now: &Attempt,
        done: &BTreeMap<String, Artifact>,
        changes: &SettingOverrides,
    ) -> Result<Option<Attempt>, Error> {
        let before = now.step(step);
        let stage = before.stage.changed(changes)?;
        let settings = stage.settings();
        if settings == before.stage.settings() {
            return Ok(None);
        }
        let step = step.with_stage(stage);
        let check = FreshnessCheck { pipeline: self.pipeline, store: self.store, force: &self.force, remote: None };
        let inputs = check.ingredients(&step, done)?;
        let mut all_changes = now.changes.clone();
        all_changes.push(describe_overrides(changes, &settings));
        Ok(Some(Attempt { number: now.number + 1, inputs, changed: Some(Arc::new(step)), changes: all_changes, wait: None }))
    }

    /// Whether the next attempt resumes from a checkpoint of this one.
    fn resumes(&self, now: &Attempt, next: &Attempt) -> bool {
        let fingerprint = next.inputs.fingerprint();
        fingerprint == now.inputs.fingerprint() && self.store.has_scratch(fingerprint)
    }
}
