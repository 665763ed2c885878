-- Sendlake in Snowflake: what an administrator runs once. Names are those of the settings; run it as ACCOUNTADMIN, or as
-- SECURITYADMIN and SYSADMIN in parts.

-- 1. Who loads. The key: openssl genrsa 2048 | openssl pkcs8 -topk8 -inform PEM -out sendlake.p8 -nocrypt
--    and its public half: openssl rsa -in sendlake.p8 -pubout; its lines between BEGIN and END without line breaks.
CREATE ROLE IF NOT EXISTS {role};
CREATE USER IF NOT EXISTS {user} TYPE = SERVICE DEFAULT_ROLE = {role} RSA_PUBLIC_KEY = '<public key>';
GRANT ROLE {role} TO USER {user};

-- 2. What it computes with: stops a minute after the last load.
CREATE WAREHOUSE IF NOT EXISTS {warehouse} WAREHOUSE_SIZE = XSMALL AUTO_SUSPEND = 60 AUTO_RESUME = TRUE INITIALLY_SUSPENDED = TRUE;
GRANT USAGE ON WAREHOUSE {warehouse} TO ROLE {role};

-- 3. Where the rows go.
CREATE DATABASE IF NOT EXISTS {database};
CREATE SCHEMA IF NOT EXISTS {database}.{schema};
GRANT USAGE ON DATABASE {database} TO ROLE {role};
GRANT USAGE ON SCHEMA {database}.{schema} TO ROLE {role};
USE SCHEMA {database}.{schema};

{create_table};

{create_ledger};

{create_locks};

-- What a load does: it looks, adds, updates and deletes rows. ADD COLUMN needs the table's owner: the last statement lets
-- sendlake add the columns of later versions by itself. Without it sendlake says which column it lacks.
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {table} TO ROLE {role};
GRANT SELECT, INSERT ON TABLE "SENDLAKE_BATCHES" TO ROLE {role};
GRANT SELECT, INSERT, UPDATE ON TABLE "SENDLAKE_LOCKS" TO ROLE {role};
GRANT OWNERSHIP ON TABLE {table} TO ROLE {role} COPY CURRENT GRANTS;

-- 4. By which way the files come.
{stage}

-- 5. Or read the lake where it is, without copying: the table below follows the Delta table in the bucket. The external
--    volume's role may read the bucket and nothing else. Columns that hold JSON or a map are there as they are in the lake.
CREATE EXTERNAL VOLUME IF NOT EXISTS "SENDLAKE_LAKE"
  STORAGE_LOCATIONS = ((NAME = 'lake' {volume_location}))
  ALLOW_WRITES = FALSE;
CREATE CATALOG INTEGRATION IF NOT EXISTS "SENDLAKE_DELTA"
  CATALOG_SOURCE = OBJECT_STORE TABLE_FORMAT = DELTA ENABLED = TRUE;
CREATE ICEBERG TABLE IF NOT EXISTS {database}.{schema}."LAKE_{lake_table}"
  EXTERNAL_VOLUME = 'SENDLAKE_LAKE' CATALOG = 'SENDLAKE_DELTA' BASE_LOCATION = '{lake_folder}';
GRANT SELECT ON TABLE {database}.{schema}."LAKE_{lake_table}" TO ROLE {role};
--    What the lake took since is seen after this; run it in a task, or set AUTO_REFRESH where your account has it.
ALTER ICEBERG TABLE {database}.{schema}."LAKE_{lake_table}" REFRESH;
