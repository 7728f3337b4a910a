//! Stage kinds: one module each, registered in [`STAGES`].

pub mod base_model;
pub mod card;
pub mod command;
pub mod context;
pub mod dataset;
pub mod demo;
pub mod evaluate;
mod feature_cache;
mod hub_publish;
pub mod import;
pub mod merge;
pub mod phrases;
pub mod publish;
pub mod recordings;
pub mod train;
pub mod uploads;

use pipeline::stage::{FactoryOf, StageFactory};

/// All stage kinds of this program, one line each: `&FactoryOf::<kind::Kind>::NEW`.
#[rustfmt::skip]
pub static STAGES: &[&dyn StageFactory] = &[
    &FactoryOf::<phrases::Phrases>::NEW,
    &FactoryOf::<recordings::Recordings>::NEW,
    &FactoryOf::<uploads::Uploads>::NEW,
    &FactoryOf::<import::Import>::NEW,
    &FactoryOf::<dataset::Dataset>::NEW,
    &FactoryOf::<train::Train>::NEW,
    &FactoryOf::<merge::Merge>::NEW,
    &FactoryOf::<evaluate::Evaluate>::NEW,
    &FactoryOf::<card::Card>::NEW,
    &FactoryOf::<publish::Publish>::NEW,
    &FactoryOf::<demo::Demo>::NEW,
    &FactoryOf::<command::Command>::NEW,
];

/// Whether a text is a valid Hub repository id, `owner/name`.
fn is_hub_id(id: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    matches!(id.split('/').collect::<Vec<_>>().as_slice(), [owner, name] if part(owner) && part(name))
}

/// Whether a text has the form of a Hub license identifier, such as `cc-by-4.0`.
fn is_license(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
}
