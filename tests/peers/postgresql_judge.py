"""Asks a PostgreSQL on this machine with psycopg and prints the rows as JSON.

usage: postgresql_judge.py PORT USER PASSWORD SQL
"""

import json
import sys

import psycopg

port, user, password, sql = sys.argv[1:]
place = {"host": "127.0.0.1", "port": int(port), "dbname": "postgres", "connect_timeout": 5}
with psycopg.connect(**place, user=user, password=password, autocommit=True) as connection:
    cursor = connection.execute(sql)
    rows = cursor.fetchall() if cursor.description else []
print(json.dumps([list(row) for row in rows], default=lambda value: int(value) if value == int(value) else str(value), ensure_ascii=False))
