//! Bounce rules: what a receiver's refusal means. Rulesets are dated files in `rules/`; each classified reply
//! names its rule and ruleset, so that history can be read again under another one.

use serde::{Deserialize, Serialize};

mod matcher;
mod ruleset;
mod text;

pub use ruleset::{Rule, RulesError, Ruleset, UNCLASSIFIED, status_in};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word in events, views and rule files.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What kind of trouble it is. Stable: new findings become reasons, not categories.
    Category {
        /// The mailbox or its domain does not take mail: unknown, moved, disabled, full.
        BadMailbox = "bad_mailbox",
        /// A rule of the receiver: relaying, authentication, missing PTR, administrative prohibition.
        PolicyBlock = "policy_block",
        /// This content: spam, malware, size, format.
        ContentBlock = "content_block",
        /// The sending address or domain has a bad name there.
        ReputationBlock = "reputation_block",
        /// Too much, too fast.
        Throttling = "throttling",
        /// Network, host or mailbox system out of order; the lifetime ran out.
        TransientNetwork = "transient_network",
        Unclassified = "unclassified",
    }
}

words! {
    /// How final it is, and whom it speaks of.
    Class {
        /// The recipient, for good.
        Hard = "hard",
        /// Passing: may work later.
        Soft = "soft",
        /// The sender or the message is refused; says nothing of the recipient, so it never suppresses.
        Block = "block",
    }
}

words! {
    /// What the sender does about it.
    Action {
        /// Never try this recipient again: the address goes on the suppression list.
        Suppress = "suppress",
        /// Try again on the usual schedule.
        Retry = "retry",
        /// Try again, and slow down at this provider.
        Throttle = "throttle",
        /// Do not try this message again; the recipient stays.
        GiveUp = "give_up",
    }
}

/// One refusal, as it was said in a session or told in a DSN. Absent is what is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// Who runs the mailbox, as events name it.
    pub provider: Option<&'a str>,
    /// `CONNECT`, `EHLO`, `STARTTLS`, `MAIL`, `RCPT`, `DATA` or `DOT`.
    pub smtp_command: Option<&'a str>,
    /// RFC 5321: 421, 550.
    pub reply_code: Option<u16>,
    /// RFC 3463: `5.1.1`.
    pub enhanced_status: Option<&'a str>,
    /// What was said in words, lines joined by spaces or line ends.
    pub text: &'a str,
}

impl<'a> Said<'a> {
    /// `RCPT 550 5.1.1 words`, as the examples of rules are written; the command may be left out.
    pub fn read(example: &'a str) -> Self {
        let command = example.split_once(' ').filter(|(word, _)| ruleset::COMMANDS.contains(word));
        let (smtp_command, text) = command.map_or((None, example), |(word, rest)| (Some(word), rest));
        Self { smtp_command, text, ..Self::default() }
    }
}

/// What a refusal means, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Classified {
    pub category: Category,
    /// Finer than the category: `unknown_user`, `mailbox_full`, `greylisted`, …
    pub reason: String,
    pub class: Class,
    pub action: Action,
    /// Id of the rule that matched.
    pub rule: String,
    pub ruleset_version: String,
}
