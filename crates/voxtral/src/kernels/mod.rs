//! Compute kernels: GEMM, GEMV, FlashAttention, norms, activations, RoPE, cross-entropy and quantized products.
//!
//! Except for [`ops`], these modules know nothing of tensors, devices or models: they take slices and return slices or vectors. Each kernel
//! is written once and compiled for several instruction sets, in plain Rust ([`cpu`]) or, where register use matters, with explicit SIMD
//! vectors of any width (`simd`, `microkernel`). The instruction set is selected at run time. [`ops`] exposes the kernels to the model as
//! differentiable tensor operations, and falls back to the backend's own operations where no kernel applies.
//!
//! Three rules hold everywhere:
//!
//! - Results do not depend on the number of threads: work is split only where this does not change the order of any sum.
//! - No buffer of size queries × keys is ever allocated.
//! - Kernels may assume that their slices have matching lengths, because [`ops`] has checked them. They still assert it, because unsafe
//!   code below relies on lengths.

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
