//! A file that is on the disk, whole and under its name, before a call returns.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes a file under its name, in the place of one that is there. The folder is made where it is missing; both are the
/// owner's alone. Blocks.
pub fn write(folder: &Path, name: &str, data: &[u8]) -> io::Result<PathBuf> {
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
    if let Some(parent) = folder.parent().filter(|path| !path.as_os_str().is_empty()) {
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
    fn a_file_is_written_over_and_leaves_no_half_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        for text in ["one", "two"] {
            let place = write(&folder, "x", text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(place).unwrap(), text);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::create_dir(folder.join("taken")).unwrap();
        assert!(write(&folder, "taken", b"x").is_err());
        assert!(!folder.join("taken.part").exists());
    }
}
