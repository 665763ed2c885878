//! The page behind List-Unsubscribe: `POST /u/<token>` as RFC 8058 has it, and for people a page with a button.
//!
//! A GET never unsubscribes: mail scanners follow every link. There is no key and no cookie; the token is the right
//! to leave, and good for nothing else.

mod words;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sendlake_sender::link::{Facts, Whom};
use sendlake_sender::token::Purpose;
use serde::Deserialize;
use uuid::Uuid;

use self::words::{Said, Words};
use super::{Hearing, Leave};

const BODY_BYTES_MAX: usize = 4 << 10;
const NAME: &str = "List-Unsubscribe";
const VALUE: &str = "One-Click";
/// What the page's own button says in its place.
const PAGE_VALUE: &str = "Page";

const PAGE: &str = include_str!("one_click.html");

/// `GET` and `POST /u/<token>/<facts>`; links of earlier versions end after the token.
pub fn routes(hearing: Arc<Hearing>) -> Router {
    Router::new()
        .route("/u/{token}", get(ask).post(leave))
        .route("/u/{token}/{facts}", get(ask).post(leave))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(hearing)
}

/// What stands behind `/u/`.
#[derive(Deserialize)]
struct Link {
    token: String,
    facts: Option<String>,
}

impl Hearing {
    fn leaver(&self, link: &Link) -> Option<(Uuid, Option<Whom>)> {
        let Some(sealed) = &link.facts else {
            return self.tokens.verify(Purpose::Unsubscribe, &link.token).ok().map(|id| (id, None));
        };
        match Facts::open(&self.tokens, Purpose::Unsubscribe, &link.token, sealed).ok()? {
            (message_id, Facts::Unsubscribe(whom)) => Some((message_id, Some(whom))),
            (_, Facts::Open(..) | Facts::Click(..)) => None,
        }
    }
}

async fn ask(State(hearing): State<Arc<Hearing>>, Path(link): Path<Link>, headers: HeaderMap) -> Response {
    let words = Words::wanted(&headers);
    match hearing.leaver(&link) {
        Some(_) => page(StatusCode::OK, words, &words.ask, true),
        None => page(StatusCode::NOT_FOUND, words, &words.unknown, false),
    }
}

async fn leave(
    State(hearing): State<Arc<Hearing>>,
    Path(link): Path<Link>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let words = Words::wanted(&headers);
    let unknown = || page(StatusCode::NOT_FOUND, words, &words.unknown, false);
    let Some((message_id, whom)) = hearing.leaver(&link) else { return unknown() };
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(how) = asks_to_leave(text(header::CONTENT_TYPE).unwrap_or_default(), &body) else {
        return page(StatusCode::BAD_REQUEST, words, &words.not_understood, true);
    };
    let leave = Leave { whom, user_agent: text(header::USER_AGENT), ..Leave::new(message_id, how) };
    match hearing.unsubscribe(leave).await {
        Ok(heard) if heard.is_refused() => {
            tracing::warn!(%message_id, why = heard.detail, "an unsubscribe could not be honoured");
            unknown()
        }
        Ok(_) => page(StatusCode::OK, words, &words.done, false),
        Err(error) => {
            tracing::warn!(%error, "an unsubscribe was put off");
            let mut response = page(StatusCode::SERVICE_UNAVAILABLE, words, &words.later, true);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
            response
        }
    }
}

/// The answer to a tracked link that was not made here.
pub(super) fn not_here(headers: &HeaderMap) -> Response {
    let words = Words::wanted(headers);
    page(StatusCode::NOT_FOUND, words, &words.not_here, false)
}

/// `one_click` where a form says `List-Unsubscribe=One-Click` and nothing else (RFC 8058), `link` where it is this page's
/// own; `None` for anything else.
fn asks_to_leave(content_type: &str, body: &[u8]) -> Option<&'static str> {
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    match media_type.trim().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => {
            let body = body.trim_ascii_end();
            let mut fields = url::form_urlencoded::parse(body);
            let how = match fields.next()? {
                (name, value) if name == NAME && value == VALUE => "one_click",
                (name, value) if name == NAME && value == PAGE_VALUE => "link",
                _ => return None,
            };
            fields.next().is_none().then_some(how)
        }
        "multipart/form-data" => is_one_part(&boundary(parameters)?, body).then_some("one_click"),
        _ => None,
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

fn page(status: StatusCode, words: &Words, said: &Said, has_button: bool) -> Response {
    let button = if has_button {
        format!(
            "<form method=\"post\"><input type=\"hidden\" name=\"{NAME}\" value=\"{PAGE_VALUE}\">\
             <button type=\"submit\">{}</button></form>",
            words.button
        )
    } else {
        String::new()
    };
    let html = PAGE
        .replace("{language}", words.language)
        .replace("{title}", said.title)
        .replace("{text}", said.text)
        .replace("{button}", &button);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept-language"),
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
        let one_click = Some("one_click");
        assert_eq!(asks_to_leave(FORM, b"List-Unsubscribe=One-Click"), one_click);
        let content_type = "Application/X-WWW-Form-URLencoded; charset=UTF-8";
        assert_eq!(asks_to_leave(content_type, b"List-Unsubscribe=One-Click\r\n"), one_click);
        assert_eq!(asks_to_leave(FORM, b"List-Unsubscribe=Page"), Some("link"));
        let multipart = b"--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--xyz--\r\n";
        assert_eq!(asks_to_leave("multipart/form-data; boundary=xyz", multipart), one_click);
        let quoted = "multipart/form-data; charset=utf-8; boundary=\"xyz\"";
        assert_eq!(asks_to_leave(quoted, multipart), one_click);
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
            assert_eq!(asks_to_leave(FORM, body.as_bytes()), None, "{body}");
        }
        assert_eq!(asks_to_leave("", b"List-Unsubscribe=One-Click"), None);
        assert_eq!(asks_to_leave("text/plain", b"List-Unsubscribe=One-Click"), None);
        for multipart in [
            "--xyz\r\nContent-Disposition: form-data; name=\"Other\"\r\n\r\nOne-Click\r\n--xyz--",
            "--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nTwo\r\n--xyz--",
            "--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n\
             --xyz\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n1\r\n--xyz--",
            "--xyz\r\n--xyz--",
            "--xyz--",
            "",
        ] {
            let found = asks_to_leave("multipart/form-data; boundary=xyz", multipart.as_bytes());
            assert_eq!(found, None, "{multipart}");
        }
        assert_eq!(asks_to_leave("multipart/form-data", b"--xyz--"), None);
    }

    #[tokio::test]
    async fn the_page_is_whole_in_every_language_and_holds_no_script() {
        for words in Words::ALL {
            let pages = [
                (&words.ask, true),
                (&words.done, false),
                (&words.unknown, false),
                (&words.later, true),
                (&words.not_understood, true),
                (&words.not_here, false),
            ];
            for (said, has_button) in pages {
                let body = page(StatusCode::OK, words, said, has_button).into_body();
                let html = axum::body::to_bytes(body, 1 << 16).await.unwrap();
                let html = std::str::from_utf8(&html).unwrap();
                assert!(html.contains(&format!("<html lang=\"{}\">", words.language)), "{html}");
                assert!(
                    html.contains("<main>") && html.contains(&format!("<h1>{}</h1>", said.title)),
                    "{html}"
                );
                assert_eq!(html.contains("<button"), has_button);
                let without_style = html.split("</style>").nth(1).unwrap();
                assert!(!html.contains("<script") && !without_style.contains('{'), "{html}");
            }
        }
    }
}
