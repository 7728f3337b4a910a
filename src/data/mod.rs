//! Data formats and helpers: clips, sentences to read, tables, audio ingestion, subtitles, templates, managed folders.

pub mod bad_rows;
pub mod clip_items;
pub mod clip_row;
pub mod columns;
pub mod cues;
pub mod dataset_card;
pub mod file_index;
pub mod ingest;
pub mod language;
pub mod managed_dir;
pub mod one_text;
pub mod phrase;
pub mod scored_model;
pub mod split_name;
pub mod subtitles;
pub mod table;
pub mod template;
pub mod text;
pub mod time_bounds;
pub mod trained_on;
pub mod transcript;
