ALTER TABLE {target}{on_cluster} ADD COLUMN IF NOT EXISTS {column};
