//! Kinds of stages: one file each, one line each in [`STAGES`].

mod base_model;
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

/// Every kind of work this program knows: one line each, `&Of::<kind::Kind>::NEW`.
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

/// `owner/name` as the Hub allows it.
fn is_hub_id(id: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    matches!(id.split('/').collect::<Vec<_>>().as_slice(), [owner, name] if part(owner) && part(name))
}

/// An identifier of a licence as the Hub writes it.
fn is_license(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
}
