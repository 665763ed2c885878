//! The master key: it wraps the data keys, and lives outside the store that holds them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::SecretError;
use super::envelope::Cipher;
use crate::clock::Entropy;

/// A master key of 256 bits. Its bytes are wiped when it goes, and never printed.
pub struct MasterKey {
    bytes: Zeroizing<[u8; 32]>,
    /// Where it came from, for error messages: a file's path or a variable's name.
    origin: String,
}

impl MasterKey {
    /// Reads 32 bytes in base64 (RFC 4648, section 4), as an environment variable or a secret manager hands
    /// them over. `origin` names that place in error messages.
    pub fn from_base64(text: &str, origin: &str) -> Result<Self, SecretError> {
        let invalid = || SecretError::MasterKeyText { origin: origin.to_owned() };
        let decoded = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| invalid())?);
        let bytes: [u8; 32] = decoded.as_slice().try_into().map_err(|_| invalid())?;
        Ok(Self { bytes: Zeroizing::new(bytes), origin: origin.to_owned() })
    }

    /// Reads the key in the file `path`, or makes a new one there (mode 0600) when there is no such file.
    ///
    /// Of several processes that start at once, all get the key of the first.
    pub fn load_or_create(path: &Path, entropy: &dyn Entropy) -> Result<Self, SecretError> {
        let failed = |source| SecretError::MasterKeyFile { path: path.to_owned(), source };
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut_slice());
        let text = Zeroizing::new(STANDARD.encode(bytes.as_slice()) + "\n");
        let staged = staging_path(path, entropy.u64());
        let placed = place(&staged, path, text.as_bytes());
        // Left over only when writing it failed; the error below matters more than this one.
        let _ = fs::remove_file(&staged);
        match placed {
            Ok(()) => Ok(Self { bytes, origin: path.display().to_string() }),
            Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
            }
            Err(problem) => Err(failed(problem)),
        }
    }

    /// Where the key came from: a file's path or what the caller of [`MasterKey::from_base64`] named.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The key in the file `path`; `None` when there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>, SecretError> {
        let failed = |source| SecretError::MasterKeyFile { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(problem) => return Err(failed(problem)),
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others may read the master key: chmod 600 this file");
        }
        let mut text = Zeroizing::new(String::new());
        // A key is 44 characters; a file of gigabytes under this name is not one.
        file.take(1_024).read_to_string(&mut text).map_err(failed)?;
        Self::from_base64(&text, &path.display().to_string()).map(Some)
    }

    fn cipher(&self) -> Cipher {
        Cipher::new(&self.bytes)
    }

    /// Seals a key under this one, bound to what it is and to its name.
    #[expect(clippy::expect_used, reason = "the only failure is a plaintext beyond 64 GiB")]
    pub(crate) fn wrap(&self, kind: &str, name: &str, key: &[u8; 32], entropy: &dyn Entropy) -> Vec<u8> {
        let bound = [kind.as_bytes(), name.as_bytes()];
        self.cipher().seal(0, bound, key, entropy).expect("32 bytes can be sealed")
    }

    /// Opens what [`MasterKey::wrap`] sealed, or `None` when this is not the key that sealed it.
    pub(crate) fn unwrap(&self, kind: &str, name: &str, wrapped: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let key = self.cipher().open([kind.as_bytes(), name.as_bytes()], wrapped).ok()?;
        key.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey(from {})", self.origin)
    }
}

fn staging_path(path: &Path, random: u64) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{random:016x}.new"));
    path.with_file_name(name)
}

/// Writes `staged` and links it to `path` once it is durable, so that nobody reads half a key, and never over
/// a key that is there already.
fn place(staged: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staged)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::hard_link(staged, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    #[test]
    fn made_once_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let made = MasterKey::load_or_create(&path, &SeededEntropy::new(1)).unwrap();
        let read = MasterKey::load_or_create(&path, &SeededEntropy::new(2)).unwrap();
        assert_eq!(made.bytes, read.bytes);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no staging file stays behind");
    }

    #[test]
    fn debug_shows_where_from_and_nothing_of_the_key() {
        let key = MasterKey::from_base64(&STANDARD.encode([0xAB; 32]), "MASTER").unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(from MASTER)");
    }

    #[test]
    fn damaged_key_file_is_refused_by_name_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        for text in ["", "short", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])] {
            fs::write(&path, text).unwrap();
            let error = MasterKey::load_or_create(&path, &SeededEntropy::new(1)).unwrap_err().to_string();
            assert!(error.contains("master.key") && error.contains("32 bytes in base64"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn missing_folder_is_named() {
        let path = Path::new("no-such-folder/master.key");
        let error = MasterKey::load_or_create(path, &SeededEntropy::new(1)).unwrap_err().to_string();
        assert!(error.contains("no-such-folder/master.key"), "{error}");
    }
}
