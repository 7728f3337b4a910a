//! Jobs that a killed run left on the cluster. One that is still needed is continued by the stage that submitted it; the others are named and
//! cancelled, so that no job runs on unsaid.

use super::job_dir::{JobDir, JobTask};
use super::{CancelMode, ClusterBackend, RemoteExecutor};
use crate::cache::fingerprint::Fingerprint;
use crate::cache::store::Store;
use crate::error::Result;
use crate::process::liveness_lock::JOB;

/// A job of an earlier run that has not told its end.
#[derive(Clone, Debug)]
pub struct LeftoverJob {
    /// The fingerprint of the result that it makes.
    pub fingerprint: Fingerprint,
    /// What it does.
    pub task: JobTask,
    /// Its folder.
    pub folder: JobDir,
}

impl LeftoverJob {
    /// All of a project. Whether they are still running, only the cluster knows.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        let jobs = store.scratch_folders(JOB)?.into_iter().map(|(fingerprint, folder)| (fingerprint, JobDir(folder)));
        Ok(jobs.filter_map(|(fingerprint, folder)| Some(Self { fingerprint, task: folder.unended_task()?, folder })).collect())
    }

    /// The job in words, with its id on the cluster.
    pub fn words(&self, site: &str, id: &str) -> String {
        format!("{site} job {id} (stage `{}` of the pipeline `{}`, run {})", self.task.stage, self.task.pipeline, self.task.run)
    }
}

impl<S: ClusterBackend> RemoteExecutor<S> {
    /// Cancels a leftover job that nothing needs any more. Returns what was done, for the user; `None` if it is not running.
    pub fn cancel_leftover(&self, job: &LeftoverJob) -> Option<String> {
        let site = self.0.name();
        let id = match self.living(&job.folder) {
            Ok(None) => {
                // Its folder is of no use any more. Losing it or keeping it costs nothing.
                let _ = job.folder.remove();
                return None;
            }
            Ok(Some(id)) => id,
            Err(error) => return Some(self.unknown(job, &error.message)),
        };
        let words = job.words(site, &id);
        Some(match self.0.cancel(&id, CancelMode::Make) {
            Ok(()) => format!("{words} makes a result that this pipeline no longer needs, and was cancelled"),
            Err(error) => format!("{words} makes a result that this pipeline no longer needs, and cannot be cancelled: {}", error.message),
        })
    }

    /// Says that a leftover job is still running; `None` if it is not.
    pub fn tell_leftover(&self, job: &LeftoverJob) -> Option<String> {
        match self.living(&job.folder) {
            Ok(None) => None,
            Ok(Some(id)) => {
                let words = job.words(self.0.name(), &id);
                Some(format!("{words} is still running; a run of that pipeline continues or cancels it"))
            }
            Err(error) => Some(self.unknown(job, &error.message)),
        }
    }

    fn unknown(&self, job: &LeftoverJob, why: &str) -> String {
        let id = job.folder.id().unwrap_or_else(|| "whose id is not known".to_owned());
        format!("{} may still be running: {why}", job.words(self.0.name(), &id))
    }
}
