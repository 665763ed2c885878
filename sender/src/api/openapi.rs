//! The API's description, OpenAPI 3.1, from the code. Request bodies are checked by hand (see
//! [`super::request`]), so their shapes are written here once more; a test keeps the two lists of fields equal.

#![expect(dead_code, reason = "these types are shapes for the description; nothing makes a value of them")]

use std::collections::BTreeMap;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi, ToSchema};

use super::messages;
use super::ports::MessageHistory;
use super::problem::{FieldError, Problem};
use crate::stream::Stream;

/// The description of the send API. Merge others into it with [`utoipa::openapi::OpenApi::merge`].
pub fn openapi() -> utoipa::openapi::OpenApi {
    SendApi::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sendlake",
        description = "Submit mail and ask what became of it. Every error is problem details (RFC 9457); its \
                       `type` is a page of this server.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        messages::post_message,
        messages::post_batch,
        messages::post_raw,
        messages::get_message,
        healthz,
    ),
    components(schemas(MailboxBody, HeaderList, Stream, MessageHistory, Problem, FieldError)),
    modifiers(&BearerKeys),
    tags((name = "messages", description = "Submit messages, read their history")),
)]
struct SendApi;

struct BearerKeys;

impl Modify for BearerKeys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, `sl_…`; `sendlake key` makes and revokes them"))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// Says that the process answers.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "It answers")))]
fn healthz() {}

/// Headers of every submission.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct SubmitHeaders {
    /// 1 to 255 visible ASCII characters. The same key with the same request gives the same answer for 24
    /// hours; with another request, 409.
    #[param(rename = "Idempotency-Key", max_length = 255)]
    idempotency_key: Option<String>,
    /// The tenant, for keys of the whole installation.
    #[param(rename = "Sendlake-Tenant")]
    sendlake_tenant: Option<String>,
}

/// Headers of a `message/rfc822` submission. Pointers in its errors are those of the JSON request it equals.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct RawHeaders {
    /// Recipients, separated by commas.
    #[param(rename = "Sendlake-Recipients")]
    sendlake_recipients: Option<String>,
    #[param(rename = "Sendlake-Stream", inline)]
    sendlake_stream: Option<Stream>,
    #[param(rename = "Sendlake-Campaign-Id")]
    sendlake_campaign_id: Option<String>,
    #[param(rename = "Sendlake-Send-At", format = DateTime)]
    sendlake_send_at: Option<String>,
    /// As `tracking.opens`.
    #[param(rename = "Sendlake-Track-Opens")]
    sendlake_track_opens: Option<bool>,
    /// As `tracking.clicks`.
    #[param(rename = "Sendlake-Track-Clicks")]
    sendlake_track_clicks: Option<bool>,
}

/// A mailbox: `name@example.com`, `Name <name@example.com>`, or an object.
#[derive(ToSchema)]
#[schema(as = Mailbox)]
#[serde(untagged)]
pub(super) enum MailboxBody {
    #[schema(example = "Ann Lee <ann@example.com>")]
    Text(String),
    Object {
        #[schema(example = "ann@example.com")]
        email: String,
        name: Option<String>,
    },
}

/// One mailbox or a list of them.
#[derive(ToSchema)]
#[schema(as = Mailboxes)]
#[serde(untagged)]
pub(super) enum MailboxesBody {
    One(MailboxBody),
    List(Vec<MailboxBody>),
}

/// Further header fields, as an object or as a list.
#[derive(ToSchema)]
#[schema(as = Headers)]
#[serde(untagged)]
pub(super) enum HeaderList {
    Object(BTreeMap<String, String>),
    List(Vec<HeaderBody>),
}

#[derive(ToSchema)]
#[schema(as = Header)]
pub(super) struct HeaderBody {
    name: String,
    value: String,
}

/// A file.
#[derive(ToSchema)]
#[schema(as = Attachment)]
#[serde(deny_unknown_fields)]
pub(super) struct AttachmentBody {
    filename: String,
    /// Default `application/octet-stream`.
    content_type: Option<String>,
    /// Base64 (RFC 4648, section 4).
    #[schema(content_encoding = "base64")]
    content: String,
    /// What the HTML names as `cid:…`.
    content_id: Option<String>,
    /// Shown inside the HTML; default false.
    inline: Option<bool>,
}

/// One message. At least one recipient in `to`, `cc` or `bcc`, and one of `text`, `html` or `attachments`.
#[derive(ToSchema)]
#[schema(as = Message)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageBody {
    /// Of a domain registered to the tenant, or a subdomain of one.
    from: MailboxBody,
    to: Option<MailboxesBody>,
    cc: Option<MailboxesBody>,
    /// Never written into the message.
    bcc: Option<MailboxesBody>,
    reply_to: Option<MailboxesBody>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    headers: Option<HeaderList>,
    attachments: Option<Vec<AttachmentBody>>,
    /// Default `transactional`.
    stream: Option<Stream>,
    #[schema(max_length = 128)]
    campaign_id: Option<String>,
    /// At most 20; they come back in every event.
    tags: Option<BTreeMap<String, String>>,
    /// Not before this instant (RFC 3339), at most 30 days ahead.
    #[schema(format = DateTime)]
    send_at: Option<String>,
    tracking: Option<TrackingBody>,
}

/// What is tracked in the HTML part. What is left out, the tenant's default decides; that is off until somebody turns
/// it on.
#[derive(ToSchema)]
#[schema(as = Tracking)]
#[serde(deny_unknown_fields)]
pub(super) struct TrackingBody {
    /// A picture of one pixel tells when the mail is opened.
    opens: Option<bool>,
    /// Links lead through this installation; not those with `data-sendlake-track="off"`.
    clicks: Option<bool>,
}

/// Up to 500 messages; all are accepted or none.
#[derive(ToSchema)]
#[schema(as = Batch)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchBody {
    messages: Vec<MessageBody>,
}

/// Who gets a raw message.
#[derive(ToSchema)]
#[schema(as = Envelope)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvelopeBody {
    /// Checked, then replaced by a reverse-path of sendlake's own, so that every bounce finds its message.
    from: Option<String>,
    to: Vec<MailboxBody>,
}

/// A composed message with its envelope.
#[derive(ToSchema)]
#[schema(as = RawMessage)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBody {
    envelope: EnvelopeBody,
    /// RFC 5322, base64.
    #[schema(content_encoding = "base64")]
    raw: String,
    /// Default `transactional`.
    stream: Option<Stream>,
    #[schema(max_length = 128)]
    campaign_id: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    #[schema(format = DateTime)]
    send_at: Option<String>,
    tracking: Option<TrackingBody>,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::request::MESSAGE_FIELDS;
    use super::super::request::raw::RAW_FIELDS;

    fn description() -> Value {
        serde_json::to_value(super::openapi()).unwrap()
    }

    fn properties(schema: &str) -> Vec<String> {
        let description = description();
        let properties = description["components"]["schemas"][schema]["properties"].as_object();
        properties.unwrap_or_else(|| panic!("no schema {schema}")).keys().cloned().collect()
    }

    fn sorted(fields: &[&str]) -> Vec<String> {
        let mut fields: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
        fields.sort();
        fields
    }

    #[test]
    fn described_fields_are_the_ones_taken() {
        let mut message = properties("Message");
        message.sort();
        assert_eq!(message, sorted(&MESSAGE_FIELDS));
        let mut raw = properties("RawMessage");
        raw.sort();
        assert_eq!(raw, sorted(&RAW_FIELDS));
    }

    #[test]
    fn it_is_openapi_3_1_and_every_reference_resolves() {
        let description = description();
        assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
        let text = description.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(description.pointer(pointer).is_some(), "{pointer}");
        }
        for path in ["/v1/messages", "/v1/messages/batch", "/v1/messages/raw", "/v1/messages/{message_id}"] {
            assert!(description["paths"][path].is_object(), "{path}");
        }
        assert_eq!(description["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    }
}
