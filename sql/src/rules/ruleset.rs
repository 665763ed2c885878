//! A ruleset: read from its file with every fault named, and asked what a refusal means. Pure.

use std::fmt;
use std::sync::LazyLock;

use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;
use toml::Spanned;

use super::matcher::{CodePattern, StatusPattern};
use super::text::{self, Reading};
use super::{Action, Category, Class, Classified, Said};

/// The id under which a refusal stands that no rule knows.
pub const UNCLASSIFIED: &str = "unclassified";

/// Most bytes of compiled patterns: far more than needed, and a bound for files that users write.
const COMPILED_BYTES_MAX: usize = 64 << 20;
/// Most bytes of the search's cache, per thread.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// The rulesets that come with this build, oldest first.
const FILES: &[&str] = &[include_str!("../../rules/2026-11-22.toml")];

static BUILT_IN: LazyLock<Vec<Ruleset>> =
    LazyLock::new(|| FILES.iter().filter_map(|file| Ruleset::parse(file).ok()).collect());
static NONE: LazyLock<Ruleset> = LazyLock::new(Ruleset::empty);

/// Why a rule file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error("the rule file is not TOML of the expected form: {0}")]
    Form(String),
    #[error("rule {rule}, line {line}: {problem}")]
    Rule { rule: String, line: usize, problem: String },
    #[error("the patterns together do not compile: {0}")]
    TooLarge(String),
}

/// One rule. It fits when everything that it names fits.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: String,
    pub category: Category,
    pub reason: String,
    pub class: Class,
    pub action: Action,
    /// A refusal that this rule decides.
    pub example: Option<String>,
    pub pattern: Option<String>,
    providers: Vec<String>,
    commands: Vec<String>,
    codes: Vec<CodePattern>,
    statuses: Vec<StatusPattern>,
}

/// Rules in their order: the first that fits decides.
#[derive(Clone, Debug)]
pub struct Ruleset {
    version: String,
    rules: Vec<Rule>,
    patterns: RegexSet,
    /// For each rule, its place in `patterns`.
    places: Vec<Option<usize>>,
}

impl Ruleset {
    /// Reads a rule file. A fault names the rule, its line and what to do.
    pub fn parse(file: &str) -> Result<Self, RulesError> {
        let raw: RawFile = toml::from_str(file).map_err(|error| RulesError::Form(error.to_string()))?;
        let mut rules: Vec<Rule> = Vec::with_capacity(raw.rule.len());
        for raw_rule in raw.rule {
            let line = line_of(file, raw_rule.id.span().start);
            let id = raw_rule.id.get_ref().clone();
            let rule =
                raw_rule.build().map_err(|problem| RulesError::Rule { rule: id.clone(), line, problem })?;
            if rules.iter().any(|earlier| earlier.id == rule.id) {
                let problem = "the id is taken by an earlier rule; give this one another".into();
                return Err(RulesError::Rule { rule: id, line, problem });
            }
            rules.push(rule);
        }
        let mut places = Vec::with_capacity(rules.len());
        let mut patterns = Vec::new();
        for rule in &rules {
            places.push(rule.pattern.as_ref().map(|pattern| {
                patterns.push(pattern.as_str());
                patterns.len() - 1
            }));
        }
        let patterns = compile(&patterns).map_err(|error| RulesError::TooLarge(error.to_string()))?;
        Ok(Self { version: raw.version, rules, patterns, places })
    }

    /// The ruleset in force.
    pub fn current() -> &'static Self {
        BUILT_IN.last().unwrap_or(&NONE)
    }

    /// The ruleset of that version, if this build has it.
    pub fn by_version(version: &str) -> Option<&'static Self> {
        BUILT_IN.iter().find(|ruleset| ruleset.version == version)
    }

    /// Every version that this build has, oldest first.
    pub fn versions() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|ruleset| ruleset.version.as_str())
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What a refusal means. There is always an answer: what no rule knows is `unclassified`, soft or a block by
    /// its code, and never suppresses.
    pub fn classify(&self, said: &Said<'_>) -> Classified {
        let reading = Reading::of(said);
        let found = self.patterns.matches(reading.text.as_bytes());
        let fits = |(rule, place): &(&Rule, &Option<usize>)| {
            place.is_none_or(|place| found.matched(place)) && rule.fits(said, &reading)
        };
        match self.rules.iter().zip(&self.places).find(fits) {
            Some((rule, _)) => Classified {
                category: rule.category,
                reason: rule.reason.clone(),
                class: rule.class,
                action: softened(rule.action, &reading),
                rule: rule.id.clone(),
                ruleset_version: self.version.clone(),
            },
            None => self.unclassified(&reading),
        }
    }

    fn unclassified(&self, reading: &Reading) -> Classified {
        let permanent = reading.severity == Some(5);
        Classified {
            category: Category::Unclassified,
            reason: UNCLASSIFIED.into(),
            class: if permanent { Class::Block } else { Class::Soft },
            action: if permanent { Action::GiveUp } else { Action::Retry },
            rule: UNCLASSIFIED.into(),
            ruleset_version: self.version.clone(),
        }
    }

    fn empty() -> Self {
        Self { version: "none".into(), rules: Vec::new(), patterns: RegexSet::empty(), places: Vec::new() }
    }
}

/// A 4yz asks for another attempt, whatever it speaks of: it neither suppresses nor ends a message.
fn softened(action: Action, reading: &Reading) -> Action {
    match action {
        Action::Suppress | Action::GiveUp if reading.severity == Some(4) => Action::Retry,
        action => action,
    }
}

impl Rule {
    fn fits(&self, said: &Said<'_>, reading: &Reading) -> bool {
        let provider =
            |known: &String| said.provider.is_some_and(|provider| known.eq_ignore_ascii_case(provider));
        let command = |known: &String| known.eq_ignore_ascii_case(said.smtp_command.unwrap_or("untold"));
        let code = |pattern: &CodePattern| pattern.fits(reading.code, reading.severity);
        let status = |pattern: &StatusPattern| reading.status.is_some_and(|status| pattern.fits(status));
        (self.providers.is_empty() || self.providers.iter().any(provider))
            && (self.commands.is_empty() || self.commands.iter().any(command))
            && (self.codes.is_empty() || self.codes.iter().any(code))
            && (self.statuses.is_empty() || self.statuses.iter().any(status))
    }
}

fn compile(patterns: &[&str]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(patterns)
        .case_insensitive(true)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .build()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: String,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    id: Spanned<String>,
    category: String,
    reason: String,
    class: String,
    action: String,
    pattern: Option<String>,
    example: Option<String>,
    #[serde(default)]
    provider: OneOrMore,
    #[serde(default)]
    smtp_command: OneOrMore,
    #[serde(default)]
    reply_code: OneOrMore,
    #[serde(default)]
    enhanced_status: OneOrMore,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    #[default]
    None,
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(value) => vec![value],
            Self::More(values) => values,
        }
    }
}

const COMMANDS: [&str; 8] = ["CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "DOT", "untold"];

impl RawRule {
    fn build(self) -> Result<Rule, String> {
        let id = self.id.into_inner();
        if !id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            || id.is_empty()
            || id == UNCLASSIFIED
        {
            return Err("an id is made of a-z, 0-9 and hyphens, and is not `unclassified`".into());
        }
        if self.reason.is_empty()
            || !self.reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            return Err(format!("reason {:?}: use a-z and underscores", self.reason));
        }
        if let Some(pattern) = &self.pattern {
            if pattern.is_empty() {
                return Err("the pattern is empty; leave it out if any text fits".into());
            }
            compile(&[pattern]).map_err(|error| format!("the pattern cannot be used: {}", brief(&error)))?;
        }
        let commands = self.smtp_command.list();
        for command in &commands {
            if !COMMANDS.contains(&command.as_str()) {
                return Err(unknown("smtp_command", command, COMMANDS));
            }
        }
        Ok(Rule {
            category: word("category", &self.category, Category::ALL)?,
            class: word("class", &self.class, Class::ALL)?,
            action: word("action", &self.action, Action::ALL)?,
            reason: self.reason,
            example: self.example,
            pattern: self.pattern,
            providers: self.provider.list(),
            commands,
            codes: self.reply_code.list().iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            statuses: self
                .enhanced_status
                .list()
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
            id,
        })
    }
}

fn word<T: Copy + fmt::Display>(field: &str, text: &str, all: &[T]) -> Result<T, String> {
    all.iter().copied().find(|one| one.to_string() == text).ok_or_else(|| unknown(field, text, all))
}

fn unknown<T: fmt::Display>(field: &str, text: &str, all: impl IntoIterator<Item = T>) -> String {
    let known: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    format!("{field} {text:?} is unknown; it is one of {}", known.join(", "))
}

/// The last line of a regex error says what is wrong; those before draw the pattern.
fn brief(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().into()
}

fn line_of(file: &str, offset: usize) -> usize {
    file.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The first enhanced status that stands in a text, as a report's parser needs it.
pub fn status_in(text: &str) -> Option<String> {
    text::status_in(text).map(|(class, subject, detail)| format!("{class}.{subject}.{detail}"))
}

#[cfg(test)]
mod tests;
