//! What an operator brings: suppressions added or lifted, the same way into force as those that events call for, and each
//! change an event, told by [`super::wishes`]; exports of providers' own figures.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::full_mailbox::LASTS_DAYS;
use sendlake_control::suppression::{
    NewSuppression, Reach, Reason, Suppress, Suppression, SuppressionFilter,
};
use sendlake_ingest::calibration::Export;
use sendlake_sender::address::Address;
use sendlake_sender::suppression::Wish;

use super::{Hearing, Unavailable};
use crate::domain_reports::figures::TakenFigures;
use crate::node::{AddSuppression, FiguresWanted, ImportSuppressions, Imported, Refusal, RemoveSuppression};
use crate::suppressions::exchange::Entry;

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::Unavailable(Unavailable(error.to_string()))
}

fn address(text: &str) -> Result<Address, Refusal> {
    Address::parse(text.trim()).map_err(|error| Refusal::Invalid(format!("{text:?}: {error}")))
}

/// When an entry ends for which nobody named an end: a full mailbox is emptied one day.
fn end_of(reason: Reason, since: Timestamp) -> Option<Timestamp> {
    (reason == Reason::FullMailbox).then(|| since.plus_secs(LASTS_DAYS * 86_400))
}

impl Hearing {
    /// Takes an export of a provider's own figures, for a tenant that is known here.
    pub async fn take_figures(&self, wanted: FiguresWanted, data: Vec<u8>) -> Result<TakenFigures, Refusal> {
        if let Some(tenant) = &wanted.tenant_id {
            self.control.ensure_data_key(tenant).await?;
        }
        let export = Export {
            exporter: wanted.exporter,
            domain: wanted.domain,
            utc_offset_s: wanted.utc_offset_s,
            now: self.ids.now(),
        };
        Ok(self.reports.take_figures(export, wanted.tenant_id, data).await?)
    }

    /// Puts an address on the list. False when it was there already, as widely.
    pub async fn suppress(&self, actor: &str, wanted: AddSuppression) -> Result<bool, Refusal> {
        let address = address(&wanted.address)?;
        let now = self.ids.now();
        let expires_at = wanted.expires_at.or_else(|| end_of(wanted.reason, now));
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
            known.expires_at.is_none_or(|end| expires_at.is_some_and(|wanted| end >= wanted))
        };
        if known.iter().any(|known| known.reach >= wanted.reach && lasts(known)) {
            return Ok(false);
        }
        let wish = Wish {
            tenant_id,
            recipient: address.to_string(),
            reach: wanted.reach,
            reason: wanted.reason,
            since: now,
            event_id: self.ids.uuid(),
            actor: actor.to_owned(),
            message_id: None,
            note: wanted.note,
            expires_at,
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
            // nobody was suppressed tomorrow
            let since = entry.since.unwrap_or(now).min(now);
            let new = NewSuppression {
                tenant_id: wanted.tenant_id.clone(),
                address: entry.address,
                reach: entry.reach,
                reason: entry.reason,
                since,
                expires_at: entry.until.or_else(|| end_of(entry.reason, since)),
                event_id: entry.event_id.unwrap_or(import),
                message_id: None,
                note: entry.note,
            };
            (entry.actor.unwrap_or_else(|| actor.to_owned()), new)
        };
        let entries: Vec<_> = wanted.entries.into_iter().map(new).collect();
        // what is over calls for nothing, and would be added again by each import
        let is_over = |new: &NewSuppression| new.expires_at.is_some_and(|end| end <= now);
        let (over, entries): (Vec<_>, Vec<_>) =
            entries.into_iter().enumerate().partition(|(_, (_, new))| is_over(new));
        let (places, entries): (Vec<usize>, Vec<_>) = entries.into_iter().unzip();
        let answers = if wanted.dry {
            self.control.suppress_none(&entries).await?
        } else {
            self.control.suppress_all(&entries).await?
        };
        if !wanted.dry {
            self.suppressions.refresh(&self.control).await?;
            self.wishes.tell_changes().await.map_err(|error| failed(&error))?;
        }
        let mut done = Imported { over: over.len() as u64, ..Imported::default() };
        for (place, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(Suppress::Added) => done.added += 1,
                Ok(Suppress::Known { .. }) => done.known += 1,
                Err(error) => done.refused.push((place, error.to_string())),
            }
        }
        Ok(done)
    }
}
