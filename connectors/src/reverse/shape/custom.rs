//! Any API that takes JSON: a row as the body, or an array of rows where a request has several. A success is one for all.

use reqwest::Method;
use serde_json::Value;

use super::{Answer, Reply, Verdict, refused};
use crate::reverse::record::Record;
use crate::reverse::settings::ReverseSettings;
use crate::target::TargetError;

pub fn parts(settings: &ReverseSettings, mut records: Vec<Value>) -> (Method, Value) {
    let method = match settings.method.as_str() {
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        _ => Method::POST,
    };
    let body = match settings.batch_rows() {
        1 => records.pop().unwrap_or(Value::Null),
        _ => Value::Array(records),
    };
    (method, body)
}

pub fn read(records: &[Record], reply: &Reply) -> Result<Answer, TargetError> {
    let message = String::from_utf8_lossy(&reply.body);
    match reply.status {
        200..=299 => Ok(Answer::Each(vec![Verdict::Taken; records.len()])),
        // An address of a single record may be gone, or not be there yet.
        status @ (404 | 410) => Ok(Answer::Whole(format!("it answers {status}: {}", super::short(&message)))),
        _ => refused(reply, &message),
    }
}
