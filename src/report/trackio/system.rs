//! What the machine does meanwhile, as Trackio calls it: processor, memory and cards, in per cent, GiB, watts and degrees.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

/// What the driver's own program is asked of each card, and what that is called in Trackio.
const CARD: [(&str, &str); 5] = [
    ("utilization.gpu", "utilization"),
    ("memory.used", "allocated_memory"),
    ("memory.total", "total_memory"),
    ("power.draw", "power"),
    ("temperature.gpu", "temp"),
];

#[derive(Default)]
pub(super) struct Machine {
    /// The processor's time as last seen: busy and all of it.
    before: Option<(u64, u64)>,
    /// Nobody answers for cards.
    no_cards: bool,
}

impl Machine {
    /// What was used since the last look. What the system does not tell is left out.
    pub(super) fn look(&mut self) -> BTreeMap<String, f64> {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let mut found = self.measure(&read("/proc/stat"), &read("/proc/meminfo"));
        if !self.no_cards {
            let said = asked();
            self.no_cards = said.is_none();
            found.extend(cards(&said.unwrap_or_default()));
        }
        found
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

/// What the driver's own program says, a line for each card.
fn asked() -> Option<String> {
    let names: Vec<&str> = CARD.iter().map(|(asked, _)| *asked).collect();
    let query = format!("--query-gpu=index,{}", names.join(","));
    let said = Command::new("nvidia-smi").args([&query, "--format=csv,noheader,nounits"]).stdin(Stdio::null()).output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The numbers of each card, and how busy they are on average. What a card does not tell is left out.
fn cards(said: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut busy = Vec::new();
    for line in said.lines() {
        let mut cells = line.split(',').map(str::trim);
        let Some(index) = cells.next().and_then(|index| index.parse::<u32>().ok()) else { continue };
        for ((_, name), cell) in CARD.iter().zip(cells) {
            let Ok(value) = cell.parse::<f64>() else { continue };
            // Memory comes in MiB.
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

    #[test]
    fn cards_are_told_by_their_numbers() {
        let found = cards("0, 90, 2048, 81559, 412.55, 61\n1, 10, 0, 81559, [N/A], 40\nno devices\n");
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
