//! Where a credential is: in the environment, in a file, or sealed in the control store. Never in the configuration itself.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Names a credential: `env:NAME`, `file:/path` or `secret:name` (made by `sendlake secret set name`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    Env(String),
    File(PathBuf),
    /// Sealed in the control store, under the master key.
    Stored(String),
}

/// What holds the sealed ones.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// The secret of that name; `None` when there is none.
    async fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String>;
}

/// A credential could not be read. Says where it was looked for, never what was there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the environment has no variable {0}; set it for the server's process")]
    NoVariable(String),
    #[error("{path} cannot be read: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("there is no secret {0:?} in the control store; make it with `sendlake secret set {0}`")]
    NotStored(String),
    #[error("the control store cannot be asked for the secret {name:?}: {reason}")]
    Store { name: String, reason: String },
}

impl SecretRef {
    /// The credential itself, without white space at its end.
    pub async fn resolve(&self, stored: &dyn SecretSource) -> Result<Zeroizing<String>, SecretError> {
        let text = match self {
            Self::Env(name) => {
                Zeroizing::new(std::env::var(name).map_err(|_| SecretError::NoVariable(name.clone()))?)
            }
            Self::File(path) => {
                let read = tokio::fs::read_to_string(path).await;
                Zeroizing::new(read.map_err(|source| SecretError::File { path: path.clone(), source })?)
            }
            Self::Stored(name) => stored
                .secret(name)
                .await
                .map_err(|reason| SecretError::Store { name: name.clone(), reason })?
                .ok_or_else(|| SecretError::NotStored(name.clone()))?,
        };
        Ok(Zeroizing::new(text.trim_end().to_owned()))
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // What was given may be a secret: it is not repeated.
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("secret", name)) if !name.is_empty() => Ok(Self::Stored(name.to_owned())),
            _ => Err("a credential does not stand here itself: write env:NAME, file:/path, or secret:name \
                      (made by `sendlake secret set name`)"
                .to_owned()),
        }
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        secret.to_string()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Stored(name) => write!(f, "secret:{name}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Holds nothing.
    pub(crate) struct NoSecrets;

    #[async_trait]
    impl SecretSource for NoSecrets {
        async fn secret(&self, _: &str) -> Result<Option<Zeroizing<String>>, String> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn a_secret_is_named_and_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "hunter2\n").unwrap();
        let file = SecretRef::try_from(format!("file:{}", path.display())).unwrap();
        assert_eq!(file.resolve(&NoSecrets).await.unwrap().as_str(), "hunter2");
        let error = SecretRef::try_from("hunter2".to_owned()).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        let missing = SecretRef::try_from("secret:bq".to_owned()).unwrap().resolve(&NoSecrets).await;
        assert!(missing.unwrap_err().to_string().contains("sendlake secret set bq"));
    }
}
