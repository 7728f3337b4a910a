//! What the machine does meanwhile, as Trackio calls it: processor and memory, in per cent and GiB.

use std::collections::BTreeMap;
use std::fs;

/// The processor's time as last seen: busy and all of it.
#[derive(Default)]
pub(super) struct Machine {
    before: Option<(u64, u64)>,
}

impl Machine {
    /// What was used since the last look. What the system does not tell is left out.
    pub(super) fn look(&mut self) -> BTreeMap<String, f64> {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        self.measure(&read("/proc/stat"), &read("/proc/meminfo"))
    }

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

/// Busy ticks and all ticks of all processors together.
fn times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; what guests use is in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let memory = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   2097152 kB\n";
        let mut machine = Machine::default();
        assert!(!machine.measure("cpu  10 0 10 80 0 0 0 0 5 5\ncpu0 1 1\n", memory).contains_key("cpu/utilization"));
        let found = machine.measure("cpu  40 0 20 120 20 0 0 0 9 9\n", memory);
        let expected =
            [("cpu/utilization", 40.0), ("memory/available", 2.0), ("memory/percent", 75.0), ("memory/total", 8.0), ("memory/used", 6.0)];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert!(machine.measure("", "nonsense").is_empty());
    }
}
