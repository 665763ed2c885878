-- The lake in place, by Redshift Spectrum, without copying: an external table over manifests of the Delta table's live
-- files, one per day (Database Developer Guide, "Creating external tables for data managed in Delta Lake").
CREATE EXTERNAL SCHEMA IF NOT EXISTS {lake_schema} FROM DATA CATALOG DATABASE {catalog}
IAM_ROLE {iam_role} CREATE EXTERNAL DATABASE IF NOT EXISTS;

CREATE EXTERNAL TABLE {lake_schema}.{lake_table} (
  {external_columns}
) PARTITIONED BY (event_date DATE)
ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe'
STORED AS INPUTFORMAT 'org.apache.hadoop.hive.ql.io.SymlinkTextInputFormat'
OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat'
LOCATION {manifests};

-- Once per day that has a manifest; a day that is gone is dropped the same way.
{partitions}
