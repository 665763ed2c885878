INSERT INTO export_batches
    (connector, batch_id, number, source_table, change, incarnation, after_lsn, through_lsn, mapping_version, state, attempt,
     rows_staged, bytes_staged, planned_at)
SELECT $1, $2, coalesce((SELECT max(number) FROM export_batches WHERE connector = $1), 0) + 1, 'reverse', 'replace', '', 0, 0, $3,
       'planned', 1, $4, $5, $6
WHERE true
ON CONFLICT (connector, batch_id) DO UPDATE SET
    number = excluded.number, state = 'planned', attempt = export_batches.attempt + 1, rows_loaded = NULL,
    planned_at = excluded.planned_at, submitted_at = NULL, committed_at = NULL
