-- Reading the lake in place, without copying: a BigLake table over the Delta table.
-- First, once, a connection, and its service account (printed by the second command) may read the bucket:
--   bq mk --connection --location=LOCATION --connection_type=CLOUD_RESOURCE CONNECTION
--   bq show --connection {connection}
--   gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:CONNECTION_ACCOUNT --role=roles/storage.objectViewer
CREATE EXTERNAL TABLE IF NOT EXISTS {external}
WITH CONNECTION `{connection}`
OPTIONS (format = 'DELTA_LAKE', uris = ['{url}']);
