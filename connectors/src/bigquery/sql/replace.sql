MERGE {target} AS T
  USING {stage} AS S
  ON T.event_date BETWEEN DATE '{first_day}' AND DATE '{last_day}' AND T.event_id = S.event_id
  WHEN MATCHED THEN UPDATE SET {assignments}
  WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})
