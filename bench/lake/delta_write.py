"""Python's deltalake appends rows that lie in memory as Arrow: one commit for each part, partitioned as ours.

Prints one JSON object: wall seconds and processor seconds of write_deltalake alone, octets written.
"""

import json
import pathlib
import resource
import sys
import time

import deltalake
import duckdb
from arro3.core import Table


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


parts, out = sorted(pathlib.Path(sys.argv[1]).glob("*.parquet")), pathlib.Path(sys.argv[2])
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
properties = deltalake.WriterProperties(compression="ZSTD", compression_level=3)
wall, cpu = 0.0, 0.0
for part in parts:
    rows = Table.from_arrow(connection.sql(f"SELECT * FROM read_parquet('{part}')"))
    began, began_cpu = time.perf_counter(), cpu_s()
    deltalake.write_deltalake(
        str(out / "events"), rows, mode="append", partition_by=["event_date"], writer_properties=properties
    )
    wall, cpu = wall + time.perf_counter() - began, cpu + cpu_s() - began_cpu
print(json.dumps({
    "wall_s": wall,
    "cpu_s": cpu,
    "bytes": sum(file.stat().st_size for file in out.rglob("*.parquet")),
    "version": deltalake.__version__,
}))
