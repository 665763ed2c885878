//! What happens to one message: accepted, tried, taken or refused, and what is heard of it later.

#![expect(clippy::indexing_slicing, reason = "places are taken below the lengths")]

use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{Event, EventType};
use uuid::Uuid;

use super::Random;
use super::cast::{Campaign, Cast, Kind, Receiver, Tenant};

/// What happens next to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Accepted,
    Delivered,
    Deferred,
    Bounced,
    Opened,
    Clicked,
    Complained,
    Unsubscribed,
    BouncedAsync,
}

/// A message under way. Cast members are named by their places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Message {
    message_id: Uuid,
    submission_id: Uuid,
    tenant: usize,
    campaign: usize,
    receiver: usize,
    recipient: Arc<str>,
    size_bytes: i64,
    accepted_at: Timestamp,
    delivered_at: Option<Timestamp>,
    seq: i64,
    attempts: i32,
}

impl Message {
    pub(super) fn new(
        tenant: usize,
        campaign: usize,
        receiver: usize,
        recipient: Arc<str>,
        size_bytes: i64,
        accepted_at: Timestamp,
        random: &mut Random,
    ) -> Self {
        let message_id = random.uuid_v7(accepted_at);
        Self {
            message_id,
            submission_id: random.uuid_v7(accepted_at),
            tenant,
            campaign,
            receiver,
            recipient,
            size_bytes,
            accepted_at,
            delivered_at: None,
            seq: 0,
            attempts: 0,
        }
    }

    /// What comes after a step, and when.
    pub(super) fn after(
        &self,
        step: Step,
        at: Timestamp,
        random: &mut Random,
    ) -> [Option<(Timestamp, Step)>; 2] {
        let attempt = |random: &mut Random, later_ms: i64| {
            let step = match random.below(1_000) {
                0..70 if self.attempts < 4 => Step::Deferred,
                0..85 => Step::Bounced,
                _ => Step::Delivered,
            };
            Some((at.plus_millis(later_ms), step))
        };
        let hours = |random: &mut Random| at.plus_millis(random.millis(20_000, 9_000_000));
        match step {
            Step::Accepted => {
                let later_ms = random.millis(80, 1_500);
                [attempt(random, later_ms), None]
            }
            Step::Deferred => {
                let later_ms = (300_000 << self.attempts.min(4)) + random.millis(0, 60_000);
                [attempt(random, later_ms), None]
            }
            Step::Delivered => match random.below(10_000) {
                0..4 => [Some((hours(random), Step::Complained)), None],
                4..34 => [Some((hours(random), Step::Unsubscribed)), None],
                34..64 => [Some((hours(random), Step::BouncedAsync)), None],
                64..964 => {
                    let clicked = random.chance(200).then(|| (hours(random), Step::Clicked));
                    [Some((hours(random), Step::Opened)), clicked]
                }
                _ => [None, None],
            },
            _ => [None, None],
        }
    }

    /// The event of a step.
    pub(super) fn event(&mut self, step: Step, at: Timestamp, cast: &Cast, random: &mut Random) -> Event {
        let tenant = cast.tenant(self.tenant);
        let receiver = cast.receiver(self.receiver);
        let Some(campaign) = tenant.campaigns.get(self.campaign) else {
            return Event::new(random.uuid_v7(at), EventType::Rejected, at, tenant.id.clone());
        };
        let mut event = Event::new(random.uuid_v7(at), step.event_type(), at, tenant.id.clone());
        self.describe(&mut event, tenant, campaign);
        match step {
            Step::Accepted => {
                event.subject_hash = Some(campaign.subject_hash.clone());
                event.tags.insert("template".into(), campaign.template.clone());
                event.tags.insert("shard".into(), format!("{}", random.below(16)));
                self.align(&mut event, tenant, campaign);
            }
            Step::Delivered | Step::Deferred | Step::Bounced => {
                self.attempts += 1;
                self.align(&mut event, tenant, campaign);
                self.attempt(&mut event, at, receiver, random);
                match step {
                    Step::Delivered => self.delivered(&mut event, receiver, random),
                    Step::Deferred => deferred(&mut event, at, receiver, random),
                    _ => bounced(&mut event, &self.recipient, receiver, random),
                }
                if step == Step::Delivered {
                    self.delivered_at = Some(at);
                }
            }
            _ => {
                self.align(&mut event, tenant, campaign);
                event.provider = Some(receiver.provider.to_string());
                event.delivered_at = self.delivered_at;
                event.source_ip = Some("192.0.2.11".into());
                feedback(&mut event, step, &self.recipient, random);
            }
        }
        if step.is_the_nodes_own() {
            self.seq += 1;
            event.seq = Some(self.seq);
        }
        event
    }

    fn describe(&self, event: &mut Event, tenant: &Tenant, campaign: &Campaign) {
        event.message_id = Some(self.message_id.to_string());
        event.submission_id = Some(self.submission_id.to_string());
        event.stream = Some(campaign.stream.to_owned());
        event.campaign_id = Some(campaign.id.clone());
        event.list_id.clone_from(&campaign.list_id);
        event.content_fingerprint = Some(campaign.fingerprint.clone());
        event.size_bytes = Some(self.size_bytes);
        event.recipient = Some(self.recipient.to_string());
        event.recipient_domain = self.recipient.rsplit_once('@').map(|(_, domain)| domain.to_owned());
        event.header_from_domain = Some(tenant.domain.clone());
    }

    fn align(&self, event: &mut Event, tenant: &Tenant, campaign: &Campaign) {
        event.mail_from_domain = Some(tenant.bounce_domain.clone());
        event.dkim_domain = Some(tenant.domain.clone());
        event.dkim_selector = Some("s2026".into());
        event.ip_pool = Some(campaign.stream.to_owned());
        event.spf_aligned = Some(true);
        event.dkim_aligned = Some(true);
        event.dmarc_expected = Some(true);
    }

    fn attempt(&self, event: &mut Event, at: Timestamp, receiver: &Receiver, random: &mut Random) {
        event.attempt = Some(self.attempts);
        event.provider = Some(receiver.provider.to_string());
        event.site = Some(receiver.site.to_string());
        event.session_id = Some(format!("{:012x}", random.u64() >> 20));
        if let Some((host, ip)) = receiver.hosts.get(random.below(receiver.hosts.len())) {
            event.mx_host = Some(host.clone());
            event.mx_ip = Some(ip.clone());
        }
        event.source_ip = Some(format!("192.0.2.{}", 10 + random.below(8)));
        event.tls_version = Some("TLSv1.3".into());
        event.tls_cipher =
            Some(if random.chance(850) { "TLS_AES_256_GCM_SHA384" } else { "TLS_AES_128_GCM_SHA256" }.into());
        event.tls_verified = Some(random.chance(930));
        event.queue_ms = Some(at.millis_since(self.accepted_at));
        event.connect_ms = Some(random.millis(15, 90));
        event.attempt_ms = Some(random.millis(120, 700));
    }

    fn delivered(&self, event: &mut Event, receiver: &Receiver, random: &mut Random) {
        event.smtp_command = Some("DOT".into());
        event.reply_code = Some(250);
        event.enhanced_status = Some(if receiver.kind == Kind::Microsoft { "2.6.0" } else { "2.0.0" }.into());
        event.reply_text = Some(match receiver.kind {
            Kind::Google => {
                format!(
                    "OK  {} {:016x}si{}plb.{} - gsmtp",
                    event.occurred_at.as_secs(),
                    random.u64(),
                    random.below(10_000_000),
                    random.below(400)
                )
            }
            Kind::Microsoft => format!(
                "<{}@sendlake> [InternalId={}, Hostname=DM6PR{:02}MB{}.namprd{:02}.prod.outlook.com] {} bytes in 0.{:03}, {}.{:03} KB/sec Queued mail for delivery -> 250 2.1.5",
                self.message_id,
                random.u64() >> 18,
                random.below(30),
                1_000 + random.below(9_000),
                random.below(30),
                self.size_bytes,
                random.below(1_000),
                random.below(400),
                random.below(1_000),
            ),
            Kind::Yahoo => "ok dirdel".into(),
            Kind::Other => format!("Ok: queued as {:010X}", random.u64() >> 24),
        });
    }
}

impl Step {
    fn event_type(self) -> EventType {
        match self {
            Self::Accepted => EventType::Accepted,
            Self::Delivered => EventType::Delivered,
            Self::Deferred => EventType::Deferred,
            Self::Bounced => EventType::Bounced,
            Self::Opened => EventType::Opened,
            Self::Clicked => EventType::Clicked,
            Self::Complained => EventType::Complained,
            Self::Unsubscribed => EventType::Unsubscribed,
            Self::BouncedAsync => EventType::BouncedAsync,
        }
    }

    /// Feedback may arrive anywhere, and has no number.
    fn is_the_nodes_own(self) -> bool {
        matches!(self, Self::Accepted | Self::Delivered | Self::Deferred | Self::Bounced)
    }
}

fn deferred(event: &mut Event, at: Timestamp, receiver: &Receiver, random: &mut Random) {
    let (command, code, status, text, reason) = match (receiver.kind, random.below(3)) {
        (Kind::Google, _) => (
            "DOT",
            421,
            "4.7.28",
            format!(
                "Gmail has detected an unusual rate of mail originating from your IP Netblock. For more information, go to {:016x}si{}qkc.{} - gsmtp",
                random.u64(),
                random.below(10_000_000),
                random.below(400)
            ),
            "sender_rate_limited",
        ),
        (Kind::Microsoft, _) => (
            "MAIL",
            451,
            "4.7.500",
            "Server busy. Please try again later from [192.0.2.11]. (S77719)".into(),
            "sender_rate_limited",
        ),
        (_, 0) => ("RCPT", 450, "4.2.0", "Recipient address rejected: Greylisted".into(), "greylisted"),
        (_, 1) => ("CONNECT", 421, "4.3.2", "Too many connections, try later".into(), "too_many_connections"),
        _ => ("RCPT", 452, "4.2.2", "Mailbox full".into(), "mailbox_full"),
    };
    refused(event, command, code, status, text);
    event.next_attempt_at = Some(at.plus_secs(300));
    verdict(event, "throttling", reason, "soft");
}

fn bounced(event: &mut Event, recipient: &str, receiver: &Receiver, random: &mut Random) {
    let unknown = random.chance(700);
    let text = match (receiver.kind, unknown) {
        (Kind::Google, true) => format!(
            "The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or unnecessary spaces. For more information, go to https://support.google.com/mail/?p=NoSuchUser {:016x}si{}wrz.{} - gsmtp",
            random.u64(),
            random.below(10_000_000),
            random.below(400)
        ),
        (_, true) => {
            format!("<{recipient}>: Recipient address rejected: User unknown in virtual mailbox table")
        }
        (_, false) => "Message rejected as spam by content filtering".into(),
    };
    if unknown {
        refused(event, "RCPT", 550, "5.1.1", text);
        verdict(event, "bad_mailbox", "user_unknown", "hard");
    } else {
        refused(event, "DOT", 554, "5.7.1", text);
        verdict(event, "content_block", "spam_content", "block");
    }
}

fn refused(event: &mut Event, command: &str, code: i32, status: &str, text: String) {
    event.smtp_command = Some(command.into());
    event.reply_code = Some(code);
    event.enhanced_status = Some(status.into());
    event.reply_text = Some(text);
}

fn verdict(event: &mut Event, category: &str, reason: &str, class: &str) {
    event.bounce_category = Some(category.into());
    event.bounce_reason = Some(reason.into());
    event.bounce_class = Some(class.into());
    event.bounce_rule = Some(format!("general-{reason}"));
    event.ruleset_version = Some("2026-11-22".into());
}

fn feedback(event: &mut Event, step: Step, recipient: &str, random: &mut Random) {
    const AGENTS: [&str; 3] = [
        "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    ];
    match step {
        Step::Opened | Step::Clicked => {
            event.user_agent = AGENTS.get(random.below(3)).map(|agent| (*agent).to_owned());
            event.client_ip_prefix = Some(format!("203.0.{}.0/24", random.below(256)));
            event.open_source = Some(["proxied", "prefetched", "direct"][random.below(3)].into());
            if step == Step::Clicked {
                event.url = Some(format!("https://shop.example/p/{}?utm=mail", random.below(20_000)));
            }
        }
        Step::BouncedAsync => {
            event.reported_by = Some("mailer-daemon".into());
            refused(event, "DOT", 550, "5.2.2", format!("<{recipient}>: mailbox is full"));
            verdict(event, "bad_mailbox", "mailbox_full", "soft");
        }
        _ => {
            event.feedback_type = Some("abuse".into());
            event.reported_by = Some("feedback.example".into());
            event.detail = Some(format!("{{\"report\":\"{:016x}\"}}", random.u64()));
        }
    }
}
