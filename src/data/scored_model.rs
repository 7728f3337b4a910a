//! The identity of a model that was scored, so that no card shows the scores of another model.

use crate::error::{Error, Result, ResultExt};
use pipeline::artifact::Artifact;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::Path;
use voxpipe_io::digest::Digest;
use voxtral::lora;
use voxtral::lora::RecordedBase;
use voxtral::model::model_dir;

/// What `scores.json` and `card.json` say of the model they are about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoredModel {
    /// Digest of the result that is the model.
    pub digest: Digest,
    /// Digest of what it computes: of an adapter, or of a full model; none for files that are no model that can be read here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Digest of what the base of an adapter computes; none for a full model, and for a base with random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The adapter that was merged into a full model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeRecord>,
}

/// What `training.json` of a merged model says of the merge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeRecord {
    /// Digest of the adapter.
    pub adapter: String,
    /// Digest of what its base computes.
    pub base: String,
    /// Whether all merged weights are f32, as in the base, so that merging rounded nothing to a narrower type.
    pub exact: bool,
}

/// How two models compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelMatch {
    /// The same weights.
    Same,
    /// One is an adapter, the other the same adapter merged into its base, without rounding.
    Merged,
    /// One is an adapter, the other the same adapter merged into its base, rounded to another type.
    MergedRounded,
    /// Different models.
    Other,
}

impl ScoredModel {
    /// The model of an artifact. `base` is the folder of an adapter's base model, if it is known; otherwise what the adapter records counts.
    pub fn of(model: &Artifact, base: Option<&Path>) -> Result<Self> {
        let digest = model.digest;
        if lora::is_adapter(&model.path) {
            let recorded = || Ok(RecordedBase::read(&model.path)?.weights);
            let base = base.map_or_else(recorded, |base| model_dir::identity(base).map(Some))?;
            return Ok(Self { digest, weights: lora::identity(&model.path).ok(), base, merge: None });
        }
        let weights = model_dir::identity(&model.path).ok();
        let path = model.path.join("training.json");
        let merge = if path.is_file() {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let facts: Value = serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
            // What is recorded of a merge counts only for the weights that it wrote; older files do not say which.
            let replaced = facts["weights"].is_string() && facts["weights"].as_str() != weights.as_deref();
            serde_json::from_value(facts["merge"].clone()).ok().filter(|_| !replaced)
        } else {
            None
        };
        Ok(Self { digest, weights, base: None, merge })
    }

    /// Compares this model with an artifact. Reads the weights only if their digests do not tell.
    pub fn compare(&self, model: &Artifact) -> Result<ModelMatch> {
        if self.digest == model.digest {
            return Ok(ModelMatch::Same);
        }
        Ok(self.compare_with(&Self::of(model, None)?))
    }

    /// Compares two models by their weights.
    pub fn compare_with(&self, other: &Self) -> ModelMatch {
        let merged = |merge: &MergeRecord, adapter: &Self| {
            let same = Some(&merge.adapter) == adapter.weights.as_ref() && Some(&merge.base) == adapter.base.as_ref();
            same.then_some(if merge.exact { ModelMatch::Merged } else { ModelMatch::MergedRounded })
        };
        if self.weights.is_some() && self.weights == other.weights && self.base == other.base {
            return ModelMatch::Same;
        }
        let one = self.merge.as_ref().and_then(|merge| merged(merge, other));
        one.or_else(|| other.merge.as_ref().and_then(|merge| merged(merge, self))).unwrap_or(ModelMatch::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_and_its_merge_are_the_same_model_only_without_rounding() {
        let adapter = ScoredModel { digest: Digest::of(b"1"), weights: Some("a".to_owned()), base: Some("b".to_owned()), merge: None };
        let merge = |base: &str, exact| {
            let merge = MergeRecord { adapter: "a".to_owned(), base: base.to_owned(), exact };
            ScoredModel { digest: Digest::of(b"2"), weights: Some("m".to_owned()), base: None, merge: Some(merge) }
        };
        let elsewhere = ScoredModel { base: Some("c".to_owned()), ..adapter.clone() };
        for (other, expected) in [
            (adapter.clone(), ModelMatch::Same),
            (merge("b", true), ModelMatch::Merged),
            (merge("b", false), ModelMatch::MergedRounded),
            (merge("c", true), ModelMatch::Other),
            (elsewhere, ModelMatch::Other),
        ] {
            assert_eq!((adapter.compare_with(&other), other.compare_with(&adapter)), (expected, expected), "{other:?}");
        }
    }
}
