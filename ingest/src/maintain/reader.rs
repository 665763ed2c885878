//! Who reads what is new in the lake, and how far it has come. Retention never passes the slowest.

use std::collections::BTreeMap;

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MaintainError;
use super::log::transactions;
use crate::document::{self, DocumentError};
use crate::quotas::QuotasTable;
use crate::store::LakeStore;
use crate::table::{EventsTable, exists, log_store};

/// The folder of readers whose positions stand in no table, below the lake's.
const FOLDER: &str = "_readers";

/// How far one reader of new events has come: what it holds is durable elsewhere, up to here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReaderPosition {
    /// The reader's name, as an operator would drop it.
    pub reader: String,
    /// Per spool the last LSN that the reader has taken. A spool that is not listed was not read at all.
    pub lsn: BTreeMap<Uuid, u64>,
}

impl ReaderPosition {
    /// Whether the reader has taken this event.
    pub fn has_read(&self, incarnation: Uuid, lsn: u64) -> bool {
        self.lsn.get(&incarnation).is_some_and(|read| *read >= lsn)
    }
}

impl ReaderPosition {
    /// What a reader of that name has kept; `None` when it never has.
    pub async fn kept(store: &LakeStore, reader: &str) -> Result<Option<Self>, DocumentError> {
        let Some(octets) = document::read(store, FOLDER, &name_of(reader)).await? else { return Ok(None) };
        // One that cannot be read counts as one that has read nothing: retention waits, and nothing is lost.
        let unread = || Self { reader: reader.to_owned(), lsn: BTreeMap::new() };
        Ok(Some(serde_json::from_slice(&octets).unwrap_or_else(|_| unread())))
    }

    /// Keeps it beside the tables, in the place of what the reader kept before. From then on retention waits for it.
    pub async fn keep(&self, store: &LakeStore) -> Result<(), DocumentError> {
        let octets = serde_json::to_vec_pretty(self).unwrap_or_default();
        document::write(store, FOLDER, &name_of(&self.reader), octets).await
    }

    /// Forgets a reader: retention waits for it no more.
    pub async fn forget(store: &LakeStore, reader: &str) -> Result<(), DocumentError> {
        document::remove(store, FOLDER, &name_of(reader)).await
    }
}

fn name_of(reader: &str) -> String {
    format!("{reader}.json")
}

/// The readers that are registered in a lake: every other table there whose log carries positions, that is
/// transactions named after spools, and every document of [`ReaderPosition::keep`]. Dropping such a table drops the reader.
pub async fn registered(store: &LakeStore) -> Result<Vec<ReaderPosition>, MaintainError> {
    let mut readers = Vec::new();
    for name in tables(store).await? {
        if name == EventsTable::NAME || name == QuotasTable::NAME {
            continue;
        }
        let known = transactions(&log_store(store, &name)?).await?;
        let lsn: BTreeMap<Uuid, u64> = known
            .into_iter()
            .filter_map(|(app_id, version)| {
                Some((Uuid::parse_str(&app_id).ok()?, u64::try_from(version).ok()?))
            })
            .collect();
        if !lsn.is_empty() {
            readers.push(ReaderPosition { reader: name, lsn });
        }
    }
    for reader in names(store).await? {
        readers.extend(ReaderPosition::kept(store, &reader).await?);
    }
    Ok(readers)
}

/// The names of readers whose positions stand in no table.
pub(crate) async fn names(store: &LakeStore) -> Result<Vec<String>, DocumentError> {
    let names = document::names(store, FOLDER).await?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
}

/// The names of a lake's tables.
pub async fn tables(store: &LakeStore) -> Result<Vec<String>, MaintainError> {
    let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
    let listed = store.root.list_with_delimiter(Some(&lake)).await;
    let listed = listed.map_err(|source| MaintainError::Storage {
        action: format!("list the lake at {}", store.url),
        source,
    })?;
    let mut names = Vec::new();
    for folder in listed.common_prefixes {
        let Some(name) = folder.filename().filter(|name| !name.starts_with(['_', '.'])) else { continue };
        if exists(&log_store(store, name)?).await? {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_without_a_table_is_registered_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::testing::lake(&dir);
        assert_eq!(ReaderPosition::kept(&store, "export:dwh").await.unwrap(), None);
        let position = ReaderPosition { reader: "export:dwh".into(), lsn: [(Uuid::from_u128(1), 7)].into() };
        position.keep(&store).await.unwrap();
        assert_eq!(registered(&store).await.unwrap(), std::slice::from_ref(&position));
        assert_eq!(ReaderPosition::kept(&store, "export:dwh").await.unwrap(), Some(position));
        ReaderPosition::forget(&store, "export:dwh").await.unwrap();
        assert_eq!(registered(&store).await.unwrap(), []);
    }

    #[test]
    fn a_spool_that_was_never_read_is_unread() {
        let one = Uuid::from_u128(1);
        let position = ReaderPosition { reader: "rollups".into(), lsn: [(one, 7)].into() };
        assert!(position.has_read(one, 7));
        assert!(!position.has_read(one, 8));
        assert!(!position.has_read(Uuid::from_u128(2), 1));
    }
}
