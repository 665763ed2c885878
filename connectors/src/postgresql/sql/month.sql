CREATE TABLE IF NOT EXISTS {partition_name} PARTITION OF {target} FOR VALUES FROM ({from_day}) TO ({to_day});
