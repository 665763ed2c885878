//! The sealed form: format version (1 byte), key id (u32, big-endian), nonce (96 bits), AES-256-GCM
//! ciphertext, tag (128 bits).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::clock::Entropy;

const VERSION: u8 = 1;
const PREFIX_LEN: usize = 1 + 4 + NONCE_LEN;
const TAG_LEN: usize = 16;

/// A 256-bit key, its schedule computed once.
pub(super) struct Cipher(LessSafeKey);

/// Why a sealed value did not open. The caller knows whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenFailure {
    Malformed(String),
    Tampered,
}

/// Plaintext beyond what AES-GCM takes under one nonce (64 GiB).
#[derive(Debug)]
pub(super) struct TooLong;

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "AES-256 takes every key of 32 bytes")]
        let key = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key");
        Self(LessSafeKey::new(key))
    }

    /// Seals `plaintext`. It opens only with the same `bound` parts: they are authenticated, not stored.
    pub(super) fn seal(
        &self,
        key_id: u32,
        bound: [&[u8]; 2],
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, TooLong> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut sealed = Vec::with_capacity(PREFIX_LEN + plaintext.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(&key_id.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let (_, body) = sealed.split_at_mut(PREFIX_LEN);
        let aad = Aad::from(associated_data(key_id, bound));
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, body)
            .map_err(|_| TooLong)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what [`Cipher::seal`] made under this key and the same `bound` parts.
    pub(super) fn open(&self, bound: [&[u8]; 2], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenFailure> {
        let key_id = key_id(sealed)?;
        let (prefix, body) = sealed.split_at_checked(PREFIX_LEN).ok_or_else(|| too_short(sealed))?;
        let (ciphertext, tag) = body
            .split_last_chunk::<TAG_LEN>()
            .ok_or_else(|| too_short(sealed))
            .map(|(c, t)| (c, t.as_slice()))?;
        let nonce = prefix.last_chunk::<NONCE_LEN>().ok_or_else(|| too_short(sealed))?;
        let mut plaintext = Zeroizing::new(vec![0; ciphertext.len()]);
        self.0
            .open_separate_gather(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(associated_data(key_id, bound)),
                ciphertext,
                tag,
                &mut plaintext,
            )
            .map_err(|_| OpenFailure::Tampered)?;
        Ok(plaintext)
    }
}

/// Which key a value is sealed under.
pub(super) fn key_id(sealed: &[u8]) -> Result<u32, OpenFailure> {
    match sealed.split_first() {
        Some((&VERSION, rest)) => {
            rest.first_chunk().map(|id| u32::from_be_bytes(*id)).ok_or_else(|| too_short(sealed))
        }
        Some((version, _)) => Err(OpenFailure::Malformed(format!(
            "it has format version {version}, and this program reads version {VERSION}"
        ))),
        None => Err(too_short(sealed)),
    }
}

fn too_short(sealed: &[u8]) -> OpenFailure {
    OpenFailure::Malformed(format!("it ends after {} bytes", sealed.len()))
}

/// The prefix and the bound parts, each behind its length, so that no two lists of parts look alike.
fn associated_data(key_id: u32, bound: [&[u8]; 2]) -> Vec<u8> {
    let mut data = vec![VERSION];
    data.extend_from_slice(&key_id.to_be_bytes());
    for part in bound {
        data.extend_from_slice(&(part.len() as u64).to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    #[test]
    fn layout_is_version_key_id_nonce_ciphertext_tag() {
        let cipher = Cipher::new(&[7; 32]);
        let sealed = cipher.seal(0x0102_0304, [b"a", b"b"], b"hello", &SeededEntropy::new(1)).unwrap();
        assert_eq!(sealed.len(), 1 + 4 + 12 + 5 + 16);
        assert_eq!(sealed[..5], [1, 1, 2, 3, 4]);
        assert_eq!(*cipher.open([b"a", b"b"], &sealed).unwrap(), b"hello");
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let cipher = Cipher::new(&[7; 32]);
        let sealed = cipher.seal(1, [b"ab", b"c"], b"hello", &SeededEntropy::new(1)).unwrap();
        assert_eq!(cipher.open([b"a", b"bc"], &sealed).unwrap_err(), OpenFailure::Tampered);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let cipher = Cipher::new(&[7; 32]);
        let sealed = cipher.seal(1, [b"", b""], b"hello", &SeededEntropy::new(1)).unwrap();
        for at in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[at / 8] ^= 1 << (at % 8);
            assert!(cipher.open([b"", b""], &altered).is_err(), "bit {at}");
        }
        for len in 0..sealed.len() {
            assert!(cipher.open([b"", b""], &sealed[..len]).is_err(), "cut to {len}");
        }
    }
}
