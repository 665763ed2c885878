SELECT engine, sorting_key FROM system.tables WHERE database = {database_text} AND name = {table_text}
