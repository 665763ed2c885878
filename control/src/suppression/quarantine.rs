//! Entries that a burst of bounces put in doubt: off the list until a person says whether the provider was wrong.

use std::fmt;

use serde::Serialize;
use serde_json::json;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::change::Line;
use super::look::{Row, Suppression};
use super::restore::Restored;
use super::{AddressHash, Reason, unreadable};
use crate::audit;
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// Who puts entries in doubt, in their changes.
pub const DOUBTER: &str = "burst";

/// What a person decides about a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BurstDecision {
    /// The provider was wrong: these addresses are written to again.
    Release,
    /// The addresses are gone: back on the list.
    Confirm,
}

/// A burst, and how many entries wait for its decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BurstReview {
    pub review_id: String,
    pub provider: String,
    pub opened_at: Timestamp,
    /// Bounces up to here belong to it.
    pub until_at: Timestamp,
    /// In words, with numbers.
    pub reason: String,
    /// `open`, `released` or `confirmed`.
    pub state: String,
    pub decided_at: Option<Timestamp>,
    pub decided_by: Option<String>,
    pub quarantined: i64,
}

/// An entry that a burst may have caused: the bounce's address, and its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubted {
    pub tenant_id: TenantId,
    pub address: String,
    pub event_id: Uuid,
}

/// Which burst put an entry in doubt, as the note says that its change carries into the lake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    pub review_id: String,
    pub provider: String,
}

impl Doubt {
    /// Reads the note of a change that [`DOUBTER`] made.
    pub fn read(note: &str) -> Option<Self> {
        let said = note.strip_prefix("in quarantine until burst ")?.strip_suffix(" is decided")?;
        // earlier versions did not name the provider
        let (review, provider) = said.split_once(" at ").unwrap_or((said, "(unknown)"));
        let review_id = Uuid::parse_str(review).ok()?.to_string();
        Some(Self { review_id, provider: provider.to_owned() })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in quarantine until burst {} at {} is decided", self.review_id, self.provider)
    }
}

/// An entry in doubt as events tell of it, and since when it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredDoubt {
    pub doubt: Doubt,
    pub at: Timestamp,
    pub entry: Restored,
}

impl ControlStore {
    /// Puts entries back into doubt, each under its review, which is opened anew where it is missing. What is on the list
    /// stays there, and a review that was decided stays so. Returns how many are in doubt now and were not before; `dry`
    /// for how many there would be.
    pub async fn restore_doubts(&self, doubts: &[RestoredDoubt], dry: bool) -> Result<usize, ControlError> {
        let doing = "restore suppressions in doubt";
        for doubt in doubts.iter().filter(|_| !dry) {
            self.ensure_data_key(&doubt.entry.tenant_id).await?;
        }
        let mut transaction = self.begin(doing).await?;
        let mut restored = 0;
        for RestoredDoubt { doubt, at, entry } in doubts {
            sqlx::query("INSERT INTO suppression_reviews (review_id, provider, opened_at, until_at, reason, state) VALUES ($1, $2, $3, $3, $4, 'open') ON CONFLICT (review_id) DO NOTHING")
                .bind(&doubt.review_id)
                .bind(&doubt.provider)
                .bind(at.0)
                .bind(format!("a burst at {} that was not decided when the list was rebuilt from its events", doubt.provider))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
            let sealed = match &entry.address {
                Some(address) if !dry => {
                    Some(self.keyring.seal(&entry.tenant_id, &entry.address_hash.0, address.as_bytes())?)
                }
                _ => None,
            };
            let done = sqlx::query("INSERT INTO suppression_quarantine (review_id, tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at) SELECT $1, tenant_id, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM tenants WHERE tenant_id = $2 AND EXISTS (SELECT 1 FROM suppression_reviews WHERE review_id = $1 AND state = 'open') AND NOT EXISTS (SELECT 1 FROM suppressions WHERE tenant_id = $2 AND address_hash = $3 AND reason = $4) ON CONFLICT DO NOTHING")
                .bind(&doubt.review_id)
                .bind(entry.tenant_id.as_str())
                .bind(entry.address_hash.0.as_slice())
                .bind(entry.reason.as_str())
                .bind(entry.reach.as_str())
                .bind(entry.since.0)
                .bind(&entry.actor)
                .bind(&entry.note)
                .bind(entry.event_id.to_string())
                .bind(sealed)
                .bind(entry.expires_at.map(|at| at.0))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
            restored += done.rows_affected();
        }
        for RestoredDoubt { doubt, .. } in doubts {
            // nobody is asked to decide about nothing
            sqlx::query("DELETE FROM suppression_reviews WHERE review_id = $1 AND state = 'open' AND NOT EXISTS (SELECT 1 FROM suppression_quarantine WHERE review_id = $1)")
                .bind(&doubt.review_id)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        if !dry {
            transaction.commit().await.map_err(self.failed(doing))?;
        }
        Ok(usize::try_from(restored).unwrap_or(usize::MAX))
    }

    /// Takes the hard bounces that these events put on the list off it, under the provider's open review; opens one
    /// where there is none and something to take. Idempotent. Returns how many were taken off now.
    pub async fn quarantine(
        &self,
        provider: &str,
        until_at: Timestamp,
        reason: &str,
        doubted: &[Doubted],
    ) -> Result<usize, ControlError> {
        let doing = "quarantine suppressions";
        let hasher = self.address_hasher();
        let mut transaction = self.begin(doing).await?;
        let mut found = Vec::new();
        for one in doubted {
            let hash = hasher.hash(&one.address);
            found.extend(self.entry_of(&mut transaction, one, hash).await?);
        }
        if found.is_empty() {
            return Ok(0);
        }
        let review = self.open_review(&mut transaction, provider, until_at, reason).await?;
        for one in &found {
            sqlx::query("INSERT INTO suppression_quarantine (review_id, tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at) SELECT $1, tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at FROM suppressions WHERE tenant_id = $2 AND address_hash = $3 AND reason = $4 ON CONFLICT DO NOTHING")
                .bind(&review)
                .bind(one.tenant_id.as_str())
                .bind(one.address_hash.0.as_slice())
                .bind(one.reason.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        let note = Doubt { review_id: review, provider: provider.to_owned() }.to_string();
        self.lift(&mut transaction, &found, DOUBTER, Some(&note), None).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(found.len())
    }

    async fn entry_of(
        &self,
        connection: &mut SqliteConnection,
        doubted: &Doubted,
        hash: AddressHash,
    ) -> Result<Option<Suppression>, ControlError> {
        let row: Option<Row> = sqlx::query_as("SELECT tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at FROM suppressions WHERE tenant_id = $1 AND address_hash = $2 AND reason = $3 AND event_id = $4")
            .bind(doubted.tenant_id.as_str())
            .bind(hash.0.as_slice())
            .bind(Reason::HardBounce.as_str())
            .bind(doubted.event_id.to_string())
            .fetch_optional(connection)
            .await
            .map_err(self.failed("quarantine suppressions"))?;
        row.map(|row| self.suppression(row)).transpose()
    }

    async fn open_review(
        &self,
        connection: &mut SqliteConnection,
        provider: &str,
        until_at: Timestamp,
        reason: &str,
    ) -> Result<String, ControlError> {
        let doing = "open a review";
        let open: Option<(String,)> = sqlx::query_as(
            "SELECT review_id FROM suppression_reviews WHERE provider = $1 AND state = 'open' ORDER BY opened_at DESC LIMIT 1",
        )
        .bind(provider)
        .fetch_optional(&mut *connection)
        .await
        .map_err(self.failed(doing))?;
        let review = match open {
            Some((review,)) => review,
            None => {
                let review = self.ids.uuid().to_string();
                let change = audit::Change {
                    actor: "burst",
                    tenant: &TenantId::platform(),
                    action: "burst_review_opened",
                    subject: &review,
                    detail: json!({ "provider": provider, "reason": reason }),
                };
                audit::record(connection, self.ids.now(), change).await.map_err(self.failed(doing))?;
                review
            }
        };
        sqlx::query("INSERT INTO suppression_reviews (review_id, provider, opened_at, until_at, reason, state) VALUES ($1, $2, $3, $4, $5, 'open') ON CONFLICT (review_id) DO UPDATE SET until_at = MAX(until_at, excluded.until_at)")
            .bind(&review)
            .bind(provider)
            .bind(self.ids.now().0)
            .bind(until_at.0)
            .bind(reason)
            .execute(connection)
            .await
            .map_err(self.failed(doing))?;
        Ok(review)
    }

    /// All bursts, the open ones first.
    pub async fn burst_reviews(&self) -> Result<Vec<BurstReview>, ControlError> {
        type Row = (String, String, i64, i64, String, String, Option<i64>, Option<String>, i64);
        let rows: Vec<Row> = sqlx::query_as("SELECT review_id, provider, opened_at, until_at, reason, state, decided_at, decided_by, (SELECT COUNT(*) FROM suppression_quarantine AS held WHERE held.review_id = review.review_id) FROM suppression_reviews AS review ORDER BY state <> 'open', opened_at DESC")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the bursts"))?;
        let review = |row: Row| {
            let (
                review_id,
                provider,
                opened_at,
                until_at,
                reason,
                state,
                decided_at,
                decided_by,
                quarantined,
            ) = row;
            BurstReview {
                review_id,
                provider,
                opened_at: Timestamp(opened_at),
                until_at: Timestamp(until_at),
                reason,
                state,
                decided_at: decided_at.map(Timestamp),
                decided_by,
                quarantined,
            }
        };
        Ok(rows.into_iter().map(review).collect())
    }

    /// Decides a burst: what it holds goes back on the list, or goes. Returns how many entries; `None` when no burst of
    /// that id is open.
    pub async fn decide_burst(
        &self,
        actor: &str,
        review_id: &str,
        decision: BurstDecision,
        why: &str,
    ) -> Result<Option<usize>, ControlError> {
        let doing = "decide a burst";
        let state = match decision {
            BurstDecision::Release => "released",
            BurstDecision::Confirm => "confirmed",
        };
        let mut transaction = self.begin(doing).await?;
        let closed = sqlx::query("UPDATE suppression_reviews SET state = $1, decided_at = $2, until_at = $2, decided_by = $3 WHERE review_id = $4 AND state = 'open'")
            .bind(state)
            .bind(self.ids.now().0)
            .bind(actor)
            .bind(review_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if closed.rows_affected() == 0 {
            return Ok(None);
        }
        let rows: Vec<Row> = sqlx::query_as("SELECT tenant_id, address_hash, reason, reach, since, actor, note, event_id, sealed_address, expires_at FROM suppression_quarantine WHERE review_id = $1")
            .bind(review_id)
            .fetch_all(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let held = rows.into_iter().map(|row| self.suppression(row)).collect::<Result<Vec<_>, _>>()?;
        let entries = held.len();
        match decision {
            BurstDecision::Confirm => self.put_back(&mut transaction, &held).await?,
            // they are off the list already: told again, so that a rebuild does not ask again
            BurstDecision::Release => {
                let note = format!("burst {review_id} was the provider's fault");
                let off = self.off_the_list(&mut transaction, held).await?;
                let lines = off.into_iter().map(|entry| Line::lifted(entry, actor, Some(&note), None));
                let lines = lines.map(|line| Line { tell_only: true, ..line });
                self.tell(&mut transaction, lines.collect()).await?;
            }
        }
        sqlx::query("DELETE FROM suppression_quarantine WHERE review_id = $1")
            .bind(review_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let change = audit::Change {
            actor,
            tenant: &TenantId::platform(),
            action: "burst_review_decided",
            subject: review_id,
            detail: json!({ "state": state, "entries": entries, "why": why }),
        };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(Some(entries))
    }

    /// Those that are not on the list: another bounce may have put them there since.
    async fn off_the_list(
        &self,
        connection: &mut SqliteConnection,
        held: Vec<Suppression>,
    ) -> Result<Vec<Suppression>, ControlError> {
        let mut off = Vec::new();
        for entry in held {
            let on: Option<(i64,)> = sqlx::query_as(
                "SELECT 1 FROM suppressions WHERE tenant_id = $1 AND address_hash = $2 AND reason = $3",
            )
            .bind(entry.tenant_id.as_str())
            .bind(entry.address_hash.0.as_slice())
            .bind(entry.reason.as_str())
            .fetch_optional(&mut *connection)
            .await
            .map_err(self.failed("decide a burst"))?;
            if on.is_none() {
                off.push(entry);
            }
        }
        Ok(off)
    }

    /// Puts entries on the list as they were; part of the caller's transaction.
    pub(super) async fn put_back(
        &self,
        connection: &mut SqliteConnection,
        held: &[Suppression],
    ) -> Result<(), ControlError> {
        let checked = held.iter().map(|one| Ok(super::change::Checked::of(one))).collect();
        for answer in self.add(connection, checked).await? {
            answer.map_err(|error| unreadable(&TenantId::platform(), error.to_string()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{START, acme, open_temporary};
    use crate::suppression::{NewSuppression, Reach, SuppressionFilter};

    fn bounce(number: u128) -> NewSuppression {
        NewSuppression {
            tenant_id: acme(),
            address: format!("person{number}@a.test"),
            reach: Reach::Tenant,
            reason: Reason::HardBounce,
            since: START,
            expires_at: None,
            event_id: Uuid::from_u128(number),
            message_id: None,
            note: None,
        }
    }

    fn doubted(number: u128, event: u128) -> Doubted {
        Doubted {
            tenant_id: acme(),
            address: format!("Person{number}@a.test"),
            event_id: Uuid::from_u128(event),
        }
    }

    #[tokio::test]
    async fn a_burst_takes_its_own_entries_off_and_the_decision_brings_them_back_as_they_were() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        for number in 1..=5 {
            store.suppress("feedback", &bounce(number)).await.unwrap();
        }
        let before = store.suppressions(&SuppressionFilter::default()).await.unwrap();
        // 5 was on the list for another bounce than the burst's, and nobody knows 6
        let caused = [doubted(1, 1), doubted(2, 2), doubted(5, 99), doubted(6, 6)];
        assert_eq!(store.quarantine("yahoo", START, "60 of 80", &[doubted(6, 6)]).await.unwrap(), 0);
        assert_eq!(store.burst_reviews().await.unwrap(), [], "nothing to decide");
        for taken in [2, 0] {
            assert_eq!(store.quarantine("yahoo", START, "60 of 80", &caused).await.unwrap(), taken);
        }
        assert_eq!(store.quarantine("yahoo", START, "later", &[doubted(3, 3)]).await.unwrap(), 1);
        let reviews = store.burst_reviews().await.unwrap();
        assert_eq!((reviews.len(), reviews[0].quarantined, reviews[0].state.as_str()), (1, 3, "open"));
        assert_eq!(store.suppressions(&SuppressionFilter::default()).await.unwrap().len(), 2);
        let id = reviews[0].review_id.clone();
        let decided = store.decide_burst("cli", &id, BurstDecision::Confirm, "gone").await.unwrap();
        assert_eq!(decided, Some(3));
        assert_eq!(store.suppressions(&SuppressionFilter::default()).await.unwrap(), before);
        assert_eq!(store.decide_burst("cli", &id, BurstDecision::Release, "no").await.unwrap(), None);

        store.quarantine("yahoo", START, "again", &[doubted(4, 4)]).await.unwrap();
        let id = store.burst_reviews().await.unwrap()[0].review_id.clone();
        store.decide_burst("cli", &id, BurstDecision::Release, "their fault").await.unwrap();
        assert_eq!(store.suppressions(&SuppressionFilter::default()).await.unwrap().len(), 4);
        let (counted, noted) = store.recount_suppressions().await.unwrap();
        assert_eq!(Some(counted), noted.map(|noted| noted.totals), "through all of it the sum is the list's");
        let told = store.untold_suppressions(100).await.unwrap();
        let last = told.last().unwrap();
        assert!(!last.added && last.actor == "cli", "a release is told: {last:?}");
        assert!(last.note.as_deref().unwrap().contains("provider's fault"), "{last:?}");
    }

    #[tokio::test]
    async fn a_release_tells_nothing_of_whom_another_bounce_put_on_the_list() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        store.suppress("feedback", &bounce(1)).await.unwrap();
        store.quarantine("yahoo", START, "1 of 1", &[doubted(1, 1)]).await.unwrap();
        let again = NewSuppression { event_id: Uuid::from_u128(77), ..bounce(1) };
        store.suppress("feedback", &again).await.unwrap();
        let id = store.burst_reviews().await.unwrap()[0].review_id.clone();
        store.decide_burst("cli", &id, BurstDecision::Release, "theirs").await.unwrap();
        let told = store.untold_suppressions(100).await.unwrap();
        assert!(told.last().unwrap().added, "the latest event says that it is on the list: {told:?}");
    }

    #[tokio::test]
    async fn doubts_come_back_under_their_review_but_not_over_what_is_known() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        let doubt = Doubt { review_id: Uuid::from_u128(9).to_string(), provider: "yahoo at large".into() };
        assert_eq!(Doubt::read(&doubt.to_string()), Some(doubt.clone()));
        let old = format!("in quarantine until burst {} is decided", doubt.review_id);
        assert_eq!(Doubt::read(&old).unwrap().provider, "(unknown)");
        assert_eq!(Doubt::read("in quarantine until burst x at y is decided"), None);
        let restored = |number: u128| {
            let new = bounce(number);
            let entry = Restored {
                address_hash: store.address_hasher().hash(&new.address),
                tenant_id: new.tenant_id,
                address: Some(new.address),
                reason: new.reason,
                reach: new.reach,
                since: new.since,
                expires_at: None,
                actor: "feedback".into(),
                note: None,
                event_id: new.event_id,
            };
            RestoredDoubt { doubt: doubt.clone(), at: START, entry }
        };
        store.suppress("feedback", &bounce(2)).await.unwrap();
        let all = [restored(1), restored(2), restored(3)];
        for (dry, back) in [(true, 2), (false, 2), (false, 0)] {
            assert_eq!(store.restore_doubts(&all, dry).await.unwrap(), back, "dry: {dry}");
        }
        let reviews = store.burst_reviews().await.unwrap();
        assert_eq!((reviews[0].review_id.as_str(), reviews[0].quarantined), (&*doubt.review_id, 2));
        let decided =
            store.decide_burst("cli", &doubt.review_id, BurstDecision::Confirm, "gone").await.unwrap();
        assert_eq!(decided, Some(2));
        assert_eq!(store.suppressions(&SuppressionFilter::default()).await.unwrap().len(), 3);
        assert_eq!(store.restore_doubts(&[restored(4)], false).await.unwrap(), 0, "decided is decided");
    }
}
