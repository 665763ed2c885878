-- rebuild
-- What: every change of the list of suppressions of one day, in the order in which they were told.
-- Grain: one row per event.
-- Consumer: src/suppressions/rebuild.rs, which puts in the day.
-- Cost: one day's files; two small columns where nothing else matches.
SELECT event_type, event_id, CAST(recorded_at AS BIGINT) AS at, tenant_id, recipient, detail
FROM events
WHERE event_type IN ('suppression_added', 'suppression_removed') AND event_date = DATE '{day}'
ORDER BY recorded_at, incarnation, lsn
