//! A site: the set of MX hosts that a domain's mail goes to. Domains with the same hosts share one connection
//! pool and one set of limits.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

/// Longest name that lists all its hosts; longer sets are named by the first host and a hash.
const NAME_BYTES_MAX: usize = 200;

/// The name of a site, the same for the same set of hosts whatever their order and case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// The site of a set of MX host names.
    pub fn of_hosts<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hosts: Vec<String> =
            hosts.into_iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect();
        hosts.sort();
        hosts.dedup();
        let all = hosts.join(",");
        match hosts.first() {
            Some(first) if all.len() > NAME_BYTES_MAX => {
                let hash = digest::digest(&digest::SHA256, all.as_bytes());
                let hash = HEXLOWER.encode(hash.as_ref().get(..8).unwrap_or_default());
                Self(format!("{first}+{}-{hash}", hosts.len() - 1).into())
            }
            _ => Self(all.into()),
        }
    }

    /// The site of a static route.
    pub fn of_route(name: &str) -> Self {
        Self(format!("route:{name}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_hosts_are_one_site_in_any_order() {
        let one = SiteName::of_hosts(["mx2.example.com", "MX1.example.com."]);
        let two = SiteName::of_hosts(["mx1.example.com", "mx2.example.com", "mx1.example.com"]);
        assert_eq!(one, two);
        assert_eq!(one.as_str(), "mx1.example.com,mx2.example.com");
    }

    #[test]
    fn long_sets_have_short_distinct_names() {
        let hosts: Vec<String> = (0..50).map(|n| format!("mx{n}.mail.example.com")).collect();
        let all = SiteName::of_hosts(hosts.iter().map(String::as_str));
        let fewer = SiteName::of_hosts(hosts.iter().skip(1).map(String::as_str));
        assert!(all.as_str().len() < NAME_BYTES_MAX);
        assert_ne!(all, fewer);
    }
}
