//! Whether the DNS says of a sending domain what `sendlake domain dns` prints: record by record, what was found, what is
//! expected, and what to do. Records that say the same in other words are good.

mod dmarc;
mod spf;

use std::net::IpAddr;

use sendlake_control::domain::{DMARC_MAILBOX, Domain, Outbound, TLS_MAILBOX};
use sendlake_sender::mx::{HickoryResolver, LookupFailure, Resolver};
use serde::Serialize;

use crate::tls_reports::record::{Destination, Wish, wish};
use crate::tlsrpt_routes;

/// How it stands with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    Missing,
    Differs,
    /// The DNS gave no answer.
    Unknown,
}

/// What was found of one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub record: &'static str,
    pub name: String,
    pub status: Status,
    pub expected: String,
    /// As the DNS has it.
    pub found: Vec<String>,
    /// What to do; empty where all is well.
    pub advice: String,
}

impl Finding {
    fn good(record: &'static str, name: &str, expected: &str, found: Vec<String>) -> Self {
        let (name, expected) = (name.to_owned(), expected.to_owned());
        Self { record, name, status: Status::Ok, expected, found, advice: String::new() }
    }

    fn bad(self, status: Status, advice: impl Into<String>) -> Self {
        Self { status, advice: advice.into(), ..self }
    }
}

/// What a check works with.
pub struct Check<'a> {
    pub resolver: &'a HickoryResolver,
    pub outbound: &'a Outbound,
    /// Whether `outbound.mail_host` is known, and not a placeholder.
    pub knows_mail_host: bool,
    /// Bounce domains of this installation.
    pub bounce_domains: &'a [String],
    /// `inbound.report_addresses`.
    pub report_addresses: &'a [String],
    /// `http.public_url`.
    pub public_url: &'a str,
}

impl Check<'_> {
    /// Looks at every record of a domain.
    pub async fn run(&self, domain: &Domain) -> Vec<Finding> {
        let expected = domain.dns_records(self.outbound);
        // in the order in which they are printed
        let value = |kind: &str, name: &str| {
            let found = expected.iter().find(|record| record.kind == kind && record.name == name);
            found.map(|record| record.value.clone()).unwrap_or_default()
        };
        let bounces = &domain.bounce_domain;
        let dkim_name = format!("{}._domainkey.{}", domain.selector, domain.domain);
        let mut findings = vec![
            self.dkim(domain, &dkim_name, &value("TXT", &dkim_name)).await,
            self.spf(bounces, &value("TXT", bounces)).await,
            self.mx(bounces, &value("MX", bounces)).await,
        ];
        let dmarc = format!("_dmarc.{}", domain.domain);
        findings.extend(self.dmarc(domain, &value("TXT", &dmarc)).await);
        for name in [format!("_smtp._tls.{bounces}"), format!("_smtp._tls.{}", domain.domain)] {
            findings.push(self.tlsrpt(&name, &value("TXT", &name)).await);
        }
        findings
    }

    /// The texts of a name that begin with `version`; none for a name without any.
    async fn texts(&self, name: &str, version: &str) -> Result<Vec<String>, String> {
        match self.resolver.txt(name).await {
            Ok(texts) => Ok(texts.into_iter().filter(|text| begins_with(text, version)).collect()),
            Err(LookupFailure::NoSuchName | LookupFailure::NoRecords) => Ok(Vec::new()),
            Err(LookupFailure::Temporary(why)) => Err(unanswered(&why)),
        }
    }

    /// RFC 6376, section 3.6.1.
    async fn dkim(&self, domain: &Domain, name: &str, expected: &str) -> Finding {
        let finding = |found| Finding::good("DKIM", name, expected, found);
        let texts = match self.resolver.txt(name).await {
            Ok(texts) => texts,
            Err(LookupFailure::NoSuchName | LookupFailure::NoRecords) => {
                return finding(Vec::new()).bad(Status::Missing, publish("TXT", name, expected));
            }
            Err(LookupFailure::Temporary(why)) => {
                return finding(Vec::new()).bad(Status::Unknown, unanswered(&why));
            }
        };
        let problem = match texts.as_slice() {
            [text] => dkim_problem(text, &domain.dkim_public_key),
            _ => Some("there are several records, of which receivers take any: leave one".to_owned()),
        };
        match problem {
            None => finding(texts),
            Some(problem) => finding(texts).bad(Status::Differs, problem),
        }
    }

    /// RFC 5321, section 5.1: an MX of the bounce domain is this installation's host, by its name or its addresses.
    async fn mx(&self, name: &str, expected: &str) -> Finding {
        let finding = |found| Finding::good("MX", name, expected, found);
        let records = match self.resolver.mx(name).await {
            Ok(answer) => answer.value,
            Err(LookupFailure::NoSuchName | LookupFailure::NoRecords) => {
                return finding(Vec::new()).bad(Status::Missing, publish("MX", name, expected));
            }
            Err(LookupFailure::Temporary(why)) => {
                return finding(Vec::new()).bad(Status::Unknown, unanswered(&why));
            }
        };
        let found = records.iter().map(|mx| format!("{} {}", mx.preference, mx.exchange)).collect();
        let ours = &self.outbound.mail_host;
        if !self.knows_mail_host {
            return finding(found).bad(Status::Unknown, UNNAMED);
        }
        let by_name = |name: &str| name.eq_ignore_ascii_case(ours.trim_end_matches('.'));
        let mut leads_here = false;
        let mut addresses = Vec::new();
        for mx in &records {
            let theirs =
                self.resolver.addresses(&mx.exchange).await.map(|answer| answer.value).unwrap_or_default();
            if addresses.is_empty() {
                addresses = self.addresses_of_ours().await;
            }
            let has_address = !theirs.is_empty();
            leads_here |=
                has_address && (by_name(&mx.exchange) || theirs.iter().any(|ip| addresses.contains(ip)));
        }
        if leads_here {
            return finding(found);
        }
        let why = if records.iter().any(|mx| by_name(&mx.exchange)) {
            format!("{ours} has no address in the DNS: publish an A or AAAA record for it")
        } else {
            format!("bounces and complaints go elsewhere; {}", publish("MX", name, expected))
        };
        finding(found).bad(Status::Differs, why)
    }

    async fn addresses_of_ours(&self) -> Vec<IpAddr> {
        let found = self.resolver.addresses(&self.outbound.mail_host).await;
        found.map(|answer| answer.value).unwrap_or_default()
    }

    /// RFC 8460, section 3: reports reach this installation, beside whoever else gets them.
    async fn tlsrpt(&self, name: &str, expected: &str) -> Finding {
        let finding = |found| Finding::good("TLSRPT", name, expected, found);
        let texts = match self.texts(name, "v=TLSRPTv1").await {
            Ok(texts) => texts,
            Err(why) => return finding(Vec::new()).bad(Status::Unknown, why),
        };
        match wish(&texts) {
            Wish::Nothing if texts.is_empty() => {
                finding(texts).bad(Status::Missing, publish("TXT", name, expected))
            }
            Wish::Nothing => finding(texts).bad(
                Status::Differs,
                "it counts as none: leave exactly one record that begins with v=TLSRPTv1",
            ),
            Wish::Unusable(why) => finding(texts).bad(Status::Differs, why),
            Wish::Reports(destinations) if destinations.iter().any(|it| self.reaches_us(it)) => {
                finding(texts)
            }
            Wish::Reports(_) => {
                let ours = expected.split_once("rua=").map_or(expected, |(_, ours)| ours);
                finding(texts).bad(
                    Status::Differs,
                    format!("reports do not come here; add {ours} to its rua, with a comma"),
                )
            }
        }
    }

    fn reaches_us(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Mail(address) => self.takes(&address.to_string()),
            Destination::Https(url) => {
                let ours = url::Url::parse(self.public_url).ok();
                let is_ours = |ours: &url::Url| ours.origin() == url.origin();
                ours.as_ref().is_some_and(is_ours) && url.path().starts_with(tlsrpt_routes::PATH)
            }
        }
    }

    /// Whether a mail with a report to this address would be read.
    fn takes(&self, address: &str) -> bool {
        if self.report_addresses.iter().any(|known| known.eq_ignore_ascii_case(address)) {
            return true;
        }
        let Some((local, domain)) = address.rsplit_once('@') else { return false };
        [DMARC_MAILBOX, TLS_MAILBOX].iter().any(|known| known.eq_ignore_ascii_case(local))
            && self.bounce_domains.iter().any(|known| known.eq_ignore_ascii_case(domain))
    }
}

const UNNAMED: &str = "nobody knows this installation's host: set `ehlo` under [[source]] to its name";

fn unanswered(why: &str) -> String {
    format!("the DNS did not answer: {why}; try again")
}

fn publish(kind: &str, name: &str, expected: &str) -> String {
    format!("publish at {name}: {kind} {expected}")
}

/// A version is the first field, and a semicolon, white space or the end follows it.
fn begins_with(text: &str, version: &str) -> bool {
    let head = text.get(..version.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(version))
        && text
            .get(version.len()..)
            .is_some_and(|rest| rest.chars().next().is_none_or(|c| c == ';' || c.is_ascii_whitespace()))
}

/// The value of a tag in `a=b; c=d`, without white space around it.
fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').find_map(|field| {
        let (found, value) = field.split_once('=')?;
        (found.trim() == name).then(|| value.trim())
    })
}

/// What keeps a key record from verifying our signatures.
fn dkim_problem(text: &str, key: &str) -> Option<String> {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let Some(found) = tag(text, "p") else {
        return Some("the record is no DKIM key: it has no p=".to_owned());
    };
    if bare(found).is_empty() {
        return Some("the key is revoked: its p= is empty. Publish the expected record".to_owned());
    }
    if bare(found) != key {
        return Some("the key is another one, or was cut short on its way into the zone: publish the expected record whole".to_owned());
    }
    if tag(text, "v").is_some_and(|version| version != "DKIM1") {
        return Some("its v= is not DKIM1".to_owned());
    }
    if tag(text, "k").is_some_and(|kind| kind != "rsa") {
        return Some("its k= is not rsa".to_owned());
    }
    let services = tag(text, "s").unwrap_or("*");
    if !services.split(':').any(|service| ["*", "email"].contains(&service.trim())) {
        return Some("its s= leaves mail out".to_owned());
    }
    if tag(text, "t").is_some_and(|flags| flags.split(':').any(|flag| flag.trim() == "y")) {
        return Some("its t=y says that the domain only tests: take it out".to_owned());
    }
    None
}

#[cfg(test)]
mod tests;
