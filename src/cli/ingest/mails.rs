//! Stored mails, one after another: a file, an mbox (RFC 4155), a Maildir, a folder of files, or standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use mail_parser::mailbox::mbox::MessageIterator;

/// A mail, and where it stands.
pub(super) struct Stored {
    pub name: String,
    pub data: Vec<u8>,
}

/// Larger files are no single mail; more of one is not read.
const BYTES_MAX: u64 = 64 << 20;

type Mails = Box<dyn Iterator<Item = io::Result<Stored>>>;

/// The mails below a path. `-` is standard input, which may hold one mail or an mbox.
pub(super) fn of(path: &Path) -> io::Result<Mails> {
    if path == Path::new("-") {
        return split("-".to_owned(), Box::new(BufReader::new(io::stdin())));
    }
    if !path.is_dir() {
        return split(path.display().to_string(), Box::new(BufReader::new(File::open(path)?)));
    }
    Ok(Box::new(files_below(path)?.into_iter().flat_map(|file| -> Mails {
        of(&file).unwrap_or_else(|error| Box::new(std::iter::once(Err(told(&file, &error)))))
    })))
}

/// An error that names its file.
fn told(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

/// A Maildir's messages (`cur` and `new`), or else a folder's files, by name. What begins with a dot is left alone.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let halves = ["cur", "new"].map(|half| folder.join(half));
    let folders =
        if halves.iter().all(|half| half.is_dir()) { halves.to_vec() } else { vec![folder.to_owned()] };
    let mut files = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn split(name: String, mut reader: Box<dyn BufRead>) -> io::Result<Mails> {
    if !reader.fill_buf()?.starts_with(b"From ") {
        let mut data = Vec::new();
        reader.take(BYTES_MAX).read_to_end(&mut data)?;
        return Ok(Box::new(std::iter::once(Ok(Stored { name, data }))));
    }
    let failed = name.clone();
    let mails = MessageIterator::new(reader).enumerate().map(move |(index, mail)| {
        let mail = mail.map_err(|error| told(Path::new(&failed), &error))?;
        Ok(Stored { name: format!("{name}#{}", index + 1), data: mail.unwrap_contents() })
    });
    Ok(Box::new(mails))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(path: &Path) -> Vec<(String, String)> {
        let text = |mail: io::Result<Stored>| {
            let mail = mail.unwrap();
            let name = Path::new(&mail.name).file_name().unwrap().to_string_lossy().into_owned();
            (name, String::from_utf8(mail.data).unwrap())
        };
        of(path).unwrap().map(text).collect()
    }

    #[test]
    fn an_mbox_comes_apart_and_its_quoting_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mbox");
        std::fs::write(&path, "From a@b Sat Jan  3 01:05:34 1996\nSubject: 1\n\n>From here\n\nFrom c Sat Jan  3 01:05:34 1996\nSubject: 2\n\n")
            .unwrap();
        let found = all(&path);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].0, "mbox#1");
        assert!(found[0].1.contains("\nFrom here") && found[1].1.starts_with("Subject: 2"), "{found:?}");
    }

    #[test]
    fn a_maildir_is_its_two_halves_and_a_folder_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for half in ["cur", "new", "tmp"] {
            std::fs::create_dir(dir.path().join(half)).unwrap();
            std::fs::write(dir.path().join(half).join(format!("{half}:2,S")), format!("Subject: {half}\n\n"))
                .unwrap();
        }
        std::fs::write(dir.path().join("cur/.hidden"), "no").unwrap();
        let names: Vec<String> = all(dir.path()).into_iter().map(|mail| mail.0).collect();
        assert_eq!(names, ["cur:2,S", "new:2,S"]);
        assert_eq!(all(&dir.path().join("tmp")).len(), 1);
        assert!(of(&dir.path().join("none")).is_err());
    }
}
