//! The lake in place by Redshift Spectrum: manifests of the Delta table's live files, in the layout that external tables
//! over Delta Lake read, and the statements that register them.

use std::collections::BTreeMap;

use crate::statement::{identifier, text};

/// The folder of manifests, in the table's own.
pub const MANIFESTS: &str = "_symlink_format_manifest";

/// One object to write: where, below the table's folder, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestObject {
    pub path: String,
    pub text: String,
}

/// The manifests of live files, each with its day (`2026-01-31`) and URL (`s3://…`): one object per day, a URL a line, in a
/// fixed order, so that a manifest which did not change has the same bytes. A day that has lost all its files is in none:
/// its old manifest is to be deleted and its partition dropped.
pub fn spectrum_manifest(files: &[(String, String)]) -> Vec<ManifestObject> {
    let mut days: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (day, url) in files {
        days.entry(day).or_default().push(url);
    }
    days.into_iter()
        .map(|(day, mut urls)| {
            urls.sort_unstable();
            let path = format!("{MANIFESTS}/event_date={day}/manifest");
            ManifestObject { path, text: urls.iter().map(|url| format!("{url}\n")).collect() }
        })
        .collect()
}

/// Registers days that have manifests; a day that is registered stays as it is. `table_url` is the Delta table's folder.
pub fn add_partitions<'a>(
    schema: &str,
    table: &str,
    table_url: &str,
    days: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let table_url = table_url.trim_end_matches('/');
    days.into_iter()
        .map(|day| {
            let place = text(&format!("{table_url}/{MANIFESTS}/event_date={day}"));
            format!(
                "ALTER TABLE {}.{} ADD IF NOT EXISTS PARTITION (event_date = {}) LOCATION {place};",
                identifier(schema),
                identifier(table),
                text(day)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_per_day_names_its_files_once_and_in_order() {
        let files = [("2026-01-02", "s3://b/x"), ("2026-01-01", "s3://b/z"), ("2026-01-02", "s3://b/a")];
        let files = files.map(|(day, url)| (day.to_owned(), url.to_owned()));
        let objects = spectrum_manifest(&files);
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[1].path, "_symlink_format_manifest/event_date=2026-01-02/manifest");
        assert_eq!(objects[1].text, "s3://b/a\ns3://b/x\n");
        let statements = add_partitions("lake", "events", "s3://b/lake/events/", ["2026-01-01"]);
        assert!(
            statements[0].ends_with("'s3://b/lake/events/_symlink_format_manifest/event_date=2026-01-01';")
        );
    }
}
