-- One batch, as one request of eight statements in one session. The staging table is that session's alone: two that load
-- the same batch do not meet in it, and nothing is left when one dies.
CREATE TEMPORARY TABLE {staging} (
  {staging_columns}
);
-- NULL_IF: the default makes NULL of the text \N. USE_LOGICAL_TYPE: without it instants come as numbers.
COPY INTO {staging}
FROM @{stage}/{folder}/
FILES = ({file})
FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE NULL_IF = ())
MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE
ON_ERROR = ABORT_STATEMENT;
-- Fails the request where COPY left something out without an error: the text is no number.
SELECT TO_NUMBER(IFF(COUNT(*) = {rows}, '{rows}', 'of {rows} rows of the staged file there came ' || TO_VARCHAR(COUNT(*))))
  AS "ROWS_STAGED"
FROM {staging};
BEGIN TRANSACTION;
-- Whoever loads into this table waits here; what follows then sees what the one before has committed.
UPDATE "SENDLAKE_LOCKS"
SET "BATCH_ID" = {batch_id}, "TAKEN_AT" = CURRENT_TIMESTAMP()::TIMESTAMP_NTZ
WHERE "TABLE_NAME" = {table_name};
{merge};
INSERT INTO "SENDLAKE_BATCHES"
  ("BATCH_ID", "CONNECTOR", "TABLE_NAME", "SOURCE_TABLE", "CHANGE", "ROWS_STAGED", "MAPPING_VERSION", "LOADED_AT")
SELECT {batch_id}, {connector}, {table_name}, {source_table}, {change}, {rows}, {mapping_version},
  CURRENT_TIMESTAMP()::TIMESTAMP_NTZ
WHERE NOT EXISTS (SELECT 1 FROM "SENDLAKE_BATCHES" WHERE "BATCH_ID" = {batch_id});
COMMIT
