//! Mailboxes that stay full: counted by message and day, and suppressed for a time when there were enough.
//!
//! A message counts once, on the UTC day that it was told first, however often it is tried; so three days are three
//! messages. Two days may pass for a holiday, three within a month seldom do. The suppression ends by itself: people
//! clear their mailboxes, and a refusal costs reputation only while it repeats.

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::change::Checked;
use super::{AddressHash, NewSuppression, Reach, Reason, Suppress, address_of};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// So many days on which a message was refused…
pub const FULL_DAYS: i64 = 3;
/// …of so many together…
pub const WITHIN_DAYS: i64 = 30;
/// …suppress an address for so many days.
pub const LASTS_DAYS: i64 = 30;

/// A message was told that the mailbox is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullMailbox {
    pub tenant_id: TenantId,
    pub address: String,
    pub at: Timestamp,
    pub event_id: Uuid,
    /// Without one, the event stands for a message of its own.
    pub message_id: Option<String>,
}

/// What became of a [`FullMailbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// On so many days by now: not enough.
    Days(i64),
    Suppressed,
    /// Suppressed already.
    Known,
}

impl ControlStore {
    /// Counts full mailboxes in one transaction, and suppresses those that were full often enough. Counting one twice
    /// changes nothing. The answers come in order; one that cannot be counted says why.
    pub async fn count_full_mailboxes(
        &self,
        found: &[FullMailbox],
    ) -> Result<Vec<Result<Counted, ControlError>>, ControlError> {
        let doing = "count full mailboxes";
        for one in found {
            match self.ensure_data_key(&one.tenant_id).await {
                Err(error) if error.is_store_failure() => return Err(error),
                _ => {}
            }
        }
        let mut transaction = self.begin(doing).await?;
        let mut answers = Vec::with_capacity(found.len());
        for one in found {
            let counted = match address_of(&one.address) {
                Ok(address) => self.count_one(&mut transaction, one, address).await,
                Err(error) => Err(error),
            };
            match counted {
                Err(error) if error.is_store_failure() => return Err(error),
                counted => answers.push(counted),
            }
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(answers)
    }

    async fn count_one(
        &self,
        connection: &mut SqliteConnection,
        found: &FullMailbox,
        address: String,
    ) -> Result<Counted, ControlError> {
        let hash = self.address_hasher().hash(&address);
        let until = found.at.plus_secs(LASTS_DAYS * 86_400);
        let days = self.count_days(connection, found, hash).await?;
        if days < FULL_DAYS {
            return Ok(Counted::Days(days));
        }
        let new = NewSuppression {
            tenant_id: found.tenant_id.clone(),
            address: address.clone(),
            reach: Reach::Tenant,
            reason: Reason::FullMailbox,
            since: found.at,
            expires_at: Some(until),
            event_id: found.event_id,
            message_id: found.message_id.clone(),
            note: Some(format!("full on {days} days within {WITHIN_DAYS}")),
        };
        let (actor, owner) = ("feedback".to_owned(), new.owner());
        let checked = Checked { actor, new, owner, hash, address: Some(address) };
        let answer = self.add(connection, vec![Ok(checked)]).await?.pop();
        // it starts anew when this one is over
        sqlx::query("DELETE FROM full_mailboxes WHERE tenant_id = $1 AND address_hash = $2")
            .bind(found.tenant_id.as_str())
            .bind(hash.0.as_slice())
            .execute(connection)
            .await
            .map_err(self.failed("count full mailboxes"))?;
        match answer.transpose()? {
            Some(Suppress::Added) => Ok(Counted::Suppressed),
            _ => Ok(Counted::Known),
        }
    }

    async fn count_days(
        &self,
        connection: &mut SqliteConnection,
        found: &FullMailbox,
        hash: AddressHash,
    ) -> Result<i64, ControlError> {
        let failed = self.failed("count full mailboxes");
        let today = i64::from(found.at.days());
        let message_id = found.message_id.clone().unwrap_or_else(|| found.event_id.to_string());
        sqlx::query("INSERT INTO full_mailboxes (tenant_id, address_hash, message_id, day) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
            .bind(found.tenant_id.as_str())
            .bind(hash.0.as_slice())
            .bind(message_id)
            .bind(today)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
        // reports come out of order: the days around this one count, whichever came first
        let days: Vec<(i64,)> = sqlx::query_as("SELECT DISTINCT day FROM full_mailboxes WHERE tenant_id = $1 AND address_hash = $2 AND day > $3 AND day < $4 ORDER BY day")
            .bind(found.tenant_id.as_str())
            .bind(hash.0.as_slice())
            .bind(today - WITHIN_DAYS)
            .bind(today + WITHIN_DAYS)
            .fetch_all(connection)
            .await
            .map_err(&failed)?;
        let days: Vec<i64> = days.into_iter().map(|(day,)| day).collect();
        let most = days.iter().map(|first| {
            let within = |day: &&i64| **day >= *first && **day < first + WITHIN_DAYS;
            i64::try_from(days.iter().filter(within).count()).unwrap_or(i64::MAX)
        });
        Ok(most.max().unwrap_or(0))
    }

    /// Forgets days that no longer count.
    pub async fn purge_full_mailboxes(&self, now: Timestamp) -> Result<u64, ControlError> {
        // reports may be about the day before yesterday: twice as long as days count
        let purged = sqlx::query("DELETE FROM full_mailboxes WHERE day < $1")
            .bind(i64::from(now.days()) - 2 * WITHIN_DAYS)
            .execute(&self.pool)
            .await
            .map_err(self.failed("forget full mailboxes"))?;
        Ok(purged.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{START, acme, open_temporary};
    use crate::suppression::SuppressionFilter;

    const DAY: i64 = 86_400;

    fn full(day: i64, message: &str) -> FullMailbox {
        FullMailbox {
            tenant_id: acme(),
            address: "Ann@a.test".into(),
            at: START.plus_secs(day * DAY),
            event_id: Uuid::from_u128(day.unsigned_abs().into()),
            message_id: Some(message.into()),
        }
    }

    async fn count(store: &ControlStore, found: &FullMailbox) -> Counted {
        store.count_full_mailboxes(std::slice::from_ref(found)).await.unwrap().remove(0).unwrap()
    }

    #[tokio::test]
    async fn three_messages_on_three_days_suppress_for_a_time_and_then_it_lifts_itself() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        assert_eq!(count(&store, &full(0, "m1")).await, Counted::Days(1));
        // the same message on other days, and another one on the same day, say nothing new
        assert_eq!(count(&store, &full(1, "m1")).await, Counted::Days(1));
        assert_eq!(count(&store, &full(0, "m2")).await, Counted::Days(1));
        assert_eq!(count(&store, &full(9, "m3")).await, Counted::Days(2));
        assert_eq!(count(&store, &full(20, "m4")).await, Counted::Suppressed);
        assert_eq!(count(&store, &full(20, "m4")).await, Counted::Days(1), "it starts anew");
        let found = store.suppressions(&SuppressionFilter::default()).await.unwrap();
        let until = START.plus_secs((20 + LASTS_DAYS) * DAY);
        assert_eq!((found[0].reach, found[0].reason), (Reach::Tenant, Reason::FullMailbox));
        assert_eq!((found.len(), found[0].expires_at), (1, Some(until)));
        assert_eq!(store.lift_expired(until.plus_secs(-1)).await.unwrap(), 0);
        assert_eq!(store.lift_expired(until).await.unwrap(), 1);
        assert_eq!(store.suppressions(&SuppressionFilter::default()).await.unwrap(), []);
        let told = store.untold_suppressions(9).await.unwrap();
        assert_eq!(told.iter().map(|told| told.added).collect::<Vec<_>>(), [true, false]);
        assert_eq!(told[1].note.as_deref(), Some("its time is over"));
    }

    #[tokio::test]
    async fn days_too_far_apart_do_not_suppress_in_whatever_order_they_come() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        for (day, days) in [(0, 1), (29, 2), (58, 2), (87, 2), (44, 3)] {
            let counted = count(&store, &full(day, &format!("m{day}"))).await;
            let expected = if days == 3 { Counted::Suppressed } else { Counted::Days(days) };
            assert_eq!(counted, expected, "day {day}");
        }
        store.purge_full_mailboxes(START.plus_secs(400 * DAY)).await.unwrap();
    }
}
