//! The statements that somebody runs by hand: schema, grants, tables, and the lake in place.

use super::LEDGER;
use super::schema::definitions;
use super::settings::Settings;
use super::spectrum::{MANIFESTS, add_partitions};
use crate::mapping::{Column, Kind, Mapping};
use crate::statement::{fill, identifier, text};

/// All statements for `mapping`; `lake_url` is the lake's folder, in which the Delta table `events` is one.
pub fn ddl(settings: &Settings, mapping: &Mapping, lake_url: &str) -> String {
    let schema = identifier(&settings.schema);
    let target = format!("{schema}.{}", identifier(settings.table_name(&mapping.table)));
    let ledger = format!("{schema}.{}", identifier(LEDGER));
    let user = match (&settings.wire, settings.data_api.as_ref().and_then(|api| api.db_user.as_ref())) {
        (Some(wire), _) => identifier(&wire.user),
        (None, Some(user)) => identifier(user),
        (None, None) => identifier("IAMR:sendlake-exporter"),
    };
    let (iam_role, role_of_grant) = match settings.iam_role.as_str() {
        "default" => ("default".to_owned(), "default".to_owned()),
        arn => (text(arn), text(arn)),
    };
    let table = fill(
        include_str!("sql/table.sql"),
        &[("target", &target), ("columns", &definitions(mapping, settings.json).join(",\n  "))],
    );
    let ledger_table = fill(include_str!("sql/ledger.sql"), &[("ledger", &ledger)]);
    let setup = with_comments(
        include_str!("sql/setup.sql"),
        &[
            ("schema", schema.as_str()),
            ("database", &identifier(&settings.database)),
            ("user", &user),
            ("role_of_grant", &role_of_grant),
            ("ledger_table", &ledger_table),
            ("table", &table),
        ],
    );
    let table_url = format!("{}/{}", lake_url.trim_end_matches('/'), mapping.table);
    let external: Vec<String> = mapping
        .columns
        .iter()
        .filter(|column| column.name != "event_date")
        .map(|column| format!("{} {}", identifier(&column.name), external_type(column)))
        .collect();
    let lake_schema = format!("{}_lake", settings.schema);
    let day = add_partitions(&lake_schema, &mapping.table, &table_url, ["2026-01-31"]).join("\n");
    let in_place = with_comments(
        include_str!("sql/in_place.sql"),
        &[
            ("lake_schema", identifier(&lake_schema).as_str()),
            ("lake_table", &identifier(&mapping.table)),
            ("catalog", &text(&lake_schema)),
            ("iam_role", &iam_role),
            ("external_columns", &external.join(",\n  ")),
            ("manifests", &text(&format!("{table_url}/{MANIFESTS}"))),
            ("partitions", &day),
        ],
    );
    format!("{setup}\n\n{in_place}\n")
}

/// As the files of the lake have it: instants without a zone, which external tables do not know, and `tags` as a map.
fn external_type(column: &Column) -> &'static str {
    match column.kind {
        Kind::Json if column.name == "tags" => "MAP<VARCHAR(65535), VARCHAR(65535)>",
        Kind::Text | Kind::Json => "VARCHAR(65535)",
        Kind::Integer => "INTEGER",
        Kind::BigInt => "BIGINT",
        Kind::Boolean => "BOOLEAN",
        Kind::Timestamp => "TIMESTAMP",
        Kind::Date => "DATE",
    }
}

/// For who reads them: comments stay.
fn with_comments(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.trim().to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    text
}
