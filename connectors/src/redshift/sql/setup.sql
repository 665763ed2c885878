-- Run once by a superuser; {user} is the loader's database user: IAMR:role-name of a role, IAM:user-name of a user, or a
-- name with a password.
CREATE SCHEMA IF NOT EXISTS {schema};
GRANT TEMP ON DATABASE {database} TO {user};
GRANT USAGE, CREATE ON SCHEMA {schema} TO {user};
GRANT ASSUMEROLE ON {role_of_grant} TO {user} FOR COPY;

-- What `sendlake export run` makes by itself, as the loader. Who makes them before must make the loader their owner:
-- ALTER TABLE … OWNER TO, since only an owner adds columns and locks.
{ledger_table};

{table};

-- Who reads.
GRANT USAGE ON SCHEMA {schema} TO GROUP analysts;
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO GROUP analysts;
ALTER DEFAULT PRIVILEGES FOR USER {user} IN SCHEMA {schema} GRANT SELECT ON TABLES TO GROUP analysts;
