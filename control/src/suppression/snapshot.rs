//! The list as a file beside the control store, so that a start need not read millions of rows: hashes, no addresses.
//! Only a copy: when it is missing, damaged or another list's, the rows are read instead.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use super::packed::{PackedList, RECORD_OCTETS, Record};
use crate::id::TenantId;

const MAGIC: &[u8; 8] = b"SLSUPP01";
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the list as of line `seq` of its log, durably: whoever reads finds the whole file or the one before.
pub fn write(path: &Path, list_id: &str, seq: i64, list: &PackedList) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let mut out = Summing { inner: BufWriter::with_capacity(BUFFER_BYTES, file), sum: Context::new(&SHA256) };
    out.write_all(MAGIC)?;
    write_text(&mut out, list_id)?;
    out.write_all(&seq.to_be_bytes())?;
    // shard by shard, each as it is at its moment: changes after `seq` are applied again by whoever reads, to no effect
    for shard in list.shards() {
        let records = shard.read().clone();
        out.write_all(&u32::try_from(records.len()).unwrap_or(u32::MAX).to_be_bytes())?;
        records.iter().try_for_each(|record| out.write_all(record))?;
    }
    // after the records, so that each of their tenants is there
    let names: Vec<TenantId> = list.tenants().read().names.clone();
    out.write_all(&u32::try_from(names.len()).unwrap_or(u32::MAX).to_be_bytes())?;
    names.iter().try_for_each(|name| write_text(&mut out, name.as_str()))?;
    let sum = out.sum.finish();
    out.inner.write_all(sum.as_ref())?;
    out.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads a file that [`write`] made for this list, and up to which line of the log it goes. `None` when there is none.
pub fn read(path: &Path, list_id: &str) -> io::Result<Option<(PackedList, i64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let octets = file.metadata()?.len();
    let mut from =
        Summing { inner: BufReader::with_capacity(BUFFER_BYTES, file), sum: Context::new(&SHA256) };
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(damaged("it is no such file, or of another version"));
    }
    if read_text(&mut from)? != list_id {
        return Ok(None);
    }
    let mut seq = [0; 8];
    from.read_exact(&mut seq)?;
    let mut list = PackedList::default();
    let mut left = octets;
    for shard in list.all_mut() {
        let len = read_number(&mut from)?;
        // a damaged length must not ask for memory that the file cannot fill
        left = left
            .checked_sub((len as u64).saturating_mul(RECORD_OCTETS as u64))
            .ok_or_else(|| damaged("it is cut short"))?;
        let mut records: Vec<Record> = vec![[0; RECORD_OCTETS]; len];
        from.read_exact(records.as_flattened_mut())?;
        *shard.get_mut() = records;
    }
    let tenants = read_number(&mut from)?;
    for _ in 0..tenants {
        let name = TenantId::new(&read_text(&mut from)?).map_err(|_| damaged("it names no tenant"))?;
        list.add_tenant(&name);
    }
    let sum = from.sum.finish();
    let mut kept = [0; 32];
    from.inner.read_exact(&mut kept)?;
    if kept != sum.as_ref() {
        return Err(damaged("its checksum is another"));
    }
    Ok(Some((list, i64::from_be_bytes(seq))))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn write_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(&[u8::try_from(text.len()).unwrap_or(u8::MAX)])?;
    out.write_all(text.as_bytes().get(..text.len().min(255)).unwrap_or_default())
}

fn read_text(from: &mut impl Read) -> io::Result<String> {
    let mut len = [0];
    from.read_exact(&mut len)?;
    let mut text = vec![0; usize::from(len[0])];
    from.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| damaged("a text in it is none"))
}

fn read_number(from: &mut impl Read) -> io::Result<usize> {
    let mut number = [0; 4];
    from.read_exact(&mut number)?;
    usize::try_from(u32::from_be_bytes(number)).map_err(io::Error::other)
}

/// Adds up what passes.
struct Summing<T> {
    inner: T,
    sum: Context,
}

impl<T: Write> Write for Summing<T> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(octets)?;
        self.sum.update(octets.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summing<T> {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(octets)?;
        self.sum.update(octets.get(..read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::suppression::{AddressHasher, Reach, Reason};

    #[test]
    fn a_list_comes_back_whole_and_a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suppressions.idx");
        assert!(read(&path, "x").unwrap().is_none());
        let (hasher, mut list) = (AddressHasher::new(&[3; 32]), PackedList::default());
        let tenants: Vec<TenantId> = (0..9).map(|n| TenantId::new(&format!("t{n}")).unwrap()).collect();
        for number in 0..5_000_usize {
            let tenant = &tenants[number % tenants.len()];
            let hash = hasher.hash(&format!("person{number}@a.test"));
            list.push(hash, tenant, Reason::Complaint, Reach::Bulk, Timestamp::from_secs(7));
        }
        list.sort();
        write(&path, "x", 42, &list).unwrap();
        assert!(read(&path, "y").unwrap().is_none(), "another list's");
        let (again, seq) = read(&path, "x").unwrap().unwrap();
        assert_eq!((again.len(), seq), (5_000, 42));
        for number in 0..5_000_usize {
            let hash = hasher.hash(&format!("person{number}@a.test"));
            for (place, tenant) in tenants.iter().enumerate() {
                assert_eq!(again.find(hash, tenant, |_| true).is_some(), number % tenants.len() == place);
            }
        }
        let octets = std::fs::read(&path).unwrap();
        for (at, cut) in
            [(20, octets.len()), (octets.len() / 2, octets.len()), (0, octets.len() - 1), (0, 30)]
        {
            let mut bad = octets[..cut].to_vec();
            bad[at] ^= u8::from(cut == octets.len());
            std::fs::write(&path, bad).unwrap();
            assert!(!matches!(read(&path, "x"), Ok(Some(_))), "octet {at} of {cut}");
        }
    }
}
