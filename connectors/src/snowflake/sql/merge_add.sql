MERGE INTO {table} AS t
USING (SELECT {staged_values} FROM {staging}) AS s
ON t."EVENT_ID" = s."EVENT_ID" AND t."EVENT_DATE" BETWEEN {first_day} AND {last_day}
WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({inserted})
