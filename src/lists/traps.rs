//! The operator's own traps: addresses and domains, one a line.

use std::collections::HashSet;

use sendlake_control::suppression::normalise;
use sendlake_sender::address::{Address, parse_domain};

use super::judge::with_parents;

/// Addresses, and domains whose every address is a trap.
#[derive(Clone, Debug, Default)]
pub struct Traps {
    addresses: HashSet<String>,
    domains: HashSet<String>,
}

impl Traps {
    /// Reads a text of lines: an address, or a domain with or without `@` before it; `#` begins a remark. `Err` names
    /// the line that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut traps = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default().trim_matches(['\u{feff}', ' ', '\t', '\r']);
            if text.is_empty() {
                continue;
            }
            let wrong = |why: &dyn std::fmt::Display| {
                format!("line {line}: {text:?} is no address and no domain: {why}")
            };
            match text.strip_prefix('@').or_else(|| Some(text).filter(|text| !text.contains('@'))) {
                Some(domain) => traps.domains.insert(parse_domain(domain).map_err(|why| wrong(&why))?),
                None => {
                    let address = Address::parse(text).map_err(|why| wrong(&why))?;
                    traps.addresses.insert(normalise(&address.to_string()))
                }
            };
        }
        Ok(traps)
    }

    /// Whether an address, normalised, is one of them, or in a domain of theirs or below it.
    pub fn hold(&self, address: &str) -> bool {
        let domain = || address.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.addresses.contains(address)
            || (!self.domains.is_empty()
                && with_parents(domain()).any(|domain| self.domains.contains(domain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_domains_are_known() {
        let traps =
            Traps::parse("# ours\nSpam.Trap@acme.example\n\n@trap.example # all of it\nother.example\r\n")
                .unwrap();
        for address in ["spam.trap@acme.example", "x@trap.example", "y@a.other.example"] {
            assert!(traps.hold(address), "{address}");
        }
        for address in ["trap@acme.example", "x@nottrap.example", "x@example"] {
            assert!(!traps.hold(address), "{address}");
        }
        let error = Traps::parse("a@b.example\nnothing\n").unwrap_err();
        assert!(error.starts_with("line 2: \"nothing\""), "{error}");
    }
}
