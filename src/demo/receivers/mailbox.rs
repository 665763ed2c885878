//! What becomes of an attempt: a mailbox's nature is drawn from its name and the seed, its mood from what
//! was tried before. Decisions are pure; [`History`] is the only memory.

use std::collections::HashMap;
use std::hash::Hasher as _;

use parking_lot::Mutex;

use super::profile::{Profile, Shares};
use super::reply::{Reply, Stage};

/// Messages remembered at most; those beyond are treated as if they had waited long enough.
const REMEMBERED_MAX: usize = 1_000_000;

/// What a mailbox is like, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Fine,
    Unknown,
    Policy,
    Full,
    Throttled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox {
    pub nature: Nature,
    pub greylisted: bool,
    pub slow: bool,
    /// Chooses among replies, and stands in for a session id.
    pub draw: u64,
}

impl Mailbox {
    /// The mailbox of `local_part` at the provider `name`. The same three inputs give the same mailbox.
    pub fn draw(name: &str, shares: &Shares, seed: u64, local_part: &str) -> Self {
        let draw = hash(seed, name, local_part);
        let permille = |salt: u64| u16::try_from(mix(draw ^ salt) % 1_000).unwrap_or(0);
        let mut left = permille(1);
        let mut falls_in = |share: u16| {
            let within = left < share;
            left = left.saturating_sub(share);
            within
        };
        // The order is part of the draw: each share takes the next stretch of the thousand.
        let nature = if falls_in(shares.unknown_user_permille) {
            Nature::Unknown
        } else if falls_in(shares.policy_permille) {
            Nature::Policy
        } else if falls_in(shares.full_permille) {
            Nature::Full
        } else if falls_in(shares.throttle_permille) {
            Nature::Throttled
        } else {
            Nature::Fine
        };
        Self {
            nature,
            greylisted: permille(2) < shares.greylist_permille,
            slow: permille(3) < shares.slow_permille,
            draw: mix(draw ^ 4),
        }
    }

    /// Nothing to remember about mail to it.
    fn is_plain(&self) -> bool {
        self.nature == Nature::Fine && !self.greylisted
    }
}

/// FNV-1a and SplitMix64: stable across releases of Rust, as `DefaultHasher` is not.
fn hash(seed: u64, name: &str, local_part: &str) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325 ^ mix(seed));
    hash.write(name.as_bytes());
    hash.write(&[0]);
    for c in local_part.chars().flat_map(char::to_lowercase) {
        hash.write(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    mix(hash.finish())
}

struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What was tried before with one (reverse-path, forward-path) pair: with VERP, one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Milliseconds after the receiver's start.
    pub greylisted_at_ms: Option<u64>,
    /// Throttled or deferred as full.
    pub refusals: u32,
}

/// The answer to one attempt, or `None` to accept it.
pub fn decide(profile: &Profile, mailbox: &Mailbox, history: &History, now_ms: u64) -> Option<Reply> {
    let replies = profile.replies;
    let pick = |from: &'static [Reply]| {
        let length = u64::try_from(from.len()).ok().filter(|length| *length > 0)?;
        from.get(usize::try_from(mailbox.draw % length).ok()?).copied()
    };
    if mailbox.nature == Nature::Unknown {
        return pick(replies.unknown_user);
    }
    if mailbox.greylisted {
        let delay_ms = u64::try_from(profile.greylist_delay.as_millis()).unwrap_or(u64::MAX);
        let waited = history.greylisted_at_ms.is_some_and(|at| now_ms.saturating_sub(at) >= delay_ms);
        if !waited && let Some(reply) = pick(replies.greylist) {
            return Some(reply);
        }
    }
    match mailbox.nature {
        Nature::Fine | Nature::Unknown => None,
        Nature::Policy => pick(replies.policy),
        Nature::Throttled if history.refusals < profile.shares.throttle_first_attempts => {
            pick(replies.throttle)
        }
        Nature::Throttled => None,
        Nature::Full => match (replies.full_for_now, replies.full_for_good) {
            (Some(for_now), _) if history.refusals < profile.shares.full_first_attempts => Some(for_now),
            (Some(_), Some(for_good)) => (mailbox.draw.is_multiple_of(2)).then_some(for_good),
            (Some(_), None) => None,
            (None, for_good) => for_good,
        },
    }
}

/// All mailboxes of one receiver.
#[derive(Debug)]
pub struct Mailboxes {
    seed: u64,
    histories: Mutex<HashMap<Box<str>, History>>,
}

/// What the session needs to know about one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub mailbox: Mailbox,
    pub refusal: Option<Reply>,
}

impl Mailboxes {
    pub fn new(seed: u64) -> Self {
        Self { seed, histories: Mutex::new(HashMap::new()) }
    }

    /// Decides one attempt. A refusal spoken at `RCPT TO` is remembered here; one that waits for the final
    /// dot only once [`Self::refused`] says that it was spoken.
    pub fn attempt(&self, profile: &Profile, reverse: &str, forward: &str, now_ms: u64) -> Verdict {
        let local_part = forward.rsplit_once('@').map_or(forward, |(local, _)| local);
        let mailbox = Mailbox::draw(profile.name, &profile.shares, self.seed, local_part);
        // Every host takes mail for its postmaster (RFC 5321, section 4.5.1).
        if mailbox.is_plain() || local_part.eq_ignore_ascii_case("postmaster") {
            return Verdict { mailbox, refusal: None };
        }
        let key = key(reverse, forward);
        let histories = self.histories.lock();
        let history = match histories.get(&key) {
            Some(history) => *history,
            None if histories.len() < REMEMBERED_MAX => History::default(),
            None => History { greylisted_at_ms: Some(0), refusals: u32::MAX },
        };
        drop(histories);
        let refusal = decide(profile, &mailbox, &history, now_ms);
        if let Some(reply) = refusal.filter(|reply| reply.stage == Stage::Rcpt) {
            self.remember(profile, key, &reply, now_ms);
        }
        Verdict { mailbox, refusal }
    }

    /// A refusal that waited for the final dot was spoken.
    pub fn refused(&self, profile: &Profile, reverse: &str, forward: &str, reply: &Reply, now_ms: u64) {
        self.remember(profile, key(reverse, forward), reply, now_ms);
    }

    fn remember(&self, profile: &Profile, key: Box<str>, reply: &Reply, now_ms: u64) {
        if reply.code >= 500 {
            return;
        }
        let mut histories = self.histories.lock();
        if histories.len() >= REMEMBERED_MAX && !histories.contains_key(&key) {
            return;
        }
        let history = histories.entry(key).or_default();
        if profile.replies.greylist.contains(reply) {
            history.greylisted_at_ms.get_or_insert(now_ms);
        } else {
            history.refusals = history.refusals.saturating_add(1);
        }
    }
}

fn key(reverse: &str, forward: &str) -> Box<str> {
    format!("{reverse}\n{forward}").to_lowercase().into_boxed_str()
}
