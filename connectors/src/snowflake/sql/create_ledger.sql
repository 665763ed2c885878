-- The batches that are in the table, each written in the transaction that brought it.
CREATE TABLE IF NOT EXISTS "SENDLAKE_BATCHES" (
  "BATCH_ID" VARCHAR NOT NULL,
  "CONNECTOR" VARCHAR NOT NULL,
  "TABLE_NAME" VARCHAR NOT NULL,
  "SOURCE_TABLE" VARCHAR NOT NULL,
  "CHANGE" VARCHAR NOT NULL,
  "ROWS_STAGED" NUMBER(19, 0) NOT NULL,
  "MAPPING_VERSION" VARCHAR NOT NULL,
  "LOADED_AT" TIMESTAMP_NTZ(6) NOT NULL
)
COMMENT = 'sendlake: one row for each batch that was loaded; instants are UTC'
