//! The configuration and its documentation agree.

use super::{Config, Pool, Route, Source};

const MANUAL: &str = include_str!("../../docs/configuration.md");

/// Every key with its default as TOML, lists of tables with the first entry's keys.
fn keys() -> Vec<(String, String)> {
    let config = Config {
        source: vec![Source { bind: Some([192, 0, 2, 1].into()), ..Source::default() }],
        pool: vec![Pool::default()],
        route: vec![Route::default()],
        ..Config::default()
    };
    let mut found = Vec::new();
    for (section, value) in toml::Table::try_from(config).unwrap() {
        let fields = match value {
            toml::Value::Array(entries) => entries.into_iter().next().unwrap(),
            table => table,
        };
        for (key, default) in fields.as_table().unwrap() {
            found.push((format!("{section}.{key}"), default.to_string()));
        }
    }
    found
}

fn row(key: &str) -> Option<&'static str> {
    MANUAL.lines().find(|line| line.starts_with(&format!("| `{key}` |")))
}

#[test]
fn every_key_is_in_the_manual() {
    let missing: Vec<_> = keys().into_iter().filter(|(key, _)| row(key).is_none()).collect();
    assert!(missing.is_empty(), "docs/configuration.md has no row for {missing:?}");
}

#[test]
fn the_manual_tells_the_true_defaults_and_variables() {
    for (key, default) in keys() {
        let row = row(&key).unwrap_or_default();
        if !["source.bind"].contains(&key.as_str()) {
            assert!(row.contains(&format!("| `{default}` |")), "{key} is {default} by default: {row}");
        }
        if !["source.", "pool.", "route."].iter().any(|list| key.starts_with(list)) {
            let variable = format!("`SENDLAKE_{}`", key.to_uppercase().replace('.', "__"));
            assert!(row.contains(&variable), "{key} is set by {variable}: {row}");
        }
    }
}

#[test]
fn the_manual_has_no_key_that_is_not_there() {
    let known: Vec<String> = keys().into_iter().map(|(key, _)| key).collect();
    for line in MANUAL.lines().filter(|line| line.starts_with("| `")) {
        let key = line.trim_start_matches("| `").split('`').next().unwrap_or_default();
        assert!(known.iter().any(|name| name == key), "{key} is in the manual, and no key");
    }
}
