--    The bucket of the settings. After CREATE, DESC STORAGE INTEGRATION names whom to let read it in the cloud's console.
CREATE STORAGE INTEGRATION IF NOT EXISTS "SENDLAKE_STORAGE"
  TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = '{provider}' ENABLED = TRUE
  {provider_settings}
  STORAGE_ALLOWED_LOCATIONS = ('{stage_url}');
CREATE STAGE IF NOT EXISTS {stage} URL = '{stage_url}' STORAGE_INTEGRATION = "SENDLAKE_STORAGE";
GRANT USAGE ON STAGE {stage} TO ROLE {role};
