//! System metrics with Trackio's metric names: CPU and GPU utilization (percent), memory (GiB), power (watts), temperature (°C).
//! Sources: `/proc/stat`, `/proc/meminfo` and `nvidia-smi`.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

/// `nvidia-smi` query fields and the names of the metrics in Trackio.
const GPU_FIELDS: [(&str, &str); 5] = [
    ("utilization.gpu", "utilization"),
    ("memory.used", "allocated_memory"),
    ("memory.total", "total_memory"),
    ("power.draw", "power"),
    ("temperature.gpu", "temp"),
];

/// Samples the system metrics.
#[derive(Default)]
pub(super) struct Machine {
    /// CPU ticks at the last sample: busy, total.
    before: Option<(u64, u64)>,
    /// Set once `nvidia-smi` has failed; it is not called again.
    no_gpus: bool,
}

impl Machine {
    /// Takes a sample; utilization refers to the time since the last one. Unavailable metrics are omitted.
    pub(super) fn sample(&mut self) -> BTreeMap<String, f64> {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let mut found = self.measure(&read("/proc/stat"), &read("/proc/meminfo"));
        if !self.no_gpus {
            let output = query_gpus();
            self.no_gpus = output.is_none();
            found.extend(gpu_metrics(&output.unwrap_or_default()));
        }
        found
    }

    /// CPU and memory metrics from the contents of `/proc/stat` and `/proc/meminfo`.
    fn measure(&mut self, stat: &str, memory: &str) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        let now = times(stat);
        if let (Some((busy, all)), Some((busy_before, all_before))) = (now, self.before)
            && all > all_before
        {
            let share = busy.saturating_sub(busy_before) as f64 / (all - all_before) as f64;
            found.insert("cpu/utilization".to_owned(), 100.0 * share.min(1.0));
        }
        self.before = now;
        let gib = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / f64::from(1 << 20))
        };
        if let (Some(total), Some(available)) = (gib("MemTotal"), gib("MemAvailable"))
            && total > 0.0
        {
            found.insert("memory/total".to_owned(), total);
            found.insert("memory/available".to_owned(), available);
            found.insert("memory/used".to_owned(), total - available);
            found.insert("memory/percent".to_owned(), 100.0 * (total - available) / total);
        }
        found
    }
}

/// Output of `nvidia-smi`, one CSV line per GPU.
fn query_gpus() -> Option<String> {
    let names: Vec<&str> = GPU_FIELDS.iter().map(|(query_gpus, _)| *query_gpus).collect();
    let query = format!("--query-gpu=index,{}", names.join(","));
    let output = Command::new("nvidia-smi").args([&query, "--format=csv,noheader,nounits"]).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Metrics of each GPU, and the mean utilization. Values that a GPU does not report are omitted.
fn gpu_metrics(output: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut busy = Vec::new();
    for line in output.lines() {
        let mut cells = line.split(',').map(str::trim);
        let Some(index) = cells.next().and_then(|index| index.parse::<u32>().ok()) else { continue };
        for ((_, name), cell) in GPU_FIELDS.iter().zip(cells) {
            let Ok(value) = cell.parse::<f64>() else { continue };
            // `nvidia-smi` reports memory in MiB.
            let value = if name.ends_with("memory") { value / 1024.0 } else { value };
            busy.extend((*name == "utilization").then_some(value));
            found.insert(format!("gpu/{index}/{name}"), value);
        }
    }
    if !busy.is_empty() {
        found.insert("gpu/mean_utilization".to_owned(), busy.iter().sum::<f64>() / busy.len() as f64);
    }
    found
}

/// Busy and total CPU ticks, summed over all cores.
fn times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guest time is already included in user.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_utilization_is_measured_between_two_samples() {
        let memory = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   2097152 kB\n";
        let mut machine = Machine::default();
        assert!(!machine.measure("cpu  10 0 10 80 0 0 0 0 5 5\ncpu0 1 1\n", memory).contains_key("cpu/utilization"));
        let found = machine.measure("cpu  40 0 20 120 20 0 0 0 9 9\n", memory);
        let expected =
            [("cpu/utilization", 40.0), ("memory/available", 2.0), ("memory/percent", 75.0), ("memory/total", 8.0), ("memory/used", 6.0)];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert!(machine.measure("", "nonsense").is_empty());
    }

    #[test]
    fn gpu_metrics_are_named_by_index() {
        let found = gpu_metrics("0, 90, 2048, 81559, 412.55, 61\n1, 10, 0, 81559, [N/A], 40\nno devices\n");
        let expected = [
            ("gpu/0/utilization", 90.0),
            ("gpu/0/allocated_memory", 2.0),
            ("gpu/0/total_memory", 81559.0 / 1024.0),
            ("gpu/0/power", 412.55),
            ("gpu/0/temp", 61.0),
            ("gpu/1/utilization", 10.0),
            ("gpu/1/allocated_memory", 0.0),
            ("gpu/1/total_memory", 81559.0 / 1024.0),
            ("gpu/1/temp", 40.0),
            ("gpu/mean_utilization", 50.0),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
