//! One test binary: every file here is a module of it.

mod cache;
mod commands;
mod events;
mod run;
mod stages;
mod support;
mod tidy;
