//! Which device computes, chosen at run time. The only file that asks whether CUDA was compiled in.

use crate::error::{Error, Exit, Result};
use burn::tensor::Device;
use std::fs;
use std::process::Command;

/// A device with its name and why it was taken.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The device itself, without automatic differentiation.
    pub device: Device,
    /// `cpu`, `cuda:0`, …
    pub name: String,
    /// One clause for people.
    pub reason: String,
}

impl Chosen {
    /// Bytes of memory that are free on it, as far as the system tells.
    pub fn free_memory(&self) -> Option<u64> {
        match self.name.strip_prefix("cuda:") {
            Some(index) => free_on_card(index),
            None => free_in_system(),
        }
    }
}

/// What Linux says a new program could use, and no more than this one's control group may.
fn free_in_system() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let group = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let left = group("memory.max").zip(group("memory.current")).map(|(most, now)| most.saturating_sub(now));
    Some(left.unwrap_or(u64::MAX).min(kib << 10))
}

/// What the driver's own program says of a card; burn has no question for it.
fn free_on_card(index: &str) -> Option<u64> {
    let arguments = ["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", index];
    let said = Command::new("nvidia-smi").args(arguments).output().ok().filter(|said| said.status.success())?;
    let mib: u64 = String::from_utf8(said.stdout).ok()?.trim().parse().ok()?;
    Some(mib << 20)
}

/// Whether a setting names a device: `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn is_name(wanted: &str) -> bool {
    matches!(wanted, "auto" | "cpu" | "cuda") || wanted.strip_prefix("cuda:").is_some_and(|index| index.parse::<u16>().is_ok())
}

/// What of a device shows in the bytes of a result: results of one card count for another, those of the processor do not.
pub fn class(wanted: &str) -> &'static str {
    match wanted {
        "cpu" => "cpu",
        "auto" if cards() == 0 => "cpu",
        _ => "cuda",
    }
}

/// The device a setting asks for; `auto` takes the first card and falls back to the processor.
pub fn choose(wanted: &str) -> Result<Chosen> {
    let cards = cards();
    let cpu = |reason: String| Chosen { device: Device::flex(), name: "cpu".to_owned(), reason };
    match wanted {
        "cpu" => Ok(cpu("asked for".to_owned())),
        "auto" => match card(0, cards) {
            Some(device) => Ok(Chosen { device, name: "cuda:0".to_owned(), reason: format!("the first of {cards} cards") }),
            None => Ok(cpu(missing().to_owned())),
        },
        _ => {
            let index = wanted.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or("0")).and_then(|index| index.parse().ok());
            let index: usize =
                index.ok_or_else(|| Error::new(format!("no device is called `{wanted}`")).advice("write `auto`, `cpu` or `cuda:0`"))?;
            match card(index, cards) {
                Some(device) => Ok(Chosen { device, name: format!("cuda:{index}"), reason: "asked for".to_owned() }),
                None => Err(Error::new(format!("device `{wanted}` cannot be used: {}", missing()))
                    .exit(Exit::Environment)
                    .advice("write `device = \"auto\"` or `\"cpu\"`")),
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn cards() -> usize {
    Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().len()
}

#[cfg(feature = "cuda")]
fn card(index: usize, cards: usize) -> Option<Device> {
    (index < cards).then(|| Device::cuda(index))
}

#[cfg(feature = "cuda")]
fn missing() -> &'static str {
    "no NVIDIA card or driver was found"
}

#[cfg(not(feature = "cuda"))]
fn cards() -> usize {
    0
}

#[cfg(not(feature = "cuda"))]
fn card(_index: usize, _cards: usize) -> Option<Device> {
    None
}

#[cfg(not(feature = "cuda"))]
fn missing() -> &'static str {
    "this program was built without the `cuda` feature"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, known) in
            [("auto", true), ("cpu", true), ("cuda", true), ("cuda:3", true), ("cuda:x", false), ("gpu", false), ("", false)]
        {
            assert_eq!(is_name(name), known, "{name}");
        }
        assert_eq!(choose("cpu").unwrap().name, "cpu");
        assert!(choose("gpu").unwrap_err().message.contains("`gpu`"));
    }
}
