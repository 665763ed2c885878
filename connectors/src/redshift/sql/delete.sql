DELETE FROM {target} USING {stage}
WHERE {target}.event_id = {stage}.event_id
  AND {target}.event_date BETWEEN DATE {first_day} AND DATE {last_day};
