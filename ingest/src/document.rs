//! Small documents beside the lake's tables, written over as a whole: what is kept there for safe-keeping.

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open_store;

    #[tokio::test]
    async fn a_document_is_missing_first_and_then_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_store(dir.path().to_str().unwrap(), &Default::default()).unwrap();
        assert_eq!(read(&store, "_kept", "a b.json").await.unwrap(), None);
        for text in ["one", "two"] {
            write(&store, "_kept", "a b.json", text.into()).await.unwrap();
            assert_eq!(read(&store, "_kept", "a b.json").await.unwrap().unwrap(), text.as_bytes());
        }
        write(&store, "_kept", "a b.json", vec![0; BYTES_MAX + 1]).await.unwrap();
        assert!(read(&store, "_kept", "a b.json").await.unwrap_err().to_string().contains("larger"));
    }
}
