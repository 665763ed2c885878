-- Selected events of one tenant after a place, in the order of places. recorded_at stands alone beside the place, so that
-- it spares the scan older files.
SELECT *
FROM events
WHERE recorded_at >= arrow_cast({from}, 'Timestamp(Microsecond, Some("UTC"))')
    AND recorded_at < arrow_cast({to}, 'Timestamp(Microsecond, Some("UTC"))')
    AND {types}
    AND {message}
    AND (
        recorded_at > arrow_cast({place_at}, 'Timestamp(Microsecond, Some("UTC"))')
        OR (
            recorded_at = arrow_cast({place_at}, 'Timestamp(Microsecond, Some("UTC"))')
            AND (lsn > {place_lsn} OR (lsn = {place_lsn} AND event_id > '{place_id}'))
        )
    )
ORDER BY recorded_at, lsn, event_id
LIMIT {max}
