//! The folder of reports that wait for the lake. A file is on the disk before its name is, and its name before a call
//! returns.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use sendlake_control::id::TenantId;

use crate::synced;

/// So much may wait: beyond it senders are asked to come again.
const WAITING_FILES_MAX: usize = 20_000;
const WAITING_BYTES_MAX: u64 = 1 << 30;
/// What stands for no tenant in a name. No tenant is called so.
const NOBODY: &str = "_";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    waiting: PathBuf,
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

impl Folder {
    pub fn below(dir: &Path) -> Self {
        Self { waiting: dir.join("incoming") }
    }

    /// Keeps a file until it is forgotten. Durable when it returns.
    pub fn keep(&self, owner: Option<&TenantId>, data: &[u8]) -> io::Result<()> {
        let (files, bytes) = sizes(&self.waiting)?.iter().fold((0, 0), |(n, sum), (_, b)| (n + 1, sum + b));
        if files >= WAITING_FILES_MAX || bytes >= WAITING_BYTES_MAX {
            return Err(io::Error::other(format!(
                "{files} files with reports wait for the lake in {}; see why it is not written",
                self.waiting.display()
            )));
        }
        synced::write(&self.waiting, &name(owner, data), data).map(drop)
    }

    /// Files that wait: so many, and bytes, at most, but one in any case. What cannot be read is told and left.
    pub fn waiting(&self, files_max: usize, bytes_max: u64) -> Vec<Kept> {
        let listed = sizes(&self.waiting).unwrap_or_else(|error| {
            tracing::error!(folder = %self.waiting.display(), %error, "reports that wait cannot be listed");
            Vec::new()
        });
        let mut kept: Vec<Kept> = Vec::new();
        let mut total = 0;
        for (path, bytes) in listed {
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
}

/// Files of a folder with their size, by name; none where there is no folder.
fn sizes(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
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
                found.push((entry.path(), metadata.len()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_once_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::below(&dir.path().join("reports"));
        let acme = TenantId::new("acme").unwrap();
        folder.keep(None, b"one").unwrap();
        folder.keep(None, b"one").unwrap();
        folder.keep(Some(&acme), b"one").unwrap();
        fs::write(dir.path().join("reports/incoming/acme.0123.part"), b"cut off by a crash").unwrap();
        let waiting = folder.waiting(10, 100);
        let owners: Vec<_> = waiting.iter().map(|kept| kept.owner.clone()).collect();
        assert_eq!(owners, [None, Some(acme)]);
        assert_eq!(folder.waiting(1, 100).len(), 1);
        assert_eq!(folder.waiting(10, 4).len(), 1, "not more bytes than asked for");
        assert_eq!(folder.waiting(10, 1).len(), 1, "but one in any case");
        waiting.iter().for_each(|kept| folder.forget(kept));
        assert!(folder.waiting(10, 100).is_empty());
    }
}
