"""Asks a ClickHouse on this machine with ClickHouse's own client (clickhouse-connect) and prints the rows as JSON.

usage: clickhouse_judge.py PORT USER PASSWORD SQL
"""

import json
import sys

import clickhouse_connect

port, user, password, sql = sys.argv[1:]
client = clickhouse_connect.get_client(host="127.0.0.1", port=int(port), username=user, password=password, compress=False)
if sql.split()[0].upper() in ("SELECT", "WITH"):
    rows = client.query(sql).result_rows
else:
    client.command(sql)
    rows = []
print(json.dumps([list(row) for row in rows], default=str, ensure_ascii=False))
