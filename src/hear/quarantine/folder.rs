//! The files of the quarantine: each with the reason in a second file beside it, the oldest first to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sendlake_control::clock::Timestamp;

use crate::synced;

const FILES_MAX: usize = 1_000;
const BYTES_MAX: u64 = 256 << 20;
/// A person has so long to look.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// What the files are called by what is in them.
pub(super) const MAIL: &str = "eml";
pub(super) const REPORT: &str = "report";
const REASON: &str = "txt";

/// Where they lie.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub own: PathBuf,
    /// Read and emptied, never written to.
    pub former: PathBuf,
}

impl Folder {
    /// Keeps a file with its reason, durable. What does not fit the bounds goes, the oldest first. Blocks.
    pub fn keep(&self, name: &str, data: &[u8], why: &str, now: Timestamp) -> io::Result<PathBuf> {
        self.sweep(data.len() as u64, now)?;
        let reason = Path::new(name).with_extension(REASON);
        synced::write(&self.own, &reason.to_string_lossy(), format!("{now}\n{why}\n").as_bytes())?;
        synced::write(&self.own, name, data)
    }

    /// Removes every mail that is meant, and every report. Returns how many. Blocks.
    pub fn forget(&self, is_meant: impl Fn(&[u8]) -> bool) -> io::Result<usize> {
        let mut forgotten = 0;
        for kept in self.kept()? {
            if kept.is_report || is_meant(&fs::read(&kept.path)?) {
                remove(&kept.path)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Makes room for one more file of so many octets.
    fn sweep(&self, more: u64, now: Timestamp) -> io::Result<()> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(now.as_secs()).unwrap_or(0));
        let mut kept = self.kept()?;
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.written));
        let mut bytes = more;
        for (place, kept) in kept.iter().enumerate() {
            bytes += kept.bytes;
            let is_old = now.duration_since(kept.written).is_ok_and(|age| age > KEPT);
            if place + 1 >= FILES_MAX || bytes > BYTES_MAX || is_old {
                remove(&kept.path)?;
            }
        }
        Ok(())
    }

    fn kept(&self) -> io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        for folder in [&self.own, &self.former] {
            let entries = match fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                let Some(extension) = path.extension() else { continue };
                let is_report = extension == REPORT;
                if !is_report && extension != MAIL {
                    continue;
                }
                match path.metadata() {
                    Ok(of) => {
                        found.push(Kept { bytes: of.len(), written: of.modified()?, is_report, path });
                    }
                    // swept by another task meanwhile
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

struct Kept {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
    is_report: bool,
}

fn remove(kept: &Path) -> io::Result<()> {
    for path in [&kept.with_extension(REASON), kept] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        crate::system::ids().now()
    }

    fn folder(dir: &tempfile::TempDir) -> Folder {
        Folder { own: dir.path().join("quarantine"), former: dir.path().join("reports/quarantine") }
    }

    #[test]
    fn a_mail_is_kept_once_with_its_reason_and_goes_with_the_person() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(&dir);
        for _ in 0..2 {
            folder.keep("_.one.eml", b"To: Ann@A.test\r\n\r\n", "no header section", now()).unwrap();
        }
        let path = folder.keep("acme.two.eml", b"To: bob@a.test\r\n\r\n", "forged", now()).unwrap();
        assert!(fs::read_to_string(path.with_extension("txt")).unwrap().contains("forged"));
        assert_eq!(fs::read_dir(&folder.own).unwrap().count(), 4);
        assert_eq!(folder.forget(|mail| mail.starts_with(b"To: Ann@A.test")).unwrap(), 1);
        assert_eq!(folder.kept().unwrap().len(), 1);
        assert_eq!(folder.forget(|mail| mail.starts_with(b"To: Ann@A.test")).unwrap(), 0);
    }

    #[test]
    fn reports_go_with_anybody_also_those_that_an_earlier_version_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(&dir);
        fs::create_dir_all(&folder.former).unwrap();
        fs::write(folder.former.join("acme.0123.report"), "PK").unwrap();
        fs::write(folder.former.join("acme.0123.txt"), "damaged\n").unwrap();
        folder.keep("_.two.report", b"PK", "why", now()).unwrap();
        folder.keep("_.three.eml", b"a letter", "why", now()).unwrap();
        assert_eq!(folder.forget(|_| false).unwrap(), 2);
        assert_eq!(fs::read_dir(&folder.former).unwrap().count(), 0);
        assert_eq!(folder.kept().unwrap().len(), 1);
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(&dir);
        let old = folder.keep("old.eml", b"old", "x", now()).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::options().append(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        folder.keep("new.eml", b"new", "x", now()).unwrap();
        assert!(!old.exists() && !old.with_extension("txt").exists());
        for number in 0..FILES_MAX {
            fs::write(folder.own.join(format!("{number}.eml")), "").unwrap();
        }
        folder.keep("last.eml", b"last", "x", now()).unwrap();
        assert_eq!(folder.kept().unwrap().len(), FILES_MAX);
        assert!(folder.own.join("last.eml").exists());
    }

    #[test]
    fn no_more_octets_than_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(&dir);
        let big = vec![b'x'; 100 << 20];
        let first = folder.keep("one.report", &big, "why", now()).unwrap();
        fs::File::options()
            .append(true)
            .open(&first)
            .unwrap()
            .set_modified(
                SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(now().as_secs() - 60).unwrap()),
            )
            .unwrap();
        folder.keep("two.report", &big, "why", now()).unwrap();
        let third = folder.keep("three.report", &big, "why", now()).unwrap();
        assert!(!first.exists() && third.exists());
        assert_eq!(folder.kept().unwrap().len(), 2);
    }
}
