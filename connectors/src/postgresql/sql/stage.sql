-- Temporary: no write-ahead log, seen by this session alone, gone with the transaction.
CREATE TEMP TABLE {stage} (
  {stage_columns}
) ON COMMIT DROP;
