//! Mail that comes back: whatever it is, it is read within bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::report::{RECIPIENTS_MAX, Report, TEXT_CHARS_MAX};
use sendlake_sql::rules::{Action, Ruleset};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Report::Dsn(entries)) = Report::parse(bytes) {
        assert!(!entries.is_empty() && entries.len() <= RECIPIENTS_MAX);
        for entry in entries {
            assert!(entry.text.chars().count() <= TEXT_CHARS_MAX);
            let found = entry.classify(Ruleset::current());
            let passing = entry.reply_code.is_some_and(|code| code < 500);
            assert!(!passing || found.action != Action::Suppress, "{entry:?}");
        }
    }
});
