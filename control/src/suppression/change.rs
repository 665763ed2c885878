//! Entries put on the list, many in one transaction: rows, log, sum and what events are to tell change together.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::look::Suppression;
use super::totals::Totals;
use super::untold::Untold;
use super::{AddressHash, NOTE_CHARS_MAX, NewSuppression, Reach, Reason, address_of, unreadable};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::tenant;

/// Rows in one statement: SQLite takes 32,766 values.
pub(super) const ROWS_AT_ONCE: usize = 500;

/// What became of a [`NewSuppression`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppress {
    /// In force now, and was not before, or not as widely, or not for as long.
    Added,
    /// For this reason and as widely it was in force already; `by_this_event` when by an earlier run over the
    /// same event.
    Known { by_this_event: bool },
}

/// One line about to be logged, and told.
pub(super) struct Line {
    pub added: bool,
    pub tenant_id: TenantId,
    pub hash: AddressHash,
    pub reason: Reason,
    pub reach: Reach,
    pub since: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub actor: String,
    pub note: Option<String>,
    pub event_id: Uuid,
    /// For the event; none for a tombstone.
    pub address: Option<String>,
    pub message_id: Option<String>,
    /// The reach of the entry that it takes the place of.
    pub replaces: Option<Reach>,
    /// Nothing on the list changes: only the event is wanted.
    pub tell_only: bool,
}

impl Line {
    /// An entry that goes. Without an `event_id` it keeps its own.
    pub(super) fn lifted(
        lifted: Suppression,
        actor: &str,
        note: Option<&str>,
        event_id: Option<Uuid>,
    ) -> Self {
        Self {
            added: false,
            tenant_id: lifted.tenant_id,
            hash: lifted.address_hash,
            reason: lifted.reason,
            reach: lifted.reach,
            since: lifted.since,
            expires_at: lifted.expires_at,
            actor: actor.to_owned(),
            note: note.map(str::to_owned),
            event_id: event_id.unwrap_or(lifted.event_id),
            address: lifted.address,
            message_id: None,
            replaces: None,
            tell_only: false,
        }
    }
}

/// Hash, reason, reach, event, end.
type KnownRow = (Vec<u8>, String, String, String, Option<i64>);

/// What is on the list for one tenant, address and reason.
#[derive(Clone, Copy)]
struct Known {
    reach: Reach,
    event_id: Uuid,
    expires_at: Option<Timestamp>,
}

/// A wish that was checked.
pub(super) struct Checked {
    pub actor: String,
    pub new: NewSuppression,
    pub owner: TenantId,
    pub hash: AddressHash,
    /// None for a tombstone.
    pub address: Option<String>,
}

impl Checked {
    /// An entry as it was on the list.
    pub(super) fn of(one: &Suppression) -> Self {
        Self {
            actor: one.actor.clone(),
            new: NewSuppression {
                tenant_id: one.tenant_id.clone(),
                address: one.address.clone().unwrap_or_default(),
                reach: one.reach,
                reason: one.reason,
                since: one.since,
                expires_at: one.expires_at,
                event_id: one.event_id,
                message_id: None,
                note: one.note.clone(),
            },
            owner: one.tenant_id.clone(),
            hash: one.address_hash,
            address: one.address.clone(),
        }
    }
}

impl ControlStore {
    /// Puts an address on the list. Idempotent: for one reason a wider reach or a later end replaces what was there,
    /// the reverse changes nothing.
    pub async fn suppress(&self, actor: &str, new: &NewSuppression) -> Result<Suppress, ControlError> {
        let mut done = self.suppress_all(&[(actor.to_owned(), new.clone())]).await?;
        done.pop().unwrap_or(Ok(Suppress::Known { by_this_event: false }))
    }

    /// Puts many on the list, each with who wishes it, in one transaction. The answers come in order; one that cannot
    /// be taken is left out and says why. `Err` when the store failed: then none was taken.
    pub async fn suppress_all(
        &self,
        wanted: &[(String, NewSuppression)],
    ) -> Result<Vec<Result<Suppress, ControlError>>, ControlError> {
        let doing = "add the suppressions";
        let checked = self.check(wanted).await?;
        let mut transaction = self.begin(doing).await?;
        let done = self.add(&mut transaction, checked).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(done)
    }

    /// What would become of them, without a change.
    pub async fn suppress_none(
        &self,
        wanted: &[(String, NewSuppression)],
    ) -> Result<Vec<Result<Suppress, ControlError>>, ControlError> {
        let doing = "look suppressions up";
        let checked = self.check(wanted).await?;
        let mut transaction = self.pool.begin().await.map_err(self.failed(doing))?;
        Ok(self.weigh(&mut transaction, checked).await?.0)
    }

    pub(super) async fn check(
        &self,
        wanted: &[(String, NewSuppression)],
    ) -> Result<Vec<Result<Checked, ControlError>>, ControlError> {
        let hasher = self.address_hasher();
        let mut checked = Vec::with_capacity(wanted.len());
        for (actor, new) in wanted {
            let owner = new.owner();
            let one = || {
                let address = address_of(&new.address)?;
                let note = new.note.as_deref();
                let note = note.map(|note| tenant::one_line("the note", note, NOTE_CHARS_MAX)).transpose()?;
                let new = NewSuppression { note: note.map(str::to_owned), ..new.clone() };
                let (actor, hash) = (actor.clone(), hasher.hash(&address));
                Ok(Checked { actor, new, owner: owner.clone(), hash, address: Some(address) })
            };
            let one = match self.ensure_data_key(&owner).await {
                Ok(()) => one(),
                Err(error) if error.is_store_failure() => return Err(error),
                Err(error) => Err(error),
            };
            checked.push(one);
        }
        Ok(checked)
    }

    /// Adds what is new; part of the caller's transaction.
    pub(super) async fn add(
        &self,
        connection: &mut SqliteConnection,
        checked: Vec<Result<Checked, ControlError>>,
    ) -> Result<Vec<Result<Suppress, ControlError>>, ControlError> {
        let (answers, lines) = self.weigh(connection, checked).await?;
        self.put(connection, &lines).await?;
        self.tell(connection, lines).await?;
        Ok(answers)
    }

    /// Which are new, by what is on the list and by those before them.
    pub(super) async fn weigh(
        &self,
        connection: &mut SqliteConnection,
        checked: Vec<Result<Checked, ControlError>>,
    ) -> Result<(Vec<Result<Suppress, ControlError>>, Vec<Line>), ControlError> {
        let mut known = self.known(connection, checked.iter().flatten()).await?;
        let mut lines = Vec::new();
        let mut answers = Vec::with_capacity(checked.len());
        for one in checked {
            let Checked { actor, new, owner, hash, address } = match one {
                Ok(checked) => checked,
                Err(error) => {
                    answers.push(Err(error));
                    continue;
                }
            };
            let key = (owner.clone(), hash, new.reason);
            let found = known.get(&key).copied();
            if let Some(found) = found
                && found.reach >= new.reach
                && ends_no_sooner(found.expires_at, new.expires_at)
            {
                let by_this_event = found.event_id == new.event_id;
                answers.push(Ok(Suppress::Known { by_this_event }));
                continue;
            }
            // neither narrower nor shorter than it was
            let reach = found.map_or(new.reach, |found| found.reach.max(new.reach));
            let expires_at = match found {
                Some(found) if ends_no_sooner(found.expires_at, new.expires_at) => found.expires_at,
                _ => new.expires_at,
            };
            known.insert(key, Known { reach, event_id: new.event_id, expires_at });
            lines.push(Line {
                added: true,
                tenant_id: owner,
                hash,
                reason: new.reason,
                reach,
                since: new.since,
                expires_at,
                actor,
                note: new.note,
                event_id: new.event_id,
                address,
                message_id: new.message_id,
                replaces: found.map(|found| found.reach),
                tell_only: false,
            });
            answers.push(Ok(Suppress::Added));
        }
        Ok((answers, lines))
    }

    async fn known(
        &self,
        connection: &mut SqliteConnection,
        wanted: impl Iterator<Item = &Checked>,
    ) -> Result<HashMap<(TenantId, AddressHash, Reason), Known>, ControlError> {
        let mut by_tenant: BTreeMap<&TenantId, HashSet<AddressHash>> = BTreeMap::new();
        for one in wanted {
            by_tenant.entry(&one.owner).or_default().insert(one.hash);
        }
        let mut known = HashMap::new();
        for (tenant, hashes) in by_tenant {
            tenant::require(self, connection, tenant).await?;
            let hashes: Vec<AddressHash> = hashes.into_iter().collect();
            for hashes in hashes.chunks(ROWS_AT_ONCE) {
                let mut query = QueryBuilder::<Sqlite>::new(
                    "SELECT address_hash, reason, reach, event_id, expires_at FROM suppressions WHERE tenant_id = ",
                );
                query.push_bind(tenant.as_str().to_owned()).push(" AND address_hash IN (");
                let mut list = query.separated(", ");
                for hash in hashes {
                    list.push_bind(hash.0.to_vec());
                }
                query.push(")");
                let rows: Vec<KnownRow> = query
                    .build_query_as()
                    .fetch_all(&mut *connection)
                    .await
                    .map_err(self.failed("look suppressions up"))?;
                for (hash, reason, reach, event_id, expires_at) in rows {
                    let problem = |problem| unreadable(tenant, problem);
                    let hash = AddressHash::from_bytes(hash).map_err(problem)?;
                    let event_id = event_id.parse().map_err(|_| problem("its event id".into()))?;
                    let reach = reach.parse().map_err(problem)?;
                    let value = Known { reach, event_id, expires_at: expires_at.map(Timestamp) };
                    known.insert((tenant.clone(), hash, reason.parse().map_err(problem)?), value);
                }
            }
        }
        Ok(known)
    }

    async fn put(&self, connection: &mut SqliteConnection, lines: &[Line]) -> Result<(), ControlError> {
        for lines in lines.chunks(ROWS_AT_ONCE) {
            let mut sealed = Vec::with_capacity(lines.len());
            for line in lines {
                let seal =
                    |address: &String| self.keyring.seal(&line.tenant_id, &line.hash.0, address.as_bytes());
                sealed.push(line.address.as_ref().map(seal).transpose()?);
            }
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO suppressions (tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at) ",
            );
            query.push_values(lines.iter().zip(sealed), |mut row, (line, sealed)| {
                row.push_bind(line.tenant_id.as_str().to_owned())
                    .push_bind(line.hash.0.to_vec())
                    .push_bind(line.reason.as_str())
                    .push_bind(line.reach.as_str())
                    .push_bind(line.since.0)
                    .push_bind(line.actor.clone())
                    .push_bind(line.note.clone())
                    .push_bind(line.event_id.to_string())
                    .push_bind(sealed)
                    .push_bind(line.expires_at.map(|at| at.0));
            });
            query.push(" ON CONFLICT (tenant_id, address_hash, reason) DO UPDATE SET reach = excluded.reach, since = excluded.since, actor = excluded.actor, note = excluded.note, event_id = excluded.event_id, sealed_address = excluded.sealed_address, expires_at = excluded.expires_at");
            query.build().execute(&mut *connection).await.map_err(self.failed("add the suppressions"))?;
        }
        Ok(())
    }

    /// Logs lines whose rows have changed already, counts them, and keeps them for the events that tell of them.
    pub(super) async fn tell(
        &self,
        connection: &mut SqliteConnection,
        lines: Vec<Line>,
    ) -> Result<(), ControlError> {
        if lines.is_empty() {
            return Ok(());
        }
        let (hasher, now) = (self.entry_hasher(), self.ids.now());
        let mut totals = match self.read_totals(connection).await? {
            Some(recorded) => recorded.totals,
            None => Totals::default(),
        };
        let last = lines.len() - 1;
        let mut untold = Vec::with_capacity(lines.len());
        let mut logged = Vec::with_capacity(lines.len());
        for (place, line) in lines.iter().enumerate() {
            totals.seq += 1;
            if !line.tell_only {
                let hash = |reach| hasher.hash(&line.tenant_id, line.hash, line.reason, reach);
                if line.added {
                    totals.digest.add(hash(line.reach));
                    totals.entries += 1;
                    if let Some(replaced) = line.replaces {
                        totals.digest.subtract(hash(replaced));
                        totals.entries -= 1;
                    }
                } else {
                    totals.digest.subtract(hash(line.reach));
                    totals.entries -= 1;
                }
                logged.push((totals.seq, line));
            }
            let told = Untold::of(line, self.ids.uuid(), now, (place == last).then_some(totals));
            let text =
                serde_json::to_vec(&told).map_err(|error| unreadable(&line.tenant_id, error.to_string()))?;
            let sealed = self.keyring.seal(&line.tenant_id, &totals.seq.to_be_bytes(), &text)?;
            untold.push((totals.seq, line.tenant_id.as_str(), sealed));
        }
        for logged in logged.chunks(ROWS_AT_ONCE) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT INTO suppression_log (seq, at, change, tenant_id, address_hash, reason, reach, since, actor, note, event_id) ",
            );
            query.push_values(logged, |mut row, (seq, line)| {
                row.push_bind(*seq)
                    .push_bind(now.0)
                    .push_bind(if line.added { "added" } else { "removed" })
                    .push_bind(line.tenant_id.as_str().to_owned())
                    .push_bind(line.hash.0.to_vec())
                    .push_bind(line.reason.as_str())
                    .push_bind(line.reach.as_str())
                    .push_bind(line.since.0)
                    .push_bind(line.actor.clone())
                    .push_bind(line.note.clone())
                    .push_bind(line.event_id.to_string());
            });
            query.build().execute(&mut *connection).await.map_err(self.failed("log the suppressions"))?;
        }
        for untold in untold.chunks(ROWS_AT_ONCE) {
            let mut query =
                QueryBuilder::<Sqlite>::new("INSERT INTO suppression_untold (seq, tenant_id, sealed) ");
            query.push_values(untold, |mut row, (seq, tenant, sealed)| {
                row.push_bind(*seq).push_bind((*tenant).to_owned()).push_bind(sealed.clone());
            });
            query.build().execute(&mut *connection).await.map_err(self.failed("log the suppressions"))?;
        }
        self.write_totals(connection, totals).await
    }
}

fn ends_no_sooner(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    match (one, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(one), Some(other)) => one >= other,
    }
}
