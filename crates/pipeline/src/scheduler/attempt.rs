//! One try at a step, and what follows a failure: the same again, other settings as the file declares them, or as a person chooses.

use super::PipelineRun;
use crate::artifact::Artifact;
use crate::cache::fingerprint::FingerprintInputs;
use crate::error::{Error, ErrorKind};
use crate::events::Event;
use crate::executor::words;
use crate::graph::Step;
use crate::plan::FreshnessCheck;
use crate::stage::{SettingOverrides, told};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A try at a step.
#[derive(Clone)]
pub(super) struct Attempt {
    /// From 1.
    pub(super) number: u32,
    /// What goes in, with the settings of this try.
    pub(super) ingredients: FingerprintInputs,
    /// The step with other settings than the file's.
    changed: Option<Arc<Step>>,
    /// Those settings in words, one change after the other.
    pub(super) changes: Vec<String>,
    /// How long to wait before it.
    pub(super) wait: Option<Duration>,
}

/// What a person is asked after a failure.
#[derive(Debug)]
pub struct RetryQuestion<'a> {
    /// The stage that failed.
    pub stage: &'a str,
    /// How.
    pub error: &'a Error,
    /// What can be done, the most promising first.
    pub offers: &'a [RetryOffer],
    /// What is wrong with the settings just written, if any were.
    pub complaint: Option<&'a str>,
}

/// A way to go on.
#[derive(Debug)]
pub struct RetryOffer {
    /// `batch_size = 1, gradient_accumulation = 8`, or nothing for the settings as they are.
    pub settings: Option<String>,
    /// What that does, half a sentence.
    pub about: &'static str,
    /// Whether it goes on from a checkpoint; otherwise it starts over.
    pub keeps_checkpoint: bool,
}

/// What a person answers.
#[derive(Debug)]
pub enum RetryAnswer {
    /// The offer at this place.
    Offer(usize),
    /// Settings of their own.
    Settings(SettingOverrides),
    /// To leave it.
    Leave,
}

impl Attempt {
    pub(super) fn first(ingredients: &FingerprintInputs) -> Self {
        Self { number: 1, ingredients: ingredients.clone(), changed: None, changes: Vec::new(), wait: None }
    }

    /// The step with the settings of this try.
    pub(super) fn step<'a>(&'a self, declared: &'a Step) -> &'a Step {
        self.changed.as_deref().unwrap_or(declared)
    }

    fn again(&self) -> Self {
        Self { number: self.number + 1, wait: None, ..self.clone() }
    }
}

impl PipelineRun<'_> {
    /// What is tried after a failure, if anything is.
    pub(super) fn next(&self, step: &Step, now: &Attempt, done: &BTreeMap<String, Artifact>, error: &Error) -> Option<Attempt> {
        let tries = step.retry.times() + 1;
        if now.number < tries {
            let failed = format!("try {} of {tries} failed: {}", now.number, error.message);
            let wait = step.retry.wait(now.number);
            let when = wait.map_or_else(String::new, |wait| format!(" in {}", words(wait)));
            for changes in step.retry.recoveries(error) {
                if let Ok(Some(next)) = self.changed(step, now, done, changes) {
                    let start = if self.goes_on(now, &next) { "going on from its checkpoint" } else { "starting over" };
                    let settings = next.changes.last().cloned().unwrap_or_default();
                    self.warn(step, format!("{failed}; trying again{when} with {settings}, {start}"));
                    return Some(Attempt { wait, ..next });
                }
            }
            if step.retry.repeats(error) {
                self.warn(step, format!("{failed}; trying again{when}"));
                return Some(Attempt { wait, ..now.again() });
            }
        }
        self.asked(step, now, done, error)
    }

    /// What a person chooses, if one is there to ask.
    fn asked(&self, step: &Step, now: &Attempt, done: &BTreeMap<String, Artifact>, error: &Error) -> Option<Attempt> {
        let ask = self.ask.filter(|_| self.is_asked(error))?;
        let _asking = self.means.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.emitter.emit(Event::StageFailed { stage: step.name.clone(), message: error.message.clone(), hint: error.hint.clone() });
        let remedies = now.step(step).stage.remedies(error.kind.into());
        let keeps_checkpoint = self.store.has_scratch(now.ingredients.fingerprint());
        let mut ways = Vec::new();
        for remedy in remedies {
            if let Ok(Some(next)) = self.changed(step, now, done, &remedy.set) {
                let keeps_checkpoint = self.goes_on(now, &next);
                ways.push((RetryOffer { settings: next.changes.last().cloned(), about: remedy.about, keeps_checkpoint }, next));
            }
        }
        ways.push((RetryOffer { settings: None, about: "as it is", keeps_checkpoint }, now.again()));
        let (offers, mut ways): (Vec<RetryOffer>, Vec<Option<Attempt>>) = ways.into_iter().map(|(offer, way)| (offer, Some(way))).unzip();
        let mut complaint = None;
        loop {
            let question = RetryQuestion { stage: &step.name, error, offers: &offers, complaint: complaint.as_deref() };
            match ask(&question) {
                RetryAnswer::Leave => return None,
                RetryAnswer::Offer(place) => match ways.get_mut(place).and_then(Option::take) {
                    Some(way) => return Some(way),
                    None => complaint = Some("there is no such choice".to_owned()),
                },
                RetryAnswer::Settings(changes) => match self.changed(step, now, done, &changes) {
                    Ok(Some(next)) => return Some(next),
                    Ok(None) => complaint = Some("that changes nothing".to_owned()),
                    Err(error) => complaint = Some(error.message),
                },
            }
        }
    }

    /// Whether a person is asked after a failure; what is wrong in the file has to be mended there.
    pub(super) fn is_asked(&self, error: &Error) -> bool {
        self.ask.is_some() && error.kind != ErrorKind::InvalidInput
    }

    /// The next try with other settings; nothing if they are what they were.
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
        let judge = FreshnessCheck { pipeline: self.pipeline, store: self.store, force: &self.force };
        let ingredients = judge.ingredients(&step, done)?;
        let mut told_so_far = now.changes.clone();
        told_so_far.push(told(changes, &settings));
        Ok(Some(Attempt { number: now.number + 1, ingredients, changed: Some(Arc::new(step)), changes: told_so_far, wait: None }))
    }

    /// Whether the next try goes on where this one ended.
    fn goes_on(&self, now: &Attempt, next: &Attempt) -> bool {
        let fingerprint = next.ingredients.fingerprint();
        fingerprint == now.ingredients.fingerprint() && self.store.has_scratch(fingerprint)
    }
}
