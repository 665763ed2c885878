//! What each API wants to be asked, and how it answers: one record at a time. Pure.

mod custom;
mod hubspot;
mod salesforce;

use reqwest::Method;
use serde_json::Value;

use super::record::Record;
use super::settings::{ReverseSettings, Shape};
use crate::target::TargetError;

/// A pause where the destination says that a limit is used up, and not for how long.
const QUOTA_S: u64 = 60;
/// Longest text of a refusal that is kept.
const SAID_CHARS_MAX: usize = 300;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub method: Method,
    pub url: String,
    pub body: Value,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub retry_after_s: Option<u64>,
    pub body: Vec<u8>,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    Refused {
        said: String,
        /// The next run tries it again, instead of tomorrow's.
        may_pass: bool,
    },
}

/// What became of a request's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// In the order of the request.
    Each(Vec<Verdict>),
    /// The request was refused as it is, and no record of it taken; which of them is to blame it does not say.
    Whole(String),
}

/// Where requests go; for `custom` with columns in it.
pub fn address(settings: &ReverseSettings) -> String {
    match settings.shape {
        Shape::Hubspot => hubspot::address(settings),
        Shape::Salesforce => salesforce::address(settings),
        Shape::Custom => settings.url.clone(),
    }
}

/// A record's part of the body.
pub fn wrap(settings: &ReverseSettings, key: &str, key_hash: &str, fields: Value) -> Value {
    match settings.shape {
        Shape::Hubspot => hubspot::wrap(settings, key, key_hash, fields),
        Shape::Salesforce => salesforce::wrap(settings, key, fields),
        Shape::Custom => fields,
    }
}

/// The request for some records; at least one.
pub fn request(settings: &ReverseSettings, records: &[Record]) -> Request {
    let url = records.first().map(|record| record.url.clone()).unwrap_or_default();
    let bodies = || records.iter().map(|record| record.body.clone()).collect::<Vec<_>>();
    let (method, body) = match settings.shape {
        Shape::Hubspot => (Method::POST, hubspot::body(bodies())),
        Shape::Salesforce => (Method::PATCH, salesforce::body(bodies())),
        Shape::Custom => custom::parts(settings, bodies()),
    };
    Request { method, url, body }
}

/// What the answer says of each record.
pub fn read(settings: &ReverseSettings, records: &[Record], reply: &Reply) -> Result<Answer, TargetError> {
    match settings.shape {
        Shape::Hubspot => hubspot::read(settings, records, reply),
        Shape::Salesforce => salesforce::read(records, reply),
        Shape::Custom => custom::read(records, reply),
    }
}

/// What a status means that is no success. `message` is what the destination said; it is kept short.
fn refused(reply: &Reply, message: &str) -> Result<Answer, TargetError> {
    let status = reply.status;
    let said = match message.trim() {
        "" => format!("it answers {status}"),
        message => format!("it answers {status}: {}", short(message)),
    };
    match status {
        401 | 403 => Err(TargetError::Credentials(format!(
            "{said}; see that the credential is valid and may write these records"
        ))),
        429 => Err(TargetError::Quota { said, retry_after_s: reply.retry_after_s.unwrap_or(QUOTA_S) }),
        503 if reply.retry_after_s.is_some() => {
            Err(TargetError::Quota { said, retry_after_s: reply.retry_after_s.unwrap_or(QUOTA_S) })
        }
        300..=399 => Err(TargetError::Refused(format!("{said}; redirects are not followed: correct `url`"))),
        400 | 409 | 413 | 422 => Ok(Answer::Whole(said)),
        408 | 425 | 500.. => Err(TargetError::Away(said)),
        _ => Err(TargetError::Refused(format!("{said}; see `url`, `object` and `id_property`"))),
    }
}

/// An answer that nobody can read: whether the records were taken is unknown, so they are posted again.
fn unreadable(reply: &Reply, what: &str) -> TargetError {
    TargetError::Away(format!("it answers {} with {what}; the same rows are posted again", reply.status))
}

fn json(reply: &Reply) -> Option<Value> {
    serde_json::from_slice(&reply.body).ok()
}

/// The beginning of a text, on one line.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_CHARS_MAX).collect()
}
