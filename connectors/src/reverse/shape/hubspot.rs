//! HubSpot: batch upsert of CRM objects, `POST /crm/v3/objects/{object}/batch/upsert`, up to 100 records.
//!
//! From the vendor's pages "Create or update a batch of contacts by unique property values" and "Error handling: multi-status
//! errors": each input carries an `objectWriteTraceId`, by which the answer (200, or 207 where some failed) names it.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{Answer, Reply, Verdict, refused, short, unreadable};
use crate::reverse::record::Record;
use crate::reverse::settings::ReverseSettings;
use crate::reverse::template::as_text;
use crate::target::TargetError;

const HOST: &str = "https://api.hubapi.com";
const PREFIX: &str = "/crm/v3";
/// The vendor's limit for a day ends at midnight of the account's time zone: asked again each hour.
const DAILY_QUOTA_S: u64 = 3_600;
/// The other limit is for ten seconds.
const ROLLING_QUOTA_S: u64 = 10;

pub fn address(settings: &ReverseSettings) -> String {
    let base = if settings.url.is_empty() { HOST } else { settings.url.trim_end_matches('/') };
    let has_path = base.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    let prefix = if has_path { "" } else { PREFIX };
    format!("{base}{prefix}/objects/{}/batch/upsert", settings.object)
}

/// Properties are texts there; an empty one clears the property.
pub fn wrap(settings: &ReverseSettings, key: &str, key_hash: &str, fields: Value) -> Value {
    let Value::Object(fields) = fields else { return Value::Null };
    let texts = fields.into_iter().map(|(name, value)| (name, Value::String(as_text(&value))));
    json!({
        "id": key,
        "idProperty": settings.id_property,
        "objectWriteTraceId": key_hash,
        "properties": texts.collect::<Map<_, _>>(),
    })
}

pub fn body(records: Vec<Value>) -> Value {
    json!({ "inputs": records })
}

pub fn read(settings: &ReverseSettings, records: &[Record], reply: &Reply) -> Result<Answer, TargetError> {
    let answer = super::json(reply);
    let member = |name: &str| answer.as_ref().and_then(|answer| answer.get(name));
    if !matches!(reply.status, 200 | 201 | 207) {
        let message = member("message").and_then(Value::as_str).unwrap_or_default();
        let mut reply = reply.clone();
        if reply.status == 429 && reply.retry_after_s.is_none() {
            let is_daily = member("policyName").and_then(Value::as_str) == Some("DAILY");
            reply.retry_after_s = Some(if is_daily { DAILY_QUOTA_S } else { ROLLING_QUOTA_S });
        }
        return refused(&reply, message);
    }
    let Some(results) = member("results").and_then(Value::as_array) else {
        return Err(unreadable(reply, "no `results`"));
    };
    let errors = member("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_complete = reply.status != 207 && errors.is_empty() && results.len() == records.len();
    let named: HashSet<String> =
        results.iter().flat_map(|result| names_of_result(result, &settings.id_property)).collect();
    let verdict = |record: &Record| {
        let names = [&record.key_hash, &record.key.to_lowercase()];
        let error =
            errors.iter().find(|error| names_of_error(error).iter().any(|name| names.contains(&name)));
        match error {
            Some(error) => Verdict::Refused { said: said(error), may_pass: false },
            None if is_complete || names.iter().any(|name| named.contains(*name)) => Verdict::Taken,
            None => {
                let first = errors.first().map(said).unwrap_or_default();
                Verdict::Refused {
                    said: format!("the answer does not name this record. {first}"),
                    may_pass: true,
                }
            }
        }
    };
    Ok(Answer::Each(records.iter().map(verdict).collect()))
}

fn names_of_result(result: &Value, id_property: &str) -> Vec<String> {
    let trace = result.get("objectWriteTraceId").and_then(Value::as_str);
    let id =
        result.get("properties").and_then(|properties| properties.get(id_property)).and_then(Value::as_str);
    trace.map(str::to_owned).into_iter().chain(id.map(str::to_lowercase)).collect()
}

/// An error's context names records by trace or by id, one or a list of them.
fn names_of_error(error: &Value) -> Vec<String> {
    let context = error.get("context");
    let members = ["objectWriteTraceId", "id", "ids"].into_iter();
    let values = members.filter_map(|name| context.and_then(|context| context.get(name)));
    let texts = values.flat_map(|value| match value {
        Value::Array(items) => items.iter().map(as_text).collect(),
        value => vec![as_text(value)],
    });
    texts.map(|text| text.to_lowercase()).collect()
}

fn said(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    short(format!("{} {}", text("category"), text("message")).trim())
}
