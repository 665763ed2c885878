//! Asks a bucket, before anything is trusted to it, whether it can hold a lake: whether it is there, lets us write, and
//! lets one of two writers win.

use std::fmt;

use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::{LakeStore, StoreError};

/// The object that is put, below the lake's folder. It stays: the next probe needs one request instead of two.
const PROBE: &str = "_sendlake/probe";
const CONTENT: &str = "sendlake put this here to see whether the bucket refuses to overwrite it, as it must. It may be deleted.\n";

/// What a bucket refuses, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoCredentials,
    WrongCredentials,
    NotAllowed,
    NoBucket,
    NoConditionalPut,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCredentials => {
                "no credentials were found: none in storage.options, none in the environment or the vendor's files, and \
                 this machine has no role; docs/lake.md, \"Where it lies\", lists the places"
            }
            Self::WrongCredentials => {
                "the service does not accept these credentials; check key and secret (or that the session has not \
                 expired), and the clock of this machine. Options go before the environment, that before profile files"
            }
            Self::NotAllowed => {
                "these credentials may not do what a lake needs; allow them to list the bucket and to read, write and \
                 delete objects below the lake's folder"
            }
            Self::NoBucket => {
                "there is no such bucket (or container) with this account and region; make it, or mend storage.lake_url"
            }
            Self::NoConditionalPut => {
                "this store overwrites an object that it was asked to make only if absent (If-None-Match: *), so two \
                 writers could both own one table version; use a store that supports conditional writes, or a newer \
                 version of this one, and remove storage.options.aws_conditional_put if it is set"
            }
        })
    }
}

impl LakeStore {
    /// Makes sure that a bucket can hold a lake, with one or two small writes. Folders and memory need no probe.
    ///
    /// [`StoreError::Refused`] stays until somebody changes something; [`StoreError::Away`] may pass.
    pub async fn probe(&self) -> Result<(), StoreError> {
        if matches!(self.url.scheme(), "file" | "memory") {
            return Ok(());
        }
        let place = Path::from_url_path(format!("{}{PROBE}", self.url.path())).map_err(|error| {
            StoreError::NotAUrl { location: self.url.to_string(), reason: error.to_string() }
        })?;
        // The first may be what makes the object; then the second must be refused.
        for _ in 0..2 {
            let options = PutOptions::from(PutMode::Create);
            match self.root.put_opts(&place, PutPayload::from_static(CONTENT.as_bytes()), options).await {
                Ok(_) => {}
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    return self.readable(&place).await;
                }
                Err(error) => return Err(self.judged(error)),
            }
        }
        let said = "the same object could be created twice".to_owned();
        Err(StoreError::Refused { url: self.url.to_string(), refusal: Refusal::NoConditionalPut, said })
    }

    /// Whether the bucket may also be read: listed, and the probe itself fetched.
    async fn readable(&self, place: &Path) -> Result<(), StoreError> {
        self.root.head(place).await.map_err(|error| self.judged(error))?;
        let beside = place.parts().take(place.parts_count().saturating_sub(1)).collect::<Path>();
        self.root.list_with_delimiter(Some(&beside)).await.map_err(|error| self.judged(error))?;
        Ok(())
    }

    fn judged(&self, error: Error) -> StoreError {
        let url = self.url.to_string();
        match refusal(&error) {
            Some(refusal) => StoreError::Refused { url, refusal, said: one_line(&error) },
            None => StoreError::Away { url, source: Box::new(error) },
        }
    }
}

/// Words of the vendors' answers, and what they mean. First match counts.
const SAID: &[(&str, Refusal)] = &[
    ("NoSuchBucket", Refusal::NoBucket),
    ("ContainerNotFound", Refusal::NoBucket),
    ("specified bucket does not exist", Refusal::NoBucket),
    ("SignatureDoesNotMatch", Refusal::WrongCredentials),
    ("InvalidAccessKeyId", Refusal::WrongCredentials),
    ("InvalidToken", Refusal::WrongCredentials),
    ("ExpiredToken", Refusal::WrongCredentials),
    ("RequestTimeTooSkewed", Refusal::WrongCredentials),
    ("AuthenticationFailed", Refusal::WrongCredentials),
    ("InvalidAuthenticationInfo", Refusal::WrongCredentials),
    ("invalid_grant", Refusal::WrongCredentials),
    ("169.254.", Refusal::NoCredentials),
    ("metadata.google.internal", Refusal::NoCredentials),
    ("NotImplemented", Refusal::NoConditionalPut),
];

/// What an error of a bucket comes to; `None` for what may pass by itself.
pub(crate) fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let text = error.to_string();
    if let Some((_, refusal)) = SAID.iter().find(|(word, _)| text.contains(word)) {
        return Some(*refusal);
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<Error>() {
            Some(Error::PermissionDenied { .. }) => return Some(Refusal::NotAllowed),
            Some(Error::Unauthenticated { .. }) => return Some(Refusal::WrongCredentials),
            Some(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                return Some(Refusal::NoConditionalPut);
            }
            _ => cause = error.source(),
        }
    }
    None
}

fn one_line(error: &Error) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(400).collect()
}

#[cfg(test)]
mod tests;
