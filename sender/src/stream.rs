//! The three streams, which never share a queue.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kind of mail this is. Decides its IP pool, its headers and, later, its limits.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Answers something its recipient did: receipts, resets, alerts.
    #[default]
    Transactional,
    /// To people who asked for it.
    Marketing,
    /// To people who did not.
    Cold,
}

impl Stream {
    pub const ALL: [Stream; 3] = [Stream::Transactional, Stream::Marketing, Stream::Cold];

    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Transactional => "transactional",
            Stream::Marketing => "marketing",
            Stream::Cold => "cold",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a stream.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a stream: use transactional, marketing or cold")]
pub struct InvalidStream(pub String);

impl FromStr for Stream {
    type Err = InvalidStream;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.as_str() == name).ok_or_else(|| InvalidStream(name.to_owned()))
    }
}
