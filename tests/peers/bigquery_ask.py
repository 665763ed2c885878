"""Asks BigQuery, or its stand-in, with Google's client.

usage: bigquery_ask.py ENDPOINT PROJECT make DATASET    makes a dataset
       bigquery_ask.py ENDPOINT PROJECT query SQL       the rows, as a JSON list of objects
       bigquery_ask.py ENDPOINT PROJECT table NAME      what the table is: schema, partitioning, clustering

ENDPOINT is - for the real service, with the credentials of the environment.
"""

import datetime
import json
import sys

from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


endpoint, project, what, text = sys.argv[1:5]
if endpoint == "-":
    client = bigquery.Client(project=project)
else:
    options = {"api_endpoint": endpoint}
    client = bigquery.Client(project=project, credentials=AnonymousCredentials(), client_options=options)
if what == "make":
    client.create_dataset(text, exists_ok=True)
    print("null")
elif what == "table":
    print(json.dumps(client.get_table(text).to_api_repr()))
else:
    rows = client.query(text).result()
    print(json.dumps([{name: plain(value) for name, value in row.items()} for row in rows]))
