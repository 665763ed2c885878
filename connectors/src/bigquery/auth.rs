//! As whom requests are made: a service account's key, or what the machine has to offer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gcp_auth::{CustomServiceAccount, TokenProvider};
use object_store::CredentialProvider;
use object_store::gcp::GcpCredential;

use super::settings::Settings;
use crate::secret::SecretSource;
use crate::target::TargetError;

/// The least that loading needs: BigQuery's API, and objects in the bucket by which files go.
const SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/devstorage.read_write"];
/// For a token, with the retries that the library makes.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Where bearer tokens come from.
#[derive(Clone)]
pub enum Auth {
    /// An emulator takes none.
    Unsigned,
    Google(Arc<dyn TokenProvider>),
}

impl Auth {
    pub async fn of(settings: &Settings, secrets: &dyn SecretSource) -> Result<Self, TargetError> {
        if settings.endpoint.is_some() {
            return Ok(Self::Unsigned);
        }
        let Some(reference) = &settings.credentials else {
            let found = tokio::time::timeout(TOKEN_TIMEOUT, gcp_auth::provider()).await;
            let provider = found.map_err(|_| away("no answer from the metadata server in time"))?;
            return Ok(Self::Google(provider.map_err(|error| refused(&error, "the machine's credentials"))?));
        };
        let key = reference.resolve(secrets).await.map_err(|error| {
            TargetError::Credentials(format!("the key of the service account is not there: {error}"))
        })?;
        // What the library says of a bad key may quote it.
        let account = CustomServiceAccount::from_json(&key).map_err(|_| {
            TargetError::Credentials(format!(
                "{reference} does not hold the JSON key of a service account; make one with \
                 `gcloud iam service-accounts keys create`"
            ))
        })?;
        Ok(Self::Google(Arc::new(account)))
    }

    /// A token that is good now; `None` for an emulator.
    pub async fn bearer(&self) -> Result<Option<String>, TargetError> {
        let Self::Google(provider) = self else { return Ok(None) };
        let token = tokio::time::timeout(TOKEN_TIMEOUT, provider.token(&SCOPES)).await;
        let token = token.map_err(|_| away("no token in time"))?;
        Ok(Some(token.map_err(|error| refused(&error, "a token"))?.as_str().to_owned()))
    }
}

fn away(what: &str) -> TargetError {
    TargetError::Away(format!("Google's token server: {what}"))
}

/// The library tells a refused request and a lost one apart by the variant alone.
fn refused(error: &gcp_auth::Error, what: &str) -> TargetError {
    match error {
        gcp_auth::Error::Http(..) | gcp_auth::Error::Io(..) | gcp_auth::Error::Other(..) => {
            away("the connection failed")
        }
        _ => TargetError::Credentials(format!(
            "Google gives no {what}: a key that was deleted or disabled, a clock that is wrong, or no credentials at \
             all. Set `credentials` in [export.….bigquery], or GOOGLE_APPLICATION_CREDENTIALS, or give the machine a \
             service account",
            what = what.trim_start_matches("a ")
        )),
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsigned => "Unsigned",
            Self::Google(_) => "Google",
        })
    }
}

/// The same tokens for Cloud Storage.
#[async_trait]
impl CredentialProvider for Auth {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let bearer = self.bearer().await.map_err(|source| object_store::Error::Unauthenticated {
            path: "a token".to_owned(),
            source: Box::new(source),
        })?;
        Ok(Arc::new(GcpCredential { bearer: bearer.unwrap_or_default() }))
    }
}
