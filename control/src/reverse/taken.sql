INSERT INTO reverse_rows (connector, key_hash, row_hash, sent_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (connector, key_hash) DO UPDATE SET
    row_hash = excluded.row_hash, sent_at = excluded.sent_at, refused_hash = NULL, error = NULL, refused_at = NULL, retry_at = NULL
