-- Files are encrypted by Snowflake when they arrive, so that whoever uploads needs no key of the account.
CREATE STAGE IF NOT EXISTS {stage}
ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')
COMMENT = 'sendlake: files of batches that are being loaded'
