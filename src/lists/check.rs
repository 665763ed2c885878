//! A file as a whole: read once in order, held against the suppressions and then the lake. Some 50 octets of memory for
//! an address; above [`ADDRESSES_MAX`] different ones the rest is only judged by itself.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

use sendlake_control::id::TenantId;
use sendlake_control::suppression::AddressHash;
use sendlake_control::{ControlError, ControlStore};
use sendlake_query::{QueryEngine, Scope};
use sendlake_sender::stream::Stream;
use sendlake_sender::suppression::covers;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::facts::FACTS;
use super::judge::{Finding, Findings, look};
use super::plan::{FRESHNESS, Share, plan};
use super::traps::Traps;
use crate::suppressions::exchange::{self, ListFormat, Place, UnreadableList};

mod each;
mod lake;
#[cfg(test)]
mod tests;

pub use self::each::AddressRow;
use self::lake::{ask, ceilings};

/// Different addresses that are remembered.
pub const ADDRESSES_MAX: usize = 20_000_000;
/// Examples of each finding.
const EXAMPLES_MAX: usize = 5;
/// Addresses asked for at once.
const ASKED_AT_ONCE: usize = 2_000;
/// The lake is asked in so many parts, so that none of them needs too much memory.
const PARTS: usize = 8;
/// Addresses with fewer points are not in the plan.
const PLANNED_SCORE_MIN: u8 = 50;

/// Whose list, for what.
#[derive(Clone, Debug)]
pub struct Asked {
    pub tenant: Option<TenantId>,
    pub stream: Stream,
    /// Whose ceilings count; the strictest of all the tenant's domains where none is named.
    pub domain: Option<String>,
    pub format: Option<ListFormat>,
    pub traps: Traps,
}

/// What a list is worth.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub records: u64,
    /// Different addresses, well-formed.
    pub addresses: u64,
    pub duplicates: u64,
    /// Further spellings of one mailbox at Gmail: dots, and what follows a plus.
    pub same_mailbox: u64,
    /// Mean of the different addresses' points, those that are malformed with none; 0 to 100.
    pub score: u8,
    /// What the score means.
    pub advice: &'static str,
    pub findings: Vec<Found>,
    /// Addresses by the last delivery of this tenant: 0-30 days ago, 31-90, 91-365, older, never.
    pub freshness: BTreeMap<&'static str, u64>,
    pub plan: Vec<Share>,
    /// What could not be asked, in words.
    pub gaps: Vec<String>,
    /// When the facts about domains were written down.
    pub facts: String,
}

/// One finding: how often, and who for example.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    pub finding: Finding,
    /// What it costs an address.
    pub points: u8,
    pub addresses: u64,
    pub examples: Vec<String>,
}

/// One address, packed.
#[derive(Clone, Copy)]
struct Known {
    findings: Findings,
    /// Its place among the providers.
    provider: u8,
    freshness: u8,
    bits: u8,
}

/// Its row was told already.
const TOLD: u8 = 1;
/// An earlier address is another spelling of the same mailbox.
const SAME_MAILBOX: u8 = 2;

const NEVER: u8 = 4;
/// What is missing where nobody is named.
const NO_TENANT: &str = "no tenant is named: nothing is known of deliveries and ceilings, so there is no plan; name one with --tenant";

/// Why a list was not checked.
#[derive(Debug, thiserror::Error)]
pub enum Unchecked {
    #[error(transparent)]
    File(#[from] UnreadableList),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("there is no tenant {0}; `sendlake tenant ls` lists them")]
    NoTenant(TenantId),
    #[error("{tenant} has no sending domain {domain}; `sendlake domain ls` lists them")]
    NoDomain { tenant: String, domain: String },
}

/// A check at work.
pub struct Check {
    control: Arc<ControlStore>,
    asked: Asked,
    known: HashMap<u64, Known>,
    mailboxes: std::collections::HashSet<u64>,
    providers: Vec<String>,
    waiting: Vec<(AddressHash, String)>,
    counts: HashMap<Finding, (u64, Vec<String>)>,
    report: Report,
    knows_deliveries: bool,
}

impl Check {
    pub fn new(control: Arc<ControlStore>, asked: Asked) -> Self {
        Self {
            control,
            asked,
            known: HashMap::new(),
            mailboxes: Default::default(),
            providers: vec!["(others)".to_owned()],
            waiting: Vec::new(),
            counts: HashMap::new(),
            report: Report { facts: FACTS.date.clone(), ..Report::default() },
            knows_deliveries: false,
        }
    }

    /// Refuses a tenant that is not there, and a domain that is not the tenant's.
    pub async fn allowed(&self) -> Result<(), Unchecked> {
        if let Some(tenant) = &self.asked.tenant
            && self.control.tenant(tenant).await?.is_none()
        {
            return Err(Unchecked::NoTenant(tenant.clone()));
        }
        if let Some(domain) = &self.asked.domain {
            let found = self.control.domain(&domain.trim().to_lowercase()).await?;
            if found.is_none_or(|found| Some(&found.tenant_id) != self.asked.tenant.as_ref()) {
                let tenant = self.asked.tenant.as_ref().map_or("nobody", TenantId::as_str).to_owned();
                return Err(Unchecked::NoDomain { tenant, domain: domain.clone() });
            }
        }
        Ok(())
    }

    /// Reads a file, judges each address by itself and holds it against the suppressions, some at a time. Takes long
    /// and waits: call it on a thread where that is no harm, with the runtime that the control store belongs to.
    pub fn read(&mut self, file: impl Read, runtime: &Handle) -> Result<(), Unchecked> {
        let format = self.asked.format;
        let hasher = self.control.address_hasher();
        let mut failed = None;
        let texts = &mut |_: Place, text: Result<String, String>| {
            self.report.records += 1;
            let seen = text.and_then(|text| look(&text, &FACTS).map_err(|why| format!("{text}: {why}")));
            match seen {
                Err(what) => self.count(Finding::Malformed, &what),
                Ok(mut seen) => {
                    if self.asked.traps.hold(&seen.address) {
                        seen.findings.add(Finding::KnownTrap);
                    }
                    let hash = hasher.hash(&seen.address);
                    self.take(hash, number(hash), &seen, number(hasher.hash(&seen.mailbox)));
                }
            }
            if self.waiting.len() >= ASKED_AT_ONCE {
                failed = runtime.block_on(self.ask_suppressions()).err();
            }
            failed.is_none()
        };
        exchange::read_addresses(file, format, texts)?;
        if failed.is_none() {
            failed = runtime.block_on(self.ask_suppressions()).err();
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn take(&mut self, hash: AddressHash, key: u64, seen: &super::judge::Seen, mailbox: u64) {
        if self.known.contains_key(&key) {
            self.report.duplicates += 1;
            return;
        }
        let is_further = !self.mailboxes.insert(mailbox);
        self.report.same_mailbox += u64::from(is_further);
        self.report.addresses += 1;
        for finding in seen.findings.iter() {
            match &seen.meant {
                Some(meant) if matches!(finding, Finding::LikelyTypo | Finding::LikelyTrap) => {
                    self.count(finding, &format!("{} (meant: {meant}?)", seen.address));
                }
                _ => self.count(finding, &seen.address),
            }
        }
        if self.known.len() == ADDRESSES_MAX {
            return;
        }
        let provider = seen.provider.map_or(0, |provider| self.provider(provider));
        let bits = if is_further { SAME_MAILBOX } else { 0 };
        self.known.insert(key, Known { findings: seen.findings, provider, freshness: NEVER, bits });
        self.waiting.push((hash, seen.address.clone()));
    }

    fn provider(&mut self, name: &str) -> u8 {
        let place = self.providers.iter().position(|known| known == name).unwrap_or_else(|| {
            self.providers.push(name.to_owned());
            self.providers.len() - 1
        });
        u8::try_from(place).unwrap_or(0)
    }

    fn count(&mut self, finding: Finding, who: &str) {
        let (addresses, examples) = self.counts.entry(finding).or_default();
        *addresses += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(who.chars().take(120).collect());
        }
    }

    /// Something could not be asked.
    pub fn gap(&mut self, what: String) {
        self.report.gaps.push(what);
    }

    async fn ask_suppressions(&mut self) -> Result<(), ControlError> {
        let waiting = std::mem::take(&mut self.waiting);
        let hashes: Vec<AddressHash> = waiting.iter().map(|(hash, _)| *hash).collect();
        let found = self.control.covering(self.asked.tenant.as_ref(), &hashes).await?;
        for (hash, address) in &waiting {
            let Some((reach, reason, since)) = found.get(hash) else { continue };
            if covers(*reach, self.asked.stream) {
                self.mark(number(*hash), Finding::Suppressed);
                let day = since.to_chrono().format("%Y-%m-%d");
                self.count(Finding::Suppressed, &format!("{address} ({reason} since {day})"));
            }
        }
        Ok(())
    }

    fn mark(&mut self, key: u64, finding: Finding) {
        if let Some(known) = self.known.get_mut(&key) {
            known.findings.add(finding);
        }
    }

    /// Asks the lake how fresh the addresses are, and what the ceilings are; what it does not answer is a gap. `None`
    /// where the ceilings are not known.
    pub async fn ask_lake(&mut self, engine: &QueryEngine) -> Option<BTreeMap<String, Option<u64>>> {
        let Some(tenant) = self.asked.tenant.clone() else {
            self.gap(NO_TENANT.into());
            return None;
        };
        let scope = Scope::Tenant(tenant);
        for part in 0..PARTS {
            if let Err(why) = self.ask_part(engine, &scope, part).await {
                self.report.gaps.push(format!("how fresh addresses are is not known: {why}"));
                break;
            }
        }
        match ceilings(engine, &scope, self.asked.domain.as_deref()).await {
            Ok(limits) => Some(limits),
            Err(why) => {
                self.gap(format!("the ceilings are not known, so there is no plan: {why}"));
                None
            }
        }
    }

    async fn ask_part(&mut self, engine: &QueryEngine, scope: &Scope, part: usize) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Fresh {
            address: String,
            freshness: String,
            is_gone: bool,
            was_gone: Option<bool>,
        }
        let sql = format!(
            "SELECT address, freshness, gone_at IS NOT NULL AND (delivered_at IS NULL OR gone_at > delivered_at) AS is_gone, \
             was_gone FROM recipient_freshness WHERE character_length(address) % {PARTS} = {part}"
        );
        let hasher = self.control.address_hasher();
        for row in ask::<Fresh>(engine, scope, &sql).await? {
            let key = number(hasher.hash(&row.address));
            let place = FRESHNESS.iter().position(|known| *known == row.freshness);
            let Some(known) = self.known.get_mut(&key) else { continue };
            known.freshness = place.and_then(|place| u8::try_from(place).ok()).unwrap_or(NEVER);
            if row.is_gone {
                self.mark(key, Finding::Gone);
                self.count(Finding::Gone, &row.address);
            } else if row.was_gone == Some(true) {
                self.mark(key, Finding::Recycled);
                self.count(Finding::Recycled, &row.address);
            }
        }
        Ok(())
    }

    /// Adds everything up, once. Without the ceilings there is no plan.
    pub fn report(&mut self, limits: Option<&BTreeMap<String, Option<u64>>>) -> Report {
        let knows_deliveries = self.report.gaps.is_empty();
        self.knows_deliveries = knows_deliveries;
        let mut counts: BTreeMap<String, [u64; 5]> = BTreeMap::new();
        let (mut points, mut ages) = (0_u64, [0_u64; 5]);
        for known in self.known.values_mut() {
            let age = usize::from(known.freshness);
            if knows_deliveries {
                let of_age = match FRESHNESS.get(age) {
                    Some(&"91-365") => Some(Finding::Stale),
                    Some(&"older") => Some(Finding::Older),
                    Some(&"never") => Some(Finding::Never),
                    _ => None,
                };
                if let Some(finding) = of_age {
                    known.findings.add(finding);
                    self.counts.entry(finding).or_default().0 += 1;
                }
                ages.iter_mut().skip(age).take(1).for_each(|count| *count += 1);
            }
            let score = known.findings.score();
            points += u64::from(score);
            if score >= PLANNED_SCORE_MIN {
                let provider = self.providers.get(usize::from(known.provider)).cloned().unwrap_or_default();
                let by_age = counts.entry(provider).or_default();
                by_age.iter_mut().skip(age).take(1).for_each(|count| *count += 1);
            }
        }
        if self.report.addresses > self.known.len() as u64 {
            self.report.gaps.push(format!(
                "only the first {ADDRESSES_MAX} addresses were held against suppressions and deliveries: split the list"
            ));
        }
        let malformed = self.counts.get(&Finding::Malformed).map_or(0, |(count, _)| *count);
        let judged = self.known.len() as u64 + malformed;
        self.report.score = points.checked_div(judged).and_then(|mean| u8::try_from(mean).ok()).unwrap_or(0);
        self.report.advice = advice(self.report.score, judged);
        if knows_deliveries {
            self.report.freshness = FRESHNESS.into_iter().zip(ages).collect();
        }
        self.report.plan = limits.map(|limits| plan(&counts, limits)).unwrap_or_default();
        let mut findings: Vec<Found> = std::mem::take(&mut self.counts)
            .into_iter()
            .map(|(finding, (addresses, examples))| Found {
                finding,
                points: finding.points(),
                addresses,
                examples,
            })
            .collect();
        findings.sort_by_key(|found| found.finding);
        self.report.findings = findings;
        std::mem::take(&mut self.report)
    }
}

fn advice(score: u8, judged: u64) -> &'static str {
    match score {
        _ if judged == 0 => "there is nobody on this list",
        85.. => "send as planned",
        60.. => "send slowly, as the plan says, and stop where complaints or bounces rise",
        _ => "do not send: confirm these addresses first, or leave them out",
    }
}

/// Sixty-four bits of a hash: two of ten million addresses share them with a chance of one in a few hundred thousand.
fn number(hash: AddressHash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
