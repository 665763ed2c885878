//! What a receiver counted and, when asked to, kept.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;

use super::profile::{Keep, Recording};

/// Counts since the start. Deferrals and refusals are counted per recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub connections: u64,
    pub commands: u64,
    /// Messages answered with 250 after the final dot, once per transaction.
    pub messages: u64,
    /// Recipients of those messages.
    pub accepted: u64,
    /// 4yz answers to recipients, by reply code.
    pub deferred: BTreeMap<u16, u64>,
    /// 5yz answers to recipients, by reply code.
    pub rejected: BTreeMap<u16, u64>,
    /// Answers to commands that were malformed, out of order or over a limit, by reply code.
    pub protocol_errors: BTreeMap<u16, u64>,
}

impl Stats {
    pub(super) fn refused(&mut self, code: u16) {
        let by_code = if code < 500 { &mut self.deferred } else { &mut self.rejected };
        *by_code.entry(code).or_default() += 1;
    }

    fn add(&mut self, more: Stats) {
        self.connections += more.connections;
        self.commands += more.commands;
        self.messages += more.messages;
        self.accepted += more.accepted;
        for (ours, theirs) in [
            (&mut self.deferred, more.deferred),
            (&mut self.rejected, more.rejected),
            (&mut self.protocol_errors, more.protocol_errors),
        ] {
            for (code, count) in theirs {
                *ours.entry(code).or_default() += count;
            }
        }
    }
}

/// One accepted message, for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub reverse_path: String,
    pub forward_path: String,
    /// Without angle brackets; `None` when the message has none.
    pub message_id: Option<String>,
    /// After dot-unstuffing, without the final dot.
    pub size_bytes: usize,
    pub sha256: [u8; 32],
    /// The message, under [`Keep::Data`].
    pub data: Option<Vec<u8>>,
    pub at: Timestamp,
}

/// Shared by the connections of one receiver.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    stats: Mutex<Stats>,
    recorded: Mutex<Vec<Recorded>>,
}

impl Ledger {
    pub fn add(&self, more: Stats) {
        self.stats.lock().add(more);
    }

    pub fn stats(&self) -> Stats {
        self.stats.lock().clone()
    }

    pub fn recorded(&self) -> Vec<Recorded> {
        self.recorded.lock().clone()
    }

    pub fn record<'a>(
        &self,
        recording: &Recording,
        reverse_path: &str,
        forward_paths: impl Iterator<Item = &'a str>,
        data: &[u8],
    ) {
        let mut sha256 = [0; 32];
        for (to, from) in sha256.iter_mut().zip(digest::digest(&digest::SHA256, data).as_ref()) {
            *to = *from;
        }
        let parsed = mail_parser::MessageParser::new().parse_headers(data);
        let message_id = parsed.as_ref().and_then(|message| message.message_id()).map(str::to_owned);
        let at = recording.clock.now();
        let mut recorded = self.recorded.lock();
        for forward_path in forward_paths {
            recorded.push(Recorded {
                reverse_path: reverse_path.to_owned(),
                forward_path: forward_path.to_owned(),
                message_id: message_id.clone(),
                size_bytes: data.len(),
                sha256,
                data: (recording.keep == Keep::Data).then(|| data.to_vec()),
                at,
            });
        }
    }
}
