//! The statements that somebody runs by hand: database, user, tables, and the lake in place.

use super::settings::Settings;
use super::{ClickHouse, schema};
use crate::mapping::Mapping;
use crate::statement::{fill, identifier, text};

/// All statements for `mapping`; `lake_url` is the lake's folder, in which the Delta table `events` is one.
pub fn ddl(settings: &Settings, mapping: &Mapping, lake_url: &str) -> String {
    let pairs = place(settings, mapping);
    let pairs = pairs.each_ref().map(|(name, value)| (*name, value.as_str()));
    let table_url = format!("{}/{}/", lake_url.trim_end_matches('/'), mapping.table);
    // The engine takes S3 by HTTPS.
    let https_url = match table_url.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) {
        Some((bucket, path)) => format!("https://{bucket}.s3.amazonaws.com/{path}"),
        None => table_url,
    };
    let more = [
        ("database_statement", fill(include_str!("sql/database.sql"), &pairs)),
        ("ledger_table", fill(include_str!("sql/ledger.sql"), &pairs)),
        ("table", table(settings, mapping)),
        ("user", identifier(&settings.user)),
        ("https_url", text(&https_url)),
    ];
    let more = more.iter().map(|(name, value)| (*name, value.as_str()));
    let mut printed = include_str!("sql/setup.sql").to_owned();
    for (name, value) in more.chain(pairs) {
        printed = printed.replace(&format!("{{{name}}}"), value);
    }
    printed
}

/// The statement that makes the table.
pub(super) fn table(settings: &Settings, mapping: &Mapping) -> String {
    let columns = schema::definitions(mapping, settings.json).join(",\n  ");
    let pairs = place(settings, mapping);
    let mut values = pairs.each_ref().map(|(name, value)| (*name, value.as_str())).to_vec();
    values.push(("columns", &columns));
    fill(include_str!("sql/table.sql"), &values)
}

/// What all statements name.
pub(super) fn place(settings: &Settings, mapping: &Mapping) -> [(&'static str, String); 7] {
    let database = identifier(&settings.database);
    let table = settings.table_name(&mapping.table);
    let clustered = !settings.cluster.is_empty();
    [
        ("target", format!("{database}.{}", identifier(table))),
        ("ledger", format!("{database}.{}", identifier(ClickHouse::LEDGER))),
        ("database_text", text(&settings.database)),
        ("table_text", text(table)),
        (
            "on_cluster",
            if clustered { format!(" ON CLUSTER {}", identifier(&settings.cluster)) } else { String::new() },
        ),
        ("replicated", if clustered { "Replicated".to_owned() } else { String::new() }),
        ("database", database),
    ]
}
