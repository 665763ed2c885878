//! Zip archives, as far as mailed reports use them: the central directory, entries stored or deflated. No zip64, no
//! encryption, nothing over several disks. (PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.4.)

use std::io::Read;

/// The end record with the longest comment.
const END_BYTES_MAX: usize = 22 + 65_535;

/// Why an archive is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZipError {
    #[error("it has no directory: it is cut off, or no zip file")]
    NoDirectory,
    #[error("its directory is damaged")]
    Directory,
    #[error("it has {entries} entries; at most {max} are read")]
    TooMany { entries: usize, max: usize },
    #[error("it is encrypted")]
    Encrypted,
    #[error("its compression method {0} is not known here")]
    Method(u16),
    #[error("its checksum is wrong")]
    Checksum,
}

/// One file in an archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub packed: &'a [u8],
    method: Method,
    crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Stored,
    Deflated,
}

impl<'a> Entry<'a> {
    /// What it unpacks to. As long as it likes: whoever reads bounds it.
    pub fn reader(&self) -> Box<dyn Read + 'a> {
        match self.method {
            Method::Stored => Box::new(self.packed),
            Method::Deflated => Box::new(flate2::bufread::DeflateDecoder::new(self.packed)),
        }
    }

    /// Whether what was read is what was packed.
    pub fn check(&self, unpacked: &[u8]) -> Result<(), ZipError> {
        let mut crc = flate2::Crc::new();
        crc.update(unpacked);
        if crc.sum() == self.crc { Ok(()) } else { Err(ZipError::Checksum) }
    }
}

/// The files of an archive, without its folders.
pub fn entries(bytes: &[u8], max: usize) -> Result<Vec<Entry<'_>>, ZipError> {
    let tail_at = bytes.len().saturating_sub(END_BYTES_MAX);
    let tail = bytes.get(tail_at..).unwrap_or_default();
    let end = tail.windows(4).rposition(|four| four == b"PK\x05\x06").ok_or(ZipError::NoDirectory)?;
    let end = tail.get(end..).unwrap_or_default();
    let count = usize::from(u16_at(end, 10).ok_or(ZipError::NoDirectory)?);
    if count > max {
        return Err(ZipError::TooMany { entries: count, max });
    }
    let mut at = u32_at(end, 16).ok_or(ZipError::NoDirectory)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let record = bytes.get(at..).filter(|it| it.starts_with(b"PK\x01\x02")).ok_or(ZipError::Directory)?;
        let lengths = [28, 30, 32].map(|place| u16_at(record, place).map(usize::from));
        let [Some(name), Some(extra), Some(comment)] = lengths else { return Err(ZipError::Directory) };
        let is_folder = record.get(46..46 + name).ok_or(ZipError::Directory)?.ends_with(b"/");
        if !is_folder {
            entries.push(entry(bytes, record).ok_or(ZipError::Directory)??);
        }
        at += 46 + name + extra + comment;
    }
    Ok(entries)
}

/// The entry of a directory's record; `None` for one that points nowhere.
fn entry<'a>(bytes: &'a [u8], record: &[u8]) -> Option<Result<Entry<'a>, ZipError>> {
    let (flags, method, crc) = (u16_at(record, 8)?, u16_at(record, 10)?, u32_at(record, 16)?);
    let (size, local_at) = (u32_at(record, 20)?, u32_at(record, 42)?);
    if flags & 1 == 1 {
        return Some(Err(ZipError::Encrypted));
    }
    let method = match method {
        0 => Method::Stored,
        8 => Method::Deflated,
        other => return Some(Err(ZipError::Method(other))),
    };
    let local = bytes.get(local_at..).filter(|it| it.starts_with(b"PK\x03\x04"))?;
    let begin = 30 + usize::from(u16_at(local, 26)?) + usize::from(u16_at(local, 28)?);
    let packed = local.get(begin..begin.checked_add(size)?)?;
    Some(Ok(Entry { packed, method, crc: u32::try_from(crc).ok()? }))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes)
}

/// A number of 32 bits, which mostly is a place or a length.
fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}
