"""Runs the views over a Parquet file of events in DuckDB, unchanged.

usage: judge.py < {"events": PATH, "tables": {name: PATH}, "as_of": [instant, …], "domains": [{…}, …],
"feedback_loops": [{…}, …], "views": [[name, sql], …], "compared": [name, …]}
prints {view: [row as an object, …]} for the views to be compared; instants are microseconds since the epoch.
"""

import json
import sys

import duckdb


def plain(name, kind):
    """A column in a form that JSON and DuckDB's Python client know without further modules."""
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f'epoch_us("{name}") AS "{name}"'
    if kind == "DATE":
        return f'date_diff(\'day\', DATE \'1970-01-01\', "{name}") AS "{name}"'
    return f'"{name}"'


def main():
    asked = json.load(sys.stdin)
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet('{asked['events']}')")
    for name, path in asked["tables"].items():
        db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}')")
    db.execute("CREATE TABLE as_of (as_of TIMESTAMPTZ)")
    for instant in asked["as_of"]:
        db.execute("INSERT INTO as_of VALUES (make_timestamptz(?))", [instant])
    db.execute("CREATE TABLE domains (tenant_id TEXT, domain TEXT, created_at TIMESTAMPTZ, warm_at TIMESTAMPTZ)")
    for row in asked["domains"]:
        db.execute(
            "INSERT INTO domains VALUES (?, ?, make_timestamptz(?), make_timestamptz(?))",
            [row["tenant_id"], row["domain"], row["created_at"], row["warm_at"]],
        )
    db.execute(
        "CREATE TABLE feedback_loops (tenant_id TEXT, provider TEXT, identity_kind TEXT, identity TEXT, since TIMESTAMPTZ)"
    )
    for row in asked["feedback_loops"]:
        db.execute(
            "INSERT INTO feedback_loops VALUES (?, ?, ?, ?, make_timestamptz(?))",
            [row["tenant_id"], row["provider"], row["identity_kind"], row["identity"], row["since"]],
        )
    answer = {}
    for name, sql in asked["views"]:
        db.execute(f"CREATE VIEW {name} AS {sql}")
    for name in asked["compared"]:
        kinds = {row[0]: row[1] for row in db.execute(f"DESCRIBE {name}").fetchall()}
        selected = ", ".join(plain(column, kind) for column, kind in kinds.items())
        rows = db.execute(f"SELECT {selected} FROM {name}").fetchall()
        answer[name] = [dict(zip(kinds, row)) for row in rows]
    json.dump(answer, sys.stdout)


main()
