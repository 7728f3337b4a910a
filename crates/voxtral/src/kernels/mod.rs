//! The arithmetic that takes the time, on plain slices of numbers, and as operations on tensors.
//!
//! The files besides [`ops`] know nothing of tensors, devices or models: slices in, slices or vectors out. They are written once and
//! compiled for several kinds of processor, in ordinary Rust ([`cpu`]) or, where every register counts, in vectors of any width (`lanes`,
//! `tile`); which one runs is found out at run time. [`ops`] offers them to the model as differentiable operations on tensors, with
//! bodies made of a backend's own operations where there is no kernel of ours.
//!
//! Three rules hold everywhere. A result does not depend on the number of threads: what is split is split at places that do not change
//! the order of any sum. Nothing as large as queries × keys is ever in memory. And a kernel may assume that its slices fit together,
//! because [`ops`] has looked; it asserts it all the same, since some of what lies below trusts lengths.

pub mod activation;
pub mod attention;
pub mod bf16_gemm;
pub mod buffer;
pub mod cpu;
pub mod cross_entropy;
pub mod gemm;
pub mod gemv;
mod microkernel;
pub mod norm;
pub mod ops;
mod packed_gemm;
mod parallel;
pub mod quantized;
pub mod rope;
mod simd;
pub mod softmax;
