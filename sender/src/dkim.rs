//! DKIM signatures (RFC 6376): relaxed/relaxed, rsa-sha256, with the body hashed once per submission.
//!
//! Header canonicalisation, the signature field and the key are mail-auth's. Its `sign` hashes the body for
//! every message, so its public parts are put together here around a hash made before. The body's
//! canonical form is made here too: mail-auth 0.12 keeps lines of white space at the end of a body, where
//! section 3.4.4 drops them (first white space, then empty lines), and receivers would see a broken hash.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_auth::common::crypto::{Algorithm, RsaKey, Sha256, SigningKey};
use mail_auth::dkim::{Canonicalization, Signature};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sendlake_control::clock::Timestamp;

/// Fields that are signed wherever they stand. The List-Unsubscribe pair must be signed for RFC 8058, the CFBL pair for
/// RFC 9477, section 3.1.4.
const SIGNED: &[&str] = &[
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Feedback-ID",
    "TLS-Report-Domain",
    "TLS-Report-Submitter",
    "TLS-Required",
    "CFBL-Address",
    "CFBL-Feedback-ID",
];

/// Of those, the ones that are listed once more than they occur, so that none can be added on the way (section 8.15): what
/// people see, and what their programs act upon. Fields of lists only where the message has them: a list adds its own.
const OVERSIGNED: &[&str] = &[
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "MIME-Version",
    "Content-Type",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Why a message could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum DkimError {
    #[error("the DKIM key {selector}._domainkey.{domain} is not an RSA private key in PKCS#8 DER: {reason}")]
    Key { domain: String, selector: String, reason: String },
    #[error("the message has no From field, so a DKIM signature would mean nothing")]
    NoFrom,
    #[error("signing with {selector}._domainkey.{domain} failed: {reason}")]
    Sign { domain: String, selector: String, reason: String },
}

/// SHA-256 of a body in its relaxed canonical form, base64. Made once for all recipients of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyHash(Vec<u8>);

impl BodyHash {
    /// `body` is what follows the empty line after the header section, lines ending in CRLF.
    pub fn relaxed(body: &[u8]) -> Self {
        let canonical = relaxed_body(body);
        Self(BASE64.encode(digest::digest(&digest::SHA256, &canonical)).into_bytes())
    }
}

/// Section 3.4.4: runs of white space become one space, none stays at the end of a line, and no empty lines at
/// the end of the body.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut canonical = Vec::with_capacity(body.len() + 2);
    // Length up to the end of the last line that is not empty.
    let mut kept = 0;
    let text = body.strip_suffix(b"\n").unwrap_or(body);
    for line in text.split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        push_relaxed_line(&mut canonical, line);
        let empty = canonical.last().is_none_or(|&b| b == b'\n');
        canonical.extend_from_slice(b"\r\n");
        if !empty {
            kept = canonical.len();
        }
    }
    canonical.truncate(kept);
    canonical
}

fn push_relaxed_line(canonical: &mut Vec<u8>, line: &[u8]) {
    let mut gap = false;
    for word in line.split_inclusive(|b| matches!(b, b' ' | b'\t')) {
        let text = word.strip_suffix(b" ").or(word.strip_suffix(b"\t"));
        match text.unwrap_or(word) {
            [] => {}
            text => {
                if gap {
                    canonical.push(b' ');
                }
                gap = false;
                canonical.extend_from_slice(text);
            }
        }
        gap |= text.is_some();
    }
}

/// One private key with the name that its public half is published under.
pub struct Signer {
    domain: String,
    selector: String,
    key: RsaKey<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({}._domainkey.{})", self.selector, self.domain)
    }
}

impl Signer {
    /// `der` is an RSA private key in PKCS#8. Both names are ASCII, without trailing dots.
    pub fn from_pkcs8(domain: &str, selector: &str, der: &[u8]) -> Result<Self, DkimError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
        let key = RsaKey::from_key_der(der).map_err(|err| DkimError::Key {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            reason: err.to_string(),
        })?;
        Ok(Self { domain: domain.to_owned(), selector: selector.to_owned(), key })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// A whole `DKIM-Signature` field, CRLF at its end, to stand above the header section. `headers` are the
    /// pieces of that section in their order, whole lines each, without the empty line after them.
    pub fn sign(&self, headers: &[&[u8]], body: &BodyHash, now: Timestamp) -> Result<Vec<u8>, DkimError> {
        let section = headers.concat();
        let fields = fields(&section);
        let (names, signed) = select(&fields);
        if !signed.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"From")) {
            return Err(DkimError::NoFrom);
        }
        let mut signature = Signature {
            v: 1,
            a: Algorithm::RsaSha256,
            d: self.domain.clone(),
            s: self.selector.clone(),
            bh: body.0.clone(),
            h: names,
            t: u64::try_from(now.as_secs()).unwrap_or(0),
            ch: Canonicalization::Relaxed,
            cb: Canonicalization::Relaxed,
            ..Signature::default()
        };
        let mut input = Vec::with_capacity(section.len() + 512);
        Canonicalization::Relaxed.canonicalize_headers(signed.into_iter(), &mut input);
        signature.write(&mut input, false);
        let b = self.key.sign(input.as_slice()).map_err(|err| DkimError::Sign {
            domain: self.domain.clone(),
            selector: self.selector.clone(),
            reason: err.to_string(),
        })?;
        signature.b = BASE64.encode(b).into_bytes();
        let mut field = Vec::with_capacity(1024);
        signature.write(&mut field, true);
        Ok(field)
    }
}

/// Name and value of a field, its folded lines and line ends included (RFC 5322, section 2.2).
type Field<'a> = (&'a [u8], &'a [u8]);

fn fields(section: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    let mut rest = section;
    while !rest.is_empty() {
        let ends =
            |at: &usize| rest.get(*at) == Some(&b'\n') && !matches!(rest.get(*at + 1), Some(b' ' | b'\t'));
        let end = (0..rest.len()).find(ends).map_or(rest.len(), |at| at + 1);
        let (field, after) = rest.split_at(end);
        if let Some(colon) = field.iter().position(|&b| b == b':') {
            let (name, value) = field.split_at(colon);
            fields.push((name, value.get(1..).unwrap_or_default()));
        }
        rest = after;
    }
    fields
}

/// The names for `h=`, and the fields they stand for in the same order: where one occurs more than once, the
/// last comes first (section 5.4.2).
fn select<'a>(fields: &[Field<'a>]) -> (Vec<String>, Vec<Field<'a>>) {
    let mut names = Vec::with_capacity(SIGNED.len() + OVERSIGNED.len());
    let mut signed = Vec::with_capacity(SIGNED.len());
    for name in SIGNED {
        let before = signed.len();
        for field in fields.iter().rev() {
            if field.0.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()) {
                names.push((*name).to_owned());
                signed.push(*field);
            }
        }
        let is_there = signed.len() > before;
        if OVERSIGNED.contains(name) && (is_there || !name.starts_with("List-")) {
            names.push((*name).to_owned());
        }
    }
    (names, signed)
}

#[cfg(test)]
mod tests;
