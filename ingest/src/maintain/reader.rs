//! Who reads what is new in the lake, and how far it has come. Retention never passes the slowest.

use std::collections::BTreeMap;

use uuid::Uuid;

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
