//! A full disk, simulated: `peers/full_disk.c`, loaded before a server, leaves no space below folders that the test names,
//! whatever the file system says is free.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::peers::preloaded;

/// What folders have no space, from one moment to the next.
pub struct FullDisk {
    work: TempDir,
    library: PathBuf,
}

impl FullDisk {
    /// `None`, with a line that says so, where there is no C compiler.
    pub fn new() -> Option<Self> {
        let work = tempfile::tempdir().unwrap();
        let library = preloaded("full_disk", work.path())?;
        Some(Self { work, library })
    }

    /// The variables that a server is started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("FULL_DISK_FLAG".to_owned(), text(&self.flag())),
        ]
    }

    /// From now on these folders are full, and no others.
    pub fn fill(&self, folders: &[&Path]) {
        let real = |folder: &&Path| {
            // A folder may not be there yet: the one above it is.
            let above = folder.parent().unwrap().canonicalize().unwrap();
            format!("{}\n", above.join(folder.file_name().unwrap()).display())
        };
        // At once: a reader never sees half of it.
        let text: String = folders.iter().map(real).collect();
        let staged = self.work.path().join("staged");
        std::fs::write(&staged, text).unwrap();
        std::fs::rename(staged, self.flag()).unwrap();
    }

    fn flag(&self) -> PathBuf {
        self.work.path().join("full")
    }
}
