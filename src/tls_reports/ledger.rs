//! Who sends which day's report about which domain, and how far that got: a document in the lake for each, made by whoever
//! is first. So of several nodes one sends, and after a crash it knows where it was.

use std::collections::BTreeMap;

use sendlake_control::clock::Timestamp;
use sendlake_ingest::document::{self, DocumentError};
use sendlake_ingest::store::LakeStore;
use serde::{Deserialize, Serialize};

/// The folder of these documents, beside the lake's tables.
const FOLDER: &str = "_tls_reports";
/// Documents of days that are longer ago are removed.
const KEPT_DAYS: i32 = 30;

/// The lake did not answer, or holds something else.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(
        "the lake's {FOLDER}/{name} is no note on a TLS report: {reason}; remove it to send that report again"
    )]
    Unreadable { name: String, reason: String },
}

/// One domain's report of one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `2026-11-21`, UTC.
    pub day: String,
    pub domain: String,
    pub report_id: String,
    /// Which spool sends it: another one does not know what this one has taken.
    pub holder: String,
    pub node_id: String,
    pub claimed_at: Timestamp,
    /// By [`Destination::key`](super::record::Destination::key): no address stands here.
    pub destinations: BTreeMap<String, Progress>,
}

/// How far one destination got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub state: State,
    pub tries: u32,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What was said last, if it was no success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Waits,
    Sent,
    /// It is not tried again.
    GivenUp,
}

/// Whose a report is to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    Ours(Entry),
    Theirs(Entry),
}

/// The notes of one lake, in the hand of one spool.
pub struct Ledger {
    pub store: LakeStore,
    pub holder: String,
    pub node_id: String,
}

impl Ledger {
    /// Claims a report, or finds out who has.
    pub async fn claim(
        &self,
        day: &str,
        domain: &str,
        report_id: &str,
        now: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let entry = Entry {
            day: day.to_owned(),
            domain: domain.to_owned(),
            report_id: report_id.to_owned(),
            holder: self.holder.clone(),
            node_id: self.node_id.clone(),
            claimed_at: now,
            destinations: BTreeMap::new(),
        };
        let name = name(day, domain);
        if document::create(&self.store, FOLDER, &name, encode(&entry)).await? {
            return Ok(Claim::Ours(entry));
        }
        let there = self.look(day, domain).await?.ok_or_else(|| LedgerError::Unreadable {
            name,
            reason: "it was there, and then was not".to_owned(),
        })?;
        Ok(if there.holder == self.holder { Claim::Ours(there) } else { Claim::Theirs(there) })
    }

    /// What is noted on a report.
    pub async fn look(&self, day: &str, domain: &str) -> Result<Option<Entry>, LedgerError> {
        let name = name(day, domain);
        let Some(text) = document::read(&self.store, FOLDER, &name).await? else { return Ok(None) };
        let entry = serde_json::from_slice(&text);
        entry.map(Some).map_err(|error| LedgerError::Unreadable { name, reason: error.to_string() })
    }

    /// Notes how far a report of ours got. Only its holder writes a note again.
    pub async fn note(&self, entry: &Entry) -> Result<(), LedgerError> {
        Ok(document::write(&self.store, FOLDER, &name(&entry.day, &entry.domain), encode(entry)).await?)
    }

    /// Removes notes of long ago.
    pub async fn tidy(&self, today: i32) -> Result<(), LedgerError> {
        for name in document::names(&self.store, FOLDER).await? {
            let day = name.get(..10).and_then(super::day_of);
            if day.is_some_and(|day| day < today - KEPT_DAYS) {
                document::remove(&self.store, FOLDER, &name).await?;
            }
        }
        Ok(())
    }
}

fn name(day: &str, domain: &str) -> String {
    format!("{day}.{domain}.json")
}

fn encode(entry: &Entry) -> Vec<u8> {
    // A struct of plain values always has a JSON form.
    serde_json::to_vec_pretty(entry).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sendlake_ingest::store::open_store;

    use super::*;

    #[tokio::test]
    async fn whoever_is_first_sends_and_finds_its_own_note_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_store(dir.path().to_str().unwrap(), &Default::default()).unwrap();
        let ledger =
            |holder: &str| Ledger { store: store.clone(), holder: holder.into(), node_id: "n".into() };
        let (one, two) = (ledger("one"), ledger("two"));
        let now = Timestamp::from_secs(1_800_000_000);
        let Claim::Ours(mut entry) = one.claim("2026-11-21", "b.example", "id", now).await.unwrap() else {
            panic!("it was there")
        };
        assert!(matches!(two.claim("2026-11-21", "b.example", "id", now).await.unwrap(), Claim::Theirs(_)));
        assert!(matches!(two.claim("2026-11-22", "b.example", "id", now).await.unwrap(), Claim::Ours(_)));
        entry
            .destinations
            .insert("k".into(), Progress { state: State::Sent, tries: 1, ..Progress::default() });
        one.note(&entry).await.unwrap();
        assert_eq!(one.claim("2026-11-21", "b.example", "id", now).await.unwrap(), Claim::Ours(entry));
        let today = super::super::day_of("2026-12-22").unwrap();
        one.tidy(today).await.unwrap();
        assert!(one.look("2026-11-21", "b.example").await.unwrap().is_none(), "31 days are long ago");
        assert!(one.look("2026-11-22", "b.example").await.unwrap().is_some());
        document::write(&store, FOLDER, "2026-11-22.b.example.json", b"{".to_vec()).await.unwrap();
        let refused = one.claim("2026-11-22", "b.example", "id", now).await.unwrap_err();
        assert!(refused.to_string().contains("remove it"), "{refused}");
    }
}
