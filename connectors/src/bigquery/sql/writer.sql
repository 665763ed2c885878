-- The row that loads of the target meet at, made when it is missing. Made twice by two at once it does no harm: loads change
-- both.
MERGE {writer} AS W
  USING (SELECT @target AS target) AS S
  ON W.target = S.target
  WHEN NOT MATCHED THEN INSERT (target) VALUES (S.target)
