-- Nothing has to be made: the files are read where they are. In DuckDB:
SELECT event_type, count(*)
FROM {reader}('{url}/{table}/*/*.{extension}', hive_partitioning = false)
GROUP BY event_type;

-- In Spark (the folders' event_date is a column of the files too):
--   spark.read.option("basePath", "{url}/{table}").format("{spark}").load("{url}/{table}/event_date=*")
