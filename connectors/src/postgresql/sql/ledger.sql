-- One row per batch that is in the table, written in the batch's own transaction.
CREATE TABLE IF NOT EXISTS {ledger} (
  batch_id text NOT NULL,
  connector text NOT NULL,
  source_table text NOT NULL,
  change text NOT NULL,
  rows_staged bigint NOT NULL,
  mapping_version text NOT NULL,
  loaded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (connector, batch_id)
);
