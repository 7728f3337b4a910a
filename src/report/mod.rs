//! Reporters of run events: the terminal and Trackio (experiment tracking).

pub mod terminal;
pub mod trackio;
