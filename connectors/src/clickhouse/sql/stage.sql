-- On this server alone, with a memory of the pieces that it has taken.
CREATE TABLE IF NOT EXISTS {stage} (
  {stage_columns}
) ENGINE = MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 10000;
