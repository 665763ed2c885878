//! The published limits, compiled for asking: rows by tenant, stream and sending domain.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_ingest::quotas::{PublishedQuotas, QuotaRow};

use super::HoldKind;
use super::usage::{HOUR_S, Scope};
use crate::stream::Stream;

/// Longest window: usage is kept for two days.
pub const WINDOW_S_MAX: i64 = 86_400;

const ANY: &str = "*";
const OTHERS: &str = "(others)";

/// What a row says about whom it binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleState {
    Warming,
    Normal,
    Throttled,
    Paused,
}

impl RuleState {
    fn parse(word: &str) -> Option<Self> {
        [Self::Warming, Self::Normal, Self::Throttled, Self::Paused].into_iter().find(|s| s.as_str() == word)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warming => "warming",
            Self::Normal => "normal",
            Self::Throttled => "throttled",
            Self::Paused => "paused",
        }
    }

    /// What a message is held by when such a row's limit is used up.
    pub(super) fn kind(self) -> HoldKind {
        match self {
            Self::Warming => HoldKind::Warmup,
            Self::Normal => HoldKind::Quota,
            Self::Throttled => HoldKind::ComplaintPacing,
            Self::Paused => HoldKind::Paused,
        }
    }
}

impl fmt::Display for RuleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which providers a row is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Providers {
    /// All, counted together.
    All,
    One(String),
    /// All but these, counted together.
    Others(Arc<HashSet<String>>),
}

impl Providers {
    fn covers(&self, provider: &str) -> bool {
        match self {
            Providers::All => true,
            Providers::One(name) => name == provider,
            Providers::Others(named) => !named.contains(provider),
        }
    }

    /// As the table writes it.
    pub fn as_str(&self) -> &str {
        match self {
            Providers::All => ANY,
            Providers::One(name) => name,
            Providers::Others(_) => OTHERS,
        }
    }

    pub(super) fn words(&self) -> &str {
        match self {
            Providers::All => "all providers",
            Providers::One(name) => name,
            Providers::Others(_) => "the other providers",
        }
    }
}

/// One published row, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Place of its counter.
    pub(super) index: usize,
    pub state: RuleState,
    pub providers_of: String,
    pub provider: Providers,
    /// It names the sending domain, so the domain was known when it was published.
    pub names_identity: bool,
    pub window_s: i64,
    /// First attempts per window; `None` for no limit.
    pub limit: Option<u64>,
    pub reason: String,
    pub valid_until: Timestamp,
    /// Why it cannot be obeyed.
    pub unusable: Option<String>,
}

impl Rule {
    /// The hour that the window around `now` starts with.
    pub(super) fn window_start(&self, now: Timestamp) -> i64 {
        now.as_secs().div_euclid(self.window_s) * self.window_s / HOUR_S
    }

    pub(super) fn window_end(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_secs((now.as_secs().div_euclid(self.window_s) + 1) * self.window_s)
    }

    pub(super) fn window_words(&self) -> String {
        match self.window_s {
            WINDOW_S_MAX => "today (UTC)".into(),
            HOUR_S => "this hour".into(),
            other => format!("in this window of {} hours (UTC)", other / HOUR_S),
        }
    }

    /// The sending domain, or all of them together.
    pub(super) fn whom<'a>(&'a self, domain: &'a str) -> &'a str {
        if self.names_identity { domain } else { &self.providers_of }
    }
}

#[derive(Clone, Debug, Default)]
struct ByIdentity {
    named: HashMap<String, Vec<Arc<Rule>>>,
    any: Vec<Arc<Rule>>,
}

/// One version of the limits. Never changes.
#[derive(Clone, Debug, Default)]
pub struct QuotaSnapshot {
    /// False when limits are switched off.
    pub enforced: bool,
    /// `None` when nothing is published.
    pub version: Option<u64>,
    /// Until when the longest-lived row is good.
    pub valid_until: Option<Timestamp>,
    /// Rows that cannot be obeyed, in words. Marketing and cold mail that they would bind waits.
    pub refused: Vec<String>,
    by_tenant: HashMap<String, [ByIdentity; 4]>,
    rules: usize,
}

const ANY_STREAM: usize = 3;

fn stream_index(stream: Stream) -> usize {
    match stream {
        Stream::Transactional => 0,
        Stream::Marketing => 1,
        Stream::Cold => 2,
    }
}

impl QuotaSnapshot {
    /// No limits at all, as an operator may wish.
    pub fn off() -> Self {
        Self::default()
    }

    /// Enforced, and nothing published yet.
    pub fn missing() -> Self {
        Self { enforced: true, ..Self::default() }
    }

    pub fn compile(published: Option<&PublishedQuotas>) -> Self {
        let Some(published) = published.filter(|published| !published.rows.is_empty()) else {
            return Self::missing();
        };
        let mut named_providers: BTreeMap<_, HashSet<String>> = BTreeMap::new();
        for row in published.rows.iter().filter(|row| row.provider != ANY && row.provider != OTHERS) {
            named_providers.entry(pool(row)).or_default().insert(row.provider.clone());
        }
        let named_providers: BTreeMap<_, Arc<HashSet<String>>> =
            named_providers.into_iter().map(|(pool, names)| (pool, Arc::new(names))).collect();
        let mut snapshot = Self {
            enforced: true,
            version: Some(published.version),
            valid_until: published.rows.iter().map(|row| row.valid_until).max(),
            ..Self::default()
        };
        for row in &published.rows {
            let provider = match row.provider.as_str() {
                ANY => Providers::All,
                OTHERS => Providers::Others(named_providers.get(&pool(row)).cloned().unwrap_or_default()),
                name => Providers::One(name.to_owned()),
            };
            snapshot.add(row, provider);
        }
        snapshot
    }

    fn add(&mut self, row: &QuotaRow, provider: Providers) {
        let unusable = unusable(row);
        if let Some(why) = &unusable {
            self.refused
                .push(format!("the limit of {} {} at {}: {why}", row.tenant_id, row.identity, row.provider));
        }
        let any_identity = row.identity == ANY;
        let rule = Arc::new(Rule {
            index: self.rules,
            // a word that is not known is not obeyed: it holds bulk mail, as `unusable`
            state: RuleState::parse(&row.state).unwrap_or(RuleState::Normal),
            providers_of: if row.tenant_id == ANY {
                "this installation".into()
            } else {
                row.tenant_id.clone()
            },
            provider,
            names_identity: !any_identity,
            window_s: if unusable.is_some() { WINDOW_S_MAX } else { row.window_s },
            limit: row.limit_messages.map(|limit| u64::try_from(limit).unwrap_or(0)),
            reason: row.reason.clone(),
            valid_until: row.valid_until,
            unusable,
        });
        self.rules += 1;
        let stream = row.stream.parse().map_or(ANY_STREAM, stream_index);
        let by_stream = self.by_tenant.entry(row.tenant_id.clone()).or_default();
        if let Some(by_identity) = by_stream.get_mut(stream) {
            let rules = if any_identity {
                &mut by_identity.any
            } else {
                by_identity.named.entry(row.identity.clone()).or_default()
            };
            rules.push(rule);
        }
    }

    /// How many counters the rows need.
    pub(super) fn rules(&self) -> usize {
        self.rules
    }

    /// Hands every row that binds `scope` to `each`.
    pub(super) fn each_match<'a>(&'a self, scope: &Scope, mut each: impl FnMut(&'a Arc<Rule>)) {
        for tenant in [scope.tenant_id.as_str(), ANY] {
            let Some(by_stream) = self.by_tenant.get(tenant) else { continue };
            for stream in [stream_index(scope.stream), ANY_STREAM] {
                let Some(by_identity) = by_stream.get(stream) else { continue };
                let named = by_identity.named.get(&scope.sending_domain);
                for rule in named.into_iter().flatten().chain(&by_identity.any) {
                    if rule.provider.covers(&scope.provider) {
                        each(rule);
                    }
                }
            }
        }
    }
}

/// What `(others)` of a row is measured against.
fn pool(row: &QuotaRow) -> (&str, &str, &str, i64) {
    (&row.tenant_id, &row.stream, &row.identity, row.window_s)
}

fn unusable(row: &QuotaRow) -> Option<String> {
    if row.limit_messages.is_some()
        && (row.window_s <= 0 || row.window_s > WINDOW_S_MAX || row.window_s % HOUR_S != 0)
    {
        return Some(format!("a window of {} s, which is not whole hours up to a day", row.window_s));
    }
    if RuleState::parse(&row.state).is_none() {
        return Some(format!(
            "the state {:?}, which is none of warming, normal, throttled, paused",
            row.state
        ));
    }
    if row.stream != ANY && row.stream.parse::<Stream>().is_err() {
        return Some(format!("the stream {:?}, which is none", row.stream));
    }
    None
}
