SELECT name, type, default_kind FROM system.columns WHERE database = {database_text} AND table = {table_text}
