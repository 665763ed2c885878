//! A ruleset: read from its file with every fault named, and asked what a refusal means. Pure.

use std::fmt;
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use toml::Spanned;

use super::matcher::{CodePattern, StatusPattern};
use super::text::{self, Reading};
use super::{Action, Category, Class, Classified, Said};

/// The id under which a refusal stands that no rule knows.
pub const UNCLASSIFIED: &str = "unclassified";

/// Most bytes of a compiled pattern: far more than needed, and a bound for files that users write.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// Most bytes of a search's cache, per pattern and thread.
const CACHE_BYTES_MAX: usize = 256 << 10;

/// The rulesets that come with this build, oldest first.
const FILES: &[&str] = &[
    include_str!("../../rules/2026-11-22.toml"),
    include_str!("../../rules/2026-11-22.2.toml"),
    include_str!("../../rules/2026-11-22.3.toml"),
];

static BUILT_IN: LazyLock<Vec<Ruleset>> = LazyLock::new(|| {
    FILES.iter().fold(Vec::new(), |mut known, file| {
        known.extend(Ruleset::parse_over(file, &known));
        known
    })
});
static NONE: LazyLock<Ruleset> = LazyLock::new(Ruleset::empty);
/// Rulesets of the user's, the newest last. They live as long as the process.
static OFFERED: RwLock<Vec<&'static Ruleset>> = RwLock::new(Vec::new());
/// The user's ruleset that is in force, if one is.
static IN_FORCE: OnceLock<&'static Ruleset> = OnceLock::new();

/// Why a rule file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error("the rule file is not TOML of the expected form: {0}")]
    Form(String),
    #[error("rule {rule}, line {line}: {problem}")]
    Rule { rule: String, line: usize, problem: String },
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
    matcher: Option<Regex>,
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
}

impl Ruleset {
    /// Reads a rule file, which may name a ruleset of this build as the `base` that it changes. A fault names the rule,
    /// its line and what to do.
    pub fn parse(file: &str) -> Result<Self, RulesError> {
        Self::parse_over(file, &BUILT_IN)
    }

    fn parse_over(file: &str, known: &[Self]) -> Result<Self, RulesError> {
        let raw: RawFile = toml::from_str(file).map_err(|error| RulesError::Form(error.to_string()))?;
        let base = match &raw.base {
            None => None,
            Some(base) => {
                let found = known.iter().find(|ruleset| &ruleset.version == base);
                Some(found.ok_or_else(|| {
                    let known: Vec<&str> = known.iter().map(|ruleset| ruleset.version.as_str()).collect();
                    RulesError::Form(format!(
                        "base {base:?} is no ruleset of this build; it has {}",
                        known.join(", ")
                    ))
                })?)
            }
        };
        if known.iter().any(|ruleset| ruleset.version == raw.version) {
            return Err(RulesError::Form(format!(
                "version {:?} is taken; give the file another",
                raw.version
            )));
        }
        let mut rules = base.map(|base| base.rules.clone()).unwrap_or_default();
        for gone in &raw.remove {
            let at = rules.iter().position(|rule| &rule.id == gone).ok_or_else(|| {
                RulesError::Form(format!("remove names {gone:?}, which is no rule of the base"))
            })?;
            rules.remove(at);
        }
        let mut own: Vec<String> = Vec::with_capacity(raw.rule.len());
        for raw_rule in raw.rule {
            let line = line_of(file, raw_rule.id.span().start);
            let id = raw_rule.id.get_ref().clone();
            let fault = |problem: String| RulesError::Rule { rule: id.clone(), line, problem };
            let before = raw_rule.before.clone();
            let rule = raw_rule.build().map_err(fault)?;
            if own.contains(&rule.id) {
                return Err(fault("the id is taken by an earlier rule; give this one another".into()));
            }
            own.push(rule.id.clone());
            place(&mut rules, rule, before.as_deref(), base.is_some()).map_err(fault)?;
        }
        Ok(Self { version: raw.version, rules })
    }

    /// The ruleset in force: the user's if there is one, else the newest of this build.
    pub fn current() -> &'static Self {
        IN_FORCE.get().copied().or_else(|| BUILT_IN.last()).unwrap_or(&NONE)
    }

    /// The ruleset of that version, if this build has it or it was offered.
    pub fn by_version(version: &str) -> Option<&'static Self> {
        let offered = OFFERED.read().unwrap_or_else(PoisonError::into_inner);
        let built_in = BUILT_IN.iter().chain(offered.iter().copied());
        built_in.into_iter().find(|ruleset| ruleset.version == version)
    }

    /// Every version that [`Self::by_version`] knows, oldest first.
    pub fn versions() -> Vec<&'static str> {
        let offered = OFFERED.read().unwrap_or_else(PoisonError::into_inner);
        BUILT_IN.iter().chain(offered.iter().copied()).map(|ruleset| ruleset.version.as_str()).collect()
    }

    /// Makes a user's ruleset known by its version, for as long as the process lives. The same version again is the
    /// first one.
    pub fn offer(self) -> &'static Self {
        if let Some(known) = Self::by_version(&self.version) {
            return known;
        }
        let ruleset: &'static Self = Box::leak(Box::new(self));
        OFFERED.write().unwrap_or_else(PoisonError::into_inner).push(ruleset);
        ruleset
    }

    /// Puts an offered ruleset in force. Once for a process, before anything is classified; later calls change nothing.
    pub fn put_in_force(&'static self) {
        IN_FORCE.get_or_init(|| self);
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
        // One pattern after another: as one set they would share an automaton of far more states than replies repeat.
        match self.rules.iter().find(|rule| rule.fits(said, &reading)) {
            Some(rule) => Classified {
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
        Self { version: "none".into(), rules: Vec::new() }
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
            && self.matcher.as_ref().is_none_or(|matcher| matcher.is_match(reading.text.as_bytes()))
    }
}

/// Puts a rule where its file wants it: over the rule of the base that has its id, or before the one it names.
fn place(rules: &mut Vec<Rule>, rule: Rule, before: Option<&str>, has_base: bool) -> Result<(), String> {
    let known = rules.iter().position(|other| other.id == rule.id);
    let at = match (before, known) {
        (None, Some(at)) => {
            rules.remove(at);
            at
        }
        (None, None) if has_base => {
            return Err(
                "the base has no such rule: add before = \"…\", the rule that it is asked ahead of".into()
            );
        }
        (None, None) => rules.len(),
        (Some(before), known) => {
            if let Some(at) = known {
                rules.remove(at);
            }
            let at = rules.iter().position(|other| other.id == before);
            at.ok_or_else(|| format!("before names {before:?}, which is no rule here"))?
        }
    };
    rules.insert(at, rule);
    Ok(())
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
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
    base: Option<String>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    id: Spanned<String>,
    before: Option<String>,
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

pub(super) const COMMANDS: [&str; 8] =
    ["CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "DOT", "untold"];

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
        if self.pattern.as_deref() == Some("") {
            return Err("the pattern is empty; leave it out if any text fits".into());
        }
        let matcher = self.pattern.as_deref().map(compile).transpose();
        let matcher = matcher.map_err(|error| format!("the pattern cannot be used: {}", brief(&error)))?;
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
            matcher,
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
