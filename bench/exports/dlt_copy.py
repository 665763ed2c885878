"""dlt loads a folder of Parquet files into a destination, merged by event_id where the destination merges.

usage: dlt_copy.py FILES_GLOB_FOLDER files|postgresql DESTINATION_URL WORK_FOLDER
prints {"wall_s": …, "max_rss_mib": …}
"""

import json
import os
import resource
import sys
import time

folder, kind, url, work = sys.argv[1:5]
os.environ["DLT_DATA_DIR"] = work
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"

import dlt  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402


def rows():
    for root, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.endswith(".parquet") and "_delta_log" not in root:
                for batch in pq.ParquetFile(os.path.join(root, name)).iter_batches(65536):
                    yield batch.to_table() if hasattr(batch, "to_table") else __import__("pyarrow").Table.from_batches([batch])


destination = dlt.destinations.filesystem(url) if kind == "files" else dlt.destinations.postgres(url)
pipeline = dlt.pipeline("bench", pipelines_dir=work, destination=destination, dataset_name="dlt_bench")
began = time.perf_counter()
disposition = "append" if kind == "files" else "merge"
resource_of = dlt.resource(rows, name="events", write_disposition=disposition, primary_key="event_id")
pipeline.run(resource_of, loader_file_format="parquet" if kind == "files" else "csv")
used = resource.getrusage(resource.RUSAGE_SELF)
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "wall_s": time.perf_counter() - began,
    "max_rss_mib": max(used.ru_maxrss, children.ru_maxrss) / 1024,
    "version": dlt.__version__,
}))
