-- The session ends after the transaction, by either way; this frees its disk before.
DROP TABLE {stage};
