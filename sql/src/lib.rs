//! The data contract: views over the lake, each a file in `views/` that opens with its grain, its consumer
//! and its cost. The base relations, `events`, `as_of`, `domains` and the tables of reports, are not here: whoever runs the views provides
//! them.

pub mod clients;
pub mod rollups;
pub mod rules;

/// A named query over `events`, over `as_of` and `domains`, and over views that stand before it in [`VIEWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What queries call it. Stable: a breaking change gets a new name.
    pub name: &'static str,
    /// The whole file: the comment that opens it, then one `SELECT` without a semicolon.
    pub sql: &'static str,
}

impl View {
    /// The opening comment as text: what it is, its grain, its consumer and its cost.
    pub fn doc(&self) -> String {
        let lines = self.sql.lines().map_while(|line| line.strip_prefix("--"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }
}

macro_rules! views {
    ($($name:literal),* $(,)?) => {
        /// Every view, in dependency order: each reads only base relations and those before it.
        pub const VIEWS: &[View] =
            &[$(View { name: $name, sql: include_str!(concat!("../views/", $name, ".sql")) }),*];
    };
}

views![
    "attempts",
    "outcomes",
    "message_history",
    "bounces",
    "bounce_categories",
    "fbl_coverage",
    "engagement",
    "bounce_bursts",
    "recipient_freshness",
    "retracted_complaints",
    "reviews",
    "complaint_baseline",
    "warmup_ceiling",
    "quotas",
    "dmarc_sources",
    "dmarc_alignment",
    "dmarc_readiness",
    "tls_reports",
    "tls_sessions",
    "alerts",
    "provider_calibration",
];

/// What a check of a list knows of addresses, as dated data (TOML).
pub const LIST_FACTS: &str = include_str!("../lists/2026-11-22.toml");

/// The view of that name.
pub fn view(name: &str) -> Option<&'static View> {
    VIEWS.iter().find(|view| view.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_says_its_name_grain_consumer_and_cost() {
        for view in VIEWS {
            let doc = view.doc();
            assert_eq!(doc.lines().next(), Some(view.name));
            for part in ["What: ", "Grain: ", "Consumer: ", "Cost: "] {
                assert!(doc.lines().any(|line| line.starts_with(part)), "{} lacks {part}", view.name);
            }
        }
    }

    #[test]
    fn views_ask_neither_the_clock_nor_chance() {
        for view in VIEWS {
            let sql = view.sql.to_lowercase();
            for call in ["now()", "current_timestamp", "current_date", "random()", "uuid()"] {
                assert!(!sql.contains(call), "{} uses {call}", view.name);
            }
        }
    }

    #[test]
    fn views_are_plain_sql() {
        for sql in VIEWS.iter().map(|view| view.sql).chain([rollups::PARTIALS, rollups::FOLD]) {
            let sql = sql.to_lowercase();
            for dialect in ["distinct on", "qualify", "::", ";"] {
                let body = sql.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
                assert!(!body.contains(dialect), "{dialect} in {sql}");
            }
        }
    }
}
