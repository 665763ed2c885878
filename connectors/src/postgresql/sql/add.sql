INSERT INTO {target} ({names})
SELECT {names} FROM {stage}
ON CONFLICT (event_id, event_date) DO NOTHING;
