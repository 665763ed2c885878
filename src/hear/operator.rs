//! Suppressions that an operator adds or lifts: the same way into force as those that events call for, and each
//! change an event.

use sendlake_control::id::TenantId;
use sendlake_control::suppression::{Reach, SuppressionFilter};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::address::Address;
use sendlake_sender::suppression::Wish;
use serde_json::json;

use super::{Hearing, Unavailable};
use crate::node::{AddSuppression, Refusal, RemoveSuppression};

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::Unavailable(Unavailable(error.to_string()))
}

fn address(text: &str) -> Result<Address, Refusal> {
    Address::parse(text.trim()).map_err(|error| Refusal::Invalid(format!("{text:?}: {error}")))
}

impl Hearing {
    /// Puts an address on the list. False when it was there already, as widely.
    pub async fn suppress(&self, actor: &str, wanted: AddSuppression) -> Result<bool, Refusal> {
        let address = address(&wanted.address)?;
        let tenant_id = match (wanted.reach, wanted.tenant_id) {
            (Reach::Global, _) => TenantId::platform(),
            (_, Some(tenant_id)) => tenant_id,
            (_, None) => return Err(Refusal::Invalid("say whose mail: --tenant, or --reach global".into())),
        };
        self.control.ensure_data_key(&tenant_id).await?;
        let known = self
            .control
            .suppressions(&SuppressionFilter {
                tenant_id: Some(tenant_id.clone()),
                address: Some(address.to_string()),
                reason: Some(wanted.reason),
                ..SuppressionFilter::default()
            })
            .await?;
        if known.iter().any(|known| known.reach >= wanted.reach) {
            return Ok(false);
        }
        let wish = Wish {
            tenant_id,
            recipient: address.to_string(),
            reach: wanted.reach,
            reason: wanted.reason,
            since: self.ids.now(),
            event_id: self.ids.uuid(),
            actor: actor.to_owned(),
            message_id: None,
            note: wanted.note,
        };
        self.spool.wish(&wish).await.map_err(|error| failed(&error))?;
        self.wishes.drain().await.map_err(|error| failed(&error))?;
        Ok(true)
    }

    /// Lifts suppressions. Returns how many.
    pub async fn unsuppress(&self, actor: &str, wanted: RemoveSuppression) -> Result<usize, Refusal> {
        let address = address(&wanted.address)?;
        let tenant_id = wanted.tenant_id.unwrap_or_else(TenantId::platform);
        let event_id = self.ids.uuid();
        let lifted = self
            .control
            .unsuppress(
                actor,
                &tenant_id,
                &address.to_string(),
                wanted.reason,
                wanted.note.as_deref(),
                event_id,
            )
            .await?;
        self.suppressions.refresh(&self.control).await?;
        let events: Vec<Event> = lifted
            .iter()
            .map(|lifted| {
                let mut event = Event::new(
                    self.ids.uuid(),
                    EventType::SuppressionRemoved,
                    self.ids.now(),
                    tenant_id.clone(),
                );
                event.recipient = Some(address.to_string());
                event.recipient_domain = Some(address.domain().to_owned());
                event.detail = Some(
                    json!({
                        "reach": lifted.reach, "reason": lifted.reason, "since": lifted.since.to_string(),
                        "by": actor, "note": wanted.note,
                    })
                    .to_string(),
                );
                event
            })
            .collect();
        self.spool.log(&events).await.map_err(|error| failed(&error))?;
        Ok(lifted.len())
    }
}
