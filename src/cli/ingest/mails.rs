//! Stored mails, one after another: a file, an mbox (RFC 4155), a Maildir, a folder of files, or standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sendlake_ingest::report;

/// A mail, and where it stands.
pub(super) struct Stored {
    pub name: String,
    pub data: Vec<u8>,
}

/// A server takes no larger one.
const BYTES_MAX: u64 = report::BYTES_MAX as u64;
/// What each mail of an mbox begins with.
const FROM: &[u8] = b"From ";

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
    if !reader.fill_buf()?.starts_with(FROM) {
        let mut data = Vec::new();
        reader.take(BYTES_MAX + 1).read_to_end(&mut data)?;
        if data.len() as u64 > BYTES_MAX {
            return Err(too_large());
        }
        return Ok(Box::new(std::iter::once(Ok(Stored { name, data }))));
    }
    Ok(Box::new(Mbox { name, reader, count: 0, has_begun: false, is_over: false }))
}

fn too_large() -> io::Error {
    io::Error::other(format!("it is larger than {} MiB, and no report is", BYTES_MAX >> 20))
}

/// The mails of an mbox, whose `From ` lines were quoted by `>` before it was written (the form "mboxrd"). However long a
/// mail or a line is, no more than the bound is held.
struct Mbox {
    name: String,
    reader: Box<dyn BufRead>,
    count: usize,
    /// The line that begins the next mail was read.
    has_begun: bool,
    is_over: bool,
}

impl Iterator for Mbox {
    type Item = io::Result<Stored>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        self.count += 1;
        let name = format!("{}#{}", self.name, self.count);
        match self.mail() {
            Ok(Some(data)) => Some(Ok(Stored { name, data })),
            Ok(None) => Some(Err(told(Path::new(&name), &too_large()))),
            Err(error) => {
                self.is_over = true;
                Some(Err(told(Path::new(&name), &error)))
            }
        }
    }
}

impl Mbox {
    /// The next mail up to the line that begins the one after it; `None` where it is larger than the bound.
    fn mail(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut mail: Option<Vec<u8>> = Some(Vec::new());
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.line(&mut line)? == 0 {
                self.is_over = true;
                return Ok(mail);
            }
            if line.starts_with(FROM) {
                if std::mem::replace(&mut self.has_begun, true) {
                    return Ok(mail);
                }
                continue;
            }
            let quotes = line.iter().take_while(|byte| **byte == b'>').count();
            let is_quoted = quotes > 0 && line.get(quotes..).is_some_and(|rest| rest.starts_with(FROM));
            let text = line.get(usize::from(is_quoted)..).unwrap_or_default();
            mail = mail.filter(|mail| (mail.len() + text.len()) as u64 <= BYTES_MAX);
            if let Some(mail) = &mut mail {
                mail.extend_from_slice(text);
            }
        }
    }

    /// A line, or as much of it as a mail may have. Returns its octets; 0 at the end.
    fn line(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        let mut octets = 0;
        loop {
            let there = self.reader.fill_buf()?;
            let end = there.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(there.len(), |end| end + 1);
            if line.len() as u64 <= BYTES_MAX {
                line.extend_from_slice(there.get(..taken).unwrap_or_default());
            }
            self.reader.consume(taken);
            octets += taken;
            if end.is_some() || taken == 0 {
                return Ok(octets);
            }
        }
    }
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
    fn what_is_too_large_is_refused_and_the_mail_after_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mbox");
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let long = line.repeat(usize::try_from(BYTES_MAX).unwrap() / 1_000 + 1);
        let one_line = b"y".repeat(usize::try_from(BYTES_MAX).unwrap() + 1);
        let mails: [&[u8]; 7] = [
            b"From a\n",
            &long,
            b"From b\n",
            b"Subject: two\n>>From x\n",
            b"From c\n",
            &one_line,
            b"\nFrom d\nSubject: four",
        ];
        std::fs::write(&path, mails.concat()).unwrap();
        let found: Vec<_> = of(&path).unwrap().collect();
        assert_eq!(found.len(), 4);
        for place in [0, 2] {
            let refused = found[place].as_ref().err().unwrap().to_string();
            assert!(refused.contains(&format!("mbox#{}: it is larger than 32 MiB", place + 1)), "{refused}");
        }
        assert_eq!(found[1].as_ref().unwrap().data, b"Subject: two\n>From x\n");
        assert_eq!(found[3].as_ref().unwrap().data, b"Subject: four");
        std::fs::write(&path, &one_line).unwrap();
        assert!(of(&path).err().unwrap().to_string().contains("larger than 32 MiB"));
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
