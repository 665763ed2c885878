-- Loaders of one table, and who makes or changes it, one after the other; freed with the transaction.
SELECT pg_advisory_xact_lock(hashtext('sendlake'), hashtext({table_key}));
