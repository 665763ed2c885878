-- Run once by the database's owner.
CREATE ROLE {user} LOGIN PASSWORD 'choose one';
GRANT TEMPORARY ON DATABASE {database} TO {user};
CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {user};

-- What `sendlake export run` makes by itself, as {user}, who must own the tables: partitions and columns are an owner's
-- to add.
{ledger_table};

{table};

-- Who reads.
GRANT USAGE ON SCHEMA {schema} TO analysts;
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO analysts;
ALTER DEFAULT PRIVILEGES FOR ROLE {user} IN SCHEMA {schema} GRANT SELECT ON TABLES TO analysts;

-- The lake in place, {lake_url}, without copying, where the extension pg_duckdb is installed; its read_parquet would also
-- read files that the table's log has removed, so the table's log is read, by DuckDB's extension "delta".
SELECT duckdb.install_extension('delta');
SELECT r['event_type'], count(*) FROM delta_scan({table_url}) r GROUP BY 1;
