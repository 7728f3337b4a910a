#![doc = "voxpipe: from a person's recordings to a fine-tuned, evaluated, published Voxtral speech recogniser."]

pub mod artifact;
pub mod audio;
pub mod device;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod folder;
pub mod graph;
pub mod intake;
pub mod jsonl;
pub mod manifest;
pub mod overrides;
pub mod phrase;
pub mod pipeline;
pub mod record;
pub mod schema;
pub mod scoring;
pub mod settings;
pub mod stage;
pub mod substitute;
pub mod table;
pub mod template;
pub mod text;
pub mod training;
pub mod voxtral;
