"""Runs the snippets of README's section about the lake, as they stand there, in the working directory.

usage: run_snippets.py README
prints {"duckdb": [[type, n], …] or null, "spark": printed text or null, "deltalake": printed text}

DuckDB gets the extension of the wheel duckdb-extension-delta, so that INSTALL needs no network. Spark is LakeSail's
server (pysail) behind Spark's own client.
"""

import contextlib
import glob
import io
import json
import os
import re
import shutil
import sys
import tempfile

TEXT = open(sys.argv[1], encoding="utf-8").read().split("\n## The lake\n")[1].split("\n## ")[0]
SNIPPETS = re.findall(r"```(?:sql|python)\n(.*?)```", TEXT, re.S)


def snippet(first_word):
    found = [text for text in SNIPPETS if re.match(rf"(--|#) {first_word}", text)]
    assert len(found) == 1, f"{first_word}: {len(found)} snippets"
    return found[0]


def in_duckdb():
    import duckdb

    found = [
        file
        for path in sys.path
        for file in glob.glob(os.path.join(path, "duckdb_extension_delta", "extensions", "*", "*.duckdb_extension"))
    ]
    if not found:
        return None
    with tempfile.TemporaryDirectory() as folder:
        connection = duckdb.connect(config={"extension_directory": folder})
        platform = connection.execute("PRAGMA platform").fetchone()[0]
        place = os.path.join(folder, "v" + duckdb.__version__, platform)
        os.makedirs(place)
        shutil.copy(found[0], os.path.join(place, "delta.duckdb_extension"))
        return connection.execute(snippet("DuckDB")).fetchall()


def printed(text, **names):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(text, names)
    return out.getvalue()


def in_spark():
    try:
        from pysail.spark import SparkConnectServer
        from pyspark.sql import SparkSession
    except ImportError:
        return None
    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _, port = server.listening_address
    spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").getOrCreate()
    answer = printed(snippet("Spark"), spark=spark)
    spark.stop()
    server.stop()
    return answer


print(json.dumps({"duckdb": in_duckdb(), "spark": in_spark(), "deltalake": printed(snippet("pandas"))}))
