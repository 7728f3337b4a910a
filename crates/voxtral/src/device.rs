//! Device selection at run time. The only file that depends on which GPU backends are compiled in.

use crate::error::{Error, ErrorKind, Result};
use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
use burn::tensor::DeviceType;
use std::fs;
use std::panic::catch_unwind;
use std::process::Command;

/// A GPU backend. The Cargo feature has the name of its devices: `cuda` for `cuda:0`.
#[derive(Debug)]
struct GpuBackend {
    name: &'static str,
    /// Name of its GPUs, for messages.
    gpu: &'static str,
    /// Whether it is compiled in.
    built: bool,
    /// Whether `auto` selects it. wgpu is excluded: it cannot distinguish a GPU from a CPU that emulates one.
    automatic: bool,
}

/// In the order in which `auto` tries them.
const BACKENDS: [GpuBackend; 3] = [
    GpuBackend { name: "cuda", gpu: "NVIDIA GPU", built: cfg!(feature = "cuda"), automatic: true },
    GpuBackend { name: "rocm", gpu: "AMD GPU", built: cfg!(feature = "rocm"), automatic: true },
    GpuBackend { name: "wgpu", gpu: "GPU with Vulkan, Metal or DirectX", built: cfg!(feature = "wgpu"), automatic: false },
];

/// The valid device names, for messages.
pub const NAMES: &str = "`auto`, `cpu`, `cuda:N`, `rocm:N` or `wgpu:N`";

/// A device with its name and the reason it was selected.
#[derive(Clone, Debug)]
pub struct SelectedDevice {
    /// The device, without automatic differentiation.
    pub device: Device,
    /// `cpu`, `cuda:0`, …
    pub name: String,
    /// Why it was selected, for people.
    pub reason: String,
}

impl SelectedDevice {
    /// Free memory in bytes; `None` if unknown.
    pub fn free_memory(&self) -> Option<u64> {
        match self.name.split_once(':') {
            Some(("cuda", index)) => free_on_gpu(index),
            Some(_) => None,
            None => free_in_system(),
        }
    }
}

/// Memory available to a new process on Linux, limited by the control group of this one.
fn free_in_system() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let group = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let left = group("memory.max").zip(group("memory.current")).map(|(most, now)| most.saturating_sub(now));
    Some(left.unwrap_or(u64::MAX).min(kib << 10))
}

/// Free memory according to `nvidia-smi`; burn has no query for it.
fn free_on_gpu(index: &str) -> Option<u64> {
    let arguments = ["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", index];
    let output = Command::new("nvidia-smi").args(arguments).output().ok().filter(|output| output.status.success())?;
    let mib: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(mib << 20)
}

/// Backend and index that a device name stands for; the index defaults to 0.
fn parse_gpu(name: &str) -> Option<(&'static GpuBackend, usize)> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    Some((BACKENDS.iter().find(|known| known.name == kind)?, usize::from(index.parse::<u16>().ok()?)))
}

/// Whether this is a valid device name, see [`NAMES`].
pub fn is_name(wanted: &str) -> bool {
    matches!(wanted, "auto" | "cpu") || parse_gpu(wanted).is_some()
}

/// Class of devices whose results count as interchangeable: GPUs of one backend share a class, the CPU is another.
pub fn class(wanted: &str) -> &'static str {
    match parse_gpu(wanted) {
        Some((kind, _)) => kind.name,
        None if wanted == "auto" => first_gpu().map_or("cpu", |(kind, _)| kind.name),
        None => "cpu",
    }
}

/// Selects a device by name. `auto` takes the first GPU and falls back to the CPU.
pub fn choose(wanted: &str) -> Result<SelectedDevice> {
    let cpu = |reason: String| SelectedDevice { device: Device::flex(), name: "cpu".to_owned(), reason };
    if wanted == "cpu" {
        return Ok(cpu("requested".to_owned()));
    }
    if wanted == "auto" {
        return Ok(match first_gpu() {
            Some((kind, mut gpus)) => {
                let reason = if gpus.len() == 1 { format!("the {}", kind.gpu) } else { format!("the first of {} GPUs", gpus.len()) };
                SelectedDevice { device: gpus.swap_remove(0), name: format!("{}:0", kind.name), reason }
            }
            None => cpu(none_found()),
        });
    }
    let Some((kind, index)) = parse_gpu(wanted) else {
        return Err(Error::new(format!("unknown device `{wanted}`")).kind(ErrorKind::InvalidInput).hint(format!("use {NAMES}")));
    };
    let found = gpus(kind);
    let count = found.len();
    match found.into_iter().nth(index) {
        Some(device) => Ok(SelectedDevice { device, name: format!("{}:{index}", kind.name), reason: "requested".to_owned() }),
        None => {
            let why = match count {
                _ if !kind.built => format!("this program was built without the `{}` feature", kind.name),
                0 => format!("no {} or no driver for it was found", kind.gpu),
                _ => format!("the GPUs found are {0}:0 to {0}:{1}", kind.name, count - 1),
            };
            Err(Error::new(format!("device `{wanted}` is not available: {why}")).environment().hint("use `device = \"auto\"` or `\"cpu\"`"))
        }
    }
}

/// Why a device that is named cannot be used here; `None` for `auto` and the CPU.
pub fn missing(wanted: &str) -> Option<Error> {
    parse_gpu(wanted).and_then(|_| choose(wanted).err())
}

/// All devices of this machine, the CPU first.
pub fn all() -> Vec<SelectedDevice> {
    let mut found = vec![SelectedDevice { device: Device::flex(), name: "cpu".to_owned(), reason: "always available".to_owned() }];
    for kind in &BACKENDS {
        for (index, device) in gpus(kind).into_iter().enumerate() {
            found.push(SelectedDevice { device, name: format!("{}:{index}", kind.name), reason: kind.gpu.to_owned() });
        }
    }
    found
}

/// Why `auto` selected the CPU.
pub fn none_found() -> String {
    let kinds = |built: bool| BACKENDS.iter().filter(move |kind| kind.automatic && kind.built == built);
    let missing: Vec<String> = kinds(false).map(|kind| format!("`{}`", kind.name)).collect();
    match kinds(true).map(|kind| kind.gpu).collect::<Vec<_>>().join(" or ") {
        built if built.is_empty() => format!("this program was built without {}", missing.join(" and ")),
        built => format!("no {built} with a driver was found"),
    }
}

fn first_gpu() -> Option<(&'static GpuBackend, Vec<Device>)> {
    BACKENDS.iter().filter(|kind| kind.automatic).map(|kind| (kind, gpus(kind))).find(|(_, gpus)| !gpus.is_empty())
}

/// The GPUs of a backend; none if a broken driver makes the backend panic.
fn gpus(backend: &GpuBackend) -> Vec<Device> {
    if !backend.built {
        return Vec::new();
    }
    let list = || match backend.name {
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
