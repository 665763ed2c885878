//! Salesforce: `PATCH /services/data/vNN.0/composite/sobjects/{object}/{external id field}`, up to 200 records.
//!
//! From the vendor's page "Upsert Records Using sObject Collections" (REST API Developer Guide): with `allOrNone` false each
//! record stands for itself, and the answer (200) is a list in the order of the request.

use serde_json::{Value, json};

use super::{Answer, Reply, Verdict, refused, short, unreadable};
use crate::reverse::record::Record;
use crate::reverse::settings::ReverseSettings;
use crate::target::TargetError;

const PREFIX: &str = "/services/data/v61.0";
/// The limit is one of 24 hours that roll on.
const QUOTA_S: u64 = 3_600;
/// Codes of what is over soon, from the vendor's page "Status codes and error responses".
const PASSING: [&str; 4] =
    ["UNABLE_TO_LOCK_ROW", "SERVER_UNAVAILABLE", "REQUEST_RUNNING_TOO_LONG", "REQUEST_LIMIT_EXCEEDED"];

pub fn address(settings: &ReverseSettings) -> String {
    let base = settings.url.trim_end_matches('/');
    let has_path = base.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    let prefix = if has_path { "" } else { PREFIX };
    format!("{base}{prefix}/composite/sobjects/{}/{}", settings.object, settings.id_property)
}

/// Fields keep their types; null clears one.
pub fn wrap(settings: &ReverseSettings, key: &str, fields: Value) -> Value {
    let Value::Object(mut fields) = fields else { return Value::Null };
    fields.insert("attributes".to_owned(), json!({ "type": settings.object }));
    fields.insert(settings.id_property.clone(), Value::String(key.to_owned()));
    Value::Object(fields)
}

pub fn body(records: Vec<Value>) -> Value {
    json!({ "allOrNone": false, "records": records })
}

pub fn read(records: &[Record], reply: &Reply) -> Result<Answer, TargetError> {
    let answer = super::json(reply);
    let list = answer.as_ref().and_then(Value::as_array);
    if !matches!(reply.status, 200 | 201) {
        let first = list.and_then(|list| list.first());
        let text =
            |name: &str| first.and_then(|error| error.get(name)).and_then(Value::as_str).unwrap_or_default();
        let said = format!("{} {}", text("errorCode"), text("message"));
        if text("errorCode") == "REQUEST_LIMIT_EXCEEDED" {
            let retry_after_s = reply.retry_after_s.unwrap_or(QUOTA_S);
            return Err(TargetError::Quota {
                said: format!("it answers {}: {}", reply.status, short(&said)),
                retry_after_s,
            });
        }
        return refused(reply, &said);
    }
    let Some(list) = list.filter(|list| list.len() == records.len()) else {
        return Err(unreadable(reply, "no list of as many results as there were records"));
    };
    Ok(Answer::Each(list.iter().map(verdict).collect()))
}

fn verdict(result: &Value) -> Verdict {
    if result.get("success").and_then(Value::as_bool) == Some(true) {
        return Verdict::Taken;
    }
    let errors = result.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text =
        |error: &Value, name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let codes: Vec<String> = errors.iter().map(|error| text(error, "statusCode")).collect();
    let said: Vec<String> = errors
        .iter()
        .map(|error| format!("{}: {}", text(error, "statusCode"), text(error, "message")))
        .collect();
    let may_pass = !codes.is_empty() && codes.iter().all(|code| PASSING.contains(&code.as_str()));
    Verdict::Refused { said: short(&said.join("; ")), may_pass }
}
