-- Grain: one row. Whether a batch is in, how many rows it changed, and what was used of the day's load jobs: an attempt of
-- a batch is a load job. Days are those of Pacific time. Cost: the ledger, once.
SELECT
  COUNTIF(batch_id = @batch_id) AS done,
  COALESCE(MAX(IF(batch_id = @batch_id, rows_changed, NULL)), 0) AS rows_changed,
  COALESCE(
    SUM(
      IF(
        loaded_at >= TIMESTAMP(CURRENT_DATE('America/Los_Angeles'), 'America/Los_Angeles'),
        attempt,
        0
      )
    ),
    0
  ) AS load_jobs_today,
  TIMESTAMP_DIFF(
    TIMESTAMP(DATE_ADD(CURRENT_DATE('America/Los_Angeles'), INTERVAL 1 DAY), 'America/Los_Angeles'),
    CURRENT_TIMESTAMP(),
    SECOND
  ) AS day_ends_in_s
FROM {ledger}
WHERE connector = @connector AND target = @target
