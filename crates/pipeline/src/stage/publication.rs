//! The state of a publication, as [`super::Stage::verify`] finds it.

/// The state of what a stage put on a remote service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicationState {
    /// It lies there as it was published, by the same user.
    Unchanged,
    /// It is not known, for this reason: the network may not be used, or the service does not answer.
    NotChecked(String),
    /// It is missing, changed, or in another place: what is wrong, as part of a sentence.
    Changed(String),
}
