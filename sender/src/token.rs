//! The one token format: VERP local part, Message-ID, List-Unsubscribe and tracking all name their message
//! with it, and none of them can be forged or used for another purpose.
//!
//! A token is version, key id, message id and the first 80 bits of an HMAC-SHA-256, in base32 without
//! padding: 45 characters that survive a change of case and fit a local part (64 octets, RFC 5321, section
//! 4.5.3.1.1).
//!
//! A link may carry more beside its token: facts that only this installation can read, bound to the token ([`seal`]).

mod seal;

use aws_lc_rs::{constant_time, hmac};
use data_encoding::BASE32_NOPAD;
use uuid::Uuid;

use self::seal::SealKey;

const VERSION: u8 = 1;
const ID_BYTES: usize = 16;
const MAC_BYTES: usize = 10;
const TOKEN_BYTES: usize = 2 + ID_BYTES + MAC_BYTES;

/// Length of every token, in characters.
pub const TOKEN_CHARS: usize = 45;

/// What a token may be used for. It is part of what is authenticated, so that a reader of a Message-ID cannot
/// unsubscribe with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Local part of the envelope's reverse-path (VERP).
    ReturnPath,
    /// Left side of a Message-ID.
    MessageId,
    /// Path of the one-click URL, and local part of the unsubscribe mailbox.
    Unsubscribe,
    /// Opens and clicks.
    Tracking,
    /// CFBL-Feedback-ID, which a complaint passes on when it passes on nothing else (RFC 9477).
    Complaint,
}

impl Purpose {
    /// Never changed once tokens are out: they would all stop verifying.
    fn label(self) -> &'static [u8] {
        match self {
            Purpose::ReturnPath => b"sendlake token return-path\0",
            Purpose::MessageId => b"sendlake token message-id\0",
            Purpose::Unsubscribe => b"sendlake token unsubscribe\0",
            Purpose::Tracking => b"sendlake token tracking\0",
            Purpose::Complaint => b"sendlake token complaint\0",
        }
    }
}

/// Why a text is not a token of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a token: {TOKEN_CHARS} characters of base32 (a-z, 2-7) are expected")]
    Shape,
    #[error("token version {0} is not known here: it was made by a newer sendlake")]
    Version(u8),
    #[error("the token was made with key {0}, which is not configured here")]
    UnknownKey(u8),
    #[error("the token's signature does not match: it is forged, damaged, or made for another purpose")]
    Signature,
    #[error("what is sealed beside the token is damaged, or belongs to another token")]
    Sealed,
}

/// The key that signs new tokens, and older keys that still verify theirs.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    current: Key,
    older: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    id: u8,
    mac: hmac::Key,
    seal: SealKey,
}

impl Key {
    fn new(id: u8, key: &[u8; 32]) -> Self {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, key);
        Self { id, seal: SealKey::derived(&mac), mac }
    }
}

impl TokenKeys {
    pub fn new(key_id: u8, key: [u8; 32]) -> Self {
        Self { current: Key::new(key_id, &key), older: Vec::new() }
    }

    /// Adds a key that verifies but never signs. Keep one for at least 90 days after its last token: reports
    /// come late.
    #[must_use]
    pub fn with_older(mut self, key_id: u8, key: [u8; 32]) -> Self {
        self.older.push(Key::new(key_id, &key));
        self
    }

    /// A token for one message, in lower case.
    pub fn issue(&self, purpose: Purpose, message_id: Uuid) -> String {
        let mut token = Vec::with_capacity(TOKEN_BYTES);
        token.extend([VERSION, self.current.id]);
        token.extend(message_id.as_bytes());
        let mac = mac(&self.current.mac, purpose, &token);
        token.extend(mac.as_ref().iter().take(MAC_BYTES));
        BASE32_NOPAD.encode(&token).to_ascii_lowercase()
    }

    /// The message that a token names, if one of these keys made it for this purpose. Case does not matter.
    pub fn verify(&self, purpose: Purpose, token: &str) -> Result<Uuid, TokenError> {
        self.verified(purpose, token).map(|(message_id, _)| message_id)
    }

    /// The same, with the key that made it.
    fn verified(&self, purpose: Purpose, token: &str) -> Result<(Uuid, &Key), TokenError> {
        if token.len() != TOKEN_CHARS {
            return Err(TokenError::Shape);
        }
        let bytes =
            BASE32_NOPAD.decode(token.to_ascii_uppercase().as_bytes()).map_err(|_| TokenError::Shape)?;
        let bytes: &[u8; TOKEN_BYTES] = bytes.as_slice().try_into().map_err(|_| TokenError::Shape)?;
        let (signed, given) = bytes.split_at(2 + ID_BYTES);
        let [version, key_id, id @ ..] = signed else { return Err(TokenError::Shape) };
        if *version != VERSION {
            return Err(TokenError::Version(*version));
        }
        let message_id = Uuid::from_slice(id).map_err(|_| TokenError::Shape)?;
        let key = self.key(*key_id).ok_or(TokenError::UnknownKey(*key_id))?;
        let expected = mac(&key.mac, purpose, signed);
        let expected = expected.as_ref().get(..MAC_BYTES).unwrap_or_default();
        constant_time::verify_slices_are_equal(expected, given).map_err(|_| TokenError::Signature)?;
        Ok((message_id, key))
    }

    fn key(&self, key_id: u8) -> Option<&Key> {
        std::iter::once(&self.current).chain(&self.older).find(|key| key.id == key_id)
    }
}

fn mac(key: &hmac::Key, purpose: Purpose, signed: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(purpose.label());
    context.update(signed);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> Uuid {
        Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0042)
    }

    #[test]
    fn token_names_its_message_in_any_case() {
        let keys = TokenKeys::new(7, [1; 32]);
        let token = keys.issue(Purpose::ReturnPath, id());
        assert_eq!(token.len(), TOKEN_CHARS);
        assert!(token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_eq!(keys.verify(Purpose::ReturnPath, &token), Ok(id()));
        assert_eq!(keys.verify(Purpose::ReturnPath, &token.to_ascii_uppercase()), Ok(id()));
    }

    #[test]
    fn message_id_cannot_unsubscribe() {
        let keys = TokenKeys::new(7, [1; 32]);
        let token = keys.issue(Purpose::MessageId, id());
        assert_eq!(keys.verify(Purpose::Unsubscribe, &token), Err(TokenError::Signature));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let keys = TokenKeys::new(7, [1; 32]);
        let token = keys.issue(Purpose::Unsubscribe, id());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.verify(Purpose::Unsubscribe, &changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn older_keys_verify_and_unknown_ones_are_named() {
        let old = TokenKeys::new(1, [1; 32]);
        let token = old.issue(Purpose::ReturnPath, id());
        let new = TokenKeys::new(2, [2; 32]);
        assert_eq!(new.verify(Purpose::ReturnPath, &token), Err(TokenError::UnknownKey(1)));
        let both = new.with_older(1, [1; 32]);
        assert_eq!(both.verify(Purpose::ReturnPath, &token), Ok(id()));
        assert_ne!(both.issue(Purpose::ReturnPath, id()), token);
    }

    #[test]
    fn what_is_no_token_says_so() {
        let keys = TokenKeys::new(7, [1; 32]);
        for text in ["", "postmaster", &"1".repeat(45), &"é".repeat(22), &"a".repeat(46)] {
            assert_eq!(keys.verify(Purpose::ReturnPath, text), Err(TokenError::Shape), "{text:?}");
        }
        assert_eq!(keys.verify(Purpose::ReturnPath, &"a".repeat(45)), Err(TokenError::Version(0)));
    }
}
