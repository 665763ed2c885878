-- Rows of one event, should there ever be two, become one by a merge: the one with the highest version.
CREATE TABLE IF NOT EXISTS {target}{on_cluster} (
  {columns}
) ENGINE = {replicated}ReplacingMergeTree(load_version)
PARTITION BY toYYYYMM(event_date)
ORDER BY (tenant_id, event_date, event_id);
