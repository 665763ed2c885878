//! DMARC: the policy that counts for a domain has its reports come here (RFC 7489, RFC 9989), and where they go to another
//! organisation's mailbox, that one has given leave.

use sendlake_control::domain::Domain;

use super::{Check, Finding, Status, publish, tag};

/// A policy is looked for at the domain and above it (RFC 9989, section 4.10).
const PARENTS_MAX: usize = 8;

impl Check<'_> {
    pub(super) async fn dmarc(&self, domain: &Domain, expected: &str) -> Vec<Finding> {
        let first = format!("_dmarc.{}", domain.domain);
        let finding = |name: &str, found| Finding::good("DMARC", name, expected, found);
        for parent in parents(&domain.domain) {
            let name = format!("_dmarc.{parent}");
            let texts = match self.texts(&name, "v=DMARC1").await {
                Ok(texts) => texts,
                Err(why) => return vec![finding(&name, Vec::new()).bad(Status::Unknown, why)],
            };
            match texts.as_slice() {
                [] => continue,
                [text] => return self.policy(parent, &name, text, expected).await,
                _ => {
                    let advice = "there are several policies, which count as none: leave one";
                    return vec![finding(&name, texts).bad(Status::Differs, advice)];
                }
            }
        }
        vec![finding(&first, Vec::new()).bad(Status::Missing, publish("TXT", &first, expected))]
    }

    async fn policy(&self, at: &str, name: &str, text: &str, expected: &str) -> Vec<Finding> {
        let finding = Finding::good("DMARC", name, expected, vec![text.to_owned()]);
        if !tag(text, "p")
            .is_some_and(|p| ["none", "quarantine", "reject"].contains(&p.to_lowercase().as_str()))
        {
            return vec![
                finding.bad(Status::Differs, "it has no p=none, quarantine or reject, so it counts as none"),
            ];
        }
        let ours: Vec<String> =
            addresses(tag(text, "rua").unwrap_or_default()).into_iter().filter(|to| self.takes(to)).collect();
        let Some(to) = ours.first() else {
            let wanted = tag(expected, "rua").unwrap_or_default();
            let advice = match tag(text, "rua") {
                Some(_) => format!(
                    "reports do not come here; keep the policy, and add {wanted} to its rua, with a comma"
                ),
                None => format!("nobody gets reports; keep the policy, and add rua={wanted}"),
            };
            return vec![finding.bad(Status::Differs, advice)];
        };
        let mut findings = vec![finding];
        let host = to.rsplit_once('@').map_or("", |(_, host)| host).to_ascii_lowercase();
        if organisation(&host) != organisation(at) {
            findings.push(self.leave(at, &host).await);
        }
        findings
    }

    /// RFC 7489, section 7.1; RFC 9990, section 4.
    async fn leave(&self, at: &str, host: &str) -> Finding {
        let name = format!("{at}._report._dmarc.{host}");
        let finding = |found| Finding::good("DMARC leave", &name, "v=DMARC1", found);
        match self.texts(&name, "v=DMARC1").await {
            Ok(texts) if texts.is_empty() => {
                let advice = format!(
                    "receivers do not send reports about {at} to {host} without its leave; {}, or at *._report._dmarc.{host}",
                    publish("TXT", &name, "v=DMARC1")
                );
                finding(texts).bad(Status::Missing, advice)
            }
            Ok(texts) => finding(texts),
            Err(why) => finding(Vec::new()).bad(Status::Unknown, why),
        }
    }
}

/// The domain and those above it, down to the one that somebody registers.
fn parents(domain: &str) -> impl Iterator<Item = &str> {
    let last = organisation(domain).len();
    let all = std::iter::successors(Some(domain), |domain| Some(domain.split_once('.')?.1));
    all.take_while(move |domain| domain.len() >= last).take(PARENTS_MAX)
}

fn organisation(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

/// Mail addresses of a list of URIs; a limit on the size (`!10m`) is left out.
fn addresses(uris: &str) -> Vec<String> {
    let address = |uri: &str| {
        let uri = uri.trim();
        let scheme = uri.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("mailto:"))?;
        let rest = uri.get(scheme.len()..)?;
        rest.split(['!', '?']).next().map(str::to_owned)
    };
    uris.split(',').filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain_check::begins_with;

    #[test]
    fn policies_are_looked_for_up_to_what_somebody_registers() {
        assert_eq!(
            parents("a.news.acme.co.uk").collect::<Vec<_>>(),
            ["a.news.acme.co.uk", "news.acme.co.uk", "acme.co.uk"]
        );
        assert_eq!(parents("acme.test").collect::<Vec<_>>(), ["acme.test"]);
        assert!(begins_with("v=DMARC1;p=none", "v=DMARC1") && !begins_with("v=DMARC12;p=none", "v=DMARC1"));
    }

    #[test]
    fn addresses_stand_without_limits_and_other_schemes() {
        assert_eq!(
            addresses("mailto:a@b.example!10m, https://x.example/,MAILTO:c@d.example"),
            ["a@b.example", "c@d.example"]
        );
    }
}
