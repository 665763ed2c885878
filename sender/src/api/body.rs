//! Request bodies: their type, their size, and the time they take.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures::StreamExt;

use super::limits::ApiLimits;
use super::problem::{Kind, Problem};

/// What a body says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    Json,
    /// `message/rfc822`: one message, as it would be sent.
    Rfc822,
}

/// The type of a body, if it is among `taken`.
pub fn media_type(headers: &HeaderMap, taken: &[MediaType]) -> Result<MediaType, Problem> {
    let refuse = |what: String| Err(Problem::new(Kind::UnsupportedMediaType, what));
    if let Some(coding) = headers.get(header::CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return refuse("a Content-Encoding is not taken: send the body as it is".to_owned());
    }
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return refuse("there is no Content-Type; send application/json".to_owned());
    };
    let given = String::from_utf8_lossy(given.as_bytes()).to_ascii_lowercase();
    let (essence, parameters) = given.split_once(';').unwrap_or((&given, ""));
    let media_type = match essence.trim() {
        "application/json" => Some(MediaType::Json),
        "message/rfc822" => Some(MediaType::Rfc822),
        _ => None,
    };
    let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
    if charset.is_some_and(|charset| charset.trim_matches('"') != "utf-8")
        && media_type == Some(MediaType::Json)
    {
        return refuse("JSON is taken as UTF-8 only".to_owned());
    }
    match media_type.filter(|media_type| taken.contains(media_type)) {
        Some(media_type) => Ok(media_type),
        None => refuse(format!("{:?} is not taken here; send application/json", essence.trim())),
    }
}

/// Reads a whole body within the limits of size and time.
pub async fn read(headers: &HeaderMap, body: Body, limits: &ApiLimits) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let detail = format!("a request body is at most {} octets", limits.body_bytes);
        Problem::new(Kind::BodyTooLarge, detail)
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|octets| octets > u64::try_from(limits.body_bytes).unwrap_or(u64::MAX)) {
        return Err(too_large());
    }
    let whole = async {
        let mut octets = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                Problem::new(Kind::BodyIncomplete, format!("the body ended early: {error}"))
            })?;
            if octets.len() + chunk.len() > limits.body_bytes {
                return Err(too_large());
            }
            octets.extend_from_slice(&chunk);
        }
        Ok(octets)
    };
    tokio::time::timeout(Duration::from_secs(limits.body_read_s), whole).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} seconds", limits.body_read_s);
        Err(Problem::new(Kind::BodyTimeout, detail))
    })
}
