#![doc = "voxpipe: from a person's recordings to a fine-tuned, evaluated, published Voxtral speech recogniser."]

pub mod artifact;
pub mod cli;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod fingerprint;
pub mod jsonl;
pub mod manifest;
pub mod overrides;
pub mod phrase;
pub mod pipeline;
pub mod plan;
pub mod record;
pub mod report;
pub mod run;
pub mod schema;
pub mod stage;
pub mod stat_index;
pub mod store;
pub mod substitute;
pub mod tree;
pub mod why;
