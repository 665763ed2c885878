//! Small documents beside the lake's tables, written over as a whole: what is kept there for safe-keeping, and what several
//! nodes agree on by who was first.

use std::fmt;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::store::LakeStore;

/// Largest document that is read.
const BYTES_MAX: usize = 1 << 20;

/// The store did not give or take a document.
#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be {doing}: {source}")]
pub struct DocumentError {
    place: String,
    doing: &'static str,
    #[source]
    source: object_store::Error,
}

impl DocumentError {
    /// What a document holds cannot be read or made.
    pub(crate) fn made(store: &LakeStore, folder: &str, name: &str, error: impl fmt::Display) -> Self {
        let source = object_store::Error::Generic { store: "document", source: error.to_string().into() };
        Self { place: format!("{}{folder}/{name}", store.url), doing: "read or made", source }
    }
}

fn path(store: &LakeStore, folder: &str, name: &str) -> Path {
    let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
    lake.join(folder).join(name)
}

/// Reads `<lake>/<folder>/<name>`; `None` when there is no such document.
pub async fn read(store: &LakeStore, folder: &str, name: &str) -> Result<Option<Vec<u8>>, DocumentError> {
    let path = path(store, folder, name);
    let failed =
        |source| DocumentError { place: format!("{}{folder}/{name}", store.url), doing: "read", source };
    match store.root.get(&path).await {
        Ok(found) if found.meta.size <= BYTES_MAX as u64 => {
            found.bytes().await.map(|octets| Some(octets.to_vec())).map_err(failed)
        }
        Ok(_) => Err(failed(object_store::Error::Generic {
            store: "document",
            source: "it is larger than any that this version writes".into(),
        })),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

/// Reads all documents of `<lake>/<folder>`, in no order. One that is too large to be ours is left out.
pub async fn read_all(store: &LakeStore, folder: &str) -> Result<Vec<Vec<u8>>, DocumentError> {
    let place = || format!("{}{folder}/", store.url);
    let folder = Path::from_url_path(store.url.path()).unwrap_or_default().join(folder);
    let listed = store.root.list_with_delimiter(Some(&folder)).await;
    let listed = listed.map_err(|source| DocumentError { place: place(), doing: "listed", source })?;
    let mut found = Vec::new();
    for object in listed.objects.into_iter().filter(|object| object.size <= BYTES_MAX as u64) {
        let got = async { store.root.get(&object.location).await?.bytes().await };
        match got.await {
            Ok(octets) => found.push(octets.to_vec()),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(DocumentError { place: place(), doing: "read", source }),
        }
    }
    Ok(found)
}

/// Writes it, in the place of what was there.
pub async fn write(
    store: &LakeStore,
    folder: &str,
    name: &str,
    octets: Vec<u8>,
) -> Result<(), DocumentError> {
    let failed =
        |source| DocumentError { place: format!("{}{folder}/{name}", store.url), doing: "written", source };
    store.root.put(&path(store, folder, name), PutPayload::from(octets)).await.map(drop).map_err(failed)
}

/// Writes it if there is none of that name. False when there is one, which then stays as it is; whose that is, what it holds
/// must tell: an answer that got lost looks the same.
pub async fn create(
    store: &LakeStore,
    folder: &str,
    name: &str,
    octets: Vec<u8>,
) -> Result<bool, DocumentError> {
    let failed =
        |source| DocumentError { place: format!("{}{folder}/{name}", store.url), doing: "made", source };
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.root.put_opts(&path(store, folder, name), PutPayload::from(octets), options).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(false)
        }
        Err(source) => Err(failed(source)),
    }
}

/// Names of the documents in a folder, in order.
pub async fn names(store: &LakeStore, folder: &str) -> Result<Vec<String>, DocumentError> {
    let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
    let failed = |source| DocumentError { place: format!("{}{folder}", store.url), doing: "listed", source };
    let listed = store.root.list(Some(&lake.join(folder)));
    let found: Vec<_> = listed.try_collect().await.map_err(failed)?;
    let mut names: Vec<String> =
        found.iter().filter_map(|meta| meta.location.filename().map(str::to_owned)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes a document; one that is not there is no error.
pub async fn remove(store: &LakeStore, folder: &str, name: &str) -> Result<(), DocumentError> {
    let failed =
        |source| DocumentError { place: format!("{}{folder}/{name}", store.url), doing: "removed", source };
    match store.root.delete(&path(store, folder, name)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open_store;

    #[tokio::test]
    async fn a_document_is_missing_first_and_then_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_store(dir.path().to_str().unwrap(), &Default::default()).unwrap();
        assert_eq!(read(&store, "_kept", "a b.json").await.unwrap(), None);
        assert_eq!(read_all(&store, "_kept").await.unwrap(), Vec::<Vec<u8>>::new());
        for text in ["one", "two"] {
            write(&store, "_kept", "a b.json", text.into()).await.unwrap();
            assert_eq!(read(&store, "_kept", "a b.json").await.unwrap().unwrap(), text.as_bytes());
        }
        assert!(!create(&store, "_kept", "a b.json", b"three".to_vec()).await.unwrap());
        assert!(create(&store, "_kept", "c.json", b"three".to_vec()).await.unwrap());
        assert_eq!(read(&store, "_kept", "a b.json").await.unwrap().unwrap(), b"two");
        assert_eq!(names(&store, "_kept").await.unwrap(), ["a b.json", "c.json"]);
        assert!(names(&store, "_nothing").await.unwrap().is_empty());
        remove(&store, "_kept", "c.json").await.unwrap();
        remove(&store, "_kept", "c.json").await.unwrap();
        assert_eq!(names(&store, "_kept").await.unwrap(), ["a b.json"]);
        write(&store, "_kept", "c%.json", "three".into()).await.unwrap();
        let mut found = read_all(&store, "_kept").await.unwrap();
        found.sort();
        assert_eq!(found, [b"three".to_vec(), b"two".to_vec()]);
        write(&store, "_kept", "a b.json", vec![0; BYTES_MAX + 1]).await.unwrap();
        assert!(read(&store, "_kept", "a b.json").await.unwrap_err().to_string().contains("larger"));
    }
}
