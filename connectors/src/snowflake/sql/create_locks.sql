-- One row for each table: who updates it holds back all others that load into that table until the end of its
-- transaction.
CREATE TABLE IF NOT EXISTS "SENDLAKE_LOCKS" (
  "TABLE_NAME" VARCHAR NOT NULL,
  "BATCH_ID" VARCHAR,
  "TAKEN_AT" TIMESTAMP_NTZ(6)
)
COMMENT = 'sendlake: updated by each load first, so that loads into one table come one after another'
