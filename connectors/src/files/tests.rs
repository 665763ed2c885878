//! Files in a folder, written and read back in every format.

use std::sync::Arc;

use super::*;
use crate::run::Connector;
use crate::run::tests::Bed;
use crate::secret::tests::NoSecrets;
use crate::settings::ExportSettings;

async fn connector(
    folder: &FilePath,
    format: FileFormat,
    compression: Compression,
) -> (Connector, Arc<Files>) {
    let url = folder.to_str().unwrap().to_owned();
    let files = Settings { url, format, compression, ..Settings::default() };
    let settings =
        ExportSettings { files: Some(files.clone()), batch_bytes: 1 << 16, ..ExportSettings::default() };
    let target = Arc::new(connect(&files, &NoSecrets).await.unwrap());
    let mapping = Arc::new(settings.mapping().unwrap());
    (Connector { name: "lake2".into(), settings, mapping, target: target.clone() }, target)
}

struct NoLog;

#[async_trait]
impl JobLog for NoLog {
    async fn submitting(&self, _: &str) -> Result<(), TargetError> {
        Ok(())
    }
}

fn keys(connector: &Connector, dir: &FilePath, ids: &[u64], change: Change) -> StagedBatch {
    let source = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    StagedBatch {
        connector: connector.name.clone(),
        batch_id: format!("{change:?}-{ids:?}").to_lowercase().replace([' ', '[', ']', ','], ""),
        change,
        attempt: 1,
        job_id: None,
        file: source,
        rows: ids.len() as u64,
        bytes: 0,
        days: ("2026-01-31".into(), "2026-01-31".into()),
        mapping: connector.mapping.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_what_the_lake_holds_in_every_format() {
    for (format, compression) in [
        (FileFormat::Parquet, Compression::None),
        (FileFormat::Csv, Compression::None),
        (FileFormat::Csv, Compression::Gzip),
        (FileFormat::Ndjson, Compression::None),
        (FileFormat::Ndjson, Compression::Gzip),
    ] {
        let mut bed = Bed::new().await;
        let out = tempfile::tempdir().unwrap();
        let (connector, target) = connector(out.path(), format, compression).await;
        bed.log(500).await;
        let ran = bed.exporter.run(&connector).await.unwrap();
        assert_eq!(ran.rows, 500, "{format:?}");
        let verify = async || bed.exporter.verify(&connector, "2026-01-31", "2026-01-31").await.unwrap();
        let verified = verify().await;
        assert_eq!((verified.rows, verified.differences), (500, vec![]), "{format:?} {compression:?}");

        // The same rows again, under the name that they have: nothing changes.
        let folder = out.path().join("events/event_date=2026-01-31");
        let before = std::fs::read_dir(&folder).unwrap().count();
        let object = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let staged = tempfile::tempdir().unwrap();
        let mut writing = None;
        for rows in Reading::open(&object, &target.settings, &connector.mapping).unwrap() {
            let rows = rows.unwrap();
            let parquet = Settings::default();
            let path = staged.path().join("staged.parquet");
            writing
                .get_or_insert_with(|| Writing::create(&path, &parquet, &rows.schema()).unwrap())
                .write(&rows)
                .unwrap();
        }
        writing.unwrap().close().unwrap();
        let name = object.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
        let again = StagedBatch { batch_id: name, ..keys(&connector, staged.path(), &[1], Change::Add) };
        target.load(&again, &NoLog).await.unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), before);
        assert_eq!(verify().await.differences, vec![], "{format:?} {compression:?}");

        // What is deleted goes from the files, and comes back when it replaces what is not there.
        let gone = target.load(&keys(&connector, staged.path(), &[1], Change::Delete), &NoLog).await.unwrap();
        assert!(gone.rows.unwrap() > 0);
        let difference = verify().await.differences[0];
        assert_eq!(difference.target.rows + gone.rows.unwrap(), difference.lake.rows, "{format:?}");
        target.load(&keys(&connector, staged.path(), &[1], Change::Replace), &NoLog).await.unwrap();
        assert_eq!(verify().await.differences, vec![], "{format:?} {compression:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_broke_is_named() {
    let mut bed = Bed::new().await;
    let out = tempfile::tempdir().unwrap();
    let (connector, _) = connector(out.path(), FileFormat::Parquet, Compression::None).await;
    bed.log(10).await;
    bed.exporter.run(&connector).await.unwrap();
    let day = out.path().join("events/event_date=2026-01-31");
    std::fs::write(day.join("broken.parquet"), b"PAR1").unwrap();
    let error = bed.exporter.verify(&connector, "2026-01-31", "2026-01-31").await.unwrap_err();
    assert!(error.to_string().contains("broken.parquet"), "{error}");
}

#[test]
fn how_to_read_them_is_said() {
    let settings = Settings { url: "s3://b/x/".into(), format: FileFormat::Csv, ..Settings::default() };
    let mapping = ExportSettings::default().mapping().unwrap();
    assert!(ddl(&settings, &mapping).contains("read_csv('s3://b/x/events/*/*.csv'"));
}
