-- What every batch begins with. The lock comes first: a transaction's snapshot is taken by the statement after it, so a
-- loader that waited sees all that the one before it has committed. A batch that is in the ledger is emptied here, after
-- which the rest changes nothing. COPY fails on a value that is longer than its column; nothing is truncated.
LOCK TABLE {ledger};
CREATE TEMP TABLE {stage} (
  {stage_columns}
) DISTSTYLE KEY DISTKEY (event_id);
COPY {stage} FROM {manifest_url} IAM_ROLE {iam_role} FORMAT AS PARQUET MANIFEST;
DELETE FROM {stage}
WHERE 0 < (SELECT COUNT(*) FROM {ledger} WHERE batch_id = {batch_id} AND connector = {connector});
