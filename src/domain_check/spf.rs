//! SPF of the bounce domain (RFC 7208): whether the record lets mail from our addresses pass, whatever its words.

use std::net::IpAddr;

use ipnet::IpNet;
use sendlake_sender::mx::{LookupFailure, Resolver};

use super::{Check, Finding, Status, UNNAMED, publish, unanswered};

/// Mechanisms that ask the DNS (section 4.6.4).
const LOOKUPS_MAX: u32 = 10;

/// What a record says of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Passes,
    DoesNot,
    /// A record in the chain is not as it should be, or the DNS did not answer.
    Broken(String),
}

impl Check<'_> {
    pub(super) async fn spf(&self, name: &str, expected: &str) -> Finding {
        let finding = |found| Finding::good("SPF", name, expected, found);
        let texts = match self.texts(name, "v=spf1").await {
            Ok(texts) => texts,
            Err(why) => return finding(Vec::new()).bad(Status::Unknown, why),
        };
        let [text] = texts.as_slice() else {
            return match texts.is_empty() {
                true => finding(texts).bad(Status::Missing, publish("TXT", name, expected)),
                false => finding(texts).bad(
                    Status::Differs,
                    "there are several SPF records, which is an error (section 4.5): leave one",
                ),
            };
        };
        let ips: Vec<IpAddr> = match self.public_sources() {
            ips if !ips.is_empty() => ips,
            _ if !self.knows_mail_host => return finding(texts).bad(Status::Unknown, UNNAMED),
            _ => self.addresses_of_ours().await,
        };
        if ips.is_empty() {
            let host = &self.outbound.mail_host;
            return finding(texts)
                .bad(Status::Differs, format!("{host} has no address in the DNS, so no mail passes"));
        }
        for ip in ips {
            let mut lookups = 0;
            match self.evaluate(text.clone(), name.to_owned(), ip, &mut lookups).await {
                Said::Passes => {}
                Said::DoesNot => {
                    let advice =
                        format!("mail from {ip} does not pass: add it, or publish the expected record");
                    return finding(texts).bad(Status::Differs, advice);
                }
                Said::Broken(why) => return finding(texts).bad(Status::Differs, why),
            }
        }
        finding(texts)
    }

    fn public_sources(&self) -> Vec<IpAddr> {
        let ips = self.outbound.source_ips.iter().copied();
        ips.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).collect()
    }

    /// Goes through the mechanisms in their order. `exists`, `ptr` and macros are not followed: they count as no match.
    async fn evaluate(&self, text: String, domain: String, ip: IpAddr, lookups: &mut u32) -> Said {
        let mut redirect = None;
        for term in text.split_ascii_whitespace().skip(1) {
            let (passes, mechanism) = match term.split_at_checked(1) {
                Some(("+", rest)) => (true, rest),
                Some(("-" | "~" | "?", rest)) => (false, rest),
                _ => (true, term),
            };
            if let Some(target) = strip(mechanism, "redirect=") {
                redirect = Some(target.to_owned());
                continue;
            }
            let (kind, argument) = mechanism.split_once(':').unwrap_or((mechanism, ""));
            let (kind, bits) = kind.split_once('/').unwrap_or((kind, ""));
            let kind = kind.to_ascii_lowercase();
            if ["a", "mx", "include"].contains(&kind.as_str()) {
                *lookups += 1;
                if *lookups > LOOKUPS_MAX {
                    return Said::Broken(format!(
                        "the record asks the DNS more than {LOOKUPS_MAX} times, an error (section 4.6.4)"
                    ));
                }
            }
            let matches = match kind.as_str() {
                "all" => true,
                "ip4" | "ip6" => network(argument).is_some_and(|net| net.contains(&ip)),
                "a" | "mx" => {
                    let (host, of_host) = argument.split_once('/').unwrap_or((argument, bits));
                    let host = if host.is_empty() { domain.as_str() } else { host };
                    self.hosts_have(&kind, host, of_host, ip).await
                }
                "include" => match self.included(argument, ip, lookups).await {
                    Said::Passes => true,
                    Said::DoesNot => false,
                    broken => return broken,
                },
                _ => false,
            };
            if matches {
                return if passes { Said::Passes } else { Said::DoesNot };
            }
        }
        match redirect {
            Some(target) => {
                *lookups += 1;
                if *lookups > LOOKUPS_MAX {
                    return Said::Broken("the record redirects without end".to_owned());
                }
                self.included(&target, ip, lookups).await
            }
            None => Said::DoesNot,
        }
    }

    async fn included(&self, target: &str, ip: IpAddr, lookups: &mut u32) -> Said {
        match self.texts(target, "v=spf1").await {
            Ok(texts) => match texts.as_slice() {
                [text] => Box::pin(self.evaluate(text.clone(), target.to_owned(), ip, lookups)).await,
                _ => Said::Broken(format!("{target}, which the record includes, has not one SPF record")),
            },
            Err(why) => Said::Broken(why),
        }
    }

    async fn hosts_have(&self, kind: &str, host: &str, bits: &str, ip: IpAddr) -> bool {
        let hosts = if kind == "mx" {
            let records = self.resolver.mx(host).await.map(|answer| answer.value).unwrap_or_default();
            records.into_iter().map(|mx| mx.exchange).take(10).collect()
        } else {
            vec![host.to_owned()]
        };
        for host in hosts {
            let found = match self.resolver.addresses(&host).await {
                Ok(answer) => answer.value,
                Err(LookupFailure::Temporary(why)) => {
                    tracing::debug!(host, reason = unanswered(&why), "an SPF mechanism was not answered");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
            let same = |found: &IpAddr| {
                let bits = bits.split('/').find_map(|bits| bits.parse::<u8>().ok());
                let bits = bits.unwrap_or(if found.is_ipv4() { 32 } else { 128 });
                IpNet::new(*found, bits).is_ok_and(|net| net.contains(&ip))
            };
            if found.iter().any(same) {
                return true;
            }
        }
        false
    }
}

fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.get(..prefix.len()).filter(|head| head.eq_ignore_ascii_case(prefix)).and(text.get(prefix.len()..))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
