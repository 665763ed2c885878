//! Which files are meant, in the order in which they were written, and their content without its compression.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;

const BUFFER_BYTES: usize = 256 << 10;
/// How deep folders are looked into.
const DEPTH_MAX: usize = 8;
/// Most files of one run.
const FILES_MAX: usize = 100_000;

/// Why files cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("{path} cannot be read: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} holds no file")]
    Empty(PathBuf),
    #[error("there are more than {FILES_MAX} files; name parts of the folder")]
    TooMany,
}

/// Something to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum File {
    Path(PathBuf),
    /// `-`
    Standard,
}

impl File {
    pub fn name(&self) -> String {
        match self {
            File::Path(path) => path.display().to_string(),
            File::Standard => "-".into(),
        }
    }
}

/// The files that `paths` name: those of a folder by when they were last written, then by name, hidden ones left out.
pub fn files(paths: &[PathBuf]) -> Result<Vec<File>, FilesError> {
    let mut found = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            found.push(File::Standard);
            continue;
        }
        let failed = |source| FilesError::Io { path: path.clone(), source };
        if !fs::metadata(path).map_err(failed)?.is_dir() {
            found.push(File::Path(path.clone()));
            continue;
        }
        let mut inside = Vec::new();
        walk(path, DEPTH_MAX, &mut inside)?;
        if inside.is_empty() {
            return Err(FilesError::Empty(path.clone()));
        }
        inside.sort();
        found.extend(inside.into_iter().map(|(_, path)| File::Path(path)));
    }
    if found.len() > FILES_MAX { Err(FilesError::TooMany) } else { Ok(found) }
}

fn walk(dir: &Path, left: usize, found: &mut Vec<(SystemTime, PathBuf)>) -> Result<(), FilesError> {
    let failed = |source| FilesError::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let failed = |source| FilesError::Io { path: path.clone(), source };
        let about = fs::metadata(&path).map_err(failed)?;
        if about.is_dir() && left > 0 {
            walk(&path, left - 1, found)?;
        } else if about.is_file() {
            found.push((about.modified().map_err(failed)?, path));
        }
        if found.len() > FILES_MAX {
            return Err(FilesError::TooMany);
        }
    }
    Ok(())
}

/// Opens a file for reading. Its first bytes say whether it is gzip or Zstandard; names do not count.
pub fn open(file: &File) -> Result<Box<dyn BufRead + Send>, FilesError> {
    match file {
        File::Standard => plain(BufReader::with_capacity(BUFFER_BYTES, io::stdin()), Path::new("-")),
        File::Path(path) => {
            let opened =
                fs::File::open(path).map_err(|source| FilesError::Io { path: path.clone(), source })?;
            plain(BufReader::with_capacity(BUFFER_BYTES, opened), path)
        }
    }
}

fn plain(
    mut input: impl BufRead + Send + 'static,
    path: &Path,
) -> Result<Box<dyn BufRead + Send>, FilesError> {
    let failed = |source| FilesError::Io { path: path.to_owned(), source };
    let front = input.fill_buf().map_err(failed)?;
    if front.starts_with(&[0x1F, 0x8B]) {
        return Ok(buffered(MultiGzDecoder::new(input)));
    }
    if front.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        return Ok(buffered(zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?));
    }
    Ok(Box::new(input))
}

fn buffered(input: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, input))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn compression_is_told_by_content_and_parts_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"one\ntwo\n";
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        for (name, content) in [
            ("plain.gz", text.to_vec()),
            ("gzip.log", [gzip(b"one\n"), gzip(b"two\n")].concat()),
            ("zstd.log", [zstd(b"one\n"), zstd(b"two\n")].concat()),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let mut read = Vec::new();
            open(&File::Path(path)).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, text, "{name}");
        }
    }

    #[test]
    fn a_folder_is_read_in_the_order_in_which_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("old")).unwrap();
        for (name, age_s) in [("mail.log", 0), ("mail.log.1", 100), ("old/mail.log.2", 200), (".hidden", 50)]
        {
            let path = dir.path().join(name);
            fs::write(&path, "x").unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age_s);
            fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
        let found = files(&[dir.path().to_owned(), PathBuf::from("-")]).unwrap();
        let names: Vec<String> =
            found.iter().map(|file| file.name().rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["mail.log.2", "mail.log.1", "mail.log", "-"]);
        let missing = files(&[dir.path().join("no")]).unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
    }
}
