-- Grain: an hour of occurred_at. What the table holds, to be compared with the lake.
-- Cost: four columns of the partitions between the two days.
SELECT
  UNIX_SECONDS(TIMESTAMP_TRUNC(occurred_at, HOUR)) AS hour_s,
  COUNT(*) AS row_total,
  COUNT(DISTINCT event_id) AS events,
  SUM(lsn) AS lsn_sum
FROM {target}
WHERE event_date BETWEEN DATE '{first_day}' AND DATE '{last_day}'
  AND occurred_at >= TIMESTAMP_MICROS(@from_us)
  AND occurred_at < TIMESTAMP_MICROS(@to_us)
  AND ({positions})
GROUP BY hour_s
ORDER BY hour_s
