#!/usr/bin/env bash
# What the stand-in for BigQuery needs beyond packages: DuckDB 1.5.5, the last with extensions as wheels, and these put
# where it looks for them, so that it downloads nothing. The folder given is its HOME as well.
set -euo pipefail
venv=$1
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps duckdb==1.5.5 \
  duckdb-extension-{ducklake,httpfs,icu,json,spatial}==1.5.5
HOME=$venv "$venv/bin/python" - << 'PYTHON'
import glob
import sys

import duckdb

connection = duckdb.connect()
for folder in sys.path:
    for file in glob.glob(folder + "/duckdb_extension_*/extensions/*/*.duckdb_extension"):
        connection.execute(f"INSTALL '{file}'")
PYTHON
