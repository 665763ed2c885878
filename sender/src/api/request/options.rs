//! How a message is sent: stream, campaign, tags, `send_at`, tracking.

use std::collections::BTreeMap;

use chrono::DateTime;
use sendlake_control::clock::Timestamp;
use serde_json::Value;

use super::super::json::{self, Fields};
use super::super::problem::{Faults, Kind, Pointer};
use super::Rules;
use crate::stream::Stream;
use crate::submission::Tracking;

/// What is said about a message beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub stream: Stream,
    pub campaign_id: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// Not before this. An instant that has passed means now.
    pub send_at: Option<Timestamp>,
    pub tracking: WantedTracking,
}

/// What is said about tracking; what is not said, the tenant's default decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedTracking {
    pub opens: Option<bool>,
    pub clicks: Option<bool>,
}

impl WantedTracking {
    pub fn or(self, default: Tracking) -> Tracking {
        Tracking { opens: self.opens.unwrap_or(default.opens), clicks: self.clicks.unwrap_or(default.clicks) }
    }
}

const CAMPAIGN_BYTES_MAX: usize = 128;
const TAGS_MAX: usize = 20;
const TAG_NAME_BYTES_MAX: usize = 64;
const TAG_VALUE_BYTES_MAX: usize = 256;

impl Options {
    pub(super) fn read(fields: &Fields<'_>, rules: &Rules<'_>, faults: &mut Faults) -> Self {
        let stream = fields.text("stream", faults).map(|name| {
            name.parse().unwrap_or_else(|error: crate::stream::InvalidStream| {
                faults.add(&fields.at("stream"), "invalid_stream", error.to_string());
                Stream::default()
            })
        });
        let campaign_id = fields.text("campaign_id", faults);
        if let Some(campaign_id) = campaign_id {
            check_label(campaign_id, CAMPAIGN_BYTES_MAX, &fields.at("campaign_id"), faults);
        }
        Self {
            stream: stream.unwrap_or_default(),
            campaign_id: campaign_id.map(str::to_owned),
            tags: tags(fields, faults),
            send_at: send_at(fields, rules, faults),
            tracking: tracking(fields, faults),
        }
    }
}

fn tracking(fields: &Fields<'_>, faults: &mut Faults) -> WantedTracking {
    let Some(value) = fields.get("tracking") else { return WantedTracking::default() };
    let Some(fields) = Fields::of(value, fields.at("tracking"), &["opens", "clicks"], faults) else {
        return WantedTracking::default();
    };
    WantedTracking { opens: fields.boolean("opens", faults), clicks: fields.boolean("clicks", faults) }
}

fn tags(fields: &Fields<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let at = fields.at("tags");
    let members = match fields.get("tags") {
        None => return BTreeMap::new(),
        Some(Value::Object(members)) => members,
        Some(other) => {
            json::wrong_type(other, "an object of strings", &at, faults);
            return BTreeMap::new();
        }
    };
    if members.len() > TAGS_MAX {
        faults.add(&at, "too_many_tags", format!("{} tags; at most {TAGS_MAX}", members.len()));
        return BTreeMap::new();
    }
    let mut tags = BTreeMap::new();
    for (name, value) in members {
        let at = at.field(name);
        check_label(name, TAG_NAME_BYTES_MAX, &at, faults);
        if let Some(value) = json::text(value, &at, faults) {
            if value.len() > TAG_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
                let detail = format!(
                    "a tag's value is at most {TAG_VALUE_BYTES_MAX} octets without control characters"
                );
                faults.add(&at, "invalid_tag", detail);
            }
            tags.insert(name.clone(), value.to_owned());
        }
    }
    tags
}

fn check_label(label: &str, octets_max: usize, at: &Pointer, faults: &mut Faults) {
    if label.trim().is_empty() || label.len() > octets_max || label.chars().any(char::is_control) {
        let detail = format!("use 1 to {octets_max} octets of UTF-8 without control characters");
        faults.add(at, "invalid_label", detail);
    }
}

fn send_at(fields: &Fields<'_>, rules: &Rules<'_>, faults: &mut Faults) -> Option<Timestamp> {
    let at = fields.at("send_at");
    let text = fields.text("send_at", faults)?;
    let Ok(instant) = DateTime::parse_from_rfc3339(text) else {
        let detail = "write an instant as RFC 3339 with its offset: 2026-01-31T09:30:00Z";
        faults.add(&at, "invalid_time", detail);
        return None;
    };
    let instant = Timestamp(instant.timestamp_micros());
    let days = rules.limits.send_at_days;
    let latest = rules.now.plus_secs(i64::from(days) * 86_400);
    if instant > latest {
        let detail = format!("at most {days} days ahead: until {latest}");
        faults.limit(&at, Kind::SendAtTooFar, detail);
    }
    Some(instant)
}
