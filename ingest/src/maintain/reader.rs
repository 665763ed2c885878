//! Who reads what is new in the lake, and how far it has come. Retention never passes the slowest.

use std::collections::BTreeMap;

use object_store::path::Path;
use uuid::Uuid;

use super::MaintainError;
use super::log::transactions;
use crate::quotas::QuotasTable;
use crate::store::LakeStore;
use crate::table::{EventsTable, exists, log_store};

/// How far one reader of new events has come: what it holds is durable elsewhere, up to here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// The readers that are registered in a lake: every other table there whose log carries positions, that is
/// transactions named after spools. Dropping such a table drops the reader.
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
    Ok(readers)
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

    #[test]
    fn a_spool_that_was_never_read_is_unread() {
        let one = Uuid::from_u128(1);
        let position = ReaderPosition { reader: "rollups".into(), lsn: [(one, 7)].into() };
        assert!(position.has_read(one, 7));
        assert!(!position.has_read(one, 8));
        assert!(!position.has_read(Uuid::from_u128(2), 1));
    }
}
