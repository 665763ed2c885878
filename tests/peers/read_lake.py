"""Counts the events of a lake by type with engines that are not sendlake's.

usage: read_lake.py TABLE [OPTIONS_JSON]
prints {"deltalake": {type: n}, "duckdb": {…} or null, "duckdb_delta": {…} or null}

`duckdb` reads the Parquet files that deltalake lists, of local tables only; `duckdb_delta` the table through DuckDB's own
Delta reader, local or in S3, where the wheels of its extensions are installed.
"""

import glob
import json
import os
import sys

import duckdb
from deltalake import DeltaTable, QueryBuilder

COUNT = "SELECT event_type, CAST(count(*) AS BIGINT) AS n FROM %s GROUP BY event_type"


def extension(name):
    for path in sys.path:
        for file in glob.glob(os.path.join(path, f"duckdb_extension_{name}", "extensions", "*", "*.duckdb_extension")):
            return file
    return None


def with_extension(table, options):
    s3 = table.startswith("s3://")
    files = [extension(name) for name in (["httpfs", "delta"] if s3 else ["delta"])]
    if not all(files) or ("://" in table and not s3):
        return None
    connection = duckdb.connect()
    for file in files:
        connection.execute(f"LOAD '{file}'")
    if s3:
        endpoint = options["AWS_ENDPOINT_URL"].removeprefix("http://")
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{options['AWS_ACCESS_KEY_ID']}', SECRET '{options['AWS_SECRET_ACCESS_KEY']}', "
            f"REGION '{options['AWS_REGION']}', ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false)"
        )
    return dict(connection.execute(COUNT % f"delta_scan('{table}')").fetchall())


def main(table, options="{}"):
    options = json.loads(options)
    delta = DeltaTable(table, storage_options=options or None)
    rows = QueryBuilder().register("events", delta).execute(COUNT % "events").read_all()
    types, counts = (list(rows.column(name)) for name in ("event_type", "n"))
    counted = {type_.as_py(): n.as_py() for type_, n in zip(types, counts)}
    answer = {"deltalake": counted, "duckdb": None, "duckdb_delta": None}
    if "://" not in table:
        files = [file.removeprefix("file://") for file in delta.file_uris()]
        answer["duckdb"] = dict(duckdb.execute(COUNT % f"read_parquet({files!r})").fetchall()) if files else {}
    answer["duckdb_delta"] = with_extension(table, options)
    print(json.dumps(answer))


main(*sys.argv[1:3])
