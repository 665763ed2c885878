"""Counts exported files in DuckDB.

usage: read_files.py READER GLOB [COLUMN]
prints {"rows": n, "events": different event_ids, "lsn_sum": n, "values": [different values of COLUMN, at most 20]}
"""

import json
import sys

import duckdb


def main():
    reader, glob = sys.argv[1:3]
    db = duckdb.connect()
    options = ", nullstr = '\\N', all_varchar = true" if reader == "read_csv" else ""
    source = f"{reader}('{glob}', hive_partitioning = false{options})"
    counted = f"SELECT count(*), count(DISTINCT event_id), sum(CAST(lsn AS BIGINT))::VARCHAR FROM {source}"
    rows, events, lsn_sum = db.execute(counted).fetchone()
    values = []
    if len(sys.argv) > 3:
        picked = f"SELECT DISTINCT {sys.argv[3]} FROM {source} WHERE {sys.argv[3]} IS NOT NULL LIMIT 20"
        values = [row[0] for row in db.execute(picked).fetchall()]
    print(json.dumps({"rows": rows, "events": events, "lsn_sum": int(lsn_sum or 0), "values": values}))


main()
