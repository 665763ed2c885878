//! The page behind List-Unsubscribe: `POST /u/<token>` as RFC 8058 has it, and for people a page with a button.
//!
//! A GET never unsubscribes: mail scanners follow every link. There is no key and no cookie; the token is the right
//! to leave, and good for nothing else.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sendlake_sender::token::Purpose;
use uuid::Uuid;

use super::Hearing;

const BODY_BYTES_MAX: usize = 4 << 10;
const NAME: &str = "List-Unsubscribe";
const VALUE: &str = "One-Click";

const PAGE: &str = include_str!("one_click.html");

/// `GET` and `POST /u/<token>`.
pub fn routes(hearing: Arc<Hearing>) -> Router {
    Router::new()
        .route("/u/{token}", get(ask).post(leave))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(hearing)
}

impl Hearing {
    fn leaver(&self, token: &str) -> Option<Uuid> {
        self.tokens.verify(Purpose::Unsubscribe, token).ok()
    }
}

async fn ask(State(hearing): State<Arc<Hearing>>, Path(token): Path<String>) -> Response {
    match hearing.leaver(&token) {
        Some(_) => page(
            StatusCode::OK,
            "Unsubscribe?",
            "Press the button, and this sender's mailings no longer come to this address.",
            true,
        ),
        None => unknown(),
    }
}

async fn leave(
    State(hearing): State<Arc<Hearing>>,
    Path(token): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(message_id) = hearing.leaver(&token) else { return unknown() };
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if !asks_to_leave(text(header::CONTENT_TYPE).unwrap_or_default(), &body) {
        return page(
            StatusCode::BAD_REQUEST,
            "Not understood",
            "The body must be List-Unsubscribe=One-Click and nothing else, as a form (RFC 8058). Nothing was changed.",
            true,
        );
    }
    match hearing.unsubscribe(message_id, None, "one_click", text(header::USER_AGENT)).await {
        Ok(heard) if heard.is_refused() => {
            tracing::warn!(%message_id, why = heard.detail, "an unsubscribe could not be honoured");
            unknown()
        }
        Ok(_) => page(
            StatusCode::OK,
            "You are unsubscribed",
            "This sender's mailings no longer come to this address. Receipts and other mail that you ask for still do.",
            false,
        ),
        Err(error) => {
            tracing::warn!(%error, "an unsubscribe was put off");
            let mut response = page(
                StatusCode::SERVICE_UNAVAILABLE,
                "Not now",
                "Your wish could not be recorded at the moment. Please try again in a minute.",
                true,
            );
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
            response
        }
    }
}

fn unknown() -> Response {
    page(
        StatusCode::NOT_FOUND,
        "This link is not known",
        "It is damaged or was never made here. Open the link from the mail again, whole; if that fails too, answer \
         the mail and ask its sender to take you off the list.",
        false,
    )
}

/// Whether a form says `List-Unsubscribe=One-Click`, and nothing else.
fn asks_to_leave(content_type: &str, body: &[u8]) -> bool {
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    match media_type.trim().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => {
            let body = body.trim_ascii_end();
            let mut fields = url::form_urlencoded::parse(body);
            let is_it = fields.next().is_some_and(|(name, value)| name == NAME && value == VALUE);
            is_it && fields.next().is_none()
        }
        "multipart/form-data" => boundary(parameters).is_some_and(|boundary| is_one_part(&boundary, body)),
        _ => false,
    }
}

fn boundary(parameters: &str) -> Option<String> {
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    // RFC 2046, section 5.1.1
    (1..=70).contains(&value.len()).then(|| value.to_owned())
}

/// RFC 7578: one part, whose name and content are the two words.
fn is_one_part(boundary: &str, body: &[u8]) -> bool {
    let Ok(body) = std::str::from_utf8(body) else { return false };
    let delimiter = format!("--{boundary}");
    let Some(rest) = body.trim_start_matches("\r\n").strip_prefix(&delimiter) else { return false };
    let Some(part) = rest.trim_end().strip_suffix(&format!("{delimiter}--")) else { return false };
    let Some(part) = part.strip_prefix("\r\n").and_then(|part| part.strip_suffix("\r\n")) else {
        return false;
    };
    let Some((head, content)) = part.split_once("\r\n\r\n") else { return false };
    let named = head.split("\r\n").any(|line| {
        line.split_once(':').is_some_and(|(field, value)| {
            field.trim().eq_ignore_ascii_case("content-disposition")
                && value.split(';').any(|parameter| {
                    let parameter = parameter.trim();
                    parameter == format!("name=\"{NAME}\"") || parameter == format!("name={NAME}")
                })
        })
    });
    // a second part would stand in what is taken for the content here
    named && content == VALUE
}

fn page(status: StatusCode, title: &str, text: &str, has_button: bool) -> Response {
    let button = if has_button {
        "<form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
         <button type=\"submit\">Unsubscribe</button></form>"
    } else {
        ""
    };
    let html = PAGE.replace("{title}", title).replace("{text}", text).replace("{button}", button);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("x-robots-tag"), "noindex"),
    ];
    (status, headers, html).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn the_exact_body_counts_in_both_encodings() {
        assert!(asks_to_leave(FORM, b"List-Unsubscribe=One-Click"));
        assert!(asks_to_leave(
            "Application/X-WWW-Form-URLencoded; charset=UTF-8",
            b"List-Unsubscribe=One-Click\r\n"
        ));
        let multipart = b"--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--xyz--\r\n";
        assert!(asks_to_leave("multipart/form-data; boundary=xyz", multipart));
        assert!(asks_to_leave("multipart/form-data; charset=utf-8; boundary=\"xyz\"", multipart));
    }

    #[test]
    fn anything_else_does_not() {
        for body in [
            "",
            "List-Unsubscribe=one-click",
            "list-unsubscribe=One-Click",
            "List-Unsubscribe=One-Click&x=1",
            "List-Unsubscribe=One-Click&List-Unsubscribe=One-Click",
            "x=1",
        ] {
            assert!(!asks_to_leave(FORM, body.as_bytes()), "{body}");
        }
        assert!(!asks_to_leave("", b"List-Unsubscribe=One-Click"));
        assert!(!asks_to_leave("text/plain", b"List-Unsubscribe=One-Click"));
        for multipart in [
            "--xyz\r\nContent-Disposition: form-data; name=\"Other\"\r\n\r\nOne-Click\r\n--xyz--",
            "--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nTwo\r\n--xyz--",
            "--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n\
             --xyz\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n1\r\n--xyz--",
            "--xyz\r\n--xyz--",
            "--xyz--",
            "",
        ] {
            assert!(!asks_to_leave("multipart/form-data; boundary=xyz", multipart.as_bytes()), "{multipart}");
        }
        assert!(!asks_to_leave("multipart/form-data", b"--xyz--"));
    }

    #[test]
    fn the_page_is_whole_and_says_its_language() {
        let html = PAGE.replace("{title}", "a").replace("{text}", "b").replace("{button}", "c");
        assert!(
            html.contains("<html lang=\"en\">")
                && html.contains("<main>")
                && !html.contains("{title}")
                && !html.contains("{text}"),
            "{html}"
        );
    }
}
