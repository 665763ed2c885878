//! What a link in a mail knows, sealed beside its token: whose mail it stood in, to whom, and where it leads. So an
//! unsubscribe finds its address when nothing else of the message is left, and a click needs no lookup.
//!
//! The form is compact, since it stands in every link: a version, one octet for the stream, texts behind their length.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use uuid::Uuid;

use crate::stream::Stream;
use crate::token::{Purpose, TokenError, TokenKeys};

/// Whose mail it was, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whom {
    pub tenant_id: TenantId,
    pub stream: Stream,
    pub recipient: String,
}

/// How it left, as far as events of its links tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// When the attempt began in which the link left, in whole seconds.
    pub sent_at: Timestamp,
    pub campaign_id: Option<String>,
    pub provider: Option<String>,
    pub header_from_domain: Option<String>,
}

/// What stands in a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    Unsubscribe(Whom),
    Open(Whom, Sent),
    /// With the address that the link leads to.
    Click(Whom, Sent, String),
}

const UNSUBSCRIBE: u8 = 1;
const OPEN: u8 = 2;
const CLICK: u8 = 3;

impl Facts {
    fn purpose(&self) -> Purpose {
        match self {
            Facts::Unsubscribe(_) => Purpose::Unsubscribe,
            Facts::Open(..) | Facts::Click(..) => Purpose::Tracking,
        }
    }

    /// The facts of a link, sealed: what stands behind `<token>/`.
    pub fn seal(&self, tokens: &TokenKeys, message_id: Uuid) -> String {
        let mut bytes = Vec::with_capacity(128);
        match self {
            Facts::Unsubscribe(whom) => {
                bytes.push(UNSUBSCRIBE);
                whom.put(&mut bytes);
            }
            Facts::Open(whom, sent) => {
                bytes.push(OPEN);
                whom.put(&mut bytes);
                sent.put(&mut bytes);
            }
            Facts::Click(whom, sent, url) => {
                bytes.push(CLICK);
                whom.put(&mut bytes);
                sent.put(&mut bytes);
                put_text(&mut bytes, url);
            }
        }
        tokens.seal(self.purpose(), message_id, &bytes)
    }

    /// The message that a link's token names, and what it knows.
    pub fn open(
        tokens: &TokenKeys,
        purpose: Purpose,
        token: &str,
        sealed: &str,
    ) -> Result<(Uuid, Self), TokenError> {
        let (message_id, bytes) = tokens.open(purpose, token, sealed)?;
        let facts = Self::read(&bytes).filter(|facts| facts.purpose() == purpose);
        Ok((message_id, facts.ok_or(TokenError::Sealed)?))
    }

    /// What was sealed for a message whose token was verified elsewhere.
    pub fn open_for(tokens: &TokenKeys, purpose: Purpose, message_id: Uuid, sealed: &str) -> Option<Self> {
        let bytes = tokens.open_for(purpose, message_id, sealed)?;
        Self::read(&bytes).filter(|facts| facts.purpose() == purpose)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.split_first()?;
        let whom = Whom::take(&mut rest)?;
        let facts = match *kind {
            UNSUBSCRIBE => Facts::Unsubscribe(whom),
            OPEN => Facts::Open(whom, Sent::take(&mut rest)?),
            CLICK => {
                let sent = Sent::take(&mut rest)?;
                Facts::Click(whom, sent, take_text(&mut rest)?.to_owned())
            }
            _ => return None,
        };
        rest.is_empty().then_some(facts)
    }
}

impl Whom {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.push(match self.stream {
            Stream::Transactional => 0,
            Stream::Marketing => 1,
            Stream::Cold => 2,
        });
        put_text(bytes, self.tenant_id.as_str());
        put_text(bytes, &self.recipient);
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (stream, after) = rest.split_first()?;
        *rest = after;
        let stream = match *stream {
            0 => Stream::Transactional,
            1 => Stream::Marketing,
            2 => Stream::Cold,
            _ => return None,
        };
        let tenant_id = TenantId::new(take_text(rest)?).ok()?;
        Some(Self { tenant_id, stream, recipient: take_text(rest)?.to_owned() })
    }
}

impl Sent {
    fn put(&self, bytes: &mut Vec<u8>) {
        put_number(bytes, self.sent_at.as_secs().max(0).unsigned_abs());
        for text in [&self.campaign_id, &self.provider, &self.header_from_domain] {
            put_text(bytes, text.as_deref().unwrap_or_default());
        }
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let sent_at = i64::try_from(take_number(rest)?).ok().filter(|secs| *secs < 1 << 40)?;
        let mut text = || take_text(rest).map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
        Some(Self {
            sent_at: Timestamp::from_secs(sent_at),
            campaign_id: text()?,
            provider: text()?,
            header_from_domain: text()?,
        })
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let bytes = usize::try_from(take_number(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

/// Seven bits an octet, the lowest first; the eighth says that more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are meant")]
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or(0x7f));
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (octet, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whom() -> Whom {
        Whom {
            tenant_id: TenantId::new("acme").unwrap(),
            stream: Stream::Cold,
            recipient: "ann@customer.example".into(),
        }
    }

    fn sent() -> Sent {
        Sent {
            sent_at: Timestamp::from_secs(1_795_348_800),
            campaign_id: Some("spring".into()),
            provider: None,
            header_from_domain: Some("acme.example".into()),
        }
    }

    fn all() -> [Facts; 3] {
        let url = format!("https://shop.example/?q={}", "x".repeat(300));
        [Facts::Unsubscribe(whom()), Facts::Open(whom(), sent()), Facts::Click(whom(), sent(), url)]
    }

    #[test]
    fn facts_come_back_as_they_were() {
        let tokens = TokenKeys::new(1, [1; 32]);
        let id = Uuid::from_u128(7);
        for facts in all() {
            let (purpose, sealed) = (facts.purpose(), facts.seal(&tokens, id));
            let token = tokens.issue(purpose, id);
            assert_eq!(Facts::open_for(&tokens, purpose, id, &sealed).as_ref(), Some(&facts));
            assert_eq!(Facts::open_for(&tokens, purpose, Uuid::from_u128(8), &sealed), None);
            assert_eq!(Facts::open(&tokens, purpose, &token, &sealed), Ok((id, facts)));
        }
    }

    #[test]
    fn an_unsubscribe_link_stays_short() {
        let tokens = TokenKeys::new(1, [1; 32]);
        let sealed = Facts::Unsubscribe(whom()).seal(&tokens, Uuid::from_u128(7));
        assert!(sealed.len() <= 60, "{} characters", sealed.len());
        let longest = Whom { recipient: format!("{}@{}", "l".repeat(64), "d".repeat(253)), ..whom() };
        let sealed = Facts::Unsubscribe(longest).seal(&tokens, Uuid::from_u128(7));
        // a header line holds 998 octets, the URL in front of it and its token included
        assert!(sealed.len() <= 480, "{} characters", sealed.len());
    }

    #[test]
    fn bytes_of_anything_else_are_no_facts() {
        let tokens = TokenKeys::new(1, [1; 32]);
        for facts in all() {
            let token = tokens.issue(facts.purpose(), Uuid::from_u128(7));
            let sealed = facts.seal(&tokens, Uuid::from_u128(7));
            let (_, bytes) = tokens.open(facts.purpose(), &token, &sealed).unwrap();
            for cut in 0..bytes.len() {
                assert_eq!(Facts::read(&bytes[..cut]), None, "cut to {cut}");
            }
            assert_eq!(Facts::read(&[bytes.as_slice(), b"x"].concat()), None);
        }
        assert_eq!(Facts::read(&[9, 0, 0]), None);
        assert_eq!(Facts::read(&[0xff; 40]), None);
    }
}
