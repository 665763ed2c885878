-- One batch, from its staging table into the table, with its row in the ledger: all of it or nothing.
-- The first statement changes the one row of a table that belongs to the target. Two transactions that change rows of one
-- table cannot both commit (BigQuery, "Multi-statement transactions", concurrency), so of two loads into the target one is
-- cancelled, and its next attempt sees what the other did.
DECLARE changed INT64 DEFAULT 0;
BEGIN TRANSACTION;
UPDATE {writer} SET batch_id = @batch_id, written_at = CURRENT_TIMESTAMP() WHERE target = @target;
IF @@row_count = 0 THEN
  RAISE USING MESSAGE = 'the row that loads of this table meet at is gone: run it again';
END IF;
IF NOT EXISTS (
  SELECT 1 FROM {ledger} WHERE batch_id = @batch_id AND connector = @connector AND target = @target
) THEN
  {merge};
  SET changed = @@row_count;
  INSERT INTO {ledger} (
    batch_id, connector, target, source_table, change, rows_staged, rows_changed, mapping_version, attempt, loaded_at
  ) VALUES (
    @batch_id, @connector, @target, @source_table, @change, @rows_staged, changed, @mapping_version, @attempt,
    CURRENT_TIMESTAMP()
  );
END IF;
COMMIT TRANSACTION;
