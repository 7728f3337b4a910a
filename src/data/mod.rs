//! Data formats and helpers: clips, sentences to read, tables, audio ingestion, subtitles, templates, managed folders.

pub mod clip_row;
pub mod cues;
pub mod ingest;
pub mod managed_dir;
pub mod phrase;
pub mod scored_model;
pub mod subtitles;
pub mod table;
pub mod template;
pub mod text;
pub mod trained_on;
