SELECT extract(epoch FROM date_trunc('hour', occurred_at AT TIME ZONE 'UTC'))::bigint,
  count(*), count(DISTINCT event_id), sum(lsn)
FROM {target}
WHERE event_date BETWEEN {first_day} AND {last_day}
  AND occurred_at >= {from}::timestamp AT TIME ZONE 'UTC' AND occurred_at < {to}::timestamp AT TIME ZONE 'UTC'
  AND ({positions})
GROUP BY 1
ORDER BY 1;
