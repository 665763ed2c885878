-- Whether (event_id, event_date) is unique without condition, in whatever order, by a valid index: what ON CONFLICT needs.
SELECT COUNT(*)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {schema_text} AND c.relname = {table_text}
  AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 2
  AND (
    SELECT array_agg(a.attname::text ORDER BY a.attname)
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[])
  ) = ARRAY['event_date', 'event_id'];
