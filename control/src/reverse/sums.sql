SELECT count(row_hash) AS rows_sent, count(refused_hash) AS rows_refused,
       (SELECT error FROM reverse_rows WHERE connector = $1 AND error IS NOT NULL ORDER BY refused_at DESC, key_hash LIMIT 1)
           AS refusal
FROM reverse_rows WHERE connector = $1
