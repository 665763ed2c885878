//! The list put together again from its events in the lake, where the control store lost entries or is a new one.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::quarantine::{DOUBTER, Doubt, RestoredDoubt};
use sendlake_control::suppression::restore::Restored;
use sendlake_control::suppression::totals::Digest;
use sendlake_control::suppression::{AddressHash, AddressHasher, Reach, Reason, Suppress, Totals};
use sendlake_control::{ControlError, ControlStore};
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{QueryEngine, QueryLimits};
use sendlake_sender::suppression::Suppressions;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ControlSuppressions;
use super::keeping::{Keeping, KeepingError};
use crate::hear::wishes::{WishError, Wishes};

const DAYS: &str = "SELECT CAST(event_date AS VARCHAR) AS day FROM events \
    WHERE event_type IN ('suppression_added', 'suppression_removed') GROUP BY event_date ORDER BY event_date";
const CHANGES: &str = include_str!("rebuild.sql");
/// Changes of one day that are read.
const ROWS_MAX: usize = 20_000_000;
const RESTORED_AT_ONCE: usize = 2_000;

/// What a rebuild found and did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Events that were read.
    pub events: u64,
    /// What the events add up to.
    pub lake_entries: i64,
    pub lake_hash: String,
    /// Entries that the list lacked, tombstones of erased persons included.
    pub restored: u64,
    pub tombstones: u64,
    /// Entries that events lifted and the list still had.
    pub lifted: u64,
    /// Entries that a burst put in doubt, and nobody decided: they wait for that again.
    pub in_doubt: u64,
    /// Events that name neither an address nor a hash.
    pub nameless: u64,
    /// Tenants that had to be made, without keys and domains.
    pub tenants: Vec<String>,
    /// What the list adds up to afterwards.
    pub entries: i64,
    pub hash: String,
    /// The list is what its events say, entry by entry.
    pub equal: bool,
    /// Why marketing and cold mail still waits.
    pub incomplete: Option<String>,
}

/// Why a list was not rebuilt. What was restored stands; the next run goes on.
#[derive(Debug, thiserror::Error)]
pub enum NotRebuilt {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Keeping(#[from] KeepingError),
    #[error("changes that wait could not be told: {0}")]
    Wishes(#[from] WishError),
    #[error("the lake's events cannot be read: {0}")]
    Lake(String),
    #[error(
        "the lake keeps the list's key in a form that cannot be read; restore _suppressions/ in the lake from a backup"
    )]
    Key,
}

/// The parts that a rebuild works with.
pub struct Rebuilder {
    pub control: Arc<ControlStore>,
    pub engine: Arc<QueryEngine>,
    pub suppressions: Arc<ControlSuppressions>,
    pub keeping: Arc<Keeping>,
    pub wishes: Arc<Wishes>,
}

type Key = (TenantId, AddressHash, Reason);

/// The latest that events say of an entry.
struct Latest {
    at: Timestamp,
    /// None when it was lifted.
    entry: Option<Restored>,
    /// The burst that lifted it until somebody decides, and the entry as it was.
    doubt: Option<(Doubt, Restored)>,
}

impl Rebuilder {
    /// Reads every change that the lake holds, takes over the list's key where the control store is a new one, restores
    /// what is missing and lifts what was lifted. Entries that no event tells of stay. With `accept` the list goes on
    /// although it has fewer entries than the lake once noted. Takes some 300 octets of memory for an entry.
    pub async fn rebuild(&self, dry: bool, accept: bool) -> Result<Rebuilt, NotRebuilt> {
        self.wishes.drain().await?;
        // a whole list may have fewer entries than the lake noted last: some were lifted since
        let was_whole = self.keeping.missing(true).await?.is_none();
        let kept = self.keeping.kept().await?;
        let lost = kept.as_ref().filter(|kept| kept.list_id != self.control.suppression_list_id());
        if let (Some(kept), false) = (lost, dry) {
            let wrapped = BASE64.decode(&kept.list_key).map_err(|_| NotRebuilt::Key)?;
            self.control.adopt_list(&wrapped, kept.totals.seq).await?;
            self.suppressions.start_anew(&self.control).await?;
        }
        let mut done = Rebuilt::default();
        let latest = self.latest(&mut done).await?;
        if !dry {
            self.make_tenants(&latest, &mut done).await?;
        }
        self.restore(latest, dry, &mut done).await?;
        self.suppressions.refresh(&self.control).await?;
        self.wishes.tell_changes().await?;
        let (totals, _) = self.control.recount_suppressions().await?;
        (done.entries, done.hash) = (totals.entries, totals.digest.to_string());
        done.equal = (done.entries, &done.hash) == (done.lake_entries, &done.lake_hash);
        if !dry {
            self.settle(totals, accept || was_whole).await?;
        }
        done.incomplete = self.suppressions.incomplete().map(|why| why.to_string());
        Ok(done)
    }

    /// The list counts as whole again when it has as much as the lake noted, or is `accepted`: it was whole before, or an
    /// operator takes it as it is. Otherwise its own count stays wrong, so that no later look takes it for whole.
    async fn settle(&self, totals: Totals, accepted: bool) -> Result<(), NotRebuilt> {
        let kept = self.keeping.kept().await?;
        if let Some(kept) = &kept
            && totals.entries < kept.totals.entries
            && !accepted
        {
            self.suppressions.set_incomplete(Some(format!(
                    "the lake's events give {} suppressions, and the lake noted {} ({}): older events may be past their \
                     retention; import the rest (`sendlake suppression import`), then `sendlake suppression rebuild \
                     --accept`",
                    totals.entries, kept.totals.entries, kept.at
                )));
            return Ok(());
        }
        self.control.correct_suppression_totals().await?;
        if let Some(kept) = kept {
            self.control.go_on_after(kept.totals).await?;
        }
        self.keeping.check(true).await?;
        Ok(())
    }

    async fn latest(&self, done: &mut Rebuilt) -> Result<HashMap<Key, Latest>, NotRebuilt> {
        #[derive(Deserialize)]
        struct Day {
            day: String,
        }
        let hasher = self.control.address_hasher();
        let mut latest: HashMap<Key, Latest> = HashMap::new();
        for Day { day } in self.ask::<Day>(DAYS).await? {
            for change in self.ask::<Change>(&CHANGES.replace("{day}", &day)).await? {
                done.events += 1;
                let Some((key, known)) = change.read(&hasher) else {
                    done.nameless += 1;
                    continue;
                };
                // read in order within a day; days overlap where clocks did
                let before =
                    latest.remove(&key).filter(|before| before.at > known.at || known.doubt.is_some());
                let known = match before {
                    Some(before) if before.at > known.at => before,
                    Some(before) => known.of(before),
                    None => known,
                };
                latest.insert(key, known);
            }
        }
        let entries = self.control.entry_hasher();
        let mut digest = Digest::default();
        for ((tenant, hash, reason), known) in &latest {
            if let Some(entry) = &known.entry {
                digest.add(entries.hash(tenant, *hash, *reason, entry.reach));
                done.lake_entries += 1;
            }
        }
        done.lake_hash = digest.to_string();
        Ok(latest)
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, NotRebuilt> {
        #[derive(Deserialize)]
        struct Rows<T> {
            rows: Vec<T>,
            truncated: bool,
        }
        let failed = |error: &dyn std::fmt::Display| NotRebuilt::Lake(error.to_string());
        let limits = QueryLimits {
            time: std::time::Duration::from_secs(3_600),
            rows: ROWS_MAX,
            memory_bytes: self.engine.limits().query.memory_bytes.max(2 << 30),
        };
        let output = self.engine.judge(sql, limits, Default::default()).await.map_err(|e| failed(&e))?;
        let json = to_bytes(&output, Format::Json).map_err(|e| failed(&e))?;
        let answer: Rows<T> = serde_json::from_slice(&json).map_err(|e| failed(&e))?;
        if answer.truncated {
            return Err(NotRebuilt::Lake(format!("one day has more than {ROWS_MAX} changes")));
        }
        Ok(answer.rows)
    }

    async fn make_tenants(
        &self,
        latest: &HashMap<Key, Latest>,
        done: &mut Rebuilt,
    ) -> Result<(), NotRebuilt> {
        let mut tenants: Vec<&TenantId> = latest.keys().map(|(tenant, ..)| tenant).collect();
        tenants.sort();
        tenants.dedup();
        for tenant in tenants {
            match self.control.create_tenant("rebuild", tenant, tenant.as_str()).await {
                Ok(_) => done.tenants.push(tenant.to_string()),
                Err(ControlError::TenantExists { .. } | ControlError::ReservedTenant { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn restore(
        &self,
        latest: HashMap<Key, Latest>,
        dry: bool,
        done: &mut Rebuilt,
    ) -> Result<(), NotRebuilt> {
        let mut wanted: Vec<Restored> = Vec::new();
        let mut doubts: Vec<RestoredDoubt> = Vec::new();
        for ((tenant, hash, reason), known) in latest {
            match known.entry {
                Some(entry) => wanted.push(entry),
                None => {
                    let lifted = self.control.lift_restored(&tenant, hash, reason, known.at, dry).await?;
                    done.lifted += u64::from(lifted);
                }
            }
            doubts.extend(known.doubt.map(|(doubt, entry)| RestoredDoubt { doubt, at: known.at, entry }));
        }
        doubts.sort_by_key(|one| (one.at, one.entry.address_hash));
        for doubts in doubts.chunks(RESTORED_AT_ONCE) {
            done.in_doubt += self.control.restore_doubts(doubts, dry).await? as u64;
        }
        // the same order each time, whatever a map makes of it
        wanted.sort_by_key(|one| (one.since, one.address_hash));
        for wanted in wanted.chunks(RESTORED_AT_ONCE) {
            let answers = self.control.restore_suppressions(wanted, dry).await;
            let answers = match answers {
                // a dry run makes no tenants: all of theirs is missing
                Err(ControlError::NoSuchTenant { .. }) if dry => {
                    wanted.iter().map(|_| Ok(Suppress::Added)).collect()
                }
                answers => answers?,
            };
            for (entry, answer) in wanted.iter().zip(answers) {
                if answer? == Suppress::Added {
                    done.restored += 1;
                    done.tombstones += u64::from(entry.address.is_none());
                }
            }
        }
        Ok(())
    }
}

impl Latest {
    /// In doubt after `before`: the entry is what that one was.
    fn of(self, before: Latest) -> Self {
        let doubt = match (self.doubt, before.entry) {
            (Some((doubt, _)), Some(entry)) => Some((doubt, entry)),
            (doubt, _) => doubt,
        };
        Self { doubt, ..self }
    }
}

/// One change as its event tells it.
#[derive(Deserialize)]
struct Change {
    event_type: String,
    event_id: Uuid,
    at: i64,
    tenant_id: TenantId,
    recipient: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Detail {
    reach: Reach,
    reason: Reason,
    since: Option<String>,
    until: Option<String>,
    by: Option<String>,
    note: Option<String>,
    event_id: Option<Uuid>,
    address_hash: Option<String>,
}

impl Change {
    fn read(self, hasher: &AddressHasher) -> Option<(Key, Latest)> {
        let detail: Detail = serde_json::from_str(&self.detail?).ok()?;
        let address = self.recipient.filter(|address| address.contains('@'));
        let hash = match &address {
            Some(address) => hasher.hash(address),
            None => AddressHash::from_hex(detail.address_hash.as_deref()?)?,
        };
        let at = Timestamp(self.at);
        let is_added = self.event_type == "suppression_added";
        let is_doubted = !is_added && detail.by.as_deref() == Some(DOUBTER);
        let doubt = detail.note.as_deref().filter(|_| is_doubted).and_then(Doubt::read);
        let entry = Restored {
            tenant_id: self.tenant_id.clone(),
            address_hash: hash,
            address,
            reason: detail.reason,
            reach: detail.reach,
            since: detail.since.as_deref().and_then(Timestamp::parse).unwrap_or(at),
            expires_at: detail.until.as_deref().and_then(Timestamp::parse),
            actor: detail.by.unwrap_or_else(|| "rebuild".into()),
            note: detail.note,
            event_id: detail.event_id.unwrap_or(self.event_id),
        };
        let key = (self.tenant_id, hash, detail.reason);
        let known = match doubt {
            // who put it on the list, its other event said
            Some(doubt) => {
                let entry = Restored { actor: "feedback".into(), note: None, ..entry };
                Latest { at, entry: None, doubt: Some((doubt, entry)) }
            }
            None => Latest { at, entry: is_added.then_some(entry), doubt: None },
        };
        Some((key, known))
    }
}

#[cfg(test)]
mod tests;
