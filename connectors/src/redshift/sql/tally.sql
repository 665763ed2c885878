SELECT EXTRACT(EPOCH FROM at_hour), COUNT(*), COUNT(DISTINCT event_id), SUM(lsn)
FROM (
  SELECT DATE_TRUNC('hour', occurred_at AT TIME ZONE 'UTC') AS at_hour, event_id, lsn
  FROM {target}
  WHERE event_date BETWEEN DATE {first_day} AND DATE {last_day}
    AND occurred_at >= CAST({from} AS TIMESTAMP) AT TIME ZONE 'UTC' AND occurred_at < CAST({to} AS TIMESTAMP) AT TIME ZONE 'UTC'
    AND ({positions})
) AS counted
GROUP BY 1
ORDER BY 1;
