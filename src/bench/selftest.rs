//! Numerical self-test of a device against the CPU in f32: logits of a small model, and losses of 20 training steps.

use super::steps::{Case, losses, scores};
use super::{BenchSize, Benchmark};
use crate::error::{Result, panic_message};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use voxtral::device;
use voxtral::device::SelectedDevice;
use voxtral::weights::precision::Precision;

/// One comparison of the device with the CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfTestResult {
    /// Name of the comparison.
    pub what: String,
    /// Largest absolute difference, relative to the largest absolute value. None if the device failed.
    pub difference: Option<f64>,
    /// Tolerance for the difference.
    pub allowed: f64,
    /// Time on the device in seconds.
    pub seconds: f64,
    /// Error of the device, if it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl SelfTestResult {
    /// Whether the difference is within the tolerance.
    pub fn passed(&self) -> bool {
        self.difference.is_some_and(|difference| difference <= self.allowed)
    }
}

/// Number of training steps compared.
const STEPS: u64 = 20;

/// Runs all comparisons of a device with the CPU in f32.
pub fn agree(device: &SelectedDevice) -> Result<Vec<SelfTestResult>> {
    let cpu = device::choose("cpu")?;
    let bench = |device, precision| Benchmark {
        device,
        config: BenchSize::Tiny.config(),
        model: None,
        precision,
        batches: vec![2],
        patience: Duration::ZERO,
    };
    let mut found = Vec::new();
    let mut compare = |what: String, allowed: f64, run: &dyn Fn(&Benchmark) -> Result<Vec<f64>>, precision| -> Result<()> {
        let expected = run(&bench(&cpu, Precision::F32))?;
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&bench(device, precision))));
        let seconds = start.elapsed().as_secs_f64();
        let (difference, note) = match outcome {
            Ok(Ok(numbers)) => (Some(apart(&numbers, &expected)), String::new()),
            Ok(Err(error)) => (None, error.message),
            Err(panic) => (None, panic_message(panic.as_ref()).to_owned()),
        };
        found.push(SelfTestResult { what, difference, allowed, seconds, note });
        Ok(())
    };
    for (precision, allowed) in [(Precision::F32, 1e-3), (Precision::Bf16, 2e-2)] {
        compare(format!("scores, {precision}"), allowed, &scores, precision)?;
    }
    for (name, case) in [("LoRA", Case::Everywhere), ("full", Case::Full)] {
        for (precision, allowed) in [(Precision::F32, 1e-3), (Precision::Bf16, 2e-2)] {
            compare(format!("{STEPS} steps, {name}, {precision}"), allowed, &|bench| losses(bench, case, STEPS), precision)?;
        }
    }
    Ok(found)
}

/// Largest difference relative to the largest expected value; infinite if a number is NaN or the lengths differ.
fn apart(found: &[f64], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
    if found.len() != expected.len() || scale == 0.0 {
        return f64::INFINITY;
    }
    let each = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs() / scale);
    each.fold(0.0, |most, difference| if difference.is_nan() { f64::INFINITY } else { most.max(difference) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shares_of_the_largest_number() {
        for (found, expected, apart_by) in [
            (&[1.0, 2.0][..], &[1.0, 4.0][..], 0.5),
            (&[1.0], &[1.0], 0.0),
            (&[1.0, f64::NAN], &[1.0, 4.0], f64::INFINITY),
            (&[1.0], &[1.0, 4.0], f64::INFINITY),
        ] {
            assert_eq!(apart(found, expected), apart_by, "{found:?} and {expected:?}");
        }
    }

    #[test]
    fn the_processor_agrees_with_itself() {
        let found = agree(&device::choose("cpu").unwrap()).unwrap();
        assert!(found.iter().all(SelfTestResult::passed), "{found:?}");
        // In f32 the computation is identical, in bf16 it is not.
        assert!(found.iter().all(|row| (row.difference == Some(0.0)) == row.what.contains("f32")), "{found:?}");
    }
}
