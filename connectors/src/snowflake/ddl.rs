//! What an administrator runs once, with the names of the settings.

use super::settings::Settings;
use super::statements::{Names, fill_all, quoted};
use crate::mapping::Mapping;

/// Exact statements: user, role, warehouse, tables, ledger, grants and stage; and how to read the Delta table at `lake_url`
/// where it is.
pub fn ddl(settings: &Settings, mapping: &Mapping, lake_url: &str) -> String {
    let names = Names::new(settings, "");
    let upper =
        |name: &str, other: &str| if name.is_empty() { other.to_owned() } else { name.to_uppercase() };
    let role = upper(settings.role.as_deref().unwrap_or_default(), "SENDLAKE_LOADER");
    let stage = match &settings.bucket {
        Some(bucket) => {
            let place = Place::of(bucket);
            let settings = match place.provider {
                "S3" => "STORAGE_AWS_ROLE_ARN = '<arn of a role that may read the bucket>'",
                "AZURE" => "AZURE_TENANT_ID = '<tenant>'",
                _ => "-- Google Cloud Storage: no more than the location",
            };
            fill_all(
                include_str!("sql/ddl_external_stage.sql"),
                &[
                    ("provider", place.provider),
                    ("provider_settings", settings),
                    ("stage_url", &place.url),
                    ("stage", &names.stage),
                    ("role", &role),
                ],
            )
        }
        None => fill_all(
            include_str!("sql/ddl_internal_stage.sql"),
            &[("create_stage", &names.create_stage()), ("stage", &names.stage), ("role", &role)],
        ),
    };
    let lake = Place::of(lake_url);
    let volume = match lake.provider {
        "S3" => "STORAGE_AWS_ROLE_ARN = '<arn of a role that may read the lake>'",
        "AZURE" => "AZURE_TENANT_ID = '<tenant>'",
        _ => "",
    };
    let volume = format!("STORAGE_PROVIDER = '{}' STORAGE_BASE_URL = '{}' {volume}", lake.provider, lake.url);
    fill_all(
        include_str!("sql/ddl.sql"),
        &[
            ("create_table", &names.create_table(mapping)),
            ("create_ledger", &Names::create_ledger()),
            ("create_locks", &Names::create_locks()),
            ("stage", stage.trim_end()),
            ("role", &role),
            ("user", &upper(&settings.user, "SENDLAKE")),
            ("warehouse", &upper(&settings.warehouse, "SENDLAKE_WH")),
            ("database", &upper(&settings.database, "SENDLAKE")),
            ("schema", &names.schema),
            ("table", &quoted(&names.table)),
            ("volume_location", volume.trim_end()),
            ("lake_table", &mapping.table.to_uppercase()),
            ("lake_folder", &format!("{}/", mapping.table)),
        ],
    )
}

/// A bucket as Snowflake writes it.
struct Place {
    provider: &'static str,
    url: String,
}

impl Place {
    fn of(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let rest = rest.trim_end_matches('/');
        match scheme {
            "gs" => Self { provider: "GCS", url: format!("gcs://{rest}/") },
            "az" | "azure" | "adl" | "abfs" | "abfss" => {
                // container@account.dfs.core.windows.net/folder, or container/folder with the account elsewhere.
                let (container, account, folder) = match rest.split_once('@') {
                    Some((container, host)) => {
                        let (host, folder) = host.split_once('/').unwrap_or((host, ""));
                        let account = host.split('.').next().unwrap_or(host);
                        (container, account, folder)
                    }
                    None => {
                        let (container, folder) = rest.split_once('/').unwrap_or((rest, ""));
                        (container, "<account>", folder)
                    }
                };
                let url = format!("azure://{account}.blob.core.windows.net/{container}/{folder}");
                Self { provider: "AZURE", url: format!("{}/", url.trim_end_matches('/')) }
            }
            "s3" | "s3a" => Self { provider: "S3", url: format!("s3://{rest}/") },
            // No cloud: Snowflake cannot reach it, and the statement says where it would stand.
            _ => Self { provider: "S3", url: format!("s3://<bucket with what is now in {rest}>/") },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn settings(bucket: Option<&str>) -> Settings {
        Settings {
            account: "a-b".into(),
            user: "loader".into(),
            role: Some("loading".into()),
            warehouse: "wh".into(),
            database: "mail".into(),
            bucket: bucket.map(str::to_owned),
            ..Settings::default()
        }
    }

    #[test]
    fn statements_name_what_the_settings_name_and_leave_no_blank() {
        let mapping = Mapping::of_events(&[], &[], &BTreeMap::new()).unwrap();
        for bucket in [
            None,
            Some("s3://mail-export/folder"),
            Some("gs://b"),
            Some("abfss://c@acc.dfs.core.windows.net/f"),
        ] {
            let text = ddl(&settings(bucket), &mapping, "s3://lake/here/");
            assert!(!text.contains('{') && !text.contains('}'), "{text}");
            for part in [
                "CREATE USER IF NOT EXISTS LOADER",
                "GRANT USAGE ON WAREHOUSE WH TO ROLE LOADING",
                "USE SCHEMA MAIL.SENDLAKE",
                "\"EVENT_ID\" VARCHAR NOT NULL",
                "\"DETAIL\" VARIANT",
                "TABLE_FORMAT = DELTA",
                "STORAGE_BASE_URL = 's3://lake/here/'",
                "BASE_LOCATION = 'events/'",
            ] {
                assert!(text.contains(part), "{part} is missing in {text}");
            }
        }
        let external = ddl(&settings(Some("s3://mail-export/folder")), &mapping, "s3://lake/");
        assert!(external.contains("STORAGE_ALLOWED_LOCATIONS = ('s3://mail-export/folder/')"), "{external}");
        assert!(
            external.contains("CREATE STAGE IF NOT EXISTS SENDLAKE_STAGE URL = 's3://mail-export/folder/'")
        );
        let azure = ddl(&settings(Some("abfss://c@acc.dfs.core.windows.net/f")), &mapping, "s3://lake/");
        assert!(azure.contains("'azure://acc.blob.core.windows.net/c/f/'"), "{azure}");
        assert!(ddl(&settings(None), &mapping, "s3://lake/").contains("SNOWFLAKE_SSE"));
    }
}
