-- Distributed by event_id, so that a batch is compared where its rows will lie; sorted by day, so that only the batch's
-- days are read.
CREATE TABLE IF NOT EXISTS {target} (
  {columns}
) DISTSTYLE KEY DISTKEY (event_id) COMPOUND SORTKEY (event_date, tenant_id, occurred_at);
