"""Asks a Redshift with Amazon's own client (redshift_connector) and prints the rows as JSON.

usage: redshift_judge.py HOST PORT DATABASE USER PASSWORD SQL [SQL …]    prints the last statement's rows
       TLS with the system's roots unless REDSHIFT_PLAIN is set
"""

import json
import os
import sys

import redshift_connector

host, port, database, user, password, *statements = sys.argv[1:]
connection = redshift_connector.connect(
    host=host, port=int(port), database=database, user=user, password=password,
    ssl=not os.environ.get("REDSHIFT_PLAIN"),
)
connection.autocommit = True
cursor = connection.cursor()
for statement in statements:
    cursor.execute(statement)
rows = cursor.fetchall() if cursor.description else []
print(json.dumps([list(row) for row in rows], default=str, ensure_ascii=False))
