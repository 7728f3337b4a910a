//! One test binary: every file here is a module of it.

mod cache;
mod stages;
mod support;
