//! Where the lake lives: a local folder, a bucket, or memory, opened from one URL.

mod cloud;
pub mod durable;
mod probe;
mod profile;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3;
use object_store::memory::InMemory;
use sendlake_control::clock::Clock;
use url::Url;

use self::durable::DurableLocal;
pub use self::probe::Refusal;
pub(crate) use self::probe::refusal;
pub use self::profile::ProfileError;

/// A place for Delta tables.
#[derive(Clone, Debug)]
pub struct LakeStore {
    /// The whole file system, bucket or container: its paths start at the root, not at the lake's folder.
    pub root: Arc<dyn ObjectStore>,
    /// The lake's folder in it, with a slash at its end. Table `events` lies at `<url>events/`.
    pub url: Url,
}

/// Why the lake's place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "lake location {location:?} is not a URL: {reason}; write a folder, file:///…, s3://bucket/…, gs://bucket/… or az://container/…"
    )]
    NotAUrl { location: String, reason: String },
    #[error(
        "lake location {url}: {scheme}:// is not supported; use a folder, file://, s3://, gs://, az:// or abfss://"
    )]
    UnknownScheme { url: String, scheme: String },
    #[error(
        "lake location {url}: {key:?} is not an option of this kind of storage; see the list for {service} in the object_store documentation, or remove it"
    )]
    UnknownOption { url: String, key: String, service: &'static str },
    #[error(
        "lake location {url}: {source}; check the location, the storage options and the credentials in the environment"
    )]
    Settings { url: String, source: Box<object_store::Error> },
    #[error("lake location {url}: {source}")]
    Profile { url: String, source: ProfileError },
    #[error(
        "lake location {url}: {endpoint} is not encrypted, so whoever listens reads every event; use https://, or, \
         where that is safe, set storage.options.{option} = \"true\""
    )]
    PlainHttp { url: String, endpoint: String, option: &'static str },
    /// The service answered, and will answer the same until somebody changes something.
    #[error("lake location {url}: {refusal} (the service said: {said})")]
    Refused { url: String, refusal: Refusal, said: String },
    /// Nothing answered, or only with errors that may pass.
    #[error(
        "lake location {url} cannot be reached now: {source}; check the network, the endpoint in storage.options and \
         that the service runs"
    )]
    Away { url: String, source: Box<object_store::Error> },
    #[error("lake folder {}: {source}; check that it exists or can be made, and that this user may write there", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
}

/// Opens the place at `location`: a folder's path (made when missing), or a URL with scheme `file`, `s3`,
/// `gs`, `az`, `abfss` or `memory`.
///
/// For buckets settings and credentials come from the environment and the vendor's files, as the vendors' own tools
/// take them, and `options` (the keys of `object_store`, such as `aws_region` or `endpoint`) win over them. No request
/// is made yet: see [`LakeStore::probe`]. Two calls for `memory://` give two separate places.
///
/// Without a clock nobody can tell when credentials of a process end: they are asked for every five minutes.
pub fn open_store(location: &str, options: &BTreeMap<String, String>) -> Result<LakeStore, StoreError> {
    open(location, options, None)
}

/// [`open_store`] with a clock, by which credentials that say when they end are asked for anew in time.
pub fn open_store_by(
    clock: &Arc<dyn Clock>,
    location: &str,
    options: &BTreeMap<String, String>,
) -> Result<LakeStore, StoreError> {
    open(location, options, Some(clock))
}

/// Opens the bucket of `location`, `s3://bucket/…`, as [`open_store`] does, as what it is: who signs requests to other
/// services of Amazon takes its credentials.
pub fn open_amazon(location: &str, options: &BTreeMap<String, String>) -> Result<AmazonS3, StoreError> {
    let not_s3 = |reason: String| StoreError::NotAUrl {
        location: location.to_owned(),
        reason: format!("{reason}, not s3://…"),
    };
    let url = Url::parse(location).map_err(|error| not_s3(error.to_string()))?;
    if url.scheme() != "s3" {
        return Err(not_s3(format!("it is {}://", url.scheme())));
    }
    cloud::open_amazon(&url, &folder_url(&url), options, &environment())
}

fn open(
    location: &str,
    options: &BTreeMap<String, String>,
    clock: Option<&Arc<dyn Clock>>,
) -> Result<LakeStore, StoreError> {
    if !location.contains("://") {
        if is_half_a_url(location) {
            return Err(StoreError::NotAUrl {
                location: location.to_owned(),
                reason: "after its scheme a URL has two slashes, as in s3://bucket/folder; write ./ before a folder that \
                         is named so"
                    .to_owned(),
            });
        }
        return open_folder(Path::new(location));
    }
    let url = Url::parse(location)
        .map_err(|error| StoreError::NotAUrl { location: location.to_owned(), reason: error.to_string() })?;
    match url.scheme() {
        "file" => match url.to_file_path() {
            Ok(folder) => open_folder(&folder),
            Err(()) => Err(StoreError::NotAUrl {
                location: location.to_owned(),
                reason: "a file URL needs three slashes and an absolute path".to_owned(),
            }),
        },
        "memory" => Ok(LakeStore { root: Arc::new(InMemory::new()), url: folder_url(&url) }),
        _ => {
            let shown = folder_url(&url);
            let root = cloud::open(&url, &shown, options, &environment(), clock)?;
            Ok(LakeStore { root, url: shown })
        }
    }
}

/// Begins as a URL does, `s3:/…`, but for a slash. One letter is a drive, on systems that have them.
fn is_half_a_url(location: &str) -> bool {
    location.split_once(":/").is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-'))
    })
}

impl LakeStore {
    /// The location of one table, with a slash at its end.
    pub fn table_url(&self, table: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{table}/", self.url.path()));
        url
    }
}

/// What of the environment is text; no vendor's variable is anything else.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn open_folder(folder: &Path) -> Result<LakeStore, StoreError> {
    let failed = |source| StoreError::Folder { path: folder.to_owned(), source };
    durable::create_dir(folder).map_err(failed)?;
    // Symbolic links and `..` are resolved once, so that one lake has one URL.
    let folder = folder.canonicalize().map_err(failed)?;
    durable::sync_logs(&folder).map_err(failed)?;
    let url = Url::from_directory_path(&folder).map_err(|()| StoreError::NotAUrl {
        location: folder.display().to_string(),
        reason: "the folder has no absolute path".to_owned(),
    })?;
    Ok(LakeStore { root: Arc::new(DurableLocal::new()), url })
}

/// The same URL with exactly one slash at its end, and without what its tables should not inherit and messages
/// not show: a query, a password.
fn folder_url(url: &Url) -> Url {
    let mut url = url.clone();
    let folder = url.path().trim_matches('/').to_owned();
    url.set_path(&if folder.is_empty() { "/".to_owned() } else { format!("/{folder}/") });
    // Refused only by URLs that cannot hold a password in the first place.
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn folder_is_made_and_its_tables_have_file_urls() {
        let dir = tempfile::tempdir().unwrap();
        let lake = dir.path().join("a b/lake");
        let store = open_store(lake.to_str().unwrap(), &options(&[])).unwrap();
        assert!(lake.is_dir());
        assert_eq!(
            store.table_url("events").to_file_path().unwrap(),
            lake.canonicalize().unwrap().join("events")
        );
        let again = open_store(store.url.as_str(), &options(&[])).unwrap();
        assert_eq!(again.url, store.url);
    }

    #[test]
    fn buckets_open_without_a_request() {
        let credentials =
            options(&[("aws_access_key_id", "k"), ("aws_secret_access_key", "s"), ("region", "eu-west-1")]);
        let s3 = open_store("s3://mail-lake/prod", &credentials).unwrap();
        assert_eq!(s3.table_url("events").as_str(), "s3://mail-lake/prod/events/");
        let azure = options(&[("account_name", "a"), ("account_key", "a2V5")]);
        assert_eq!(open_store("az://box", &azure).unwrap().table_url("events").as_str(), "az://box/events/");
    }

    #[test]
    fn wrong_locations_say_what_to_write() {
        for (location, pairs, expected) in [
            ("ftp://host/x", &[][..], "ftp:// is not supported"),
            ("s3://bucket/x", &[("colour", "blue")][..], "\"colour\" is not an option"),
            ("file://relative", &[][..], "three slashes"),
            ("s3://", &[][..], "lake location"),
            ("s3:/bucket", &[][..], "two slashes"),
            ("nfs://user:hunter2@host/x", &[][..], "nfs://user@host/x"),
        ] {
            let message = open_store(location, &options(pairs)).unwrap_err().to_string();
            assert!(message.contains(expected), "{location}: {message}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lake");
        std::fs::write(&file, b"").unwrap();
        let message = open_store(file.to_str().unwrap(), &options(&[])).unwrap_err().to_string();
        assert!(message.contains(file.to_str().unwrap()), "{message}");
    }
}
