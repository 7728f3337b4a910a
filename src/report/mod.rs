//! Reporters: tell the events of a run to people at a terminal and to Trackio.

pub mod terminal;
pub mod trackio;
