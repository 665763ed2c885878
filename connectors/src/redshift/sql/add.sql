INSERT INTO {target} ({names})
SELECT {values}
FROM {stage}
LEFT JOIN {target} ON {target}.event_id = {stage}.event_id
  AND {target}.event_date BETWEEN DATE {first_day} AND DATE {last_day}
WHERE {target}.event_id IS NULL;
