//! The header fields made for one message at delivery: Message-ID, List-Unsubscribe, Feedback-ID and where complaints are
//! taken (RFC 9477). Date and all that recipients share were composed at acceptance.

use sendlake_control::id::TenantId;
use uuid::Uuid;

use crate::link::{Facts, Whom};
use crate::stream::Stream;
use crate::submission::Content;
use crate::token::{Purpose, TokenKeys};

/// What a message's own fields are made from.
#[derive(Clone, Copy, Debug)]
pub struct Personal<'a> {
    pub message_id: Uuid,
    pub stream: Stream,
    pub tenant: &'a TenantId,
    pub recipient: &'a str,
    pub campaign_id: Option<&'a str>,
    /// Right side of the Message-ID: the domain of `From:`, ASCII.
    pub header_from_domain: &'a str,
    /// Where unsubscribes are taken; without it, none are offered.
    pub unsubscribe: Option<Unsubscribe<'a>>,
    /// The installation, in Feedback-ID: Google asks for 5 to 15 characters that stay the same.
    pub feedback_sender: &'a str,
    /// Domain of the mailbox `fbl@…` that takes complaints, ASCII. It has to be the signing domain or lie below it
    /// (RFC 9477, section 3.1), and the message has to be signed; without it, none is offered.
    pub complaint_domain: Option<&'a str>,
}

/// The fields of RFC 9477: where complaints go, and what they are about.
const CFBL_ADDRESS: &str = "CFBL-Address";
const CFBL_FEEDBACK_ID: &str = "CFBL-Feedback-ID";

/// What the subject of a mail to the unsubscribe mailbox starts with; the sealed address follows.
pub const SUBJECT: &str = "unsubscribe.";

/// Where unsubscribes are taken.
#[derive(Clone, Copy, Debug)]
pub struct Unsubscribe<'a> {
    /// `https://mail.example.com`; the path `/u/<token>/<facts>` is added.
    pub base_url: &'a str,
    /// Domain of the unsubscribe mailbox `<token>@…`, ASCII.
    pub mailbox_domain: Option<&'a str>,
}

/// The fields as they go in front of the content's own, each ending in CRLF; what the client gave itself is
/// left alone.
pub fn personal_headers(content: &Content, personal: &Personal<'_>, tokens: &TokenKeys) -> Vec<u8> {
    let mut headers = String::with_capacity(512);
    if !content.has_message_id {
        let token = tokens.issue(Purpose::MessageId, personal.message_id);
        headers.push_str(&format!("Message-ID: <{token}@{}>\r\n", personal.header_from_domain));
    }
    if let Some(unsubscribe) = &personal.unsubscribe
        && personal.stream != Stream::Transactional
        && !content.has_list_unsubscribe
    {
        push_unsubscribe(&mut headers, unsubscribe, personal, tokens);
    }
    if !content.has_feedback_id {
        push_feedback_id(&mut headers, personal);
    }
    if let Some(domain) = personal.complaint_domain
        && !has_field(&content.headers, CFBL_ADDRESS)
    {
        let token = tokens.issue(Purpose::Complaint, personal.message_id);
        headers.push_str(&format!("{CFBL_ADDRESS}: fbl@{domain}; report=arf\r\n"));
        if !has_field(&content.headers, CFBL_FEEDBACK_ID) {
            headers.push_str(&format!("{CFBL_FEEDBACK_ID}: {token}\r\n"));
        }
    }
    headers.into_bytes()
}

/// Whether a header section, lines ending in CRLF, has a field of that name.
fn has_field(section: &[u8], name: &str) -> bool {
    section.split(|&byte| byte == b'\n').any(|line| {
        line.split_at_checked(name.len()).is_some_and(|(start, rest)| {
            start.eq_ignore_ascii_case(name.as_bytes()) && rest.trim_ascii_start().starts_with(b":")
        })
    })
}

/// Both ways to leave carry the sealed address beside the token: they have to work when the message is long gone
/// from the lake.
fn push_unsubscribe(
    headers: &mut String,
    unsubscribe: &Unsubscribe<'_>,
    personal: &Personal<'_>,
    tokens: &TokenKeys,
) {
    let token = tokens.issue(Purpose::Unsubscribe, personal.message_id);
    let whom = Whom {
        tenant_id: personal.tenant.clone(),
        stream: personal.stream,
        recipient: personal.recipient.to_owned(),
    };
    let sealed = Facts::Unsubscribe(whom).seal(tokens, personal.message_id);
    let base_url = unsubscribe.base_url.trim_end_matches('/');
    headers.push_str(&format!("List-Unsubscribe: <{base_url}/u/{token}/{sealed}>"));
    if let Some(domain) = unsubscribe.mailbox_domain {
        headers.push_str(&format!(",\r\n <mailto:{token}@{domain}?subject={SUBJECT}{sealed}>"));
    }
    headers.push_str("\r\n");
    // RFC 8058, section 3.1: the one-click promise needs an HTTPS URI.
    if base_url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
        headers.push_str("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
    }
}

/// `Feedback-ID: campaign:tenant:stream:sender`, by which Google Postmaster Tools groups complaints. Up to
/// three identifiers may be empty; the sender may not.
fn push_feedback_id(headers: &mut String, personal: &Personal<'_>) {
    let campaign = identifier(personal.campaign_id.unwrap_or_default(), 40);
    let tenant = identifier(personal.tenant.as_str(), 63);
    let mut sender = identifier(personal.feedback_sender, 15);
    while sender.len() < 5 {
        sender.push('_');
    }
    let line = format!("Feedback-ID: {campaign}:{tenant}:{}:{sender}", personal.stream);
    if line.len() > 78 {
        // Folding is only allowed where white space stands: after the field's name.
        headers.push_str(&line.replacen(": ", ":\r\n ", 1));
    } else {
        headers.push_str(&line);
    }
    headers.push_str("\r\n");
}

/// Letters, digits, `-`, `_` and `.`; anything else, the separator above all, becomes `_`.
fn identifier(text: &str, chars_max: usize) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().take(chars_max).map(|c| if safe(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::submission::Tracking;

    fn content() -> Content {
        Content {
            headers: b"From: a@example.com\r\n".to_vec(),
            body: Vec::new(),
            has_message_id: false,
            has_feedback_id: false,
            has_list_unsubscribe: false,
            needs_smtputf8: false,
            needs_8bitmime: false,
            tracking: Tracking::default(),
        }
    }

    static ACME: LazyLock<TenantId> = LazyLock::new(|| TenantId::new("acme").unwrap());

    fn personal() -> Personal<'static> {
        Personal {
            message_id: Uuid::from_u128(42),
            stream: Stream::Marketing,
            tenant: &ACME,
            recipient: "ann@a.test",
            campaign_id: Some("spring"),
            header_from_domain: "news.example.com",
            unsubscribe: Some(Unsubscribe {
                base_url: "https://mail.example.com/",
                mailbox_domain: Some("bounce.example.com"),
            }),
            feedback_sender: "sendlake",
            complaint_domain: None,
        }
    }

    fn made(content: &Content, personal: &Personal<'_>) -> String {
        String::from_utf8(personal_headers(content, personal, &TokenKeys::new(1, [7; 32]))).unwrap()
    }

    #[test]
    fn marketing_mail_can_be_left_with_one_click() {
        let tokens = TokenKeys::new(1, [7; 32]);
        let id = tokens.issue(Purpose::MessageId, Uuid::from_u128(42));
        let leave = tokens.issue(Purpose::Unsubscribe, Uuid::from_u128(42));
        let whom =
            Whom { tenant_id: ACME.clone(), stream: Stream::Marketing, recipient: "ann@a.test".into() };
        let sealed = Facts::Unsubscribe(whom).seal(&tokens, Uuid::from_u128(42));
        assert_eq!(
            made(&content(), &personal()),
            format!(
                "Message-ID: <{id}@news.example.com>\r\n\
                 List-Unsubscribe: <https://mail.example.com/u/{leave}/{sealed}>,\r\n \
                 <mailto:{leave}@bounce.example.com?subject=unsubscribe.{sealed}>\r\n\
                 List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
                 Feedback-ID: spring:acme:marketing:sendlake\r\n"
            )
        );
    }

    #[test]
    fn the_longest_address_still_fits_its_line() {
        let recipient = format!("{}@{}", "l".repeat(64), "d".repeat(189));
        let headers = made(&content(), &Personal { recipient: &recipient, ..personal() });
        assert!(headers.split("\r\n").all(|line| line.len() <= 998), "{headers}");
    }

    #[test]
    fn transactional_mail_offers_no_unsubscribe() {
        let headers = made(&content(), &Personal { stream: Stream::Transactional, ..personal() });
        assert!(!headers.contains("List-Unsubscribe"), "{headers}");
    }

    #[test]
    fn the_clients_own_fields_are_left_alone() {
        let content = Content { has_message_id: true, has_list_unsubscribe: true, ..content() };
        let headers = made(&content, &personal());
        assert_eq!(headers, "Feedback-ID: spring:acme:marketing:sendlake\r\n");
    }

    #[test]
    fn complaints_have_an_address_and_an_identifier_unless_the_client_gave_one() {
        let tokens = TokenKeys::new(1, [7; 32]);
        let id = tokens.issue(Purpose::Complaint, Uuid::from_u128(42));
        let personal = Personal { complaint_domain: Some("bounce.example.com"), ..personal() };
        let headers = made(&content(), &personal);
        let fields =
            format!("CFBL-Address: fbl@bounce.example.com; report=arf\r\nCFBL-Feedback-ID: {id}\r\n");
        assert!(headers.ends_with(&fields), "{headers}");
        let own = b"From: a@example.com\r\ncfbl-address : abuse@example.com\r\n".to_vec();
        let headers = made(&Content { headers: own, ..content() }, &personal);
        assert!(!headers.contains("CFBL"), "{headers}");
        let looks_alike = b"Subject: x\r\n CFBL-Address: y\r\nX-CFBL-Address: z\r\n".to_vec();
        let headers = made(&Content { headers: looks_alike, ..content() }, &personal);
        assert!(headers.contains(&fields), "{headers}");
    }

    #[test]
    fn one_click_is_only_promised_over_https() {
        let http = Unsubscribe { base_url: "http://127.0.0.1:8025", mailbox_domain: None };
        let headers = made(&content(), &Personal { unsubscribe: Some(http), ..personal() });
        assert!(headers.contains("List-Unsubscribe: <http://127.0.0.1:8025/u/"), "{headers}");
        assert!(!headers.contains("List-Unsubscribe-Post"), "{headers}");
    }

    #[test]
    fn feedback_id_survives_hostile_parts() {
        let hostile = "a:b\r\nBcc: x@example.com ".repeat(10);
        let personal = Personal { campaign_id: Some(&hostile), feedback_sender: "x", ..personal() };
        let headers = made(&content(), &personal);
        let feedback = headers.split("Feedback-ID:").nth(1).unwrap();
        assert_eq!(feedback.trim().matches(':').count(), 3, "{feedback}");
        assert!(feedback.ends_with(":x____\r\n"), "{feedback}");
        assert!(headers.split("\r\n").all(|line| line.len() <= 998 && !line.starts_with("Bcc")));
    }
}
