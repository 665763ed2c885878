INSERT INTO reverse_rows (connector, key_hash, refused_hash, refused_at, error, retry_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (connector, key_hash) DO UPDATE SET
    refused_hash = excluded.refused_hash, refused_at = excluded.refused_at, error = excluded.error, retry_at = excluded.retry_at
