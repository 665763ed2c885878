//! From wishes to suppressions in force: each step may be repeated, so that a crash between any two of them does no
//! harm. Wish (spool, with its event) → control store → memory → the end of the wish (spool) → an event for each change
//! of the list, told by the control store in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use sendlake_control::id::{Ids, TenantId};
use sendlake_control::suppression::full_mailbox::FullMailbox;
use sendlake_control::suppression::untold::Untold;
use sendlake_control::suppression::{NewSuppression, Reach, Reason};
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::spool::{Spool, SpoolError};
use sendlake_sender::suppression::Wish;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::suppressions::ControlSuppressions;

const BATCH_MAX: usize = 500;
/// Changes told in one go.
const TOLD_MAX: u32 = 2_000;
/// How often the list is read anew: what another process changed counts after this, and what is over ends.
const REFRESH_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Why wishes are still waiting. They are safe in the spool.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Brings wishes into force.
pub struct Wishes {
    spool: Arc<Spool>,
    control: Arc<ControlStore>,
    suppressions: Arc<ControlSuppressions>,
    ids: Ids,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// The day on which old counts were forgotten last.
    tidied_on: AtomicI32,
    /// Wishes that came into force in this process, by their reasons' places.
    granted: [AtomicU64; Reason::ALL.len()],
}

impl Wishes {
    pub fn new(
        spool: Arc<Spool>,
        control: Arc<ControlStore>,
        suppressions: Arc<ControlSuppressions>,
        ids: Ids,
    ) -> Self {
        Self {
            spool,
            control,
            suppressions,
            ids,
            one_at_a_time: tokio::sync::Mutex::default(),
            tidied_on: AtomicI32::default(),
            granted: Default::default(),
        }
    }

    /// How many wishes with this reason came into force since this process started.
    pub fn granted(&self, reason: Reason) -> u64 {
        let place = Reason::ALL.iter().position(|known| *known == reason);
        place.and_then(|place| self.granted.get(place)).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn count(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|known| *known == reason);
        if let Some(count) = place.and_then(|place| self.granted.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps the list in memory fresh, brings wishes into force as they come and ends what is over, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.drain().await {
                tracing::warn!(%error, "suppressions wait in the spool, and are tried again");
            }
            if let Err(error) = self.end_what_is_over().await {
                tracing::warn!(%error, "suppressions whose time is over stay in force for now");
            }
            if let Err(error) = self.suppressions.refresh(&self.control).await {
                tracing::warn!(%error, "suppressions could not be read anew; those known stay in force");
            }
            let woken = tokio::select! {
                () = self.spool.wished() => true,
                () = tokio::time::sleep(REFRESH_EVERY) => true,
                () = stop.cancelled() => false,
            };
            if !woken {
                return;
            }
        }
    }

    /// Brings every wish of the spool into force, and tells what changed. Wishes that were there at the call are in
    /// memory when it returns.
    pub async fn drain(&self) -> Result<(), WishError> {
        let _alone = self.one_at_a_time.lock().await;
        loop {
            let wishes = self.spool.reader().wishes(BATCH_MAX)?;
            if wishes.is_empty() {
                break;
            }
            self.grant(&wishes).await?;
            self.suppressions.refresh(&self.control).await?;
            self.spool.settle_wishes(wishes.iter().map(|wish| wish.event_id).collect()).await?;
        }
        self.tell().await
    }

    /// Logs an event for each change of the list that none tells yet.
    pub async fn tell_changes(&self) -> Result<(), WishError> {
        let _alone = self.one_at_a_time.lock().await;
        self.tell().await
    }

    async fn tell(&self) -> Result<(), WishError> {
        loop {
            let untold = self.control.untold_suppressions(TOLD_MAX).await?;
            let Some(last) = untold.last() else { return Ok(()) };
            let events: Vec<Event> = untold.iter().map(event).collect();
            self.spool.log_handed_over(&events).await?;
            self.control.suppressions_told(last.seq).await?;
        }
    }

    async fn end_what_is_over(&self) -> Result<(), WishError> {
        let now = self.ids.now();
        while self.control.lift_expired(now).await? > 0 {
            self.suppressions.refresh(&self.control).await?;
            self.tell_changes().await?;
        }
        if self.tidied_on.swap(now.days(), Ordering::Relaxed) != now.days() {
            self.control.purge_full_mailboxes(now).await?;
        }
        Ok(())
    }

    /// Puts the addresses on the list; full mailboxes once there were enough.
    async fn grant(&self, wishes: &[Wish]) -> Result<(), WishError> {
        let (full, wanted): (Vec<&Wish>, Vec<&Wish>) = wishes.iter().partition(|wish| wish.is_counted);
        let new: Vec<_> = wanted.iter().map(|wish| (wish.actor.clone(), new_suppression(wish))).collect();
        for (wish, answer) in wanted.iter().zip(self.control.suppress_all(&new).await?) {
            if answer.is_ok() {
                self.count(wish.reason);
            }
            complain(wish.event_id, answer.err())?;
        }
        let full_mailboxes: Vec<_> = full.iter().map(|wish| full_mailbox(wish)).collect();
        if !full.is_empty() {
            for (wish, answer) in full.iter().zip(self.control.count_full_mailboxes(&full_mailboxes).await?) {
                complain(wish.event_id, answer.err())?;
            }
        }
        Ok(())
    }
}

/// A store that fails is asked again; what can never be taken is told, and let go.
fn complain(event_id: Uuid, error: Option<ControlError>) -> Result<(), ControlError> {
    match error {
        Some(error) if error.is_store_failure() => Err(error),
        Some(error) => {
            tracing::error!(%error, %event_id, "a suppression cannot be brought into force");
            Ok(())
        }
        None => Ok(()),
    }
}

fn new_suppression(wish: &Wish) -> NewSuppression {
    NewSuppression {
        tenant_id: wish.tenant_id.clone(),
        address: wish.recipient.clone(),
        reach: wish.reach,
        reason: wish.reason,
        since: wish.since,
        expires_at: wish.expires_at,
        event_id: wish.event_id,
        message_id: wish.message_id.clone(),
        note: wish.note.clone(),
    }
}

fn full_mailbox(wish: &Wish) -> FullMailbox {
    FullMailbox {
        tenant_id: wish.tenant_id.clone(),
        address: wish.recipient.clone(),
        at: wish.since,
        event_id: wish.event_id,
        message_id: wish.message_id.clone(),
    }
}

/// The event of a change: who, why, how far, since and until when, and by which event.
fn event(change: &Untold) -> Event {
    let event_type = if change.added { EventType::SuppressionAdded } else { EventType::SuppressionRemoved };
    let tenant = if change.reach == Reach::Global { TenantId::platform() } else { change.tenant_id.clone() };
    let mut event = Event::new(change.told_as, event_type, change.at, tenant);
    event.message_id = change.message_id.clone();
    event.recipient = change.address.clone();
    event.recipient_domain =
        change.address.as_ref().and_then(|address| address.rsplit_once('@')).map(|(_, domain)| domain.into());
    let mut detail = json!({
        "reach": change.reach, "reason": change.reason, "since": change.since.to_string(), "by": change.actor,
        "note": change.note, "event_id": change.event_id, "address_hash": change.address_hash,
    });
    if let Some(detail) = detail.as_object_mut() {
        if let Some(until) = change.expires_at {
            detail.insert("until".into(), json!(until.to_string()));
        }
        if let Some(list) = change.list {
            detail.insert("list".into(), json!(list));
        }
    }
    event.detail = Some(detail.to_string());
    event
}

#[cfg(test)]
mod tests;
