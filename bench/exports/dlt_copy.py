"""dlt loads a folder of Parquet files into a destination, merged by event_id where the destination merges.

usage: dlt_copy.py FOLDER arrow|rows files|postgresql DESTINATION_URL DATASET WORK_FOLDER
`arrow` hands over Arrow tables, dlt's quickest way; `rows` hands over dictionaries, as dlt's own reader of Parquet does
unless it is told otherwise.
"""

import os
import pathlib
import sys

folder, form, kind, url, dataset, work = sys.argv[1:7]
os.environ["DLT_DATA_DIR"] = work
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"

import dlt  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

BATCH_ROWS = 65_536


def rows():
    for file in sorted(pathlib.Path(folder).glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            yield pa.Table.from_batches([batch]) if form == "arrow" else batch.to_pylist()


is_files = kind == "files"
pipeline = dlt.pipeline(
    "bench",
    pipelines_dir=work,
    destination=dlt.destinations.filesystem(url) if is_files else dlt.destinations.postgres(url),
    dataset_name=dataset,
)
events = dlt.resource(
    rows, name="events", write_disposition="append" if is_files else "merge", primary_key="event_id"
)
# Of the formats that it loads into PostgreSQL this is the one that it sends by COPY.
told = pipeline.run(events, loader_file_format="parquet" if is_files else "csv")
told.raise_on_failed_jobs()
