//! What is on the list: by filter, in pages for an export, by many hashes at once, and whole for the copy in memory.

use std::collections::HashMap;

use data_encoding::HEXUPPER;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::change::ROWS_AT_ONCE;
use super::packed::PackedList;
use super::{AddressHash, Reach, Reason, unreadable};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// Rows read at a time when all are read.
const LOADED_ROWS: i64 = 20_000;

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
    /// When it ends by itself; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// Which suppressions are meant. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct SuppressionFilter {
    /// This tenant's. Global ones have the tenant `platform`.
    pub tenant_id: Option<TenantId>,
    pub address: Option<String>,
    pub address_hash: Option<AddressHash>,
    pub reason: Option<Reason>,
    pub reach: Option<Reach>,
    /// Those whose time is over by then.
    pub expired_at: Option<Timestamp>,
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
    /// The suppressions in force that `filter` names, the newest first.
    pub async fn suppressions(&self, filter: &SuppressionFilter) -> Result<Vec<Suppression>, ControlError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("list the suppressions"))?;
        self.find_suppressions(&mut connection, filter).await
    }

    pub(super) async fn find_suppressions(
        &self,
        connection: &mut SqliteConnection,
        filter: &SuppressionFilter,
    ) -> Result<Vec<Suppression>, ControlError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at \
             FROM suppressions WHERE TRUE",
        );
        if let Some(tenant) = &filter.tenant_id {
            query.push(" AND tenant_id = ").push_bind(tenant.as_str().to_owned());
        }
        if let Some(address) = &filter.address {
            let hash = self.address_hasher().hash(address);
            query.push(" AND address_hash = ").push_bind(hash.0.to_vec());
        }
        if let Some(hash) = filter.address_hash {
            query.push(" AND address_hash = ").push_bind(hash.0.to_vec());
        }
        if let Some(reason) = filter.reason {
            query.push(" AND reason = ").push_bind(reason.as_str());
        }
        if let Some(reach) = filter.reach {
            query.push(" AND reach = ").push_bind(reach.as_str());
        }
        if let Some(at) = filter.expired_at {
            query.push(" AND expires_at <= ").push_bind(at.0);
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

    pub(super) fn suppression(&self, row: Row) -> Result<Suppression, ControlError> {
        let tenant_id = TenantId::try_from(row.tenant_id)
            .map_err(|error| unreadable(&TenantId::platform(), error.to_string()))?;
        let address_hash =
            AddressHash::from_bytes(row.address_hash).map_err(|problem| unreadable(&tenant_id, problem))?;
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
            expires_at: row.expires_at.map(Timestamp),
            tenant_id,
        })
    }

    /// How many entries a tenant, a reason and a reach have.
    pub async fn count_suppressions(&self, filter: &SuppressionFilter) -> Result<i64, ControlError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT COUNT(*) FROM suppressions WHERE TRUE");
        if let Some(tenant) = &filter.tenant_id {
            query.push(" AND tenant_id = ").push_bind(tenant.as_str().to_owned());
        }
        if let Some(reason) = filter.reason {
            query.push(" AND reason = ").push_bind(reason.as_str());
        }
        if let Some(reach) = filter.reach {
            query.push(" AND reach = ").push_bind(reach.as_str());
        }
        let counted: Result<(i64,), sqlx::Error> = query.build_query_as().fetch_one(&self.pool).await;
        counted.map(|(entries,)| entries).map_err(self.failed("count the suppressions"))
    }

    /// A page of all that a filter names, in a fixed order: up to `max` after the place `after` (0 at first), each with
    /// its own. What is added meanwhile comes last.
    pub async fn suppressions_page(
        &self,
        filter: &SuppressionFilter,
        after: i64,
        max: u32,
    ) -> Result<Vec<(i64, Suppression)>, ControlError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT rowid AS place, tenant_id, address_hash, reason, reach, since, actor, note, event_id, \
             sealed_address, expires_at FROM suppressions WHERE rowid > ",
        );
        query.push_bind(after);
        if let Some(tenant) = &filter.tenant_id {
            query.push(" AND tenant_id = ").push_bind(tenant.as_str().to_owned());
        }
        if let Some(reason) = filter.reason {
            query.push(" AND reason = ").push_bind(reason.as_str());
        }
        if let Some(reach) = filter.reach {
            query.push(" AND reach = ").push_bind(reach.as_str());
        }
        query.push(" ORDER BY rowid LIMIT ").push_bind(i64::from(max));
        let rows: Vec<PlacedRow> = query
            .build_query_as()
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the suppressions"))?;
        rows.into_iter().map(|row| Ok((row.place, self.suppression(row.row)?))).collect()
    }

    /// What is on the list of this tenant and of the installation, for many addresses: the widest for each.
    pub async fn covering(
        &self,
        tenant: Option<&TenantId>,
        hashes: &[AddressHash],
    ) -> Result<HashMap<AddressHash, (Reach, Reason, Timestamp)>, ControlError> {
        let mut found: HashMap<AddressHash, (Reach, Reason, Timestamp)> = HashMap::new();
        let platform = TenantId::platform();
        for tenant in [Some(&platform), tenant].into_iter().flatten() {
            for hashes in hashes.chunks(ROWS_AT_ONCE) {
                let mut query = QueryBuilder::<Sqlite>::new(
                    "SELECT address_hash, reach, reason, since FROM suppressions WHERE tenant_id = ",
                );
                query.push_bind(tenant.as_str().to_owned()).push(" AND address_hash IN (");
                let mut list = query.separated(", ");
                for hash in hashes {
                    list.push_bind(hash.0.to_vec());
                }
                query.push(")");
                let rows: Vec<(Vec<u8>, String, String, i64)> = query
                    .build_query_as()
                    .fetch_all(&self.pool)
                    .await
                    .map_err(self.failed("look suppressions up"))?;
                for (hash, reach, reason, since) in rows {
                    let problem = |problem| unreadable(tenant, problem);
                    let hash = AddressHash::from_bytes(hash).map_err(problem)?;
                    let one =
                        (reach.parse().map_err(problem)?, reason.parse().map_err(problem)?, Timestamp(since));
                    let known = found.entry(hash).or_insert(one);
                    if known.0 < one.0 {
                        *known = one;
                    }
                }
            }
        }
        Ok(found)
    }

    /// The whole list for memory, and the line of the log up to which it goes: one consistent reading of hashes, no
    /// address is opened.
    pub async fn load_suppressions(&self) -> Result<(PackedList, i64), ControlError> {
        let mut transaction = self.pool.begin().await.map_err(self.failed("read the suppressions"))?;
        let seq = self.last_seq(&mut transaction).await?;
        let mut list = PackedList::default();
        let mut push = |tenant: &TenantId, reason, reach, hash, since| {
            list.push(hash, tenant, reason, reach, since);
        };
        self.each_entry(&mut transaction, &mut push).await?;
        list.sort();
        Ok((list, seq))
    }

    /// Hands over every entry, in no order. Entries that agree in all but hash and instant come out of the database as
    /// one text: row by row takes many times longer.
    pub(super) async fn each_entry(
        &self,
        connection: &mut SqliteConnection,
        each: &mut (dyn FnMut(&TenantId, Reason, Reach, AddressHash, Timestamp) + Send),
    ) -> Result<(), ControlError> {
        let doing = "read the suppressions";
        let (last,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(rowid), 0) FROM suppressions")
            .fetch_one(&mut *connection)
            .await
            .map_err(self.failed(doing))?;
        let mut after = 0;
        while after < last {
            let groups: Vec<(String, String, String, String)> = sqlx::query_as("SELECT tenant_id, reason, reach, group_concat(hex(address_hash) || printf('%017d', since), '') FROM suppressions NOT INDEXED WHERE rowid > $1 AND rowid <= $2 GROUP BY tenant_id, reason, reach")
                .bind(after)
                .bind(after + LOADED_ROWS)
                .fetch_all(&mut *connection)
                .await
                .map_err(self.failed(doing))?;
            after += LOADED_ROWS;
            for (tenant, reason, reach, entries) in groups {
                let tenant = TenantId::try_from(tenant)
                    .map_err(|error| unreadable(&TenantId::platform(), error.to_string()))?;
                let problem = |problem| unreadable(&tenant, problem);
                let (reason, reach) = (reason.parse().map_err(problem)?, reach.parse().map_err(problem)?);
                for entry in entries.as_bytes().chunks(ENTRY_CHARS) {
                    let (hash, since) = parse_entry(entry).ok_or_else(|| problem("a row of it".into()))?;
                    each(&tenant, reason, reach, hash, since);
                }
            }
        }
        Ok(())
    }

    /// What changed after `seq`, in order, at most `max` lines.
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
                    address_hash: AddressHash::from_bytes(hash).map_err(problem)?,
                    reason: reason.parse().map_err(problem)?,
                    reach: reach.parse().map_err(problem)?,
                    since: Timestamp(since),
                    tenant_id: tenant_id.clone(),
                })
            })
            .collect()
    }
}

/// A hash in hexadecimal digits, and an instant in microseconds.
const ENTRY_CHARS: usize = 64 + 17;

fn parse_entry(entry: &[u8]) -> Option<(AddressHash, Timestamp)> {
    let (hash, since) = entry.split_at_checked(64)?;
    let mut octets = [0; 32];
    HEXUPPER.decode_mut(hash, &mut octets).ok()?;
    let since = std::str::from_utf8(since).ok()?.parse().ok()?;
    Some((AddressHash(octets), Timestamp(since)))
}

/// `seq`, change, tenant, hash, reason, reach, since.
type ChangeRow = (i64, String, String, Vec<u8>, String, String, i64);

#[derive(sqlx::FromRow)]
struct PlacedRow {
    place: i64,
    #[sqlx(flatten)]
    row: Row,
}

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    tenant_id: String,
    address_hash: Vec<u8>,
    reason: String,
    reach: String,
    since: i64,
    actor: String,
    note: Option<String>,
    event_id: String,
    sealed_address: Option<Vec<u8>>,
    expires_at: Option<i64>,
}
