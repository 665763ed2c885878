-- Redshift's MERGE takes no alias for its target, equalities alone in ON, and both clauses.
MERGE INTO {target} USING {stage}
ON {target}.event_id = {stage}.event_id AND {target}.event_date = {stage}.event_date
WHEN MATCHED THEN UPDATE SET {assignments}
WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values});
