-- One row per batch that is in the table, written in the batch's own transaction.
CREATE TABLE IF NOT EXISTS {ledger} (
  batch_id VARCHAR(32) NOT NULL,
  connector VARCHAR(256) NOT NULL,
  source_table VARCHAR(256) NOT NULL,
  change VARCHAR(16) NOT NULL,
  rows_staged BIGINT NOT NULL,
  mapping_version VARCHAR(32) NOT NULL,
  loaded_at TIMESTAMP NOT NULL
) DISTSTYLE ALL SORTKEY (loaded_at);
