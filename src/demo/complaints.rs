//! The feedback loop of the one provider that has one: RFC 5965 reports, with the recipient cut out as most
//! providers do, over real SMTP to the node's own inbound listener.

use std::net::SocketAddr;

use sendlake_control::clock::Timestamp;
use sendlake_control::domain::Domain;
use sendlake_sender::token::{Purpose, TokenKeys};

use super::history::Delivered;
use super::letters::{self, Letter};

/// Who will complain: of the deliveries to one provider, as many as a rate says, some hours after they came.
#[derive(Debug, Default)]
pub(super) struct Complainers {
    waiting: Vec<Delivered>,
    deliveries: usize,
    complaints: usize,
}

impl Complainers {
    pub fn took(&mut self, deliveries: impl IntoIterator<Item = Delivered>) {
        let before = self.waiting.len();
        self.waiting.extend(deliveries);
        self.deliveries += self.waiting.len() - before;
    }

    /// Those who complain at `now`, when `rate` of all deliveries so far shall have been complained about: each
    /// about a message that came one to five hours ago, or about the newest that is older.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a count of complaints, far below 2^52"
    )]
    pub fn complain(&mut self, rate: f64, now: Timestamp) -> Vec<Delivered> {
        let wanted = (self.deliveries as f64 * rate).round() as usize;
        let mut complaining = Vec::new();
        while self.complaints < wanted {
            // 1, 3, 5, 2, 4 hours: neither all at once nor in a row
            let hours = 1 + (self.complaints as i64 * 2) % 5;
            let before = now.plus_secs(-3_600 * hours);
            let ripe = self.waiting.partition_point(|delivered| delivered.at <= before);
            let Some(index) = ripe.checked_sub(1) else { break };
            complaining.push(self.waiting.remove(index));
            self.complaints += 1;
        }
        complaining
    }
}

/// Sends reports about deliveries of one domain.
pub(super) struct Reporter {
    pub inbound: SocketAddr,
    pub tokens: TokenKeys,
    pub domain: Domain,
    pub provider: &'static str,
}

impl Reporter {
    /// One report per delivery, in one session. Returns when each was taken: its event is durable then.
    pub async fn report(&self, deliveries: &[Delivered]) -> anyhow::Result<()> {
        let report = |delivery| Letter {
            from: format!("feedback@fbl.{}.test", self.provider),
            to: format!("fbl@{}", self.domain.bounce_domain),
            lines: self.compose(delivery),
        };
        let host = format!("fbl.{}.test", self.provider);
        letters::post(self.inbound, &host, deliveries.iter().map(report).collect()).await
    }

    fn compose(&self, delivery: &Delivered) -> Vec<String> {
        let return_path = self.tokens.issue(Purpose::ReturnPath, delivery.message_id);
        let message_id = self.tokens.issue(Purpose::MessageId, delivery.message_id);
        let date = delivery.at.to_chrono().to_rfc2822();
        let (provider, domain, bounces) = (self.provider, &self.domain.domain, &self.domain.bounce_domain);
        vec![
            format!("From: <feedback@fbl.{provider}.test>"),
            format!("To: <fbl@{bounces}>"),
            format!("Subject: Feedback report about mail from {domain}"),
            format!("Date: {date}"),
            "MIME-Version: 1.0".into(),
            "Content-Type: multipart/report; report-type=feedback-report; boundary=\"part\"".into(),
            String::new(),
            "--part".into(),
            "Content-Type: text/plain".into(),
            String::new(),
            format!("One of our users marked this message as spam. It reached us on {date}."),
            String::new(),
            "--part".into(),
            "Content-Type: message/feedback-report".into(),
            String::new(),
            "Feedback-Type: abuse".into(),
            format!("User-Agent: {provider}-feedback/1.0"),
            "Version: 1".into(),
            format!("Original-Mail-From: <{return_path}@{bounces}>"),
            format!("Arrival-Date: {date}"),
            format!("Reported-Domain: {domain}"),
            String::new(),
            "--part".into(),
            "Content-Type: text/rfc822-headers".into(),
            String::new(),
            format!("Message-ID: <{message_id}@{domain}>"),
            format!("From: Acme Shoes <news@{domain}>"),
            "To: redacted".into(),
            String::new(),
            "--part--".into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn as_many_complain_as_the_rate_says_and_nobody_before_an_hour() {
        let now = Timestamp::from_secs(100 * 3_600);
        let mut complainers = Complainers::default();
        complainers.took((0..10_000).map(|n| Delivered {
            message_id: Uuid::from_u128(n),
            at: now.plus_secs(-12 * 3_600 + i64::try_from(n).unwrap()),
            provider: "p",
        }));
        let first = complainers.complain(0.0005, now);
        assert_eq!(first.len(), 5);
        assert!(first.iter().all(|one| one.at <= now.plus_secs(-3_600)));
        assert_eq!(complainers.complain(0.0005, now).len(), 0);
        assert_eq!(complainers.complain(0.0012, now.plus_secs(60)).len(), 7);
        let mut early = Complainers::default();
        early.took([Delivered { message_id: Uuid::nil(), at: now, provider: "p" }]);
        assert_eq!(early.complain(1.0, now).len(), 0);
    }
}
