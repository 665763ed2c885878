--    A stage of Snowflake's own, since the settings name no bucket.
{create_stage};
GRANT READ, WRITE ON STAGE {stage} TO ROLE {role};
