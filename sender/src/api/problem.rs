//! What a refused client reads: problem details (RFC 9457), each error with a JSON pointer (RFC 6901).

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

macro_rules! kinds {
    ($($variant:ident = $code:literal, $status:ident, $title:literal, $about:literal;)*) => {
        /// Every kind of problem that this API answers with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $about] $variant,)* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// The stable name, last part of `type`.
            pub fn code(self) -> &'static str {
                match self { $(Kind::$variant => $code),* }
            }

            /// `type` of its problems: a page of this server.
            pub fn page(self) -> &'static str {
                match self { $(Kind::$variant => concat!("/problems/", $code)),* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Kind::$variant => StatusCode::$status),* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Kind::$variant => $title),* }
            }

            /// What it means and what to do; served at `type`.
            pub fn about(self) -> &'static str {
                match self { $(Kind::$variant => $about),* }
            }
        }
    };
}

kinds! {
    MalformedJson = "malformed_json", BAD_REQUEST, "The body is not JSON",
        "The body could not be read as one JSON value (RFC 8259). The detail names line and column.";
    InvalidUtf8 = "invalid_utf8", BAD_REQUEST, "The body is not UTF-8",
        "JSON is UTF-8 (RFC 8259, section 8.1). The detail names the first octet that is not.";
    BodyIncomplete = "body_incomplete", BAD_REQUEST, "The body ended early",
        "The connection failed or closed before the whole body came. Nothing was accepted: send it again.";
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The body came too slowly",
        "The whole body must arrive within the configured time. Nothing was accepted: send it again.";
    InvalidIdempotencyKey = "invalid_idempotency_key", BAD_REQUEST, "The Idempotency-Key cannot be used",
        "Idempotency-Key is one header of 1 to 255 visible ASCII characters.";
    TenantRequired = "tenant_required", BAD_REQUEST, "The request names no tenant",
        "This key is not bound to a tenant: name one in the header Sendlake-Tenant.";
    InvalidTenant = "invalid_tenant", BAD_REQUEST, "Sendlake-Tenant is not a tenant name",
        "A tenant name is 1 to 63 of a-z, 0-9 and '-', starting with a letter or a digit.";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "No valid API key",
        "Send `Authorization: Bearer sl_…` with a key that exists and is not revoked (`sendlake key ls`).";
    MissingScope = "missing_scope", FORBIDDEN, "The key lacks a scope",
        "The key is valid, but not for this. The detail names the scope; make a key that has it.";
    TenantMismatch = "tenant_mismatch", FORBIDDEN, "The key belongs to another tenant",
        "A key that is bound to a tenant acts for that tenant only. Leave Sendlake-Tenant out, or use another key.";
    NotFound = "not_found", NOT_FOUND, "There is nothing here",
        "No resource has this address. /openapi.json lists those that exist.";
    MessageNotFound = "message_not_found", NOT_FOUND, "No such message",
        "This tenant has no message with this message_id, or its history is past its retention.";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The resource does not take this method",
        "The header Allow lists the methods it takes.";
    IdempotencyKeyReused = "idempotency_key_reused", CONFLICT, "The Idempotency-Key was used for another request",
        "Within 24 hours the same key must come with the same request. Nothing was accepted.";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large",
        "The detail names the limit. Send fewer messages per request, or smaller attachments.";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body is of a type not taken here",
        "Send JSON as `Content-Type: application/json`, without a Content-Encoding.";
    InvalidRequest = "invalid_request", UNPROCESSABLE_ENTITY, "The request cannot be accepted as it is",
        "`errors` lists every field at fault. Nothing was accepted.";
    TooManyRecipients = "too_many_recipients", UNPROCESSABLE_ENTITY, "Too many recipients in one submission",
        "to, cc and bcc together stay within the limit in the detail. Split the submission.";
    TooManyMessages = "too_many_messages", UNPROCESSABLE_ENTITY, "Too many messages in one batch",
        "The detail names the limit. Split the batch.";
    TooManyAttachments = "too_many_attachments", UNPROCESSABLE_ENTITY, "Too many attachments",
        "The detail names the limit.";
    AttachmentsTooLarge = "attachments_too_large", UNPROCESSABLE_ENTITY, "The attachments are too large",
        "The limit holds for all attachments of a message together, decoded.";
    MessageTooLarge = "message_too_large", UNPROCESSABLE_ENTITY, "The composed message is too large",
        "The limit holds for the message as it is sent, attachments in base64 and all.";
    TooManyHeaders = "too_many_headers", UNPROCESSABLE_ENTITY, "Too many header fields",
        "The detail names the limit.";
    HeadersTooLarge = "headers_too_large", UNPROCESSABLE_ENTITY, "The header fields are too large",
        "The limit holds for names and values of `headers` and the subject together.";
    SendAtTooFar = "send_at_too_far", UNPROCESSABLE_ENTITY, "send_at lies too far ahead",
        "The detail names the latest instant. Keep the message and submit it later.";
    DomainNotOwned = "domain_not_owned", UNPROCESSABLE_ENTITY, "The From domain is not this tenant's",
        "A tenant sends from its own domains and their subdomains: `sendlake domain add` registers one.";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many messages in a short time",
        "Retry after the seconds in the header Retry-After. Nothing was accepted.";
    TenantSuspended = "tenant_suspended", FORBIDDEN, "The tenant is suspended",
        "An operator has suspended this tenant: it may read, but not send. `sendlake tenant resume` ends that.";
    LakeBehind = "lake_behind", SERVICE_UNAVAILABLE, "The lake is behind",
        "Events cannot reach the lake, and the spool's room for them is used up. Queued mail still goes out. Try \
         again later; the operator sees why in the server's log.";
    FreeSpaceLow = "free_space_low", SERVICE_UNAVAILABLE, "The disk is nearly full",
        "New mail waits with its sender, what was accepted is kept and delivered. Retry after Retry-After seconds.";
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, "The server is stopping",
        "Nothing was accepted. Retry after the seconds in the header Retry-After.";
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "A store does not answer",
        "Nothing was accepted. Retry after the seconds in the header Retry-After; operators find the cause in the log.";
}

impl Kind {
    /// The kind that has `code` for a name.
    pub fn by_code(code: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.code() == code)
    }

    /// The status as a number.
    fn status_code(self) -> u16 {
        self.status().as_u16()
    }
}

/// One field at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request body; a request without a JSON body names its header instead.
    #[schema(example = "/to/0")]
    pub pointer: String,
    /// Stable name of the fault.
    #[schema(example = "invalid_address")]
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub detail: String,
}

/// Problem details (RFC 9457), `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `/problems/<code>`: a page of this server that explains the kind.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid_request")]
    pub kind: &'static str,
    pub title: &'static str,
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Every field at fault, at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Seconds until a retry makes sense; the same as the header Retry-After.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    #[serde(skip)]
    #[schema(ignore)]
    code: Kind,
    #[serde(skip)]
    #[schema(ignore)]
    challenge: Option<Box<str>>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.page(),
            title: kind.title(),
            status: kind.status_code(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            code: kind,
            challenge: None,
        }
    }

    /// The stable name of its kind.
    pub fn code(&self) -> &'static str {
        self.code.code()
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// A `WWW-Authenticate` value (RFC 9110, section 11.6.1; RFC 6750, section 3).
    pub fn challenge(mut self, challenge: impl Into<Box<str>>) -> Self {
        self.challenge = Some(challenge.into());
        self
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(header::CONTENT_TYPE, "application/problem+json");
        if let Some(seconds) = self.retry_after_s {
            set(header::RETRY_AFTER, &seconds.to_string());
        }
        if let Some(challenge) = &self.challenge {
            set(header::WWW_AUTHENTICATE, challenge);
        }
        headers
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, self.headers(), body).into_response()
    }
}

/// A place in a JSON document, from its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    pub fn root() -> Self {
        Self::default()
    }

    pub fn field(&self, name: &str) -> Self {
        Self(format!("{}/{}", self.0, name.replace('~', "~0").replace('/', "~1")))
    }

    pub fn item(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }
}

/// Collects every fault of one request.
#[derive(Debug, Default)]
pub struct Faults {
    listed: Vec<FieldError>,
    unlisted: usize,
}

impl Faults {
    /// An answer stays readable, and small beside a request with 10,000 faults.
    const LISTED_MAX: usize = 100;

    pub fn add(&mut self, at: &Pointer, code: &'static str, detail: impl Into<String>) {
        if self.listed.len() < Self::LISTED_MAX {
            self.listed.push(FieldError { pointer: at.0.clone(), code, detail: detail.into() });
        } else {
            self.unlisted += 1;
        }
    }

    pub fn limit(&mut self, at: &Pointer, kind: Kind, detail: impl Into<String>) {
        self.add(at, kind.code(), detail);
    }

    pub fn len(&self) -> usize {
        self.listed.len() + self.unlisted
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The problem that lists these faults, if there are any. When all are of one code that is a kind of its
    /// own (a limit, a foreign domain), the problem is of that kind.
    pub fn into_problem(self) -> Option<Problem> {
        let first = self.listed.first()?;
        let same = self.listed.iter().all(|error| error.code == first.code);
        let kind = Kind::by_code(first.code).filter(|_| same).unwrap_or(Kind::InvalidRequest);
        let detail = match (self.len(), self.unlisted) {
            (1, _) if first.pointer.is_empty() => first.detail.clone(),
            (1, _) => format!("{}: {}", first.pointer, first.detail),
            (count, 0) => format!("{count} fields are at fault; see errors"),
            (count, _) => format!("{count} fields are at fault; errors lists the first {}", Self::LISTED_MAX),
        };
        let mut problem = Problem::new(kind, detail);
        problem.errors = self.listed;
        Some(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_escape_slash_and_tilde() {
        assert_eq!(Pointer::root().field("headers").field("a/b~c").item(2).0, "/headers/a~1b~0c/2");
    }

    #[test]
    fn one_kind_of_fault_names_the_problem() {
        let mut faults = Faults::default();
        faults.limit(&Pointer::root().field("to"), Kind::TooManyRecipients, "10000 recipients, at most 1000");
        let problem = faults.into_problem().unwrap();
        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            serde_json::json!({
                "type": "/problems/too_many_recipients",
                "title": "Too many recipients in one submission",
                "status": 422,
                "detail": "/to: 10000 recipients, at most 1000",
                "errors": [
                    {"pointer": "/to", "code": "too_many_recipients", "detail": "10000 recipients, at most 1000"}
                ],
            })
        );
    }

    #[test]
    fn mixed_faults_are_an_invalid_request() {
        let mut faults = Faults::default();
        faults.limit(&Pointer::root(), Kind::SendAtTooFar, "x");
        faults.add(&Pointer::root(), "missing", "y");
        assert_eq!(faults.into_problem().unwrap().code(), "invalid_request");
    }

    #[test]
    fn thousands_of_faults_make_a_small_answer() {
        let mut faults = Faults::default();
        for index in 0..10_000 {
            faults.add(&Pointer::root().item(index), "missing", "y");
        }
        let problem = faults.into_problem().unwrap();
        assert_eq!(problem.errors.len(), 100);
        assert!(problem.detail.contains("10000"), "{}", problem.detail);
    }
}
