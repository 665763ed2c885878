CREATE TABLE IF NOT EXISTS {target} (
  {columns},
  PRIMARY KEY (event_id, event_date)
){partition};
CREATE INDEX IF NOT EXISTS {tenant_index} ON {target} (tenant_id, occurred_at);
CREATE INDEX IF NOT EXISTS {time_index} ON {target} USING brin (occurred_at);
