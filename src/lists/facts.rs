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
    providers: BTreeMap<String, Vec<String>>,
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
}

/// Those of this build. An unreadable file would be found by the test below: nothing is known then.
pub static FACTS: LazyLock<Facts> = LazyLock::new(|| read().unwrap_or_else(|_| Facts::none()));

fn read() -> Result<Facts, toml::de::Error> {
    let data: Data = toml::from_str(LIST_FACTS)?;
    let of = |(provider, domains): (String, Vec<String>)| {
        domains.into_iter().map(move |domain| (domain, provider.clone())).collect::<Vec<_>>()
    };
    Ok(Facts {
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
        for domain in facts.providers.keys() {
            assert!(!facts.misspelt.contains(domain) && !facts.disposable.contains(domain), "{domain}");
        }
    }
}
