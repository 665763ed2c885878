//! Suppressions that an operator adds or lifts: the same way into force as those that events call for, and each
//! change an event, told by [`super::wishes`].

use sendlake_control::id::TenantId;
use sendlake_control::suppression::{NewSuppression, Reach, Suppress, Suppression, SuppressionFilter};
use sendlake_sender::address::Address;
use sendlake_sender::suppression::Wish;

use super::{Hearing, Unavailable};
use crate::node::{AddSuppression, ImportSuppressions, Imported, Refusal, RemoveSuppression};
use crate::suppressions::exchange::Entry;

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
        let lasts = |known: &Suppression| {
            known.expires_at.is_none_or(|end| wanted.expires_at.is_some_and(|wanted| end >= wanted))
        };
        if known.iter().any(|known| known.reach >= wanted.reach && lasts(known)) {
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
            expires_at: wanted.expires_at,
            is_counted: false,
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
        self.wishes.tell_changes().await.map_err(|error| failed(&error))?;
        Ok(lifted.len())
    }

    /// Puts entries of a file on the list, all in one transaction, and tells each; `dry` for what would become of them.
    pub async fn import(&self, actor: &str, wanted: ImportSuppressions) -> Result<Imported, Refusal> {
        let (import, now) = (self.ids.uuid(), self.ids.now());
        let new = |entry: Entry| {
            let new = NewSuppression {
                tenant_id: wanted.tenant_id.clone(),
                address: entry.address,
                reach: entry.reach,
                reason: entry.reason,
                // nobody was suppressed tomorrow
                since: entry.since.unwrap_or(now).min(now),
                expires_at: entry.until,
                event_id: entry.event_id.unwrap_or(import),
                message_id: None,
                note: entry.note,
            };
            (entry.actor.unwrap_or_else(|| actor.to_owned()), new)
        };
        let entries: Vec<_> = wanted.entries.into_iter().map(new).collect();
        let answers = if wanted.dry {
            self.control.suppress_none(&entries).await?
        } else {
            self.control.suppress_all(&entries).await?
        };
        if !wanted.dry {
            self.suppressions.refresh(&self.control).await?;
            self.wishes.tell_changes().await.map_err(|error| failed(&error))?;
        }
        let mut done = Imported::default();
        for (place, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(Suppress::Added) => done.added += 1,
                Ok(Suppress::Known { .. }) => done.known += 1,
                Err(error) => done.refused.push((place, error.to_string())),
            }
        }
        Ok(done)
    }
}
