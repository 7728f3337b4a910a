//! Verification of publications: whether what a stage put on a remote service still lies there.
//!
//! Nothing local tells that a repository was deleted, so such a stage is never fresh unseen. A plan opens no connection and says "not checked";
//! a run asks the service, once for each stage, before it takes the result as fresh.

use crate::artifact::Artifact;
use crate::cache::fingerprint::Fingerprint;
use crate::graph::Step;
use crate::stage::PublicationState;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

/// Asks remote services whether publications are as they were made, each once.
#[derive(Debug, Default)]
pub struct RemoteChecks {
    stop: Arc<AtomicBool>,
    known: Mutex<BTreeMap<(String, Fingerprint), PublicationState>>,
}

impl RemoteChecks {
    /// Checks that end early when `stop` is set.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, known: Mutex::default() }
    }

    /// The state of what a step published, as `result` tells.
    pub(super) fn ask(&self, step: &Step, fingerprint: Fingerprint, result: &Artifact) -> PublicationState {
        let key = (step.name.clone(), fingerprint);
        let known = |checks: &Self| checks.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        // Not locked while the service is asked: combinations of a sweep run side by side.
        known(self).unwrap_or_else(|| {
            let state = step.stage.verify(result, true, &self.stop);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), state.clone());
            state
        })
    }
}
