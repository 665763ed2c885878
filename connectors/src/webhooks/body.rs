//! What is said of an event: `{"type", "timestamp", "data"}` as Standard Webhooks 1.0 advises ("Payload structure"). `data` has
//! the event's columns that are not null, under their names.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::Event;
use serde_json::{Map, Value, json};

use crate::mapping::Mask;

/// Columns that hold instants.
const INSTANTS: [&str; 4] = ["occurred_at", "recorded_at", "next_attempt_at", "delivered_at"];
/// Columns whose text may repeat a recipient's address: they do not leave where recipients are masked.
const TELLING: [&str; 4] = ["reply_text", "transcript", "detail", "url"];
/// The type of what `sendlake webhook test` sends.
pub const TEST_TYPE: &str = "webhook_test";

/// Masks recipients for one endpoint: its key stays when its signing secret is rotated.
pub struct Masking {
    pub mask: Mask,
    pub key: hmac::Key,
}

impl Masking {
    pub fn new(mask: Mask, key: &[u8; 32]) -> Self {
        Self { mask, key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    fn masked(&self, recipient: &str) -> Option<String> {
        match self.mask {
            // the address in one form, so that the same person gives the same digits
            Mask::Hash => {
                let tag = hmac::sign(&self.key, recipient.trim().to_lowercase().as_bytes());
                Some(HEXLOWER.encode(tag.as_ref()).chars().take(32).collect())
            }
            Mask::Domain => recipient.rsplit_once('@').map(|(_, domain)| domain.to_owned()),
            Mask::Null => None,
        }
    }
}

/// The body for one event. The same event gives the same octets.
pub fn of_event(event: &Event, masking: Option<&Masking>) -> Vec<u8> {
    let mut data = match serde_json::to_value(event) {
        Ok(Value::Object(data)) => data,
        // An event is an object of plain values; what its kind is stays true whatever happens.
        _ => Map::new(),
    };
    for name in INSTANTS {
        if let Some(value) = data.get_mut(name)
            && let Some(micros) = value.as_i64()
        {
            *value = Timestamp(micros).to_string().into();
        }
    }
    if let Some(masking) = masking {
        TELLING.iter().for_each(|name| drop(data.remove(*name)));
        if let Some(recipient) = data.remove("recipient").as_ref().and_then(Value::as_str)
            && let Some(masked) = masking.masked(recipient)
        {
            data.insert("recipient".into(), masked.into());
        }
    }
    // JSON in JSON as itself
    if let Some(detail) = data.get_mut("detail")
        && let Some(Ok(inner @ Value::Object(_))) = detail.as_str().map(serde_json::from_str)
    {
        *detail = inner;
    }
    body(event.event_type.as_str(), event.occurred_at, Value::Object(data))
}

/// The body that tries an endpoint out.
pub fn of_test(endpoint_id: &str, now: Timestamp) -> Vec<u8> {
    body(TEST_TYPE, now, json!({ "endpoint_id": endpoint_id, "note": "sent by hand; no mail is concerned" }))
}

fn body(kind: &str, at: Timestamp, data: Value) -> Vec<u8> {
    json!({ "type": kind, "timestamp": at.to_string(), "data": data }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use sendlake_control::id::TenantId;
    use sendlake_ingest::event::{EVENTS_SCHEMA, EventType};
    use uuid::Uuid;

    use super::*;

    fn bounced() -> Event {
        let at = Timestamp(1_795_348_800_000_001);
        let mut event = Event::new(Uuid::nil(), EventType::Bounced, at, TenantId::new("acme").unwrap());
        event.recipient = Some("Ann@Y.test".into());
        event.reply_text = Some("550 <ann@y.test> unknown".into());
        event.reply_code = Some(550);
        event.next_attempt_at = Some(at);
        event.detail = Some("{\"why\":{\"n\":1}}".into());
        event
    }

    fn told(event: &Event, masking: Option<&Masking>) -> Value {
        serde_json::from_slice(&of_event(event, masking)).unwrap()
    }

    #[test]
    fn a_body_says_what_the_event_says_in_its_columns_names() {
        let told = told(&bounced(), None);
        assert_eq!(
            (&told["type"], &told["timestamp"]),
            (&json!("bounced"), &json!("2026-11-22T12:00:00.000001Z"))
        );
        let data = told["data"].as_object().unwrap();
        assert_eq!((&data["recipient"], &data["reply_code"]), (&json!("Ann@Y.test"), &json!(550)));
        assert_eq!(data["next_attempt_at"], data["occurred_at"]);
        assert_eq!(data["detail"]["why"]["n"], 1);
        assert!(data.values().all(|value| !value.is_null()));
        assert!(data.keys().all(|name| EVENTS_SCHEMA.field_with_name(name).is_ok()));
    }

    #[test]
    fn every_instant_of_the_schema_is_known_here() {
        use arrow::datatypes::DataType;
        let instants = EVENTS_SCHEMA.fields().iter();
        let instants = instants.filter(|field| matches!(field.data_type(), DataType::Timestamp(..)));
        let mut names: Vec<&str> = instants.map(|field| field.name().as_str()).collect();
        let mut known = INSTANTS;
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn a_masked_body_holds_the_address_nowhere() {
        let hash = Masking::new(Mask::Hash, &[1; 32]);
        let body = String::from_utf8(of_event(&bounced(), Some(&hash))).unwrap().to_lowercase();
        assert!(!body.contains("ann@y.test") && !body.contains("550 <"), "{body}");
        let recipient =
            |masking: &Masking, event: &Event| told(event, Some(masking))["data"]["recipient"].clone();
        let mut other_case = bounced();
        other_case.recipient = Some("ann@y.test".into());
        assert_eq!(recipient(&hash, &bounced()), recipient(&hash, &other_case));
        assert_ne!(recipient(&hash, &bounced()), recipient(&Masking::new(Mask::Hash, &[2; 32]), &bounced()));
        assert_eq!(recipient(&hash, &bounced()).as_str().unwrap().len(), 32);
        assert_eq!(recipient(&Masking::new(Mask::Domain, &[1; 32]), &bounced()), "Y.test");
        assert_eq!(recipient(&Masking::new(Mask::Null, &[1; 32]), &bounced()), Value::Null);
    }
}
