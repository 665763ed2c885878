"""Serves local-bigquery, a stand-in for BigQuery, without its gRPC side.

usage: bigquery.py PORT DATA_FOLDER

Two things are mended in how it runs a MERGE, which it does in parts:
- It begins a transaction of its own. Within one of the script, DuckDB 1.5 answers that by aborting the script's, which the
  newer one that local-bigquery asks for does not. So here a MERGE is told that a transaction is open without asking.
- It writes SAFE.PARSE_JSON(…) out under the name that it gave the function itself, which it cannot read back.
"""

import pathlib
import sys

import duckdb
import uvicorn
from sqlglot import exp

from local_bigquery.jobs import merge, query
from local_bigquery.settings import settings

IN_TRANSACTION = set()  # cursors


class Joined:
    """A cursor that will not begin a second transaction."""

    def __init__(self, cursor):
        self.cursor = cursor

    def execute(self, sql, *arguments):
        if sql == "BEGIN":
            raise duckdb.TransactionException("a transaction is open")
        return self.cursor.execute(sql, *arguments)


plain_run, plain_merge, plain_sql, plain_execute = query._run, merge.run, merge._sql, query.execute


def run(cursor, tree, *arguments):
    done = plain_run(cursor, tree, *arguments)
    if isinstance(tree, exp.Transaction):
        IN_TRANSACTION.add(id(cursor))
    elif isinstance(tree, (exp.Commit, exp.Rollback)):
        IN_TRANSACTION.discard(id(cursor))
    return done


def merge_joined(cursor, tree, context):
    joined = Joined(cursor) if id(cursor) in IN_TRANSACTION else cursor
    return plain_merge(joined, tree, context)


def sql_that_reads_back(node):
    return plain_sql(node).replace("SAFE.bq.main.", "SAFE.")


def execute_and_forget(cursor, *arguments, **named):
    # A cursor that was closed in the middle of a script must not be taken for a later one at the same address.
    try:
        return plain_execute(cursor, *arguments, **named)
    finally:
        IN_TRANSACTION.discard(id(cursor))


query._run, merge.run, merge._sql, query.execute = run, merge_joined, sql_that_reads_back, execute_and_forget
settings.data_dir = pathlib.Path(sys.argv[2])
uvicorn.run("local_bigquery:app", host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
