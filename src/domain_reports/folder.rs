//! Two folders: reports that wait for the lake, and what could not be read. A file is on the disk before its name is, and
//! its name before a call returns.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use sendlake_control::id::TenantId;

/// So much may wait: beyond it senders are asked to come again.
const WAITING_FILES_MAX: usize = 20_000;
const WAITING_BYTES_MAX: u64 = 1 << 30;
/// So much is put aside; beyond it the oldest goes.
const ASIDE_FILES_MAX: usize = 1_000;
const ASIDE_BYTES_MAX: u64 = 256 << 20;
/// What stands for no tenant in a name. No tenant is called so.
const NOBODY: &str = "_";

/// The folders below one.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    waiting: PathBuf,
    quarantine: PathBuf,
}

/// A file that waits.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub name: String,
    /// Whose address it came to; none for one of the installation.
    pub owner: Option<TenantId>,
    pub data: Vec<u8>,
}

/// What a file is called: the same for the same content and addressee.
pub(super) fn name(owner: Option<&TenantId>, data: &[u8]) -> String {
    let owner = owner.map_or(NOBODY, TenantId::as_str);
    let mut name = format!("{owner}.");
    for byte in digest(&SHA256, data).as_ref().iter().take(16) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

impl Folders {
    pub fn below(dir: &Path) -> Self {
        Self { waiting: dir.join("incoming"), quarantine: dir.join("quarantine") }
    }

    /// Keeps a file until it is forgotten. Durable when it returns.
    pub fn keep(&self, owner: Option<&TenantId>, data: &[u8]) -> io::Result<()> {
        let (files, bytes) =
            sizes(&self.waiting)?.iter().fold((0, 0), |(n, sum), (_, _, b)| (n + 1, sum + b));
        if files >= WAITING_FILES_MAX || bytes >= WAITING_BYTES_MAX {
            return Err(io::Error::other(format!(
                "{files} files with reports wait for the lake in {}; see why it is not written",
                self.waiting.display()
            )));
        }
        write(&self.waiting, &name(owner, data), data).map(drop)
    }

    /// Puts a file aside, with the reason in a second one beside it. Returns where.
    pub fn quarantine(&self, owner: Option<&TenantId>, data: &[u8], why: &str) -> io::Result<PathBuf> {
        self.make_room(data.len() as u64)?;
        let name = name(owner, data);
        let place = write(&self.quarantine, &format!("{name}.report"), data)?;
        write(&self.quarantine, &format!("{name}.txt"), format!("{why}\n").as_bytes())?;
        Ok(place)
    }

    /// Files that wait: so many, and bytes, at most, but one in any case. What cannot be read is told and left.
    pub fn waiting(&self, files_max: usize, bytes_max: u64) -> Vec<Kept> {
        let listed = sizes(&self.waiting).unwrap_or_else(|error| {
            tracing::error!(folder = %self.waiting.display(), %error, "reports that wait cannot be listed");
            Vec::new()
        });
        let mut kept: Vec<Kept> = Vec::new();
        let mut total = 0;
        for (path, _, bytes) in listed {
            total += bytes;
            if kept.len() == files_max || (total > bytes_max && !kept.is_empty()) {
                break;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // half-written ones have another form
            let Some((owner, _)) = name.split_once('.').filter(|(_, digest)| digest.len() == 32) else {
                continue;
            };
            match fs::read(&path) {
                Ok(data) => kept.push(Kept { name: name.to_owned(), owner: TenantId::new(owner).ok(), data }),
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "a report that waits cannot be read")
                }
            }
        }
        kept
    }

    /// Removes a file whose reports are in the lake. Should it come back after a crash, its reports are known.
    pub fn forget(&self, kept: &Kept) {
        let path = self.waiting.join(&kept.name);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::error!(file = %path.display(), %error, "a report that is in the lake cannot be removed");
        }
    }

    /// Removes everything that was put aside.
    pub fn empty_quarantine(&self) {
        for (path, ..) in sizes(&self.quarantine).unwrap_or_default() {
            if let Err(error) = fs::remove_file(&path) {
                tracing::error!(file = %path.display(), %error, "a file cannot be removed");
            }
        }
    }

    /// Removes the oldest of what was put aside, until there is room.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut aside = sizes(&self.quarantine)?;
        aside.sort_by_key(|(_, modified, _)| *modified);
        let (mut files, mut total) =
            (aside.len(), aside.iter().map(|(_, _, bytes)| bytes).sum::<u64>() + bytes);
        for (path, _, bytes) in aside {
            // each has a second file with the reason
            if files + 2 <= 2 * ASIDE_FILES_MAX && total <= ASIDE_BYTES_MAX {
                break;
            }
            fs::remove_file(&path)?;
            files -= 1;
            total -= bytes;
        }
        Ok(())
    }
}

/// Files of a folder with their age and size, by name; none where there is no folder.
fn sizes(folder: &Path) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                found.push((entry.path(), metadata.modified()?, metadata.len()));
            }
            // carried away meanwhile, or somebody's folder
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a file under its name, whole and synced. One that is there has the same content.
fn write(folder: &Path, name: &str, data: &[u8]) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let place = folder.join(name);
    let stage = folder.join(format!("{name}.part"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&stage)?;
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&stage, &place)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&stage);
        return Err(error);
    }
    File::open(folder)?.sync_all()?;
    // the folder's own name, the first time
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
        if let Some(grandparent) = parent.parent().filter(|path| !path.as_os_str().is_empty()) {
            File::open(grandparent)?.sync_all()?;
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_once_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::below(&dir.path().join("reports"));
        let acme = TenantId::new("acme").unwrap();
        folders.keep(None, b"one").unwrap();
        folders.keep(None, b"one").unwrap();
        folders.keep(Some(&acme), b"one").unwrap();
        fs::write(dir.path().join("reports/incoming/acme.0123.part"), b"cut off by a crash").unwrap();
        let waiting = folders.waiting(10, 100);
        let owners: Vec<_> = waiting.iter().map(|kept| kept.owner.clone()).collect();
        assert_eq!(owners, [None, Some(acme)]);
        assert_eq!(folders.waiting(1, 100).len(), 1);
        assert_eq!(folders.waiting(10, 4).len(), 1, "not more bytes than asked for");
        assert_eq!(folders.waiting(10, 1).len(), 1, "but one in any case");
        waiting.iter().for_each(|kept| folders.forget(kept));
        assert!(folders.waiting(10, 100).is_empty());
    }

    #[test]
    fn of_what_is_put_aside_the_oldest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::below(dir.path());
        let big = vec![b'x'; 100 << 20];
        let first = folders.quarantine(None, &big, "why the first").unwrap();
        assert_eq!(fs::read_to_string(first.with_extension("txt")).unwrap(), "why the first\n");
        folders.quarantine(None, &big[1..], "the second").unwrap();
        let third = folders.quarantine(None, &big[2..], "the third").unwrap();
        assert!(!first.exists() && third.exists());
        folders.empty_quarantine();
        assert!(!third.exists());
    }
}
