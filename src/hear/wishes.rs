//! From wishes to suppressions in force: each step may be repeated, so that a crash between any two of them does no
//! harm. Wish (spool, with its event) → control store → memory → `suppression_added` and the end of the wish (spool).

use std::sync::Arc;

use sendlake_control::id::{Ids, TenantId};
use sendlake_control::suppression::{NewSuppression, Reach, Suppress};
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::spool::{Spool, SpoolError};
use sendlake_sender::suppression::Wish;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::suppressions::ControlSuppressions;

const BATCH_MAX: usize = 500;
/// How often the list is read anew: what another process changed counts after this.
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
}

impl Wishes {
    pub fn new(
        spool: Arc<Spool>,
        control: Arc<ControlStore>,
        suppressions: Arc<ControlSuppressions>,
        ids: Ids,
    ) -> Self {
        Self { spool, control, suppressions, ids, one_at_a_time: tokio::sync::Mutex::default() }
    }

    /// Keeps the list in memory fresh and brings wishes into force as they come, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.drain().await {
                tracing::warn!(%error, "suppressions wait in the spool, and are tried again");
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

    /// Brings every wish of the spool into force. Wishes that were there at the call are in memory when it returns.
    pub async fn drain(&self) -> Result<(), WishError> {
        let _alone = self.one_at_a_time.lock().await;
        loop {
            let wishes = self.spool.reader().wishes(BATCH_MAX)?;
            if wishes.is_empty() {
                return Ok(());
            }
            let mut granted = Vec::with_capacity(wishes.len());
            for wish in &wishes {
                granted.push((wish.event_id, self.grant(wish).await?));
            }
            self.suppressions.refresh(&self.control).await?;
            self.spool.settle_wishes(granted).await?;
        }
    }

    /// Puts the address on the list. Returns the event that tells so, unless it was there for another cause.
    async fn grant(&self, wish: &Wish) -> Result<Option<Event>, WishError> {
        let new = NewSuppression {
            tenant_id: wish.tenant_id.clone(),
            address: wish.recipient.clone(),
            reach: wish.reach,
            reason: wish.reason,
            since: wish.since,
            event_id: wish.event_id,
            note: wish.note.clone(),
        };
        match self.control.suppress(&wish.actor, &new).await {
            Ok(Suppress::Added | Suppress::Known { by_this_event: true }) => Ok(Some(self.added(wish))),
            Ok(Suppress::Known { by_this_event: false }) => Ok(None),
            Err(error) if error.is_store_failure() => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, event_id = %wish.event_id, "a suppression cannot be brought into force");
                Ok(None)
            }
        }
    }

    fn added(&self, wish: &Wish) -> Event {
        let tenant = if wish.reach == Reach::Global { TenantId::platform() } else { wish.tenant_id.clone() };
        let mut event = Event::new(self.ids.uuid(), EventType::SuppressionAdded, self.ids.now(), tenant);
        event.message_id = wish.message_id.clone();
        event.recipient = Some(wish.recipient.clone());
        event.recipient_domain = wish.recipient.rsplit_once('@').map(|(_, domain)| domain.to_lowercase());
        event.detail = Some(
            json!({
                "reach": wish.reach, "reason": wish.reason, "since": wish.since.to_string(), "by": wish.actor,
                "note": wish.note, "event_id": wish.event_id,
            })
            .to_string(),
        );
        event
    }
}

#[cfg(test)]
mod tests;
