DELETE FROM {target}
WHERE event_date BETWEEN {first_day} AND {last_day} AND load_version < {version}
  AND event_id IN (
    SELECT event_id FROM {target}
    WHERE event_date BETWEEN {first_day} AND {last_day} AND load_version = {version}
  );
