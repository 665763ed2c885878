INSERT INTO {ledger} (batch_id, connector, source_table, change, rows_staged, mapping_version)
SELECT {batch_id}, {connector}, {source_table}, {change}, {rows_staged}, {mapping_version}
WHERE (SELECT count() FROM {ledger} WHERE connector = {connector} AND batch_id = {batch_id}) = 0;
