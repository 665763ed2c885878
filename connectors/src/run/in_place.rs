//! Manifests for readers of the lake that know no Delta log, kept beside the table: Redshift Spectrum's.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sendlake_ingest::table::EventsTable;

use super::{Connector, ExportError, Exporter};
use crate::redshift::spectrum::{MANIFESTS, spectrum_manifest};
use crate::target::TargetError;

impl Exporter {
    /// Writes the manifests of the table's live files anew where they have changed, and removes those of days that are gone.
    /// Returns how many objects were touched; none unless the connector asks for them.
    pub(super) async fn keep_manifests(&self, connector: &Connector) -> Result<u64, ExportError> {
        if !connector.settings.redshift.as_ref().is_some_and(|redshift| redshift.spectrum) {
            return Ok(0);
        }
        let reached = self.lake.reached().await?;
        let table_url = self.store.table_url(EventsTable::NAME);
        let files: Vec<(String, String)> = self
            .lake
            .slice_files(&reached.pinned)?
            .iter()
            .map(|file| (file.day().to_owned(), format!("{table_url}{}", file.path())))
            .collect();
        let table = Path::from_url_path(table_url.path()).unwrap_or_default();
        let failed = |error: object_store::Error| {
            TargetError::Away(format!("the manifests at {table_url}{MANIFESTS} cannot be kept: {error}"))
        };
        let folder = table.clone().join(MANIFESTS);
        let there = self.store.root.list(Some(&folder)).map_ok(|meta| meta.location);
        let mut over: BTreeSet<Path> = there.try_collect().await.map_err(failed)?;
        let mut touched = 0;
        for object in spectrum_manifest(&files) {
            let place = object.path.split('/').fold(table.clone(), |path, part| path.join(part));
            let is_known = over.remove(&place);
            let same = match is_known {
                true => {
                    let got = async { self.store.root.get(&place).await?.bytes().await };
                    got.await.map_err(failed)? == object.text.as_bytes()
                }
                false => false,
            };
            if !same {
                self.store.root.put(&place, object.text.into()).await.map_err(failed)?;
                touched += 1;
            }
        }
        for place in over {
            self.store.root.delete(&place).await.map_err(failed)?;
            touched += 1;
        }
        Ok(touched)
    }
}

#[cfg(test)]
mod tests {
    use crate::redshift;
    use crate::run::tests::Bed;

    #[tokio::test(flavor = "multi_thread")]
    async fn manifests_follow_the_tables_files() {
        let mut bed = Bed::new().await;
        bed.log(50).await;
        let wanted = bed.connector(|settings| {
            settings.redshift = Some(redshift::Settings { spectrum: true, ..redshift::Settings::default() });
        });
        assert_eq!(bed.exporter.keep_manifests(&bed.connector(|_| {})).await.unwrap(), 0, "nobody asked");
        assert_eq!(bed.exporter.keep_manifests(&wanted).await.unwrap(), 1);
        assert_eq!(bed.exporter.keep_manifests(&wanted).await.unwrap(), 0, "nothing has changed");
        bed.log(50).await;
        assert_eq!(bed.exporter.keep_manifests(&wanted).await.unwrap(), 1);
        let manifests = bed.dir.path().join("lake/events/_symlink_format_manifest");
        let text = std::fs::read_to_string(manifests.join("event_date=2026-01-31/manifest")).unwrap();
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let path = url::Url::parse(line).unwrap().to_file_path().unwrap();
            assert!(path.exists(), "{line}");
        }
        // A day that has lost its files is in no manifest.
        let old = manifests.join("event_date=2020-01-01");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("manifest"), "gone").unwrap();
        assert_eq!(bed.exporter.keep_manifests(&wanted).await.unwrap(), 1);
        assert!(!old.join("manifest").exists());
    }
}
