DELETE FROM {target}
WHERE event_date BETWEEN {first_day} AND {last_day} AND event_id IN (SELECT event_id FROM {stage});
