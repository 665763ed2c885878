"""Counts the events of a lake by type with engines that are not sendlake's.

usage: read_lake.py TABLE [OPTIONS_JSON]
prints {"deltalake": {type: n}, "duckdb": {…} or null, "duckdb_delta": {…} or null}

`duckdb` reads the Parquet files that deltalake lists; `duckdb_delta` the table through DuckDB's own Delta reader,
where the wheel duckdb-extension-delta is installed. Both read local tables only.
"""

import glob
import json
import os
import sys

import duckdb
from deltalake import DeltaTable, QueryBuilder

COUNT = "SELECT event_type, CAST(count(*) AS BIGINT) AS n FROM %s GROUP BY event_type"


def with_extension(table):
    found = [
        file
        for path in sys.path
        for file in glob.glob(os.path.join(path, "duckdb_extension_delta", "extensions", "*", "*.duckdb_extension"))
    ]
    if not found:
        return None
    connection = duckdb.connect()
    connection.execute(f"LOAD '{found[0]}'")
    return dict(connection.execute(COUNT % f"delta_scan('{table}')").fetchall())


def main(table, options="{}"):
    delta = DeltaTable(table, storage_options=json.loads(options) or None)
    rows = QueryBuilder().register("events", delta).execute(COUNT % "events").read_all()
    types, counts = (list(rows.column(name)) for name in ("event_type", "n"))
    counted = {type_.as_py(): n.as_py() for type_, n in zip(types, counts)}
    answer = {"deltalake": counted, "duckdb": None, "duckdb_delta": None}
    if "://" not in table:
        files = [file.removeprefix("file://") for file in delta.file_uris()]
        answer["duckdb"] = dict(duckdb.execute(COUNT % f"read_parquet({files!r})").fetchall()) if files else {}
        answer["duckdb_delta"] = with_extension(table)
    print(json.dumps(answer))


main(*sys.argv[1:3])
