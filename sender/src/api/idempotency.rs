//! `Idempotency-Key`: the same key gives the same answer for 24 hours.

use axum::http::HeaderMap;

use super::problem::{Kind, Problem};
use crate::compose::fingerprint::sha256;
use crate::submission::Idempotency;

/// Names one intent of a client, however often it is sent.
pub const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;

/// SHA-256 of the key of a request, if it has one.
pub fn key_hash(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Problem> {
    let mut keys = headers.get_all(HEADER).iter();
    let Some(key) = keys.next().map(|key| key.as_bytes()) else { return Ok(None) };
    let well_formed = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if !well_formed || keys.next().is_some() {
        let detail =
            format!("send one Idempotency-Key of 1 to {KEY_BYTES_MAX} visible ASCII characters, no spaces");
        return Err(Problem::new(Kind::InvalidIdempotencyKey, detail));
    }
    Ok(Some(sha256(&[key])))
}

/// The key of message `index` of a request. The first takes the client's own key, so that a key used for one
/// kind of request is known when it comes with another.
pub fn of_message(key_hash: [u8; 32], request_hash: [u8; 32], index: usize) -> Idempotency {
    let key_hash =
        if index == 0 { key_hash } else { sha256(&[&key_hash, b"#", index.to_string().as_bytes()]) };
    Idempotency { key_hash, request_hash }
}

/// Another request came under a key that was used.
pub fn reused() -> Problem {
    let detail = "this Idempotency-Key came with another request in the last 24 hours; use a new key for a new request";
    Problem::new(Kind::IdempotencyKeyReused, detail)
}
