//! The demo's end: every event of the story in files that a warehouse loads, compared with the lake, and how to look at them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use sendlake_connectors::files;
use sendlake_connectors::mapping::Mask;
use sendlake_connectors::settings::ExportSettings;

use super::{Story, say};
use crate::config::Config;
use crate::exports::{self, StoredSecrets};
use crate::stores;

/// The connector's name.
pub(super) const WAREHOUSE: &str = "warehouse";

/// Parquet in the demo's folder, with addresses as keyed hashes.
pub(super) fn connector(dir: &Path) -> ExportSettings {
    ExportSettings {
        schedule: "manual".into(),
        mask: [("recipient".to_owned(), Mask::Hash)].into(),
        exclude: ["reply_text", "transcript", "detail", "url", "tags"].map(str::to_owned).into(),
        files: Some(files::Settings {
            url: dir.join(WAREHOUSE).to_string_lossy().into_owned(),
            ..files::Settings::default()
        }),
        ..ExportSettings::default()
    }
}

pub(super) async fn play(story: &Story, config: &Config) -> anyhow::Result<()> {
    let lake = story.running.lake.as_ref().context("the demo's node writes a lake")?;
    lake.flush().await?;
    let control = Arc::clone(&story.running.control);
    let store = stores::open_place(config)?;
    let exporter = exports::exporter(config, &control, &stores::open_lake(config)?, store, &story.ids);
    let settings = config.export.get(WAREHOUSE).context("the demo has a connector")?;
    let connector = settings.connect(WAREHOUSE, &StoredSecrets(control), &story.ids.clock).await?;
    let began = Instant::now();
    let ran = exporter.run(&connector).await?;
    let took = began.elapsed();
    let today = story.ids.now().to_string();
    let day = |text: &str| text.chars().take(10).collect::<String>();
    let verified = exporter.verify(&connector, "2000-01-01", &day(&today)).await?;
    ensure!(verified.differences.is_empty(), "the files differ from the lake: {:?}", verified.differences);
    let place = config.storage.dir.join(WAREHOUSE);
    say(&format!(
        "\n== 5. The warehouse ==\n\nEvery event of this story, {} rows, as Parquet by day, {:.1} MB in {:.1} s; addresses are keyed \
         hashes.\nCompared with the lake in {} hours: the same rows, each once.\n\n  \
         ls {place}/events\n  \
         duckdb -c \"SELECT event_type, count(*) FROM '{place}/events/*/*.parquet' GROUP BY ALL\"\n  \
         sendlake sql --dir {dir} \"SELECT connector, state, rows_staged, committed_at FROM export_batches\"\n\n\
         BigQuery, Snowflake, Redshift, PostgreSQL and ClickHouse load the same way: docs/connectors.md",
        ran.rows,
        ran.bytes as f64 / 1e6,
        took.as_secs_f64(),
        verified.hours,
        place = place.display(),
        dir = config.storage.dir.display(),
    ))
}
