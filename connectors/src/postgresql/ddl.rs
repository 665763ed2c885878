//! The statements that somebody runs by hand: role, schema, tables, and the lake in place.

use super::LEDGER;
use super::schema::definitions;
use super::settings::{Partition, Settings};
use crate::mapping::Mapping;
use crate::statement::{fill, identifier, text};

/// All statements for `mapping`; `lake_url` is the lake's folder, in which the Delta table `events` is one.
pub fn ddl(settings: &Settings, mapping: &Mapping, lake_url: &str) -> String {
    let schema = identifier(&settings.schema);
    let ledger =
        fill(include_str!("sql/ledger.sql"), &[("ledger", &format!("{schema}.{}", identifier(LEDGER)))]);
    let table_url = format!("{}/{}/", lake_url.trim_end_matches('/'), mapping.table);
    let values = [
        ("user", identifier(if settings.user.is_empty() { "sendlake" } else { &settings.user })),
        ("database", identifier(&settings.database)),
        ("schema", schema),
        ("ledger_table", ledger),
        ("table", table(settings, mapping)),
        ("lake_url", lake_url.to_owned()),
        ("table_url", text(&table_url)),
    ];
    let mut printed = include_str!("sql/setup.sql").to_owned();
    for (name, value) in values {
        printed = printed.replace(&format!("{{{name}}}"), &value);
    }
    printed
}

/// The statements that make the table.
pub(super) fn table(settings: &Settings, mapping: &Mapping) -> String {
    let name = settings.table_name(&mapping.table);
    let partition = match settings.partition {
        Partition::Month => " PARTITION BY RANGE (event_date)",
        Partition::None => "",
    };
    fill(
        include_str!("sql/table.sql"),
        &[
            ("target", &format!("{}.{}", identifier(&settings.schema), identifier(name))),
            ("columns", &definitions(mapping).join(",\n  ")),
            ("partition", partition),
            ("tenant_index", &identifier(&format!("{name}_tenant"))),
            ("time_index", &identifier(&format!("{name}_time"))),
        ],
    )
}
