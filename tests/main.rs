//! Every integration test, in one binary: burn is large, and linking it once is enough.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod adapters;
mod audio;
mod browser;
mod cache;
mod checkpoints;
mod commands;
mod compare_runs;
mod decoding;
mod doctor_and_bench;
mod end_to_end;
mod error_rates;
mod events;
mod faults;
mod fuzzing;
mod gc_and_archive;
mod hub;
mod hub_server;
mod import_stage;
mod json_docs;
mod kernels;
mod manifest_authoring;
mod manifests;
mod model_cards;
mod model_parity;
mod nano_model;
mod phrases;
mod publish;
mod quantization;
mod realtime;
mod runner_api;
mod scheduler;
mod slurm;
mod stages;
mod studio;
mod support;
mod sweep;
mod tidy;
mod tokenizer;
mod tokenizer_corpus;
mod trackio;
mod training;
mod training_parity;
mod transcribe_command;
mod weights;
