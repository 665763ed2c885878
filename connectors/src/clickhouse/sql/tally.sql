SELECT toUnixTimestamp(toStartOfHour(occurred_at)), count(), uniqExact(event_id), sum(lsn)
FROM {target}
WHERE event_date BETWEEN {first_day} AND {last_day}
  AND occurred_at >= toDateTime64({from}, 6, 'UTC') AND occurred_at < toDateTime64({to}, 6, 'UTC')
  AND ({positions})
GROUP BY 1
ORDER BY 1
