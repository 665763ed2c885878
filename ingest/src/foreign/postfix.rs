//! Postfix's log: the lines of its delivery agents, with what other lines tell of the same queue id. postfix.org:
//! "Postfix Queue Manager" (qmgr(8)), smtp(8), `delays` in the release notes of 2.3.

use std::collections::{HashMap, VecDeque};

use super::draft::Draft;
use super::{Fact, Setting};
use crate::event::{Event, EventType};

mod line;

use self::line::{Line, Outcome};

/// Messages whose earlier lines are remembered. The oldest are forgotten first; their later lines are mapped without
/// what the forgotten ones told.
const REMEMBERED_MAX: usize = 100_000;
/// Recipients of one message that are remembered as deferred.
const DEFERRED_MAX: usize = 1_000;

/// What earlier lines of a log told. One for a whole log, over all of its files.
#[derive(Debug, Default)]
pub(super) struct Log {
    messages: HashMap<String, Remembered>,
    order: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// The reverse-path; empty for notifications, `None` while no line told it.
    from: Option<String>,
    message_id: Option<String>,
    size_bytes: Option<i64>,
    deferred: Vec<String>,
}

impl Log {
    /// What one line says: mostly one fact; for the end of a message's lifetime one for each recipient.
    pub(super) fn facts(&mut self, setting: &Setting, text: &str) -> Vec<Fact> {
        let line = match Line::read(setting, text) {
            Ok(line) => line,
            Err(fact) => return vec![fact],
        };
        let Some((queue_id, said)) = line.queue_id_and_rest() else {
            return vec![Fact::Unmapped(line.program.to_owned())];
        };
        if let Some(outcome) = Outcome::read(said) {
            return vec![self.outcome(setting, &line, queue_id, &outcome, text)];
        }
        if said.contains(", status=expired,") || said.contains(", status=force-expired,") {
            return self.expired(setting, &line, queue_id, said, text);
        }
        if said == "removed" {
            self.messages.remove(queue_id);
        } else {
            self.remember(queue_id, said);
        }
        let kind = if said.starts_with("reject:") { "rejected at submission" } else { line.program };
        vec![Fact::Unmapped(kind.to_owned())]
    }

    fn remember(&mut self, queue_id: &str, said: &str) {
        let from = between(said, "from=<", ">").filter(|_| said.starts_with("from=<"));
        let message_id = said.strip_prefix("message-id=").map(|id| id.trim_matches(['<', '>']));
        if from.is_none() && message_id.is_none() {
            return;
        }
        let message = self.message(queue_id);
        if let Some(from) = from {
            message.from = Some(super::draft::name(from));
            message.size_bytes = between(said, ", size=", ",").and_then(|bytes| bytes.parse().ok());
        }
        if let Some(id) = message_id {
            message.message_id = Some(super::draft::name(id));
        }
    }

    fn message(&mut self, queue_id: &str) -> &mut Remembered {
        if !self.messages.contains_key(queue_id) {
            // ids that were removed in the meantime still stand in the order
            while self.order.len() >= REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.messages.remove(&oldest);
            }
            self.order.push_back(queue_id.to_owned());
        }
        self.messages.entry(queue_id.to_owned()).or_default()
    }

    fn outcome(
        &mut self,
        setting: &Setting,
        line: &Line<'_>,
        queue_id: &str,
        outcome: &Outcome<'_>,
        text: &str,
    ) -> Fact {
        let event_type = match outcome.status {
            "sent" => EventType::Delivered,
            "deferred" | "SOFTBOUNCE" => EventType::Deferred,
            "bounced" => EventType::Bounced,
            "deliverable" | "undeliverable" => return Fact::Unmapped("address probe".into()),
            other => return Fact::Unmapped(super::draft::name(&format!("status={other}"))),
        };
        if outcome.is_local() {
            return Fact::Unmapped("delivered on this host".into());
        }
        if self.messages.get(queue_id).is_some_and(|message| message.from.as_deref() == Some("")) {
            return Fact::Unmapped("notification (null sender)".into());
        }
        if event_type == EventType::Deferred {
            let message = self.message(queue_id);
            if message.deferred.len() < DEFERRED_MAX && !message.deferred.iter().any(|to| to == outcome.to) {
                message.deferred.push(outcome.to.to_owned());
            }
        } else if let Some(message) = self.messages.get_mut(queue_id) {
            message.deferred.retain(|to| to != outcome.to);
        }
        let (host, ip) = outcome.peer();
        let mut draft = Draft::new(setting, event_type, line.at, outcome.status)
            .identified_by([line.at.to_string().as_str(), text])
            .message(Some(queue_id))
            .recipient(Some(outcome.to))
            .mx(host, ip)
            .reply(None, Some(outcome.dsn), Some(outcome.reply()))
            .command(outcome.command())
            .note("agent", line.program);
        outcome.timed(&mut draft.event);
        self.known(queue_id, draft).fact()
    }

    fn expired(
        &mut self,
        setting: &Setting,
        line: &Line<'_>,
        queue_id: &str,
        said: &str,
        text: &str,
    ) -> Vec<Fact> {
        self.remember(queue_id, said);
        let message = self.messages.get_mut(queue_id);
        if message.as_ref().is_some_and(|message| message.from.as_deref() == Some("")) {
            return vec![Fact::Unmapped("notification (null sender)".into())];
        }
        let waiting = message.map(|message| std::mem::take(&mut message.deferred)).unwrap_or_default();
        let expired = |to: Option<&str>| {
            let draft = Draft::new(setting, EventType::Expired, line.at, "expired")
                .identified_by([line.at.to_string().as_str(), text])
                .message(Some(queue_id))
                .recipient(to);
            self.known(queue_id, draft).fact()
        };
        if waiting.is_empty() {
            return vec![expired(None)];
        }
        waiting.iter().map(|to| expired(Some(to))).collect()
    }

    /// Adds what earlier lines told of the message.
    fn known<'s>(&self, queue_id: &str, draft: Draft<'s>) -> Draft<'s> {
        let Some(message) = self.messages.get(queue_id) else { return draft };
        let mut draft =
            draft.mail_from(message.from.as_deref()).note("message_id", message.message_id.as_deref());
        let event: &mut Event = &mut draft.event;
        event.size_bytes = message.size_bytes;
        draft
    }
}

fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(inner, _)| inner)
}
