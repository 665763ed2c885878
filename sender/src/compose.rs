//! From checked parts to the octets of a message: header section and body, without what is made per recipient.
//!
//! - [`mailbox`]: a display name and an address (RFC 5322, section 3.4)
//! - [`header`]: field names and values, encoded (RFC 2047) and folded
//! - [`mime`]: the tree of body parts (RFC 2045, 2046, 2183, 2231, 2387)
//! - [`raw`]: a message that its client composed (RFC 5322), checked and put in order
//! - [`fingerprint`]: hashes by which equal content is recognised
//!
//! Pure: the date and the randomness of MIME boundaries are arguments. `mail-builder` lays out the body parts;
//! its own header section is not used, because it invents a Message-ID, reads the system clock, and writes
//! encoded words inside quotes, which RFC 2047 (section 5) forbids and strict readers show undecoded.

pub mod fingerprint;
pub mod header;
pub mod mailbox;
pub mod mime;
pub mod raw;

use sendlake_control::clock::{Entropy, Timestamp};

use self::header::HeaderSection;
use self::mailbox::Mailbox;
use self::mime::Attachment;
use crate::submission::{Content, Tracking};

/// A message in parts, checked: no header name, value, address or file name holds CR, LF or NUL.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    pub cc: Vec<Mailbox>,
    pub reply_to: Vec<Mailbox>,
    pub subject: Option<String>,
    pub text: Option<String>,
    pub html: Option<String>,
    /// Further fields, in the client's order.
    pub headers: Vec<(String, String)>,
    pub attachments: Vec<Attachment>,
}

/// Writes the message out, with `date` in its `Date:` field.
pub fn compose(draft: &Draft, date: Timestamp, entropy: &dyn Entropy) -> Content {
    let mut section = HeaderSection::default();
    section.date(date);
    section.mailboxes("From", std::slice::from_ref(&draft.from));
    section.mailboxes("Reply-To", &draft.reply_to);
    section.mailboxes("To", &draft.to);
    section.mailboxes("Cc", &draft.cc);
    if draft.to.is_empty() && draft.cc.is_empty() {
        // Everybody is in Bcc, which is never written. Some receivers score a message without To badly.
        section.raw("To", "undisclosed-recipients:;");
    }
    if let Some(subject) = &draft.subject {
        section.text("Subject", subject);
    }
    for (name, value) in &draft.headers {
        section.text(name, value);
    }
    section.raw("MIME-Version", "1.0");

    let (part_headers, body) = mime::body(draft, entropy);
    let given = |wanted: &str| draft.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mailboxes = [&draft.to, &draft.cc, &draft.reply_to].into_iter().flatten();
    let needs_smtputf8 = mailboxes.chain([&draft.from]).any(|mailbox| mailbox.address.needs_smtputf8());
    let mut headers = section.into_bytes();
    headers.extend_from_slice(&part_headers);
    Content {
        headers,
        needs_8bitmime: !body.is_ascii(),
        body,
        has_message_id: given("Message-ID"),
        has_feedback_id: given("Feedback-ID"),
        has_list_unsubscribe: given("List-Unsubscribe"),
        needs_smtputf8,
        tracking: Tracking::default(),
    }
}

#[cfg(test)]
mod tests;
