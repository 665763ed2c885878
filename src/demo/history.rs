//! Deliveries that are told rather than made: their events go the way of all events, through the spool's log into
//! the lake, with `{"simulated":true}` in `detail`. Sockets would add nothing to a week of history but time.

use anyhow::Context;
use sendlake_control::clock::Timestamp;
use sendlake_control::domain::Domain;
use sendlake_control::id::{Ids, uuid_v7};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::stream::Stream;
use uuid::Uuid;

use crate::node::Running;

/// Who receives: the provider's name in events, its domain, and how many of a hundred recipients it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Audience {
    pub provider: &'static str,
    pub recipient_domain: &'static str,
    pub percent: usize,
}

/// What one campaign's messages have in common.
#[derive(Clone, Debug)]
pub(super) struct Mailing {
    pub domain: Domain,
    pub campaign_id: &'static str,
    pub audience: &'static [Audience],
}

/// A delivery that somebody may complain about later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered {
    pub message_id: Uuid,
    pub at: Timestamp,
    pub provider: &'static str,
}

/// Events of one write: bounds the time that others wait for it.
const EVENTS_PER_WRITE: usize = 2_000;

/// Logs `messages` as accepted and delivered between `from` and `to`, spread evenly.
pub(super) async fn deliver(
    running: &Running,
    ids: &Ids,
    mailing: &Mailing,
    messages: usize,
    (from, to): (Timestamp, Timestamp),
) -> anyhow::Result<Vec<Delivered>> {
    let span_ms = to.millis_since(from).max(1);
    let mut delivered = Vec::with_capacity(messages);
    let mut events = Vec::with_capacity(EVENTS_PER_WRITE);
    for number in 0..messages {
        let share =
            i64::try_from(number).unwrap_or(0) * span_ms / i64::try_from(messages.max(1)).unwrap_or(1);
        let at = from.plus_millis(share);
        let audience = audience_of(mailing.audience, number).context("a mailing without an audience")?;
        let message_id = uuid_v7(at, ids.entropy.as_ref());
        events.extend(events_of(ids, mailing, audience, message_id, at));
        delivered.push(Delivered { message_id, at, provider: audience.provider });
        if events.len() >= EVENTS_PER_WRITE {
            running.spool.log(&std::mem::take(&mut events)).await?;
        }
    }
    running.spool.log(&events).await?;
    Ok(delivered)
}

/// Deals recipients out by their percentages, evenly within each hundred.
pub(super) fn audience_of(audience: &'static [Audience], number: usize) -> Option<&'static Audience> {
    let mut place = number.wrapping_mul(37) % 100;
    audience.iter().find(|one| {
        let found = place < one.percent;
        place = place.saturating_sub(one.percent);
        found
    })
}

fn events_of(
    ids: &Ids,
    mailing: &Mailing,
    audience: &Audience,
    message_id: Uuid,
    at: Timestamp,
) -> [Event; 2] {
    let recorded_at = ids.now();
    let about = |event_type, seq, at| {
        let mut event = Event::new(ids.uuid(), event_type, at, mailing.domain.tenant_id.clone());
        event.recorded_at = recorded_at;
        event.message_id = Some(message_id.to_string());
        event.submission_id = Some(message_id.to_string());
        event.seq = Some(seq);
        event.stream = Some(Stream::Marketing.to_string());
        event.campaign_id = Some(mailing.campaign_id.to_owned());
        event.recipient = Some(format!("reader-{}@{}", message_id.simple(), audience.recipient_domain));
        event.recipient_domain = Some(audience.recipient_domain.to_owned());
        event.provider = Some(audience.provider.to_owned());
        event.header_from_domain = Some(mailing.domain.domain.clone());
        event.mail_from_domain = Some(mailing.domain.bounce_domain.clone());
        event.dkim_domain = Some(mailing.domain.domain.clone());
        event.dkim_selector = Some(mailing.domain.selector.clone());
        event.ip_pool = Some("marketing".into());
        event.detail = Some("{\"simulated\":true}".into());
        event
    };
    let accepted = about(EventType::Accepted, 1, at);
    let mut delivered = about(EventType::Delivered, 2, at.plus_millis(400));
    delivered.attempt = Some(1);
    delivered.site = Some(audience.provider.to_owned());
    delivered.smtp_command = Some("DOT".into());
    delivered.reply_code = Some(250);
    [accepted, delivered]
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIENCE: [Audience; 3] = [
        Audience { provider: "a", recipient_domain: "a.test", percent: 45 },
        Audience { provider: "b", recipient_domain: "b.test", percent: 35 },
        Audience { provider: "c", recipient_domain: "c.test", percent: 20 },
    ];

    #[test]
    fn a_hundred_recipients_are_dealt_out_by_percent() {
        for one in &AUDIENCE {
            let dealt = (0..1_000).filter(|n| audience_of(&AUDIENCE, *n).unwrap().provider == one.provider);
            assert_eq!(dealt.count(), one.percent * 10, "{}", one.provider);
        }
    }
}
