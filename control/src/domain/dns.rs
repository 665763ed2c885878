//! Names that can be sending domains, and the records that make them trusted. No I/O.

use std::net::IpAddr;

use serde::Serialize;

use super::Domain;
use crate::error::ControlError;

const DOMAIN_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;
/// One string of a TXT record (RFC 1035, section 3.3).
const TXT_STRING_LEN_MAX: usize = 255;

/// The mailboxes at a bounce domain to which reports go: DMARC's (RFC 9989, `rua` and `ruf`), and TLS reports (RFC 8460).
pub const DMARC_MAILBOX: &str = "dmarc";
pub const TLS_MAILBOX: &str = "tlsrpt";

/// How the installation looks from outside.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    /// The host that takes bounces, as the DNS knows it: it needs an A or AAAA record and no CNAME
    /// (RFC 5321, section 5.1).
    pub mail_host: String,
    /// The public addresses that mail leaves from. When empty, SPF names the addresses of `mail_host`.
    pub source_ips: Vec<IpAddr>,
}

/// One record to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    /// Fully qualified, without the final dot.
    pub name: String,
    /// `TXT` or `MX`.
    pub kind: &'static str,
    /// A TXT record's text in one piece (most DNS consoles split it by themselves), or preference and host.
    pub value: String,
    /// What it is for, in a few words.
    pub purpose: &'static str,
}

impl DnsRecord {
    /// The record as a line of a zone file (RFC 1035, section 5.1), long texts split into strings.
    pub fn zone_line(&self) -> String {
        let value = if self.kind == "TXT" {
            let strings: Vec<String> = self
                .value
                .as_bytes()
                .chunks(TXT_STRING_LEN_MAX)
                .map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk)))
                .collect();
            strings.join(" ")
        } else {
            format!("{}.", self.value)
        };
        format!("{}. IN {} {value}", self.name, self.kind)
    }
}

impl Domain {
    /// What the domain's owner publishes: the DKIM key (RFC 6376, section 3.6.1), SPF (RFC 7208) and MX of
    /// the bounce domain, a DMARC policy that only watches (RFC 9989), for a domain that has none yet, and where TLS reports
    /// go. Reports come to the bounce domain, which lies below: so no receiver asks it for leave (RFC 7489, section 7.1).
    pub fn dns_records(&self, outbound: &Outbound) -> Vec<DnsRecord> {
        let host = outbound.mail_host.trim_end_matches('.');
        let dmarc = format!("{DMARC_MAILBOX}@{}", self.bounce_domain);
        let tls = format!("v=TLSRPTv1; rua=mailto:{TLS_MAILBOX}@{}", self.bounce_domain);
        let record = |name: String, kind, value, purpose| DnsRecord { name, kind, value, purpose };
        vec![
            record(
                format!("{}._domainkey.{}", self.selector, self.domain),
                "TXT",
                format!("v=DKIM1; k=rsa; p={}", self.dkim_public_key),
                "DKIM: receivers check our signatures with this key",
            ),
            record(
                self.bounce_domain.clone(),
                "TXT",
                spf(host, &outbound.source_ips),
                "SPF: these hosts may send with this return path",
            ),
            record(
                self.bounce_domain.clone(),
                "MX",
                format!("10 {host}"),
                "bounces and complaints come back here",
            ),
            record(
                format!("_dmarc.{}", self.domain),
                "TXT",
                format!("v=DMARC1; p=none; rua=mailto:{dmarc}; ruf=mailto:{dmarc}"),
                "DMARC: only if neither this domain nor one above it has a policy; else add this rua and ruf to that one",
            ),
            record(
                format!("_smtp._tls.{}", self.bounce_domain),
                "TXT",
                tls.clone(),
                "TLS reports: how other servers reach our MX",
            ),
            record(
                format!("_smtp._tls.{}", self.domain),
                "TXT",
                tls,
                "TLS reports: how other servers reach this domain's own MX, wherever that is",
            ),
        ]
    }
}

/// Ends in `-all`: nobody else has any business with a return path that only we make.
fn spf(host: &str, source_ips: &[IpAddr]) -> String {
    let public = source_ips.iter().filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    let mut terms: Vec<String> = public
        .map(|ip| match ip {
            IpAddr::V4(ip) => format!("ip4:{ip}"),
            IpAddr::V6(ip) => format!("ip6:{ip}"),
        })
        .collect();
    if terms.is_empty() {
        terms.push(format!("a:{host}"));
    }
    format!("v=spf1 {} -all", terms.join(" "))
}

/// A domain in its ASCII form: IDNA (UTS 46), lower case, at least two labels, no trailing dot.
pub fn parse_domain(text: &str) -> Result<String, ControlError> {
    let invalid = |problem| ControlError::InvalidDomain { domain: text.to_owned(), problem };
    let bare = text.strip_suffix('.').unwrap_or(text);
    let not_a_name = "it is not a host name such as mail.example.com";
    let ascii = idna::domain_to_ascii_strict(bare).map_err(|_| invalid(not_a_name))?;
    let labels_fit = ascii.split('.').all(|label| (1..=LABEL_LEN_MAX).contains(&label.len()));
    let numeric = ascii.rsplit('.').next().is_none_or(|top| top.bytes().all(|b| b.is_ascii_digit()));
    if ascii.len() > DOMAIN_LEN_MAX || !labels_fit || !ascii.contains('.') || numeric {
        return Err(invalid(not_a_name));
    }
    Ok(ascii)
}

/// A domain that somebody can own.
pub(super) fn sending_domain(text: &str) -> Result<String, ControlError> {
    let domain = parse_domain(text)?;
    if psl::suffix_str(&domain) == Some(domain.as_str()) {
        let problem = "it is a public suffix, under which anybody may register (publicsuffix.org)";
        return Err(ControlError::InvalidDomain { domain, problem });
    }
    Ok(domain)
}

/// The return path's domain: the one given, or `bounces.<domain>`.
pub(super) fn bounce_domain(domain: &str, given: Option<&str>) -> Result<String, ControlError> {
    let bounce_domain = match given {
        Some(given) => parse_domain(given)?,
        None => parse_domain(&format!("bounces.{domain}"))?,
    };
    let below = bounce_domain.strip_suffix(domain).is_some_and(|front| front.ends_with('.'));
    if !below {
        let problem = "a bounce domain must lie below its sending domain: its MX record must not take the \
                       domain's own mail, and SPF must align";
        return Err(ControlError::InvalidDomain { domain: bounce_domain, problem });
    }
    Ok(bounce_domain)
}

/// A selector as RFC 6376, section 3.1 has it: labels that start and end with a letter or digit.
pub(super) fn selector(text: &str) -> Result<String, ControlError> {
    let label_fits = |label: &str| {
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= LABEL_LEN_MAX && text.split('.').all(label_fits) {
        Ok(text.to_owned())
    } else {
        Err(ControlError::InvalidSelector { selector: text.to_owned() })
    }
}
