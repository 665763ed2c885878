INSERT INTO {ledger} (batch_id, connector, source_table, change, rows_staged, mapping_version)
VALUES ({batch_id}, {connector}, {source_table}, {change}, {rows_staged}, {mapping_version});
