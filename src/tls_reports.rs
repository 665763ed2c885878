//! Reports on the TLS of other domains' MX hosts, which their owners ask for in the DNS (RFC 8460): once a day for each
//! domain that mail was sent to, by mail or HTTPS.
//!
//! - [`sums`]: what the day's sessions add up to · [`record`]: where a domain wants its report
//! - [`mail`], [`post`]: the two ways there · [`ledger`]: who sends which, and how far it got · `daily`: when
//!
//! Those that come in are in [`domain_reports`](crate::domain_reports).

mod daily;
pub mod ledger;
pub mod mail;
pub mod post;
pub mod record;
pub mod sums;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::Ids;
use sendlake_ingest::domain_report::{TlsPolicy, TlsReport};
use sendlake_query::QueryEngine;
use sendlake_sender::address::Address;
use sendlake_sender::api::ports::Intake;
use sendlake_sender::compose::fingerprint::sha256;
use sendlake_sender::compose::raw;
use sendlake_sender::mx::LookupFailure;
use sendlake_sender::stream::Stream;
use sendlake_sender::submission::{Idempotency, NewMessage, Submission};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use self::ledger::{Claim, Entry, Ledger, Progress, State};
use self::post::{NotPosted, Poster};
use self::record::{Destination, Wish, wish};
use crate::identities::ControlIdentities;

/// What reports are marked with in events, so that the next report does not count them (`tls_sessions.sql`).
pub const CAMPAIGN: &str = "tls-report";

const DAY_S: i64 = 86_400;
const LOOKUPS_AT_ONCE: usize = 16;
/// The spool remembers for a day what it has taken; a report that was claimed earlier may have gone out.
const REMEMBERED_S: i64 = 23 * 3_600;
/// The first wait after a failure; it doubles with each.
const AGAIN_S: i64 = 300;

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub from: Address,
    pub organization: String,
    pub contact: String,
}

/// Makes and sends reports. Share it in an [`Arc`].
pub struct TlsReports {
    pub reporter: Reporter,
    pub engine: Arc<QueryEngine>,
    pub intake: Arc<dyn Intake>,
    pub identities: Arc<ControlIdentities>,
    pub ledger: Ledger,
    pub poster: Poster,
    pub ids: Ids,
    /// One report at a time: the notes of one spool have one writer.
    pub sending: Mutex<()>,
}

/// How it stands with one domain's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The domain asks for none.
    NotWanted,
    /// Its record cannot be followed.
    Unusable,
    /// The DNS did not say.
    Unknown,
    /// It would be sent now.
    Due,
    Sent,
    /// Some of it was not taken, and is tried again.
    Waits,
    GivenUp,
    /// Another node sends it.
    Elsewhere,
}

impl Stage {
    fn is_final(self) -> bool {
        !matches!(self, Stage::Unknown | Stage::Due | Stage::Waits)
    }
}

/// One domain's report, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    pub domain: String,
    pub stage: Stage,
    pub successful_sessions: i64,
    pub failed_sessions: i64,
    pub destinations: Vec<String>,
    pub detail: String,
    /// The document, where one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
}

impl TlsReports {
    /// The reports of a day, or of one domain; sends those that are due if `send`. Domains that ask for no report are left
    /// out, unless they are named.
    pub async fn of_day(&self, day: &str, domain: Option<&str>, send: bool) -> anyhow::Result<Vec<Told>> {
        let now = self.ids.now();
        let number = day_of(day).with_context(|| format!("{day:?} is no day such as 2026-11-22"))?;
        if number > now.days() {
            bail!("{day} is yet to come");
        }
        if send && number == now.days() {
            bail!("{day} is not over: a report covers a whole day (UTC), and is sent once");
        }
        let mut sums = sums::of_day(&self.engine, day, domain, now).await?;
        if let Some(domain) = domain
            && sums.is_empty()
        {
            bail!("no session with an MX host of {domain} was made on {day}: there is nothing to report");
        }
        let wishes = self.wishes(std::mem::take(&mut sums).into_values().collect()).await;
        let mut found = Vec::new();
        for (policy, wished) in wishes {
            let told = self.handle(day, &policy, wished, send).await?;
            if domain.is_some() || told.stage != Stage::NotWanted {
                found.push(told);
            }
        }
        found.sort_by(|a, b| a.domain.cmp(&b.domain));
        Ok(found)
    }

    async fn wishes(&self, policies: Vec<TlsPolicy>) -> Vec<(TlsPolicy, Result<Wish, String>)> {
        let asked = policies.into_iter().map(|policy| self.wished(policy));
        futures::stream::iter(asked).buffer_unordered(LOOKUPS_AT_ONCE).collect().await
    }

    /// What a domain's record says; why it is not known, where the DNS did not answer.
    async fn wished(&self, policy: TlsPolicy) -> (TlsPolicy, Result<Wish, String>) {
        let wished = match self.poster.outside.resolver.txt(&format!("_smtp._tls.{}", policy.domain)).await {
            Ok(texts) => Ok(wish(&texts)),
            Err(LookupFailure::NoSuchName | LookupFailure::NoRecords) => Ok(Wish::Nothing),
            Err(LookupFailure::Temporary(why)) => Err(why),
        };
        (policy, wished)
    }

    async fn handle(
        &self,
        day: &str,
        policy: &TlsPolicy,
        wished: Result<Wish, String>,
        send: bool,
    ) -> anyhow::Result<Told> {
        let mut told = Told {
            domain: policy.domain.clone(),
            stage: Stage::NotWanted,
            successful_sessions: policy.successful_sessions,
            failed_sessions: policy.failed_sessions,
            destinations: Vec::new(),
            detail: String::new(),
            report: None,
        };
        let destinations = match wished {
            Ok(Wish::Reports(destinations)) => destinations,
            Ok(Wish::Nothing) => {
                told.detail = format!("_smtp._tls.{} asks for no reports", policy.domain);
                return Ok(told);
            }
            Ok(Wish::Unusable(why)) => {
                return Ok(Told { stage: Stage::Unusable, detail: why, ..told });
            }
            Err(why) => {
                let detail = format!("the DNS did not answer for _smtp._tls.{}: {why}", policy.domain);
                return Ok(Told { stage: Stage::Unknown, detail, ..told });
            }
        };
        told.destinations = destinations.iter().map(ToString::to_string).collect();
        let report = self.report(day, policy)?;
        told.report = Some(report.to_json());
        let entry = if send {
            match self.send(day, &report, &destinations).await? {
                Claim::Ours(entry) => Some(entry),
                Claim::Theirs(entry) => return Ok(elsewhere(told, &entry)),
            }
        } else {
            match self.ledger.look(day, &policy.domain).await? {
                Some(entry) if entry.holder != self.ledger.holder => return Ok(elsewhere(told, &entry)),
                entry => entry,
            }
        };
        let progress = |destination: &Destination| {
            entry.as_ref().and_then(|entry| entry.destinations.get(&destination.key()))
        };
        let states: Vec<Option<State>> =
            destinations.iter().map(|destination| progress(destination).map(|it| it.state)).collect();
        told.stage = match states.as_slice() {
            states if states.iter().all(|state| *state == Some(State::Sent)) => Stage::Sent,
            states if states.contains(&None) => Stage::Due,
            states if states.contains(&Some(State::Waits)) => Stage::Waits,
            // one that took it is enough (RFC 8460, section 3)
            states if states.contains(&Some(State::Sent)) => Stage::Sent,
            _ => Stage::GivenUp,
        };
        let why = destinations.iter().filter_map(progress).map(|it| it.why.as_str());
        told.detail = why.filter(|why| !why.is_empty()).collect::<Vec<_>>().join("; ");
        Ok(told)
    }

    /// The report of one day on one domain.
    fn report(&self, day: &str, policy: &TlsPolicy) -> anyhow::Result<TlsReport> {
        let begin_at = Timestamp::parse(&format!("{day}T00:00:00Z")).context("the day is none")?;
        Ok(TlsReport {
            org_name: self.reporter.organization.clone(),
            contact_info: Some(self.reporter.contact.clone()),
            report_id: format!("{day}.{}@{}", self.unique(day, &policy.domain), self.reporter.from.domain()),
            begin_at,
            end_at: begin_at.plus_secs(DAY_S - 1),
            policies: vec![policy.clone()],
        })
    }

    /// The same whoever makes the report, and however often.
    fn unique(&self, day: &str, domain: &str) -> String {
        short_hash(&["report", self.reporter.from.domain(), day, domain])
    }

    /// Sends a report wherever it was not taken yet, if it is ours to send.
    async fn send(
        &self,
        day: &str,
        report: &TlsReport,
        destinations: &[Destination],
    ) -> anyhow::Result<Claim> {
        let _turn = self.sending.lock().await;
        let domain = report.policies.first().map_or("", |policy| policy.domain.as_str());
        let claim = self.ledger.claim(day, domain, &report.report_id, self.ids.now()).await?;
        let Claim::Ours(mut entry) = claim else { return Ok(claim) };
        for destination in destinations {
            let now = self.ids.now();
            let before = entry.destinations.get(&destination.key()).cloned().unwrap_or_default();
            if before.state != State::Waits || before.next_at.is_some_and(|at| at > now) {
                continue;
            }
            let tried = match destination {
                Destination::Mail(to) => {
                    let is_remembered = entry.claimed_at.plus_secs(REMEMBERED_S) > now;
                    if is_remembered { self.mail(day, report, to).await } else { Err(forgotten()) }
                }
                Destination::Https(url) => {
                    let gzip = report.to_gzip().context("the report cannot be compressed")?;
                    self.poster.post(url, gzip).await
                }
            };
            let after = after(before, tried, now);
            match after.state {
                State::Sent => tracing::info!(domain, day, "a TLS report is on its way"),
                _ => tracing::info!(domain, day, why = after.why, "a TLS report was not taken"),
            }
            entry.destinations.insert(destination.key(), after);
            self.ledger.note(&entry).await?;
        }
        Ok(Claim::Ours(entry))
    }

    /// Hands a report to the spool as any other message. Handed over again, it is known there.
    async fn mail(&self, day: &str, report: &TlsReport, to: &Address) -> Result<(), NotPosted> {
        let later = |error: anyhow::Error| NotPosted::Later(format!("{error:#}"));
        let submission = self.submission(day, report, to).map_err(later)?;
        let accepted = self.intake.accept(submission).await;
        accepted.map(drop).map_err(|refusal| later(anyhow!("{refusal}")))
    }

    fn submission(&self, day: &str, report: &TlsReport, to: &Address) -> anyhow::Result<Submission> {
        let from = &self.reporter.from;
        let tenant_id = self.identities.owner_of(from.domain()).with_context(|| {
            format!(
                "no tenant may send as {}, the domain of tls_reports.from; add it with `sendlake domain add`",
                from.domain()
            )
        })?;
        let about = report.policies.first().map_or("", |policy| policy.domain.as_str());
        let octets = mail::compose(report, about, from, to, &self.unique(day, about))?;
        let now = self.ids.now();
        let message = raw::prepare(&octets, now).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow!("the report's mail is no message: {}", faults.join("; "))
        })?;
        // of what the report is, not of what it says: made again after a crash it is the same one
        let key = sha256(&[format!("{CAMPAIGN}\n{day}\n{about}\n{to}").as_bytes()]);
        Ok(Submission {
            submission_id: self.ids.uuid(),
            tenant_id,
            stream: Stream::Transactional,
            campaign_id: Some(CAMPAIGN.to_owned()),
            tags: BTreeMap::new(),
            header_from_domain: from.domain().to_owned(),
            recipients: vec![NewMessage { message_id: self.ids.uuid(), recipient: to.clone() }],
            accepted_at: now,
            not_before: now,
            content: message.content,
            subject_hash: None,
            content_fingerprint: None,
            idempotency: Some(Idempotency { key_hash: key, request_hash: key }),
        })
    }
}

fn forgotten() -> NotPosted {
    NotPosted::Never("it was claimed long ago, and may have been sent since: it is not sent again".to_owned())
}

fn elsewhere(told: Told, entry: &Entry) -> Told {
    Told { stage: Stage::Elsewhere, detail: format!("node {} sends it", entry.node_id), ..told }
}

/// How far a destination is after a try.
fn after(before: Progress, tried: Result<(), NotPosted>, now: Timestamp) -> Progress {
    let tries = before.tries.saturating_add(1);
    match tried {
        Ok(()) => Progress { state: State::Sent, tries, next_at: None, why: String::new() },
        Err(NotPosted::Never(why)) => Progress { state: State::GivenUp, tries, next_at: None, why },
        Err(NotPosted::Later(why)) => {
            let wait_s = AGAIN_S.saturating_mul(1 << before.tries.min(6));
            Progress { state: State::Waits, tries, next_at: Some(now.plus_secs(wait_s)), why }
        }
    }
}

/// Sixteen hexadecimal digits that stand for some texts.
fn short_hash(parts: &[&str]) -> String {
    sha256(&[parts.join("\n").as_bytes()]).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A day since the epoch, as partitions are named.
fn day_name(day: i32) -> String {
    let midnight = Timestamp::from_secs(i64::from(day) * DAY_S);
    midnight.to_chrono().format("%Y-%m-%d").to_string()
}

/// The day since the epoch of such a name.
fn day_of(name: &str) -> Option<i32> {
    Timestamp::parse(&format!("{name}T00:00:00Z")).map(Timestamp::days)
}

#[cfg(test)]
mod tests;
