//! Who opened a mail or followed a link: a person, a proxy, a device that fetched ahead, a scanner. The rules are dated
//! files in `clients/`; each verdict names its rule and version. Pure.

use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

/// The word for what no rule knows.
pub const UNKNOWN: &str = "unknown";

/// Most octets of a header that are looked at.
const HEADER_BYTES_MAX: usize = 1_024;

const FILE: &str = include_str!("../clients/2026-11-22.toml");

static BUILT_IN: LazyLock<ClientRules> = LazyLock::new(|| ClientRules::parse(FILE).unwrap_or_default());

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    Open,
    Click,
}

/// A request for an open's picture or a link.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    pub of: Asked,
    pub method: &'a str,
    /// Empty where there is none.
    pub user_agent: &'a str,
    /// Sec-Purpose, Purpose and X-Moz, whatever there is of them.
    pub purpose: &'a str,
    /// Seconds since the attempt began that delivered the mail.
    pub after_s: i64,
    /// Different links of the mail that were followed within the last ten seconds, this one included.
    pub links: usize,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor<'a> {
    /// `direct`, `proxied`, `prefetched`, `scanner` or `unknown`: the column `open_source`.
    pub open_source: &'a str,
    pub rule: &'a str,
    pub version: &'a str,
}

/// Rules in their order: the first that fits speaks.
#[derive(Debug, Default)]
pub struct ClientRules {
    version: String,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    id: String,
    open_source: String,
    of: Option<Asked>,
    method: Option<String>,
    user_agent: Option<Regex>,
    purpose: Option<Regex>,
    after_s_max: Option<i64>,
    links_min: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    rule: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    open_source: String,
    of: Option<Asked>,
    method: Option<String>,
    user_agent: Option<String>,
    purpose: Option<String>,
    after_s_max: Option<i64>,
    links_min: Option<usize>,
    /// Read by people, and by the test that wants one for each rule.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the rules' evidence, which only people and tests read")
    )]
    source: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "the test's input"))]
    example: Example,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(test), expect(dead_code, reason = "the test's input"))]
struct Example {
    of: Asked,
    method: Option<String>,
    user_agent: Option<String>,
    purpose: Option<String>,
    after_s: Option<i64>,
    links: Option<usize>,
}

impl ClientRules {
    /// The rules that come with this build.
    pub fn current() -> &'static Self {
        &BUILT_IN
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let pattern = |text: Option<String>| {
            text.map(|text| RegexBuilder::new(&text).case_insensitive(true).size_limit(1 << 22).build())
                .transpose()
                .map_err(|error| error.to_string())
        };
        let rules = file.rule.into_iter().map(|entry| {
            Ok(Rule {
                id: entry.id,
                open_source: entry.open_source,
                of: entry.of,
                method: entry.method,
                user_agent: pattern(entry.user_agent)?,
                purpose: pattern(entry.purpose)?,
                after_s_max: entry.after_s_max,
                links_min: entry.links_min,
            })
        });
        Ok(Self { version: file.version, rules: rules.collect::<Result<_, String>>()? })
    }

    /// Who it was.
    pub fn judge(&self, visit: &Visit<'_>) -> Visitor<'_> {
        let found = self.rules.iter().find(|rule| rule.fits(visit));
        Visitor {
            open_source: found.map_or(UNKNOWN, |rule| &rule.open_source),
            rule: found.map_or(UNKNOWN, |rule| &rule.id),
            version: &self.version,
        }
    }
}

impl Rule {
    fn fits(&self, visit: &Visit<'_>) -> bool {
        let is_in = |pattern: &Option<Regex>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_match(beginning(text)))
        };
        self.of.is_none_or(|of| of == visit.of)
            && self.method.as_deref().is_none_or(|method| method == visit.method)
            && self.after_s_max.is_none_or(|most| (0..=most).contains(&visit.after_s))
            && self.links_min.is_none_or(|least| visit.links >= least)
            && is_in(&self.user_agent, visit.user_agent)
            && is_in(&self.purpose, visit.purpose)
    }
}

fn beginning(text: &str) -> &str {
    text.get(..text.floor_char_boundary(HEADER_BYTES_MAX)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36";

    fn visit(of: Asked, user_agent: &str) -> Visit<'_> {
        Visit { of, method: "GET", user_agent, purpose: "", after_s: 3_600, links: 1 }
    }

    fn source_of(visit: &Visit<'_>) -> &'static str {
        ClientRules::current().judge(visit).open_source
    }

    #[test]
    fn every_rule_decides_its_example_and_names_its_source() {
        let rules = ClientRules::parse(FILE).unwrap();
        let file: File = toml::from_str(FILE).unwrap();
        assert!(file.rule.len() > 8);
        for entry in file.rule {
            let example = entry.example;
            let visit = Visit {
                of: example.of,
                method: example.method.as_deref().unwrap_or("GET"),
                user_agent: example.user_agent.as_deref().unwrap_or_default(),
                purpose: example.purpose.as_deref().unwrap_or_default(),
                after_s: example.after_s.unwrap_or(3_600),
                links: example.links.unwrap_or(1),
            };
            let said = rules.judge(&visit);
            assert_eq!((said.rule, said.version), (entry.id.as_str(), file.version.as_str()));
            assert!(["direct", "proxied", "prefetched", "scanner"].contains(&said.open_source), "{said:?}");
            assert!(entry.source.len() > 20, "{}: where does it say so?", entry.id);
        }
    }

    #[test]
    fn people_machines_and_what_nobody_knows() {
        use Asked::{Click, Open};
        for (of, user_agent, open_source) in [
            (Open, CHROME, "direct"),
            (Click, CHROME, "direct"),
            (Open, "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15", "direct"),
            (Open, "Mozilla/5.0 (Linux; Android 10; CUBOT_X30) AppleWebKit/537.36", "direct"),
            (Open, "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17928; Pro)", "direct"),
            (Open, "Mozilla/5.0", "prefetched"),
            (Click, "Mozilla/5.0", "unknown"),
            (Open, "", "unknown"),
            (Open, "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "proxied"),
            (Click, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "scanner"),
            (Click, "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/130.0.0.0 Safari/537.36", "scanner"),
            (Open, "Go-http-client/1.1", "scanner"),
            (Open, "Mozilla/5.0 (Mimecast URL Protect)", "scanner"),
            (Click, "something of its own", "unknown"),
        ] {
            assert_eq!(source_of(&visit(of, user_agent)), open_source, "{of:?} {user_agent}");
        }
    }

    #[test]
    fn time_and_number_tell_scanners_that_call_themselves_browsers() {
        for (after_s, links, open_source) in
            [(0, 1, "scanner"), (3, 1, "scanner"), (4, 1, "direct"), (600, 2, "direct"), (600, 3, "scanner")]
        {
            let visit = Visit { after_s, links, ..visit(Asked::Click, CHROME) };
            assert_eq!(source_of(&visit), open_source, "{after_s} s, {links} links");
        }
        let open = Visit { after_s: 0, ..visit(Asked::Open, CHROME) };
        assert_eq!(source_of(&open), "direct", "a phone in the hand shows a mail at once");
        let clock = Visit { after_s: -5, ..visit(Asked::Click, CHROME) };
        assert_eq!(source_of(&clock), "direct", "a clock that went back proves nothing");
    }

    #[test]
    fn long_and_strange_headers_are_looked_at_in_part() {
        let long = "é".repeat(1 << 20);
        assert_eq!(source_of(&visit(Asked::Open, &long)), "unknown");
    }
}
