//! What a check says of every address: a second reading of the file, when all that is known of its addresses is known.

use std::io::Read;

use serde::Serialize;

use super::super::facts::FACTS;
use super::super::judge::{Finding, Findings, look};
use super::super::plan::{FRESHNESS, UNPROVEN};
use super::{Check, PLANNED_SCORE_MIN, SAME_MAILBOX, TOLD, Unchecked, number};
use crate::suppressions::exchange::{self, Place};

/// One address of the file, as it stands there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressRow {
    /// Where it stands: the line, or the entry of a JSON document, from 1.
    pub line: u64,
    /// Lower case where it is an address; else what stands there.
    pub address: String,
    /// 0 to 100.
    pub score: u8,
    /// The words of [`Finding`], and `duplicate` and `same_mailbox` for what an earlier line has.
    pub findings: Vec<&'static str>,
    /// The address that was probably meant.
    pub suggestion: Option<String>,
    /// Whose share of the plan it is in.
    pub provider: String,
    /// Days since the last delivery, in the words of the plan's steps; none where that is not known.
    pub freshness: Option<&'static str>,
    /// `keep`: delivered to in the last 90 days, or nothing is known of deliveries. `drip`: only as the plan says.
    /// `drop`: under fifty points, or an earlier line has it.
    pub recommendation: &'static str,
    /// Why it is malformed.
    pub why: Option<String>,
}

impl AddressRow {
    pub const COLUMNS: [&str; 9] = [
        "line",
        "address",
        "score",
        "findings",
        "suggestion",
        "provider",
        "freshness",
        "recommendation",
        "why",
    ];

    /// The fields of a CSV row, findings with a space between them.
    pub fn fields(&self) -> [String; 9] {
        [
            self.line.to_string(),
            self.address.clone(),
            self.score.to_string(),
            self.findings.join(" "),
            self.suggestion.clone().unwrap_or_default(),
            self.provider.clone(),
            self.freshness.unwrap_or_default().to_owned(),
            self.recommendation.to_owned(),
            self.why.clone().unwrap_or_default(),
        ]
    }
}

impl Check {
    /// Hands over a row for each record of the file that was read, in its order, holding one at a time; stops where
    /// `each` says no. To be called after [`Check::report`].
    pub fn addresses(
        &mut self,
        file: impl Read,
        each: &mut dyn FnMut(AddressRow) -> bool,
    ) -> Result<(), Unchecked> {
        let format = self.asked.format;
        exchange::read_addresses(file, format, &mut |place, text| {
            let (Place::Line(line) | Place::Item(line)) = place;
            each(self.row(line, text))
        })?;
        Ok(())
    }

    fn row(&mut self, line: u64, text: Result<String, String>) -> AddressRow {
        let (text, seen) = match text {
            Ok(text) => {
                let seen = look(&text, &FACTS);
                (text, seen)
            }
            Err(why) => (String::new(), Err(why)),
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => {
                return AddressRow {
                    line,
                    address: text,
                    score: 0,
                    findings: vec![Finding::Malformed.as_str()],
                    suggestion: None,
                    provider: String::new(),
                    freshness: None,
                    recommendation: "drop",
                    why: Some(why),
                };
            }
        };
        let mut findings = seen.findings;
        let (mut provider, mut freshness, mut further) = (0, None, Vec::new());
        if let Some(known) = self.known.get_mut(&number(self.control.address_hasher().hash(&seen.address))) {
            findings = known.findings;
            provider = known.provider;
            freshness = Some(usize::from(known.freshness)).filter(|_| self.knows_deliveries);
            if known.bits & TOLD != 0 {
                further.push("duplicate");
            } else if known.bits & SAME_MAILBOX != 0 {
                further.push("same_mailbox");
            }
            known.bits |= TOLD;
        }
        let score = findings.score();
        let recommendation = match freshness {
            _ if score < PLANNED_SCORE_MIN || further.contains(&"duplicate") => "drop",
            Some(age) if age >= UNPROVEN => "drip",
            _ => "keep",
        };
        let local = seen.address.rsplit_once('@').map_or("", |(local, _)| local);
        AddressRow {
            line,
            score,
            findings: Findings::iter(findings).map(Finding::as_str).chain(further).collect(),
            suggestion: seen.meant.map(|domain| format!("{local}@{domain}")),
            provider: self.providers.get(usize::from(provider)).cloned().unwrap_or_default(),
            freshness: freshness.and_then(|age| FRESHNESS.get(age).copied()),
            recommendation,
            why: None,
            address: seen.address,
        }
    }
}
