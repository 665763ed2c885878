//! A receiver's words: reply codes and texts as data, and how they are put on the wire.

use std::fmt::Write as _;

/// When a refusal is spoken. Providers differ in this, and a sender must cope with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In answer to `RCPT TO`.
    Rcpt,
    /// In answer to the final dot. One refused recipient refuses the whole transaction.
    DataEnd,
}

/// One refusal: a 4yz or 5yz reply. A 421 also closes the connection (RFC 5321, section 3.8).
///
/// The lines hold the enhanced status (RFC 3463) where the provider sends one, and may hold `{ip}`,
/// `{mail_from}`, `{from_domain}`, `{rcpt}`, `{domain}` and `{sid}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub stage: Stage,
    pub lines: &'static [&'static str],
}

/// Everything that one provider says. Where a list has several entries, the recipient decides which.
#[derive(Clone, Copy, Debug)]
pub struct Replies {
    /// After the code 220.
    pub banner: &'static str,
    /// First line of the answer to EHLO, after the code 250.
    pub hello: &'static str,
    /// After the code 250.
    pub mail_ok: &'static str,
    /// After the code 250.
    pub rcpt_ok: &'static str,
    /// After the code 354.
    pub data_go: &'static str,
    /// After the code 250, for an accepted message.
    pub data_ok: &'static str,
    /// After the code 221.
    pub bye: &'static str,
    /// After the code 421, when a connection has carried as many messages as it may.
    pub connection_full: &'static str,
    pub unknown_user: &'static [Reply],
    pub policy: &'static [Reply],
    pub throttle: &'static [Reply],
    /// A full mailbox, worth another try. `None`: this provider refuses full mailboxes for good.
    pub full_for_now: Option<Reply>,
    /// A full mailbox, for good. `None`: this provider's full mailboxes get emptied in time.
    pub full_for_good: Option<Reply>,
    pub greylist: &'static [Reply],
}

/// What the placeholders stand for in one reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    pub client_ip: &'a str,
    pub reverse_path: &'a str,
    pub forward_path: &'a str,
    /// Stands in for the session id that providers append.
    pub session_id: u64,
}

/// Writes one reply: each line under its code, a `-` after the code on all lines but the last.
pub fn write(out: &mut Vec<u8>, code: u16, lines: &[&str], context: &Context<'_>) {
    let mut text = String::with_capacity(128);
    for (index, line) in lines.iter().enumerate() {
        let separator = if index + 1 == lines.len() { ' ' } else { '-' };
        // Writing into a String cannot fail.
        let _ = write!(text, "{code}{separator}");
        expand(&mut text, line, context);
        text.push_str("\r\n");
    }
    out.extend_from_slice(text.as_bytes());
}

fn expand(text: &mut String, line: &str, context: &Context<'_>) {
    let mut rest = line;
    while let Some((before, placeholder, after)) = next_placeholder(rest) {
        text.push_str(before);
        match placeholder {
            "ip" => text.push_str(context.client_ip),
            "mail_from" => push_clean(text, context.reverse_path),
            "rcpt" => push_clean(text, context.forward_path),
            "domain" => push_clean(text, domain_of(context.forward_path)),
            "from_domain" => push_clean(text, domain_of(context.reverse_path)),
            "sid" => {
                let _ = write!(text, "{:016x}", context.session_id);
            }
            other => {
                let _ = write!(text, "{{{other}}}");
            }
        }
        rest = after;
    }
    text.push_str(rest);
}

fn next_placeholder(line: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = line.split_once('{')?;
    let (placeholder, after) = rest.split_once('}')?;
    Some((before, placeholder, after))
}

/// What a client sent may stand in a reply, but must not be able to end its line.
fn push_clean(text: &mut String, from_client: &str) {
    text.extend(from_client.chars().filter(|c| !c.is_control()));
}

/// What follows the last `@`, or nothing.
pub fn domain_of(path: &str) -> &str {
    path.rsplit_once('@').map_or("", |(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_their_code_and_client_text_cannot_break_them() {
        let mut out = Vec::new();
        let context = Context { forward_path: "a\r\nb@example.com", session_id: 7, ..Context::default() };
        write(&mut out, 550, &["5.1.1 no <{rcpt}>", "5.1.1 {domain} {sid} {odd}"], &context);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "550-5.1.1 no <ab@example.com>\r\n550 5.1.1 example.com 0000000000000007 {odd}\r\n"
        );
    }
}
