-- The table of events. No clustering key: rows come in the order of time, so that micro-partitions are narrow by
-- "EVENT_DATE" by themselves, and automatic clustering costs credits.
CREATE TABLE IF NOT EXISTS {table} (
  {columns}
)
COMMENT = 'sendlake: one row for each event_id; instants are UTC'
