-- BigQuery, for `{connector_section}`: run in the console or with `bq query --use_legacy_sql=false`, once.
-- sendlake makes the three tables itself when they are missing; the datasets and the grants are yours.

CREATE SCHEMA IF NOT EXISTS {dataset};
{staging_schema}
-- The events. A column that the mapping gains later is added by sendlake.
CREATE TABLE IF NOT EXISTS {target} (
{columns}
)
PARTITION BY event_date
CLUSTER BY {clustering};

-- A row for each batch that is in.
CREATE TABLE IF NOT EXISTS {ledger} (
{ledger_columns}
)
CLUSTER BY connector, batch_id;

-- One row, changed by every load: so two loads of one table cannot both commit.
CREATE TABLE IF NOT EXISTS {writer} (
{writer_columns}
);

-- The account that loads: rows and tables of these datasets, and nothing else.
{grants}
-- And jobs in the project, which has no SQL:
--   gcloud projects add-iam-policy-binding {project} --member=serviceAccount:SENDLAKE_ACCOUNT --role=roles/bigquery.jobUser
{bucket_grant}
{in_place}
