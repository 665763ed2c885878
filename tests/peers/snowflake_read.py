"""What is in a table of (a stand-in of) Snowflake, by the official Python connector with a key pair; printed as JSON.

    snowflake_read.py HOST PORT ACCOUNT USER KEY.p8 DATABASE SCHEMA [WAREHOUSE ROLE] < statement
"""

import datetime
import decimal
import json
import sys

import snowflake.connector

host, port, account, user, key, database, schema = sys.argv[1:8]
more = dict(zip(("warehouse", "role"), sys.argv[8:10]))
connection = snowflake.connector.connect(
    host=host,
    port=int(port),
    protocol="http" if host == "127.0.0.1" else "https",
    account=account,
    user=user,
    authenticator="SNOWFLAKE_JWT",
    private_key_file=key,
    database=database,
    schema=schema,
    login_timeout=30,
    **more,
)


def plain(value):
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return value


cursor = connection.cursor()
cursor.execute(sys.stdin.read())
json.dump([[plain(value) for value in row] for row in cursor.fetchall()], sys.stdout)
connection.close()
