//! Free space on the spool's file system, read at most once a second.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;

pub struct FreeSpace {
    dir: PathBuf,
    floor_bytes: u64,
    last: Mutex<Option<(Timestamp, u64)>>,
}

impl FreeSpace {
    pub fn new(dir: &Path, floor_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), floor_bytes, last: Mutex::new(None) }
    }

    /// The free bytes when they are below the floor. A file system that cannot be asked counts as full.
    pub fn shortage(&self, now: Timestamp) -> Option<(u64, u64)> {
        let mut last = self.last.lock();
        let free = match *last {
            Some((at, free)) if now.millis_since(at) < 1_000 => free,
            _ => {
                let free = rustix::fs::statvfs(&self.dir)
                    .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
                    .unwrap_or(0);
                *last = Some((now, free));
                free
            }
        };
        (free < self.floor_bytes).then_some((free, self.floor_bytes))
    }
}
