//! Facts sealed beside a token: whoever holds the link can neither read nor change them, nor put them beside another
//! token.
//!
//! AES-256-GCM-SIV (RFC 8452), whose nonce may repeat: it is the part of the message's id that is not the time, so it
//! needs no room in the link. Purpose and message id are authenticated with the facts. In base64 for URLs (RFC 4648,
//! section 5), without padding.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::{Purpose, TokenError, TokenKeys};

/// Sealed facts longer than this were not made here: no need to decode them.
const SEALED_CHARS_MAX: usize = 8 << 10;

/// The key that seals, made from a token's key.
#[derive(Clone)]
pub(super) struct SealKey(Arc<LessSafeKey>);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

impl SealKey {
    /// The label is never changed once links are out.
    pub(super) fn derived(from: &hmac::Key) -> Self {
        let bytes = hmac::sign(from, b"sendlake sealed facts 1\0");
        #[expect(clippy::expect_used, reason = "HMAC-SHA-256 gives the 32 bytes of an AES-256 key")]
        let key = UnboundKey::new(&AES_256_GCM_SIV, bytes.as_ref()).expect("32 bytes are an AES-256 key");
        Self(Arc::new(LessSafeKey::new(key)))
    }

    fn open(&self, purpose: Purpose, message_id: Uuid, sealed: &str) -> Option<Vec<u8>> {
        if sealed.len() > SEALED_CHARS_MAX {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let aad = Aad::from(bound(purpose, message_id));
        let facts_bytes = self.0.open_in_place(nonce(message_id), aad, &mut bytes).ok()?.len();
        bytes.truncate(facts_bytes);
        Some(bytes)
    }
}

impl TokenKeys {
    /// Seals `facts` for a link that holds the token of this purpose and message.
    pub fn seal(&self, purpose: Purpose, message_id: Uuid, facts: &[u8]) -> String {
        let mut sealed = facts.to_vec();
        let aad = Aad::from(bound(purpose, message_id));
        // The one failure is a plaintext of 64 GiB; a link without facts opens no door.
        match self.current.seal.0.seal_in_place_append_tag(nonce(message_id), aad, &mut sealed) {
            Ok(()) => URL_SAFE_NO_PAD.encode(sealed),
            Err(_) => String::new(),
        }
    }

    /// The message that a link's token names, and the facts sealed beside it.
    pub fn open(&self, purpose: Purpose, token: &str, sealed: &str) -> Result<(Uuid, Vec<u8>), TokenError> {
        let (message_id, key) = self.verified(purpose, token)?;
        let facts = key.seal.open(purpose, message_id, sealed).ok_or(TokenError::Sealed)?;
        Ok((message_id, facts))
    }

    /// The facts sealed for a message whose token was verified elsewhere, under any of the keys.
    pub fn open_for(&self, purpose: Purpose, message_id: Uuid, sealed: &str) -> Option<Vec<u8>> {
        let mut keys = std::iter::once(&self.current).chain(&self.older);
        keys.find_map(|key| key.seal.open(purpose, message_id, sealed))
    }
}

fn nonce(message_id: Uuid) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    let (_, random) = message_id.as_bytes().split_at(16 - NONCE_LEN);
    nonce.copy_from_slice(random);
    Nonce::assume_unique_for_key(nonce)
}

fn bound(purpose: Purpose, message_id: Uuid) -> Vec<u8> {
    [purpose.label(), message_id.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> TokenKeys {
        TokenKeys::new(7, [1; 32])
    }

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
    }

    #[test]
    fn facts_open_beside_their_own_token_only() {
        let keys = keys();
        let [ours, other] = [1, 2].map(|n| keys.issue(Purpose::Tracking, id(n)));
        let sealed = keys.seal(Purpose::Tracking, id(1), b"ann@a.test");
        assert_eq!(keys.open(Purpose::Tracking, &ours, &sealed), Ok((id(1), b"ann@a.test".to_vec())));
        assert_eq!(keys.open(Purpose::Tracking, &other, &sealed), Err(TokenError::Sealed));
        let leave = keys.issue(Purpose::Unsubscribe, id(1));
        assert_eq!(keys.open(Purpose::Unsubscribe, &leave, &sealed), Err(TokenError::Sealed));
        assert_eq!(keys.open(Purpose::Unsubscribe, &ours, &sealed), Err(TokenError::Signature));
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let keys = keys();
        let token = keys.issue(Purpose::Tracking, id(1));
        let sealed = keys.seal(Purpose::Tracking, id(1), b"https://a.test/?x=1");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.open(Purpose::Tracking, &token, &changed).is_err(), "{changed}");
            assert!(keys.open(Purpose::Tracking, &token, &sealed[..at]).is_err(), "cut to {at}");
        }
        for text in ["", "=", "é", &"A".repeat(10_000)] {
            assert_eq!(keys.open(Purpose::Tracking, &token, text), Err(TokenError::Sealed));
        }
    }

    #[test]
    fn what_is_sealed_cannot_be_read_and_an_older_key_still_opens_it() {
        let old = TokenKeys::new(1, [1; 32]);
        let (token, sealed) =
            (old.issue(Purpose::Tracking, id(1)), old.seal(Purpose::Tracking, id(1), b"ann@a.test"));
        assert!(!URL_SAFE_NO_PAD.decode(&sealed).unwrap().windows(3).any(|part| part == b"ann"));
        let new = TokenKeys::new(2, [2; 32]);
        assert_eq!(new.open(Purpose::Tracking, &token, &sealed), Err(TokenError::UnknownKey(1)));
        assert!(new.with_older(1, [1; 32]).open(Purpose::Tracking, &token, &sealed).is_ok());
    }
}
