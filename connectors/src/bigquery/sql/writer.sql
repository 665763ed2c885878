-- The row of the target table, made when it is missing. Made twice by two at once it does no harm: loads change both.
MERGE {writers} AS W
  USING (SELECT @target AS target) AS S
  ON W.target = S.target
  WHEN NOT MATCHED THEN INSERT (target) VALUES (S.target)
