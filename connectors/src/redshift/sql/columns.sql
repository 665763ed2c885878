-- The columns of one table as the catalog has them, in any kind of schema (SVV_COLUMNS, Database Developer Guide).
SELECT column_name, data_type, character_maximum_length, is_nullable
FROM svv_columns
WHERE table_schema = {schema_text} AND table_name = {table_text};
