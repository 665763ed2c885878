-- By which column a table is partitioned by range; no row when it is not.
SELECT a.attname
FROM pg_catalog.pg_partitioned_table p
JOIN pg_catalog.pg_class c ON c.oid = p.partrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
WHERE n.nspname = {schema_text} AND c.relname = {table_text} AND p.partstrat = 'r';
