//! Which device computes, chosen at run time. The only file that asks which kinds of cards were compiled in.

use crate::error::{Error, ErrorKind, Result};
use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
use burn::tensor::DeviceType;
use std::fs;
use std::panic::catch_unwind;
use std::process::Command;

/// A kind of card. The feature of this program that uses it is called like its devices: `cuda`, with `cuda:0`.
#[derive(Debug)]
struct GpuBackend {
    name: &'static str,
    /// What a person calls such a card.
    card: &'static str,
    /// Whether this program was built with it.
    built: bool,
    /// Whether `auto` takes such a card. Through wgpu, a processor that acts as a card cannot be told from a card.
    automatic: bool,
}

/// In the order in which `auto` looks for them.
const KINDS: [GpuBackend; 3] = [
    GpuBackend { name: "cuda", card: "NVIDIA card", built: cfg!(feature = "cuda"), automatic: true },
    GpuBackend { name: "rocm", card: "AMD card", built: cfg!(feature = "rocm"), automatic: true },
    GpuBackend { name: "wgpu", card: "card with Vulkan, Metal or DirectX", built: cfg!(feature = "wgpu"), automatic: false },
];

/// How a device is named, for messages.
pub const NAMES: &str = "`auto`, `cpu`, `cuda:N`, `rocm:N` or `wgpu:N`";

/// A device with its name and why it was taken.
#[derive(Clone, Debug)]
pub struct SelectedDevice {
    /// The device itself, without automatic differentiation.
    pub device: Device,
    /// `cpu`, `cuda:0`, …
    pub name: String,
    /// One clause for people.
    pub reason: String,
}

impl SelectedDevice {
    /// Bytes of memory that are free on it, as far as the system tells.
    pub fn free_memory(&self) -> Option<u64> {
        match self.name.split_once(':') {
            Some(("cuda", index)) => free_on_card(index),
            Some(_) => None,
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

/// The kind a name begins with, and the card's number: 0 if it says none.
fn card_named(name: &str) -> Option<(&'static GpuBackend, usize)> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    Some((KINDS.iter().find(|known| known.name == kind)?, usize::from(index.parse::<u16>().ok()?)))
}

/// Whether a setting names a device, see [`NAMES`].
pub fn is_name(wanted: &str) -> bool {
    matches!(wanted, "auto" | "cpu") || card_named(wanted).is_some()
}

/// What of a device shows in the bytes of a result: results of one card count for another of its kind, those of the processor do not.
pub fn class(wanted: &str) -> &'static str {
    match card_named(wanted) {
        Some((kind, _)) => kind.name,
        None if wanted == "auto" => first_card().map_or("cpu", |(kind, _)| kind.name),
        None => "cpu",
    }
}

/// The device a setting asks for; `auto` takes the first card and falls back to the processor.
pub fn choose(wanted: &str) -> Result<SelectedDevice> {
    let cpu = |reason: String| SelectedDevice { device: Device::flex(), name: "cpu".to_owned(), reason };
    if wanted == "cpu" {
        return Ok(cpu("asked for".to_owned()));
    }
    if wanted == "auto" {
        return Ok(match first_card() {
            Some((kind, mut cards)) => {
                let reason = if cards.len() == 1 { format!("the {}", kind.card) } else { format!("the first of {} cards", cards.len()) };
                SelectedDevice { device: cards.swap_remove(0), name: format!("{}:0", kind.name), reason }
            }
            None => cpu(none_found()),
        });
    }
    let Some((kind, index)) = card_named(wanted) else {
        return Err(Error::new(format!("no device is called `{wanted}`")).kind(ErrorKind::InvalidInput).hint(format!("write {NAMES}")));
    };
    let found = cards(kind);
    let count = found.len();
    match found.into_iter().nth(index) {
        Some(device) => Ok(SelectedDevice { device, name: format!("{}:{index}", kind.name), reason: "asked for".to_owned() }),
        None => {
            let why = match count {
                _ if !kind.built => format!("this program was built without the `{}` feature", kind.name),
                0 => format!("no {} or no driver for it was found", kind.card),
                _ => format!("the cards found are {0}:0 to {0}:{1}", kind.name, count - 1),
            };
            Err(Error::new(format!("device `{wanted}` cannot be used: {why}")).environment().hint("write `device = \"auto\"` or `\"cpu\"`"))
        }
    }
}

/// Every device of this machine that can be asked for by name: the processor first.
pub fn all() -> Vec<SelectedDevice> {
    let mut found = vec![SelectedDevice { device: Device::flex(), name: "cpu".to_owned(), reason: "always there".to_owned() }];
    for kind in &KINDS {
        for (index, device) in cards(kind).into_iter().enumerate() {
            found.push(SelectedDevice { device, name: format!("{}:{index}", kind.name), reason: kind.card.to_owned() });
        }
    }
    found
}

/// Why the processor computes where `auto` was asked for.
pub fn none_found() -> String {
    let kinds = |built: bool| KINDS.iter().filter(move |kind| kind.automatic && kind.built == built);
    let missing: Vec<String> = kinds(false).map(|kind| format!("`{}`", kind.name)).collect();
    match kinds(true).map(|kind| kind.card).collect::<Vec<_>>().join(" or ") {
        built if built.is_empty() => format!("this program was built without {}", missing.join(" and ")),
        built => format!("no {built} with a driver was found"),
    }
}

fn first_card() -> Option<(&'static GpuBackend, Vec<Device>)> {
    KINDS.iter().filter(|kind| kind.automatic).map(|kind| (kind, cards(kind))).find(|(_, cards)| !cards.is_empty())
}

/// The cards of a kind. A driver that is there but broken makes some backends panic: then there is none.
fn cards(kind: &GpuBackend) -> Vec<Device> {
    if !kind.built {
        return Vec::new();
    }
    let list = || match kind.name {
        #[cfg(feature = "cuda")]
        "cuda" => Device::enumerate(DeviceType::Cuda).into_vec(),
        #[cfg(feature = "rocm")]
        "rocm" => Device::enumerate(DeviceType::Rocm).into_vec(),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::enumerate(DeviceType::Wgpu).into_vec(),
        _ => Vec::new(),
    };
    catch_unwind(list).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, known) in [
            ("auto", true),
            ("cpu", true),
            ("cuda", true),
            ("cuda:3", true),
            ("rocm:0", true),
            ("wgpu", true),
            ("cuda:x", false),
            ("cuda:", false),
            ("gpu", false),
            ("", false),
        ] {
            assert_eq!(is_name(name), known, "{name}");
        }
        assert_eq!(choose("cpu").unwrap().name, "cpu");
        assert!(choose("gpu").unwrap_err().message.contains("`gpu`"));
    }
}
