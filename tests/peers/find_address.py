"""Looks for an address in every file below a folder, with an engine that is not sendlake's.

usage: find_address.py FOLDER ADDRESS
prints {"files": n, "rows": n, "hits": [path: where, …]}

Parquet is decoded by DuckDB, live files and dead ones alike; everything, Parquet included, is also searched as bytes.
"""

import json
import os
import sys

import duckdb


def forms(address):
    local, domain = address.lower().split("@")
    return [f"{local}{at}{domain}" for at in ("@", "%40", "=")]


def main(folder, address):
    wanted = forms(address)
    files = rows = 0
    hits = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            files += 1
            with open(path, "rb") as file:
                raw = file.read().lower()
            hits += [f"{path}: bytes" for form in wanted if form.encode() in raw]
            if not name.endswith(".parquet"):
                continue
            table = duckdb.execute("SELECT * FROM read_parquet(?, hive_partitioning = false)", [path]).fetchall()
            rows += len(table)
            text = json.dumps(table, default=str).lower()
            hits += [f"{path}: rows" for form in wanted if form in text]
    print(json.dumps({"files": files, "rows": rows, "hits": hits}))


main(*sys.argv[1:3])
