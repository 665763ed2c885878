//! From settings to a connector: which destination is meant, checked before anything is opened, and then opened.

use std::sync::Arc;

use sendlake_control::id::TenantId;

use crate::mapping::Mapping;
use crate::run::Connector;
use crate::schedule::Schedule;
use crate::secret::SecretSource;
use crate::settings::ExportSettings;
use crate::target::{Target, TargetError};
use crate::{clickhouse, files, postgresql, redshift};

/// Longest name of a connector: it becomes part of names of jobs, tables and objects.
const NAME_CHARS_MAX: usize = 32;

/// The destination that a connector's settings name.
enum Destination<'a> {
    Files(&'a files::Settings),
    Redshift(&'a redshift::Settings),
    PostgreSql(&'a postgresql::Settings),
    ClickHouse(&'a clickhouse::Settings),
}

impl ExportSettings {
    fn destination(&self) -> Result<Destination<'_>, (String, String)> {
        let named = [
            self.files.as_ref().map(Destination::Files),
            self.redshift.as_ref().map(Destination::Redshift),
            self.postgresql.as_ref().map(Destination::PostgreSql),
            self.clickhouse.as_ref().map(Destination::ClickHouse),
        ];
        let mut named = named.into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err((
                String::new(),
                "where to? Add a section below it, one of: files, redshift, postgresql, clickhouse"
                    .to_owned(),
            )),
            (Some(_), Some(_)) => {
                let problem = "two destinations; make a second connector of one of them".to_owned();
                Err((String::new(), problem))
            }
        }
    }

    /// The word for the destination; empty when none is named.
    pub fn kind(&self) -> &'static str {
        match self.destination() {
            Ok(Destination::Files(_)) => "files",
            Ok(Destination::Redshift(_)) => "redshift",
            Ok(Destination::PostgreSql(_)) => "postgresql",
            Ok(Destination::ClickHouse(_)) => "clickhouse",
            Err(_) => "",
        }
    }

    /// What makes no sense, as the key below the connector's and the problem.
    pub fn check(&self, name: &str) -> Result<(), (String, String)> {
        let at = |key: &str| key.to_owned();
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
            let problem = format!(
                "a connector's name has up to {NAME_CHARS_MAX} small letters, digits and underscores, as it becomes part of names there"
            );
            return Err((String::new(), problem));
        }
        Schedule::parse(&self.schedule).map_err(|problem| (at("schedule"), problem))?;
        self.mapping().map_err(|error| (at("columns"), error.to_string()))?;
        for tenant in &self.tenants {
            TenantId::new(tenant).map_err(|error| (at("tenants"), error.to_string()))?;
        }
        if self.batch_bytes < 1 << 16 || self.batch_bytes > 1 << 30 {
            return Err((at("batch_bytes"), "it is between 65536 and 1073741824".to_owned()));
        }
        if self.backfill_batches_per_min == 0 {
            return Err((at("backfill_batches_per_min"), "with none a backfill would never end".to_owned()));
        }
        let below = |(key, problem): (String, String)| (format!("{}.{key}", self.kind()), problem);
        let told = |(key, problem): (&str, String)| (key.to_owned(), problem);
        match self.destination()? {
            Destination::Files(settings) => settings.check().map_err(below),
            Destination::Redshift(settings) => settings.check().map_err(told).map_err(below),
            Destination::PostgreSql(settings) => settings.check().map_err(told).map_err(below),
            Destination::ClickHouse(settings) => settings.check().map_err(told).map_err(below),
        }
    }

    /// Opens the destination. Credentials are read now; mostly no request is made.
    pub async fn connect(&self, name: &str, secrets: &dyn SecretSource) -> Result<Connector, TargetError> {
        self.check(name)
            .map_err(|(key, problem)| TargetError::Refused(format!("export.{name}.{key}: {problem}")))?;
        let refused = |(_, problem): (String, String)| TargetError::Refused(problem);
        let target: Arc<dyn Target> = match self.destination().map_err(refused)? {
            Destination::Files(settings) => Arc::new(files::connect(settings, secrets).await?),
            Destination::Redshift(settings) => Arc::new(redshift::connect(settings, name, secrets).await?),
            Destination::PostgreSql(settings) => {
                Arc::new(postgresql::connect(settings, name, secrets).await?)
            }
            Destination::ClickHouse(settings) => {
                Arc::new(clickhouse::connect(settings, name, secrets).await?)
            }
        };
        let mapping = self.mapping().map_err(|error| TargetError::Refused(error.to_string()))?;
        Ok(Connector { name: name.to_owned(), settings: self.clone(), mapping: Arc::new(mapping), target })
    }

    /// The statements that make what is loaded into, and how to read the lake's own table without copying it.
    pub fn ddl(&self, mapping: &Mapping, lake_url: &str) -> String {
        match self.destination() {
            Ok(Destination::Files(settings)) => files::ddl(settings, mapping),
            Ok(Destination::Redshift(settings)) => redshift::ddl(settings, mapping, lake_url),
            Ok(Destination::PostgreSql(settings)) => postgresql::ddl(settings, mapping, lake_url),
            Ok(Destination::ClickHouse(settings)) => clickhouse::ddl(settings, mapping, lake_url),
            Err((_, problem)) => format!("-- {problem}\n"),
        }
    }
}
