INSERT INTO {ledger} (batch_id, connector, source_table, change, rows_staged, mapping_version, loaded_at)
SELECT {batch_id}, {connector}, {source_table}, {change}, {rows_staged}, {mapping_version}, GETDATE()
FROM (SELECT COUNT(*) AS loads FROM {ledger} WHERE batch_id = {batch_id} AND connector = {connector}) AS already
WHERE loads = 0;
