//! What is known of addresses in general: dated data from `sql/lists/`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use sendlake_sql::LIST_FACTS;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    date: String,
    roles: HashSet<String>,
    disposable: HashSet<String>,
    known: HashSet<String>,
    misspelt: HashSet<String>,
    without_country: HashSet<String>,
    providers: BTreeMap<String, Vec<String>>,
    no_tlds: HashMap<String, String>,
}

/// The facts of this build.
pub struct Facts {
    /// When they were written down.
    pub date: String,
    pub roles: HashSet<String>,
    pub disposable: HashSet<String>,
    /// Domains that look like a misspelling and are none.
    pub known: HashSet<String>,
    /// Misspellings that somebody else holds.
    pub misspelt: HashSet<String>,
    /// The provider behind a large domain.
    pub providers: HashMap<String, String>,
    /// Their domains, the shortest first.
    pub large: Vec<String>,
    /// Large domains that no country's ending follows.
    pub without_country: HashSet<String>,
    /// Endings that are no top-level domain, and which was meant.
    pub no_tlds: HashMap<String, String>,
}

/// Those of this build. An unreadable file would be found by the test below: nothing is known then.
pub static FACTS: LazyLock<Facts> = LazyLock::new(|| read().unwrap_or_else(|_| Facts::none()));

fn read() -> Result<Facts, toml::de::Error> {
    let data: Data = toml::from_str(LIST_FACTS)?;
    let of = |(provider, domains): (String, Vec<String>)| {
        domains.into_iter().map(move |domain| (domain, provider.clone())).collect::<Vec<_>>()
    };
    let mut large: Vec<String> = data.providers.values().flatten().cloned().collect();
    large.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    Ok(Facts {
        large,
        without_country: data.without_country,
        no_tlds: data.no_tlds,
        date: data.date,
        roles: data.roles,
        disposable: data.disposable,
        known: data.known,
        misspelt: data.misspelt,
        providers: data.providers.into_iter().flat_map(of).collect(),
    })
}

impl Facts {
    fn none() -> Self {
        Self {
            date: String::new(),
            roles: HashSet::new(),
            disposable: HashSet::new(),
            known: HashSet::new(),
            misspelt: HashSet::new(),
            providers: HashMap::new(),
            large: Vec::new(),
            without_country: HashSet::new(),
            no_tlds: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_can_be_read_and_does_not_contradict_itself() {
        let facts = read().unwrap();
        assert_eq!(facts.date.len(), 10);
        assert!(facts.providers.len() > 30 && facts.roles.contains("postmaster"));
        for domain in
            facts.disposable.iter().chain(&facts.misspelt).chain(&facts.known).chain(facts.providers.keys())
        {
            assert!(domain.contains('.') && *domain == domain.to_lowercase(), "{domain}");
        }
        for domain in &facts.misspelt {
            let ending = domain.rsplit('.').next().unwrap();
            assert!(!facts.no_tlds.contains_key(ending), "nobody holds {domain}");
        }
        assert!(facts.without_country.iter().all(|domain| facts.providers.contains_key(domain)));
        for domain in facts.providers.keys() {
            assert!(!facts.misspelt.contains(domain) && !facts.disposable.contains(domain), "{domain}");
        }
    }
}
