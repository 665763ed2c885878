//! Whom not to write to: the truth of it, one row per tenant, address and reason, and the log that senders tail.
//!
//! An address is found by a keyed hash of its normalised form (all lower case, domain in ASCII), so that the row
//! of an erased person can stay as a tombstone.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::audit;
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::secret::Keyring;
use crate::store::ControlStore;
use crate::tenant;

const NOTE_CHARS_MAX: usize = 500;
const ADDRESS_OCTETS_MAX: usize = 320;
/// Never changed: the hashes in the store would no longer be found.
const HASH_PURPOSE: &str = "suppression address hash 1";

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|known| known.as_str()).collect();
                    format!("{word:?} is no {}: use {}", $what, known.join(", "))
                })
            }
        }
    };
}

words! {
    /// How far a suppression reaches, narrow to wide.
    Reach, "reach" {
        /// The tenant's marketing and cold mail, on all its domains: unsubscribes, cold opt-outs, complaints.
        Bulk = "bulk",
        /// All mail of the tenant: a mailbox that does not exist, or stays full.
        Tenant = "tenant",
        /// All mail of the installation: by law or by the operator. Nothing overrides it.
        Global = "global",
    }
}

words! {
    /// Why an address is not written to.
    Reason, "reason" {
        Unsubscribe = "unsubscribe",
        ColdOptOut = "cold_opt_out",
        Complaint = "complaint",
        HardBounce = "hard_bounce",
        FullMailbox = "full_mailbox",
        Manual = "manual",
        Legal = "legal",
    }
}

impl Reason {
    /// The person's own wish, or the law's: lifted only by somebody who says why.
    pub fn is_a_wish(self) -> bool {
        !matches!(self, Reason::HardBounce | Reason::FullMailbox | Reason::Manual)
    }
}

/// The name of an address that does not tell the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressHash(pub [u8; 32]);

impl fmt::Debug for AddressHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}…")
    }
}

/// Makes [`AddressHash`]es, under the installation's own key. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressHasher(hmac::Key);

impl AddressHasher {
    pub fn new(keyring: &Keyring) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &keyring.derive(HASH_PURPOSE)))
    }

    pub fn hash(&self, address: &str) -> AddressHash {
        let tag = hmac::sign(&self.0, normalise(address).as_bytes());
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        AddressHash(hash)
    }
}

/// One form for all spellings of a mailbox. RFC 5321 lets local parts differ by case; no provider of note does,
/// and a wish not to be written to must not depend on it.
fn normalise(address: &str) -> String {
    let lower = address.trim().to_lowercase();
    match lower.rsplit_once('@') {
        Some((local, domain)) if !domain.is_ascii() => {
            let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned());
            format!("{local}@{domain}")
        }
        _ => lower,
    }
}

/// A wish not to write to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSuppression {
    /// Whose mail; of no account for [`Reach::Global`].
    pub tenant_id: TenantId,
    pub address: String,
    pub reach: Reach,
    pub reason: Reason,
    pub since: Timestamp,
    /// The event that led to it; the same one again changes nothing.
    pub event_id: Uuid,
    /// In words.
    pub note: Option<String>,
}

/// What became of a [`NewSuppression`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppress {
    /// In force now, and was not before.
    Added,
    /// For this reason and as widely it was in force already; `by_this_event` when by an earlier run over the
    /// same event.
    Known { by_this_event: bool },
}

/// A suppression in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    pub tenant_id: TenantId,
    pub address_hash: AddressHash,
    /// Null when the person was erased and only the tombstone is left.
    pub address: Option<String>,
    pub reach: Reach,
    pub reason: Reason,
    pub since: Timestamp,
    pub actor: String,
    pub note: Option<String>,
    pub event_id: Uuid,
}

/// Which suppressions are meant. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct SuppressionFilter {
    /// This tenant's. Global ones have the tenant `platform`.
    pub tenant_id: Option<TenantId>,
    pub address: Option<String>,
    pub reason: Option<Reason>,
    pub reach: Option<Reach>,
    /// Most rows, the newest first; 0 for all.
    pub limit: u32,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressionChange {
    pub seq: i64,
    pub added: bool,
    pub tenant_id: TenantId,
    pub address_hash: AddressHash,
    pub reach: Reach,
    pub reason: Reason,
    pub since: Timestamp,
}

impl ControlStore {
    /// Makes hashes as this store does.
    pub fn address_hasher(&self) -> AddressHasher {
        AddressHasher::new(&self.keyring)
    }

    /// Puts an address on the list. Idempotent: for one reason a wider reach replaces a narrower one, the reverse
    /// changes nothing.
    pub async fn suppress(&self, actor: &str, new: &NewSuppression) -> Result<Suppress, ControlError> {
        let doing = "add the suppression";
        let note =
            new.note.as_deref().map(|n| tenant::one_line("the note", n, NOTE_CHARS_MAX)).transpose()?;
        let tenant_id = if new.reach == Reach::Global { TenantId::platform() } else { new.tenant_id.clone() };
        let address = normalise(&new.address);
        if !address.contains('@') || address.len() > ADDRESS_OCTETS_MAX {
            return Err(ControlError::NotAnAddress { address: new.address.chars().take(80).collect() });
        }
        self.ensure_data_key(&tenant_id).await?;
        let hash = self.address_hasher().hash(&address);
        let sealed = self.keyring.seal(&tenant_id, &hash.0, address.as_bytes())?;
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, &tenant_id).await?;
        let known: Option<(String, String)> = sqlx::query_as("SELECT reach, event_id FROM suppressions WHERE tenant_id = $1 AND address_hash = $2 AND reason = $3")
            .bind(tenant_id.as_str())
            .bind(hash.0.as_slice())
            .bind(new.reason.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if let Some((reach, event_id)) = known {
            let reach: Reach = reach.parse().map_err(|problem| unreadable(&tenant_id, problem))?;
            if reach >= new.reach {
                return Ok(Suppress::Known { by_this_event: event_id == new.event_id.to_string() });
            }
        }
        sqlx::query("INSERT INTO suppressions (tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant_id, address_hash, reason) DO UPDATE SET reach = excluded.reach, since = excluded.since, actor = excluded.actor, note = excluded.note, event_id = excluded.event_id, sealed_address = excluded.sealed_address")
            .bind(tenant_id.as_str())
            .bind(hash.0.as_slice())
            .bind(new.reason.as_str())
            .bind(new.reach.as_str())
            .bind(new.since.0)
            .bind(actor)
            .bind(note)
            .bind(new.event_id.to_string())
            .bind(sealed)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let change = Logged {
            added: true,
            tenant_id: &tenant_id,
            hash,
            reason: new.reason,
            reach: new.reach,
            since: new.since,
            actor,
            note,
            event_id: &new.event_id.to_string(),
        };
        log(&mut transaction, self.ids.now(), &change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(Suppress::Added)
    }

    /// Lifts suppressions of one address under one tenant (`platform` for global ones), all reasons or one.
    /// Returns what was lifted. A person's own wish, or the law's, is lifted only with a note that says why. What
    /// is lifted stands in the audit log without the address.
    pub async fn unsuppress(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        address: &str,
        reason: Option<Reason>,
        note: Option<&str>,
        event_id: Uuid,
    ) -> Result<Vec<Suppression>, ControlError> {
        let doing = "lift the suppression";
        let note = note.map(|note| tenant::one_line("the note", note, NOTE_CHARS_MAX)).transpose()?;
        let filter = SuppressionFilter {
            tenant_id: Some(tenant_id.clone()),
            address: Some(address.to_owned()),
            reason,
            ..SuppressionFilter::default()
        };
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant_id).await?;
        let found = self.find_suppressions(&mut transaction, &filter).await?;
        if let Some(wish) = found.iter().find(|found| found.reason.is_a_wish())
            && note.is_none()
        {
            return Err(ControlError::SuppressionIsAWish { reason: wish.reason });
        }
        for lifted in &found {
            sqlx::query(
                "DELETE FROM suppressions WHERE tenant_id = $1 AND address_hash = $2 AND reason = $3",
            )
            .bind(tenant_id.as_str())
            .bind(lifted.address_hash.0.as_slice())
            .bind(lifted.reason.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
            let change = Logged {
                added: false,
                tenant_id,
                hash: lifted.address_hash,
                reason: lifted.reason,
                reach: lifted.reach,
                since: lifted.since,
                actor,
                note,
                event_id: &event_id.to_string(),
            };
            log(&mut transaction, self.ids.now(), &change).await.map_err(self.failed(doing))?;
            let change = audit::Change {
                actor,
                tenant: tenant_id,
                action: "suppression_removed",
                subject: &format!("{:?}", lifted.address_hash),
                detail: json!({ "reason": lifted.reason, "reach": lifted.reach, "since": lifted.since.to_string(), "why": note }),
            };
            audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(found)
    }

    /// The suppressions in force that `filter` names, the newest first.
    pub async fn suppressions(&self, filter: &SuppressionFilter) -> Result<Vec<Suppression>, ControlError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("list the suppressions"))?;
        self.find_suppressions(&mut connection, filter).await
    }

    async fn find_suppressions(
        &self,
        connection: &mut SqliteConnection,
        filter: &SuppressionFilter,
    ) -> Result<Vec<Suppression>, ControlError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address \
             FROM suppressions WHERE TRUE",
        );
        if let Some(tenant) = &filter.tenant_id {
            query.push(" AND tenant_id = ").push_bind(tenant.as_str().to_owned());
        }
        if let Some(address) = &filter.address {
            let hash = self.address_hasher().hash(address);
            query.push(" AND address_hash = ").push_bind(hash.0.to_vec());
        }
        if let Some(reason) = filter.reason {
            query.push(" AND reason = ").push_bind(reason.as_str());
        }
        if let Some(reach) = filter.reach {
            query.push(" AND reach = ").push_bind(reach.as_str());
        }
        query.push(" ORDER BY since DESC, tenant_id, address_hash, reason");
        if filter.limit > 0 {
            query.push(" LIMIT ").push_bind(i64::from(filter.limit));
        }
        let rows: Vec<Row> = query
            .build_query_as()
            .fetch_all(connection)
            .await
            .map_err(self.failed("list the suppressions"))?;
        rows.into_iter().map(|row| self.suppression(row)).collect()
    }

    fn suppression(&self, row: Row) -> Result<Suppression, ControlError> {
        let tenant_id = TenantId::try_from(row.tenant_id)
            .map_err(|error| unreadable(&TenantId::platform(), error.to_string()))?;
        let hash = row.address_hash.try_into().map(AddressHash);
        let address_hash = hash.map_err(|_| unreadable(&tenant_id, "its hash is too short".into()))?;
        let address = match row.sealed_address {
            Some(sealed) => {
                let plain = self.keyring.open(&tenant_id, &address_hash.0, &sealed)?;
                Some(String::from_utf8_lossy(&plain).into_owned())
            }
            None => None,
        };
        Ok(Suppression {
            address_hash,
            address,
            reason: row.reason.parse().map_err(|problem| unreadable(&tenant_id, problem))?,
            reach: row.reach.parse().map_err(|problem| unreadable(&tenant_id, problem))?,
            since: Timestamp(row.since),
            actor: row.actor,
            note: row.note,
            event_id: row.event_id.parse().map_err(|_| unreadable(&tenant_id, "its event id".into()))?,
            tenant_id,
        })
    }

    /// What changed after `seq`, in order, at most `max` lines; from 0 it tells the whole story, so that whoever
    /// follows it from the start needs nothing else.
    pub async fn suppression_changes_after(
        &self,
        seq: i64,
        max: u32,
    ) -> Result<Vec<SuppressionChange>, ControlError> {
        let rows: Vec<ChangeRow> = sqlx::query_as("SELECT seq, change, tenant_id, address_hash, reason, reach, since FROM suppression_log WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(seq)
            .bind(i64::from(max))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the suppressions' log"))?;
        rows.into_iter()
            .map(|(seq, change, tenant, hash, reason, reach, since)| {
                let tenant_id = TenantId::try_from(tenant)
                    .map_err(|error| unreadable(&TenantId::platform(), error.to_string()))?;
                let problem = |problem| unreadable(&tenant_id, problem);
                Ok(SuppressionChange {
                    seq,
                    added: change == "added",
                    address_hash: hash
                        .try_into()
                        .map(AddressHash)
                        .map_err(|_| problem("its hash is too short".into()))?,
                    reason: reason.parse().map_err(problem)?,
                    reach: reach.parse().map_err(problem)?,
                    since: Timestamp(since),
                    tenant_id: tenant_id.clone(),
                })
            })
            .collect()
    }
}

/// `seq`, change, tenant, hash, reason, reach, since.
type ChangeRow = (i64, String, String, Vec<u8>, String, String, i64);

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: String,
    address_hash: Vec<u8>,
    reason: String,
    reach: String,
    since: i64,
    actor: String,
    note: Option<String>,
    event_id: String,
    sealed_address: Option<Vec<u8>>,
}

fn unreadable(tenant: &TenantId, problem: String) -> ControlError {
    ControlError::Unreadable { what: "suppression of tenant", name: tenant.to_string(), problem }
}

/// A line about to be logged.
struct Logged<'a> {
    added: bool,
    tenant_id: &'a TenantId,
    hash: AddressHash,
    reason: Reason,
    reach: Reach,
    since: Timestamp,
    actor: &'a str,
    note: Option<&'a str>,
    event_id: &'a str,
}

async fn log(
    connection: &mut SqliteConnection,
    at: Timestamp,
    change: &Logged<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO suppression_log (seq, at, change, tenant_id, address_hash, reason, reach, since, actor, note, event_id) SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM suppression_log")
        .bind(at.0)
        .bind(if change.added { "added" } else { "removed" })
        .bind(change.tenant_id.as_str())
        .bind(change.hash.0.as_slice())
        .bind(change.reason.as_str())
        .bind(change.reach.as_str())
        .bind(change.since.0)
        .bind(change.actor)
        .bind(change.note)
        .bind(change.event_id)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
