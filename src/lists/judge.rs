//! What is seen in an address itself, without asking anybody: pure.

use sendlake_control::suppression::normalise;
use sendlake_sender::address::Address;
use serde::Serialize;

use super::facts::Facts;

/// What may speak against an address. Each costs points, of 100; an address keeps what is left, and at least none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// No mailbox by its form.
    Malformed,
    /// On the list of suppressions, for this stream.
    Suppressed,
    /// The mailbox was gone when it was last written to.
    Gone,
    /// One of the operator's own traps, or in a domain of them.
    KnownTrap,
    /// In a domain that is a misspelling of a large one and held by somebody else: who watches such a domain sees who
    /// does not ask whether addresses are right.
    LikelyTrap,
    /// It was gone once and took mail again later: given up, and taken again by somebody else.
    Recycled,
    /// One slip off a large provider's domain, or under a top-level domain that does not exist.
    LikelyTypo,
    /// In a domain that gives mailboxes away for an hour.
    Disposable,
    /// Not delivered to for more than a year.
    Older,
    /// Belongs to a role, not to a person.
    Role,
    /// This tenant never delivered to it.
    Never,
    /// Delivered to last 91 to 365 days ago.
    Stale,
}

impl Finding {
    pub const ALL: [Finding; 12] = [
        Finding::Malformed,
        Finding::Suppressed,
        Finding::Gone,
        Finding::KnownTrap,
        Finding::LikelyTrap,
        Finding::Recycled,
        Finding::LikelyTypo,
        Finding::Disposable,
        Finding::Older,
        Finding::Role,
        Finding::Never,
        Finding::Stale,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Finding::Malformed => "malformed",
            Finding::Suppressed => "suppressed",
            Finding::Gone => "gone",
            Finding::KnownTrap => "known_trap",
            Finding::LikelyTrap => "likely_trap",
            Finding::Recycled => "recycled",
            Finding::LikelyTypo => "likely_typo",
            Finding::Disposable => "disposable",
            Finding::Older => "older",
            Finding::Role => "role",
            Finding::Never => "never",
            Finding::Stale => "stale",
        }
    }

    /// What it costs.
    pub fn points(self) -> u8 {
        match self {
            Finding::Malformed | Finding::Suppressed | Finding::Gone | Finding::KnownTrap => 100,
            Finding::LikelyTrap => 80,
            Finding::Recycled | Finding::LikelyTypo => 70,
            Finding::Disposable => 60,
            Finding::Older => 40,
            Finding::Role => 30,
            Finding::Never => 25,
            Finding::Stale => 15,
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// Several findings, packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings(u16);

impl Findings {
    pub fn add(&mut self, finding: Finding) {
        self.0 |= finding.bit();
    }

    pub fn has(self, finding: Finding) -> bool {
        self.0 & finding.bit() != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Finding> {
        Finding::ALL.into_iter().filter(move |finding| self.has(*finding))
    }

    /// 100 less what each finding costs.
    pub fn score(self) -> u8 {
        self.iter().fold(100, |left: u8, finding| left.saturating_sub(finding.points()))
    }
}

/// An address looked at by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As suppressions compare it.
    pub address: String,
    pub findings: Findings,
    /// The domain that was probably meant.
    pub meant: Option<String>,
    /// The provider, where the domain tells it.
    pub provider: Option<&'static str>,
    /// What Gmail takes for the same mailbox, without dots and what follows a plus; else the address.
    pub mailbox: String,
}

/// Looks at one address. `Err` when it is none, and why.
pub fn look(text: &str, facts: &'static Facts) -> Result<Seen, String> {
    let parsed = Address::parse(text.trim()).map_err(|error| error.to_string())?;
    let address = normalise(&parsed.to_string());
    let (local, domain) = address.rsplit_once('@').unwrap_or((&address, ""));
    let mut findings = Findings::default();
    let provider = facts.providers.get(domain).map(String::as_str);
    if facts.roles.contains(local.split('+').next().unwrap_or(local)) {
        findings.add(Finding::Role);
    }
    if with_parents(domain).any(|domain| facts.disposable.contains(domain)) {
        findings.add(Finding::Disposable);
    }
    let mut meant = None;
    if provider.is_none() && !facts.known.contains(domain) {
        if facts.misspelt.contains(domain) {
            findings.add(Finding::LikelyTrap);
        }
        meant = meant_domain(domain, facts);
        if meant.is_some() && !findings.has(Finding::LikelyTrap) {
            findings.add(Finding::LikelyTypo);
        }
    }
    let mailbox = if provider == Some("google") {
        let plain: String = local.split('+').next().unwrap_or(local).chars().filter(|c| *c != '.').collect();
        format!("{plain}@gmail.com")
    } else {
        address.clone()
    };
    Ok(Seen { findings, meant, provider, mailbox, address: address.clone() })
}

/// A domain and all above it.
pub(super) fn with_parents(domain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain), |domain| domain.split_once('.').map(|(_, above)| above))
}

/// The domain that a slip led away from: a large one, or any under a top-level domain that does not exist.
fn meant_domain(domain: &str, facts: &Facts) -> Option<String> {
    let (name, last) = domain.rsplit_once('.')?;
    if let Some(right) = facts.no_tlds.get(last) {
        let domain = format!("{name}.{right}");
        let large = if facts.providers.contains_key(&domain) { None } else { meant_domain(&domain, facts) };
        return Some(large.unwrap_or(domain));
    }
    if last.len() == 2 && facts.without_country.contains(name) {
        return Some(name.to_owned());
    }
    facts.large.iter().find(|large| is_near(domain, large)).cloned()
}

/// One slip away from a large domain. Of a short name only the ending may differ, and not by another letter: too many
/// real domains do.
fn is_near(domain: &str, large: &str) -> bool {
    let Some((name, ending)) = large.split_once('.') else { return false };
    if name.len() >= 5 {
        return is_one_slip(domain.as_bytes(), large.as_bytes());
    }
    let Some((same, other)) = domain.split_once('.') else { return false };
    let is_swapped =
        || ending.len() == other.len() && ending.bytes().all(|letter| other.as_bytes().contains(&letter));
    name.len() >= 3
        && same == name
        && ending.len() == 3
        && is_one_slip(other.as_bytes(), ending.as_bytes())
        && (other.len() != ending.len() || is_swapped())
}

/// One letter more, less, another, or two swapped.
fn is_one_slip(one: &[u8], other: &[u8]) -> bool {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (Some(one), Some(other)) = (one.get(same..), other.get(same..)) else { return false };
    match (one, other) {
        ([], []) => false,
        ([_, rest @ ..], other) if rest == other => true,
        (one, [_, rest @ ..]) if rest == one => true,
        ([_, one @ ..], [_, other @ ..]) if one == other => true,
        ([a, b, one @ ..], [c, d, other @ ..]) => a == d && b == c && one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::FACTS;
    use super::*;

    fn findings(text: &str) -> Vec<&'static str> {
        look(text, &FACTS).unwrap().findings.iter().map(Finding::as_str).collect()
    }

    #[test]
    fn what_is_seen_in_an_address() {
        for (address, found) in [
            ("ann@gmail.com", &[][..]),
            ("Info@acme.example", &["role"]),
            ("postmaster+x@acme.example", &["role"]),
            ("ann@MAILINATOR.com", &["disposable"]),
            ("ann@gmial.com", &["likely_trap"]),
            ("ann@gmaik.com", &["likely_typo"]),
            ("ann@outlookk.com", &["likely_typo"]),
            ("ann@hotmai.co.uk", &["likely_typo"]),
            ("ann@sub.mailinator.com", &["disposable"]),
            ("ann@notmailinator.com", &[]),
            ("ann@tempmail.com", &["disposable"]),
            ("ann@gmail.con", &["likely_typo"]),
            ("ann@hotmail.con", &["likely_typo"]),
            ("ann@acme.con", &["likely_typo"]),
            ("ann@gmail.com.br", &["likely_typo"]),
            ("ann@hotmail.com.br", &[]),
            ("ann@gmx.ne", &["likely_typo"]),
            ("ann@gmx.nte", &["likely_typo"]),
            ("ann@gmx.nl", &[]),
            ("ann@gmx.net", &[]),
            ("ann@gmx.at", &[]),
            ("ann@mail.com", &[]),
            ("ann@line.com", &[]),
            ("sales@yhoo.com", &["likely_trap", "role"]),
        ] {
            assert_eq!(findings(address), found, "{address}");
        }
        assert_eq!(look("ann@gmaik.com", &FACTS).unwrap().meant.as_deref(), Some("gmail.com"));
        for (address, meant) in [
            ("ann@hotmail.con", "hotmail.com"),
            ("ann@acme.con", "acme.com"),
            ("ann@gmal.con", "gmail.com"),
            ("ann@gmail.com.br", "gmail.com"),
            ("ann@gmx.ne", "gmx.net"),
        ] {
            assert_eq!(look(address, &FACTS).unwrap().meant.as_deref(), Some(meant), "{address}");
        }
        for bad in ["", "ann", "ann@", "a b@c.test", "ann@local"] {
            assert!(look(bad, &FACTS).is_err(), "{bad}");
        }
    }

    #[test]
    fn spellings_of_one_mailbox_are_told() {
        let mailbox = |text| look(text, &FACTS).unwrap().mailbox;
        assert_eq!(mailbox("Ann.Lee+news@googlemail.com"), mailbox("annlee@gmail.com"));
        assert_ne!(mailbox("ann.lee@outlook.com"), mailbox("annlee@outlook.com"));
    }

    #[test]
    fn a_score_is_what_the_findings_leave() {
        let mut findings = Findings::default();
        assert_eq!(findings.score(), 100);
        findings.add(Finding::Role);
        findings.add(Finding::Never);
        assert_eq!(findings.score(), 45);
        findings.add(Finding::Suppressed);
        assert_eq!(findings.score(), 0);
        assert_eq!(Finding::ALL.iter().map(|finding| finding.bit().count_ones()).sum::<u32>(), 12);
    }
}
