//! What people bring and what stages pass on: clips, phrases, tables, texts and files.

pub mod clip_row;
pub mod ingest;
pub mod managed_dir;
pub mod phrase;
pub mod subtitles;
pub mod table;
pub mod template;
pub mod text;
