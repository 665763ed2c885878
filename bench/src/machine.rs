//! What this machine is, what it did, and the middle of several readings.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// What /proc counts processor time in: USER_HZ is 100 on every Linux.
const MS_PER_TICK: u64 = 10;

/// Processor time that a process has used so far, to the hundredth of a second. `self` is this process.
pub(crate) fn cpu_of(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // after the name, which may hold anything: state is the first field, user and system time the 12th and 13th
    let fields =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).context("/proc/<pid>/stat")?;
    let ticks: u64 = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * MS_PER_TICK))
}

/// One value of a file such as /proc/cpuinfo.
pub(crate) fn info(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

pub(crate) fn memory_gib() -> u64 {
    let kib: u64 =
        info("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    kib >> 20
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// Work that waited for a core in the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The machine in a line, for the head of a table.
pub(crate) fn line() -> String {
    format!(
        "{} · {} cores, {} GiB, load {} before",
        info("/proc/cpuinfo", "model name"),
        cores(),
        memory_gib(),
        load_average()
    )
}

/// The middle one; the lower of two in the middle.
pub(crate) fn median(readings: &[f64]) -> f64 {
    let mut sorted = readings.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Octets of every Parquet file below a folder.
pub(crate) fn parquet_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            bytes += parquet_bytes(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_round_and_never_flatters() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.0);
    }

    #[test]
    fn processor_time_of_this_process_is_known() {
        assert!(cpu_of("self").unwrap() < Duration::from_secs(3_600));
    }
}
