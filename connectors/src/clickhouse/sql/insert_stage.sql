INSERT INTO {stage} FORMAT Parquet
