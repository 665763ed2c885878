-- A row per batch that is in the table, written after it.
CREATE TABLE IF NOT EXISTS {ledger}{on_cluster} (
  batch_id String,
  connector String,
  source_table String,
  change String,
  rows_staged UInt64,
  mapping_version String,
  loaded_at DateTime64(6, 'UTC') DEFAULT now64(6)
) ENGINE = {replicated}ReplacingMergeTree(loaded_at) ORDER BY (connector, batch_id);
