//! The GPUs of this machine that the scheduler assigns to stages.

use std::fs;

/// A GPU that can be assigned to a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The index among the GPUs visible to this process, from 0.
    pub index: usize,
    /// The identifier for CUDA_VISIBLE_DEVICES.
    pub id: String,
}

/// The NVIDIA GPUs visible to this process, found without initializing the driver.
pub fn visible_gpus() -> Vec<Gpu> {
    let numbered = |ids: Vec<String>| ids.into_iter().enumerate().map(|(index, id)| Gpu { index, id }).collect();
    if let Ok(visible) = std::env::var(VISIBLE) {
        // Like CUDA, ignore everything after the first invalid entry.
        let fine = |id: &&str| !id.is_empty() && !id.starts_with("-1") && *id != "NoDevFiles";
        return numbered(visible.split(',').map(str::trim).take_while(fine).map(str::to_owned).collect());
    }
    let files = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = files.filter_map(|file| file.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok()).collect();
    numbers.sort_unstable();
    // CUDA numbers the GPUs consecutively, whatever the numbers of their device files.
    numbered((0..numbers.len()).map(|index| index.to_string()).collect())
}

/// The environment variable that selects the GPUs visible to a process.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
