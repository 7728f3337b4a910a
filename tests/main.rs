//! Every integration test, in one binary: burn is large, and linking it once is enough.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod adapters;
mod audio;
mod browser;
mod cache;
mod checkpoints;
mod commands;
mod decoding;
mod describing;
mod events;
mod faults;
mod fuzzing;
mod hub;
mod importing;
mod keeping;
mod kernels;
mod knowing;
mod machine;
mod manifests;
mod nano;
mod peers;
mod phrases;
mod publishing;
mod quantised;
mod realtime;
mod releasing;
mod road;
mod run;
mod scheduling;
mod scores;
mod served;
mod shapes;
mod slurm;
mod stages;
mod strings;
mod studio;
mod support;
mod sweep;
mod tidy;
mod tokens;
mod tracking;
mod training;
mod transcribing;
mod voxtral;
mod weights;
