"""DuckDB writes rows that lie in its memory: COPY … TO Parquet, Zstandard, one file for each part.

Prints one JSON object: wall seconds and processor seconds of the COPY statements alone, octets written.
"""

import json
import pathlib
import resource
import sys
import time

import duckdb


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


parts, out = sorted(pathlib.Path(sys.argv[1]).glob("*.parquet")), pathlib.Path(sys.argv[2])
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
wall, cpu = 0.0, 0.0
for number, part in enumerate(parts):
    connection.execute(f"CREATE OR REPLACE TABLE rows AS SELECT * FROM read_parquet('{part}')")
    began, began_cpu = time.perf_counter(), cpu_s()
    connection.execute(f"COPY rows TO '{out / f'{number}.parquet'}' (FORMAT parquet, COMPRESSION zstd)")
    wall, cpu = wall + time.perf_counter() - began, cpu + cpu_s() - began_cpu
print(json.dumps({
    "wall_s": wall,
    "cpu_s": cpu,
    "bytes": sum(file.stat().st_size for file in out.glob("*.parquet")),
    "version": duckdb.__version__,
}))
