//! Which files to join. Pure: the same files at the same time give the same plan.
//!
//! Each row should be written again only a few times in its life. So a file is joined with smaller ones only when
//! these add up to half of its own size or more: files grow in steps, and a day of ten-second commits is written a
//! few times, not once for each of its hours. When a day is over, what is left of it is joined more readily.

use std::collections::BTreeMap;

use sendlake_control::clock::Timestamp;

use super::source::DataFile;

/// When files are worth joining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// How large a file should become, in bytes. Files of at least half of it are left alone.
    pub target_file_bytes: u64,
    /// Fewer small files than this of the day that is still being written are left alone.
    pub small_files_min: usize,
    /// Files younger than this are left alone, in milliseconds: more are coming.
    pub settle_ms: i64,
}

/// The most that one job reads, as a multiple of the target: a bound on its time, and on what a failure costs.
const JOB_TARGETS_MAX: u64 = 8;
/// How much larger than the sum of the smaller ones a file may be, to be joined with them: today, and once the
/// day is over.
const GROWTH_TODAY: u64 = 2;
const GROWTH_PAST: u64 = 4;

/// Files of one day that become one or a few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The UTC day, `2026-01-31`.
    pub day: String,
    pub files: Vec<DataFile>,
}

impl Job {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn paths(&self) -> Vec<String> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

/// What to join now, the newest day first: it is the one that is asked for most.
pub fn plan(files: &[DataFile], settings: &PlanSettings, now: Timestamp) -> Vec<Job> {
    let today = day_text(now);
    let settled_at_ms = now.as_millis().saturating_sub(settings.settle_ms);
    // A file from the future was written before the clock was set back, and nobody knows how long ago.
    let is_settled =
        |file: &DataFile| file.modified_at_ms <= settled_at_ms || file.modified_at_ms > now.as_millis();
    let mut days: BTreeMap<&str, Vec<&DataFile>> = BTreeMap::new();
    for file in files {
        if is_small(file, settings) && is_settled(file) {
            days.entry(file.day()).or_default().push(file);
        }
    }
    let mut jobs = Vec::new();
    for (day, mut small) in days.into_iter().rev() {
        small.sort_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
        let (growth, files_min) = if day < today.as_str() {
            (GROWTH_PAST, 2)
        } else {
            (GROWTH_TODAY, settings.small_files_min.max(2))
        };
        let joined = worth_joining(&small, growth);
        if joined.len() >= files_min {
            jobs.extend(cut(day, joined, settings.target_file_bytes.saturating_mul(JOB_TARGETS_MAX)));
        }
    }
    jobs
}

/// Whether a file is one that joining could make better.
pub fn is_small(file: &DataFile, settings: &PlanSettings) -> bool {
    file.bytes < settings.target_file_bytes / 2
}

/// The UTC day of an instant, as partitions name it.
pub(crate) fn day_text(at: Timestamp) -> String {
    at.to_chrono().format("%Y-%m-%d").to_string()
}

/// The longest run from the smallest file on in which each is at most `growth` times what comes before it.
fn worth_joining<'a>(ascending: &'a [&'a DataFile], growth: u64) -> &'a [&'a DataFile] {
    let mut before = 0u64;
    let mut joined = 0;
    for file in ascending {
        if joined > 0 && file.bytes > before.saturating_mul(growth) {
            break;
        }
        before = before.saturating_add(file.bytes);
        joined += 1;
    }
    ascending.get(..joined).unwrap_or_default()
}

/// Jobs of at most `bytes_max` each, of at least two files each.
fn cut(day: &str, files: &[&DataFile], bytes_max: u64) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut bytes = 0u64;
    for file in files {
        bytes = bytes.saturating_add(file.bytes);
        match jobs.last_mut() {
            Some(job) if bytes <= bytes_max => job.files.push((*file).clone()),
            _ => {
                bytes = file.bytes;
                jobs.push(Job { day: day.to_owned(), files: vec![(*file).clone()] });
            }
        }
    }
    jobs.retain(|job| job.files.len() > 1);
    jobs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::table::layout::PARTITION_COLUMN;
    use crate::testing::NOON;

    use super::*;

    const MB: u64 = 1 << 20;

    fn settings() -> PlanSettings {
        PlanSettings { target_file_bytes: 128 * MB, small_files_min: 8, settle_ms: 60_000 }
    }

    fn file(day: &str, number: usize, bytes: u64) -> DataFile {
        DataFile {
            path: format!("event_date={day}/part-{number}.parquet"),
            bytes,
            rows: Some(1),
            modified_at_ms: NOON.as_millis() - 3_600_000,
            partition: [(PARTITION_COLUMN.to_owned(), Some(day.to_owned()))].into(),
            sha256: None,
        }
    }

    fn sizes(jobs: &[Job]) -> Vec<(String, Vec<u64>)> {
        jobs.iter()
            .map(|job| (job.day.clone(), job.files.iter().map(|file| file.bytes / MB).collect()))
            .collect()
    }

    #[test]
    fn a_few_new_files_of_today_are_left_and_many_are_joined() {
        let few: Vec<_> = (0..7).map(|number| file("2026-01-31", number, MB)).collect();
        assert_eq!(plan(&few, &settings(), NOON), []);
        let many: Vec<_> = (0..9).map(|number| file("2026-01-31", number, MB)).collect();
        assert_eq!(sizes(&plan(&many, &settings(), NOON)), [("2026-01-31".to_owned(), vec![1; 9])]);
    }

    #[test]
    fn files_still_warm_are_left() {
        let warm: Vec<_> = (0..20)
            .map(|number| DataFile {
                modified_at_ms: NOON.as_millis() - 59_000,
                ..file("2026-01-31", number, MB)
            })
            .collect();
        assert_eq!(plan(&warm, &settings(), NOON), []);
    }

    #[test]
    fn files_from_before_a_step_back_of_the_clock_are_joined() {
        let ahead: Vec<_> = (0..20)
            .map(|number| DataFile {
                modified_at_ms: NOON.as_millis() + 3 * 3_600_000,
                ..file("2026-01-31", number, MB)
            })
            .collect();
        assert_eq!(sizes(&plan(&ahead, &settings(), NOON)), [("2026-01-31".to_owned(), vec![1; 20])]);
    }

    #[test]
    fn a_day_that_is_over_ends_with_what_is_left_of_it_joined() {
        let files =
            [file("2026-01-30", 1, 3 * MB), file("2026-01-30", 2, 10 * MB), file("2026-01-30", 3, MB)];
        assert_eq!(sizes(&plan(&files, &settings(), NOON)), [("2026-01-30".to_owned(), vec![1, 3, 10])]);
    }

    #[test]
    fn big_files_are_never_read_again() {
        let mut files: Vec<_> = (0..30).map(|number| file("2026-01-30", number, 64 * MB)).collect();
        files.push(file("2026-01-30", 99, 200 * MB));
        assert_eq!(plan(&files, &settings(), NOON), []);
    }

    #[test]
    fn one_late_event_does_not_make_a_large_file_anew() {
        let files = [file("2026-01-20", 1, 60 * MB), file("2026-01-20", 2, MB / 100)];
        assert_eq!(plan(&files, &settings(), NOON), []);
    }

    #[test]
    fn a_large_backlog_is_cut_into_jobs() {
        let files: Vec<_> = (0..100).map(|number| file("2026-01-30", number, 50 * MB)).collect();
        let jobs = plan(&files, &settings(), NOON);
        assert_eq!(jobs.iter().map(|job| job.files.len()).sum::<usize>(), 100);
        assert!(jobs.iter().all(|job| job.bytes() <= 1024 * MB));
    }

    #[test]
    fn each_byte_of_a_day_is_written_a_few_times_only() {
        let mut files: Vec<DataFile> = Vec::new();
        let (mut appended, mut rewritten, mut number) = (0, 0, 0);
        let bytes = 100 << 10;
        // Ten-second commits, maintenance every ten minutes.
        for round in 0..144 {
            for _ in 0..60 {
                files.push(file("2026-01-31", number, bytes));
                appended += bytes;
                number += 1;
            }
            for job in plan(&files, &settings(), NOON) {
                let paths = job.paths();
                files.retain(|file| !paths.contains(&file.path));
                let whole = job.bytes();
                rewritten += whole;
                number += 1;
                files.push(file("2026-01-31", number, whole));
            }
            assert!(files.len() < 40, "round {round}: {} files", files.len());
        }
        let times = rewritten as f64 / appended as f64;
        assert!(times < 5.0, "written {times} times");
    }

    proptest! {
        #[test]
        fn no_file_is_planned_twice_and_every_job_is_worth_it(
            bytes in prop::collection::vec(1..200 * MB, 0..60), days in prop::collection::vec(25..32u32, 60)
        ) {
            let files: Vec<_> = bytes
                .iter()
                .zip(&days)
                .enumerate()
                .map(|(number, (bytes, day))| file(&format!("2026-01-{day}"), number, *bytes))
                .collect();
            let jobs = plan(&files, &settings(), NOON);
            let mut paths: Vec<_> = jobs.iter().flat_map(Job::paths).collect();
            let planned = paths.len();
            paths.sort();
            paths.dedup();
            prop_assert_eq!(paths.len(), planned);
            for job in &jobs {
                prop_assert!(job.files.len() > 1);
                prop_assert!(job.files.iter().all(|file| file.day() == job.day && file.bytes < 64 * MB));
            }
        }
    }
}
