//! The statements that a warehouse's administrator runs, or reads to see what sendlake does.

use super::names::{clustering, fill, quoted, sql_type_of, tables};
use super::settings::{Settings, split_bucket};
use super::table::{LEDGER_COLUMNS, WRITER_COLUMNS};
use crate::mapping::Mapping;

const DDL: &str = include_str!("sql/ddl.sql");
const IN_PLACE: &str = include_str!("sql/in_place.sql");

/// Datasets, tables, grants, and how to read the Delta table `lake_url`/`events` in place. What only the reader knows stands
/// in capitals.
pub fn ddl(settings: &Settings, mapping: &Mapping, lake_url: &str) -> String {
    let Settings { project, dataset, .. } = settings;
    let columns: Vec<String> = mapping
        .columns
        .iter()
        .map(|column| {
            let required = if column.nullable { "" } else { " NOT NULL" };
            format!("  `{}` {}{required}", column.name, sql_type_of(column.kind))
        })
        .collect();
    let own = |columns: &[(&str, &str, &str)]| {
        let line = |(name, kind, about): &(&str, &str, &str)| {
            let kind = if *kind == "INTEGER" { "INT64" } else { kind };
            format!("  `{name}` {kind} OPTIONS (description = '{about}')")
        };
        columns.iter().map(line).collect::<Vec<_>>().join(",\n")
    };
    let mut datasets = vec![dataset.as_str()];
    let mut staging_schema = String::new();
    if let Some(staging) = settings.staging_dataset.as_deref().filter(|staging| staging != dataset) {
        datasets.push(staging);
        staging_schema = format!(
            "-- Staging tables: what an abandoned batch leaves goes after a week.\n\
             CREATE SCHEMA IF NOT EXISTS `{project}`.`{staging}` OPTIONS (default_table_expiration_days = 7);\n"
        );
    }
    let grant = |dataset: &&str| {
        format!(
            "GRANT `roles/bigquery.dataEditor` ON SCHEMA `{project}`.`{dataset}` TO 'serviceAccount:SENDLAKE_ACCOUNT';"
        )
    };
    let bucket_grant = settings.bucket.as_deref().and_then(split_bucket).map_or(String::new(), |(bucket, _)| {
        format!(
            "-- And the files on their way:\n--   gcloud storage buckets add-iam-policy-binding gs://{bucket} \
             --member=serviceAccount:SENDLAKE_ACCOUNT --role=roles/storage.objectUser\n"
        )
    });
    let mut values = Vec::from(tables(settings));
    values.extend([
        ("connector_section", "[export.<connector>.bigquery]".to_owned()),
        ("project", project.clone()),
        ("dataset", format!("`{project}`.`{dataset}`")),
        ("staging_schema", staging_schema),
        ("columns", columns.join(",\n")),
        ("clustering", clustering(mapping).join(", ")),
        ("ledger_columns", own(&LEDGER_COLUMNS)),
        ("writer_columns", own(&WRITER_COLUMNS)),
        ("grants", datasets.iter().map(grant).collect::<Vec<_>>().join("\n")),
        ("bucket_grant", bucket_grant),
        ("in_place", in_place(settings, mapping, lake_url)),
    ]);
    fill(DDL, &values)
}

fn in_place(settings: &Settings, mapping: &Mapping, lake_url: &str) -> String {
    let Some((bucket, prefix)) = split_bucket(lake_url) else {
        return format!(
            "-- The lake lies at {lake_url}: BigQuery reads Delta tables in place from Cloud Storage alone, so there is \
             nothing\n-- to read here without copying.\n"
        );
    };
    let folder = [bucket, prefix, &mapping.table].into_iter().filter(|part| !part.is_empty());
    let url = format!("gs://{}", folder.collect::<Vec<_>>().join("/"));
    let connection = settings.connection.clone().unwrap_or_else(|| "LOCATION.CONNECTION".to_owned());
    let external = quoted(&settings.project, &settings.dataset, &format!("{}_in_place", mapping.table));
    let values = [
        ("external", external),
        ("connection", format!("{}.{connection}", settings.project)),
        ("bucket", bucket.to_owned()),
        ("url", url.replace('\'', "%27")),
    ];
    fill(IN_PLACE, &values)
}
