//! The GPUs a machine has, as far as stages share them.

use std::fs;

/// A card of this machine that a stage can be given for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its place among the cards this program sees, from 0.
    pub index: usize,
    /// What CUDA_VISIBLE_DEVICES calls it.
    pub id: String,
}

/// The NVIDIA cards this program sees, found without starting a driver.
pub fn visible_gpus() -> Vec<Gpu> {
    let numbered = |ids: Vec<String>| ids.into_iter().enumerate().map(|(index, id)| Gpu { index, id }).collect();
    if let Ok(visible) = std::env::var(VISIBLE) {
        // As CUDA reads it, what stands behind an entry that is none does not count.
        let fine = |id: &&str| !id.is_empty() && !id.starts_with("-1") && *id != "NoDevFiles";
        return numbered(visible.split(',').map(str::trim).take_while(fine).map(str::to_owned).collect());
    }
    let files = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = files.filter_map(|file| file.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok()).collect();
    numbers.sort_unstable();
    // CUDA counts the cards that are there, whatever the numbers of their files.
    numbered((0..numbers.len()).map(|index| index.to_string()).collect())
}

/// The environment variable that says which cards a program sees.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
