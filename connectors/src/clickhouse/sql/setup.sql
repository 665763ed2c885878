-- Run once by an administrator.
{database_statement};
CREATE USER IF NOT EXISTS {user}{on_cluster} IDENTIFIED WITH sha256_password BY 'choose one';
GRANT{on_cluster} SELECT, INSERT, CREATE TABLE, DROP TABLE, ALTER ADD COLUMN, ALTER DELETE ON {database}.* TO {user};
GRANT{on_cluster} SELECT ON system.columns TO {user};
GRANT{on_cluster} SELECT ON system.tables TO {user};

-- What `sendlake export run` makes by itself.
{ledger_table};

{table};

-- The lake in place, without copying; keys that may read the bucket, or NOSIGN for the server's own role.
CREATE TABLE {database}.events_in_lake ENGINE = DeltaLake({https_url}, 'ACCESS_KEY', 'SECRET_KEY');
SELECT event_type, count() FROM {database}.events_in_lake WHERE event_date = today() GROUP BY event_type;
