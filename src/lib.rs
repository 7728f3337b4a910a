#![doc = "voxpipe: from a person's recordings to a fine-tuned, evaluated, published Voxtral speech recogniser."]

pub mod artifact;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod jsonl;
pub mod manifest;
pub mod overrides;
pub mod phrase;
pub mod pipeline;
pub mod record;
pub mod schema;
pub mod stage;
pub mod substitute;
