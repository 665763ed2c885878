//! Other senders' records, mapped to our vocabulary: log files and stored events of KumoMTA, PowerMTA, Postfix,
//! SES, SendGrid, Mailgun, Postmark and SparkPost, and the bodies of their webhooks.
//!
//! - [`read`]: files, folders, compression, and the counts of what was in them
//! - `draft`: a fact in the making: ids, provider, what a refusal means
//! - `json`: JSON values out of a stream, whatever separates them · `mailbox`: providers by mailbox domain
//! - one file per sender
//!
//! An event's id follows from the record, so a record that comes again yields the same event. What an event is told
//! apart from our own mail by is `ip_pool`, `elsewhere:<sender>`: no pool of ours has such a name.

mod draft;
pub(crate) mod json;
mod kumomta;
mod mailbox;
mod mailgun;
mod postfix;
mod postmark;
mod powermta;
pub mod read;
mod sendgrid;
mod ses;
mod sparkpost;

use std::fmt;
use std::str::FromStr;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde_json::Value;

use crate::event::Event;

pub use self::json::RECORD_BYTES_MAX;

/// What `ip_pool` of every event starts with whose message another sender sent.
pub const ELSEWHERE: &str = "elsewhere:";
/// Most recipients of one record that are believed.
pub const RECIPIENTS_MAX: usize = 1_000;

macro_rules! sources {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Whose records they are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Source { $($(#[$doc])* $variant,)* }

        impl Source {
            pub const ALL: &'static [Source] = &[$(Source::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Source::$variant => $word),* }
            }
        }
    };
}

sources! {
    Kumomta = "kumomta",
    Powermta = "powermta",
    Postfix = "postfix",
    Ses = "ses",
    Sendgrid = "sendgrid",
    Mailgun = "mailgun",
    Postmark = "postmark",
    Sparkpost = "sparkpost",
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no sender whose records are read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no sender whose records are read; those are kumomta, powermta, postfix, ses, sendgrid, mailgun, postmark, sparkpost"
)]
pub struct UnknownSource(String);

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|source| source.as_str() == text)
            .ok_or_else(|| UnknownSource(text.to_owned()))
    }
}

/// What all records of one run share.
#[derive(Clone, Debug)]
pub struct Setting {
    pub source: Source,
    /// Whose mail it was.
    pub tenant_id: TenantId,
    /// `transactional`, `marketing` or `cold`, where the record does not tell.
    pub stream: Option<String>,
    /// The sending domain, where the record does not tell.
    pub domain: Option<String>,
    /// What local times of logs without an offset are ahead of UTC, in seconds.
    pub utc_offset_s: i32,
    /// Who runs a mailbox, by its MX host. The sender's own way of naming providers.
    pub provider_of: fn(&str) -> String,
    /// Nothing happened later than this; years that logs leave out follow from it.
    pub now: Timestamp,
}

/// What one record says of one recipient.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Event(Box<Event>),
    /// A record that is whole, and has no place in our vocabulary: what it calls itself.
    Unmapped(String),
    /// A record that cannot be read, and why.
    Bad(String),
}

/// What one JSON value of a sender says. Never empty; takes any value without panic.
pub fn facts_of(setting: &Setting, record: &Value) -> Vec<Fact> {
    let facts = match setting.source {
        Source::Kumomta => kumomta::facts(setting, record),
        Source::Ses => ses::facts(setting, record),
        Source::Sendgrid => sendgrid::facts(setting, record),
        Source::Mailgun => mailgun::facts(setting, record),
        Source::Postmark => postmark::facts(setting, record),
        Source::Sparkpost => sparkpost::facts(setting, record),
        Source::Powermta | Source::Postfix => Vec::new(),
    };
    if facts.is_empty() {
        return vec![Fact::Bad(format!("no record of {}", setting.source))];
    }
    facts
}

/// The facts of a webhook's body: one value, an array of them, or several lines.
pub fn facts_of_body(setting: &Setting, body: &[u8]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut records = json::Records::new(body);
    // reading from memory does not fail
    while let Ok(Some(record)) = records.next() {
        match record.value() {
            Ok(value) => facts.extend(facts_of(setting, &value)),
            Err(why) => facts.push(Fact::Bad(why)),
        }
    }
    facts
}

#[cfg(test)]
mod tests;
