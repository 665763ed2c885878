//! What came in and cannot be read, or must not count: kept for a person to look at, with the reason beside it. A bound
//! in number, size and age keeps it from being somebody else's disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sendlake_control::clock::Timestamp;

const MAILS_MAX: usize = 1_000;
const BYTES_MAX: u64 = 256 << 20;
/// A person has so long to look.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// The folder `quarantine/` in the data folder. Each mail is `<name>.eml`, its reason `<name>.txt`.
#[derive(Clone, Debug)]
pub struct Quarantine {
    folder: PathBuf,
}

impl Quarantine {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Keeps a mail under a name that its content gives it, so that a repeat takes no more room. What does not fit the
    /// bounds goes, the oldest first. Blocks.
    pub fn keep(&self, mail: &[u8], name: &str, why: &str, now: Timestamp) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{name}.eml"));
        fs::write(path.with_extension("txt"), format!("{now}\n{why}\n"))?;
        fs::write(&path, mail)?;
        self.sweep(now)?;
        Ok(path)
    }

    /// Removes every mail that is meant. Returns how many. Blocks.
    pub fn forget(&self, is_meant: impl Fn(&[u8]) -> bool) -> io::Result<usize> {
        let mut forgotten = 0;
        for mail in self.mails()? {
            if is_meant(&fs::read(&mail.path)?) {
                remove(&mail.path)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    fn sweep(&self, now: Timestamp) -> io::Result<()> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(now.as_secs()).unwrap_or(0));
        let mut mails = self.mails()?;
        mails.sort_by_key(|mail| std::cmp::Reverse(mail.written));
        let mut bytes = 0;
        for (place, mail) in mails.iter().enumerate() {
            bytes += mail.bytes;
            let is_old = now.duration_since(mail.written).is_ok_and(|age| age > KEPT);
            if place >= MAILS_MAX || bytes > BYTES_MAX || is_old {
                remove(&mail.path)?;
            }
        }
        Ok(())
    }

    fn mails(&self) -> io::Result<Vec<Kept>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut mails = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "eml") {
                let of = path.metadata()?;
                mails.push(Kept { bytes: of.len(), written: of.modified()?, path });
            }
        }
        Ok(mails)
    }
}

struct Kept {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
}

fn remove(mail: &Path) -> io::Result<()> {
    match fs::remove_file(mail.with_extension("txt")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_file(mail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        crate::system::ids().now()
    }

    #[test]
    fn a_mail_is_kept_once_with_its_reason_and_goes_with_the_person() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(dir.path().join("quarantine"));
        for _ in 0..2 {
            quarantine.keep(b"To: Ann@A.test\r\n\r\n", "one", "no header section", now()).unwrap();
        }
        let path = quarantine.keep(b"To: bob@a.test\r\n\r\n", "two", "forged", now()).unwrap();
        assert!(fs::read_to_string(path.with_extension("txt")).unwrap().contains("forged"));
        assert_eq!(fs::read_dir(&quarantine.folder).unwrap().count(), 4);
        assert_eq!(quarantine.forget(|mail| mail.starts_with(b"To: Ann@A.test")).unwrap(), 1);
        assert_eq!(quarantine.mails().unwrap().len(), 1);
        assert_eq!(quarantine.forget(|mail| mail.starts_with(b"To: Ann@A.test")).unwrap(), 0);
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(dir.path().to_owned());
        let old = quarantine.keep(b"old", "old", "x", now()).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::options().append(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        quarantine.keep(b"new", "new", "x", now()).unwrap();
        assert!(!old.exists() && !old.with_extension("txt").exists());
        for number in 0..MAILS_MAX {
            fs::write(dir.path().join(format!("{number}.eml")), "").unwrap();
        }
        quarantine.keep(b"last", "last", "x", now()).unwrap();
        assert_eq!(quarantine.mails().unwrap().len(), MAILS_MAX);
    }
}
