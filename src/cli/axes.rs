//! Axes of a sweep that change nothing: every value would give the same result.

use pipeline::diagnostics::Diagnostic;
use pipeline::graph::{Pipeline, Step};
use pipeline::manifest::include::ManifestSources;
use pipeline::manifest::matrix::{SweepCombination, SweepMatrix};
use std::collections::BTreeMap;
use voxpipe_io::digest::Digest;

/// A combination with everything that a run of it depends on.
pub(super) struct ComparedCombination {
    choice: Vec<usize>,
    steps: Digest,
}

impl ComparedCombination {
    /// `part` is the part of the pipeline that the metric depends on.
    pub(super) fn new(combination: &SweepCombination, part: &Pipeline) -> Self {
        // Time limits, resources, retries, gates and the pipeline's name change no result, as in a fingerprint.
        let made_of = |step: &Step| {
            let Step { name, stage, from, after, seed, .. } = step;
            format!("{name} {} {:?} {from:?} {after:?} {seed}", stage.kind(), stage.identity())
        };
        let steps: Vec<String> = part.steps.iter().map(made_of).collect();
        Self { choice: combination.0.clone(), steps: Digest::of(steps.join("\n").as_bytes()) }
    }
}

/// An error for each axis whose values make no difference in any of the combinations.
pub(super) fn idle_axes(matrix: &SweepMatrix, combinations: &[ComparedCombination], sources: &ManifestSources) -> Vec<Diagnostic> {
    let is_idle = |axis: usize| {
        let mut groups: BTreeMap<Vec<usize>, Vec<Digest>> = BTreeMap::new();
        for ComparedCombination { choice, steps } in combinations {
            let mut others = choice.clone();
            others.remove(axis);
            groups.entry(others).or_default().push(*steps);
        }
        groups.values().any(|group| group.len() > 1) && groups.values().all(|group| group.iter().all(|steps| steps == &group[0]))
    };
    let idle = matrix.axes.iter().enumerate().filter(|(axis, _)| is_idle(*axis));
    let complaint = |(_, axis): (usize, &pipeline::manifest::matrix::MatrixAxis)| {
        let (message, hint) = match &matrix.best {
            Some(best) => (
                format!("the axis `{}` changes nothing that `{}.{}` depends on", axis.key, best.stage, best.metric),
                format!("use the value in `{}` or a stage before it, or remove the axis", best.stage),
            ),
            None => (format!("the axis `{}` changes no stage", axis.key), "use the value in a stage, or remove the axis".to_owned()),
        };
        let hint = if changes_no_result(&axis.key) { "it never changes a result: remove the axis".to_owned() } else { hint };
        let mut diagnostic = Diagnostic::error(axis.place.clone(), message).hint(hint);
        sources.place(&mut diagnostic);
        diagnostic
    };
    idle.map(complaint).collect()
}

/// Whether a setting is one that no result depends on.
fn changes_no_result(key: &str) -> bool {
    let settings = ["timeout", "stall_timeout", "resources", "retry", "require"];
    key == "pipeline.name" || !key.contains(".with.") && key.starts_with("stage.") && key.split('.').any(|part| settings.contains(&part))
}
