//! Transcripts of sessions as sendmail and its heirs quote them: `>>> RCPT To:<…>`, `<<< 550 …`,
//! `550 <…>... User unknown`.

use super::said;

/// Most lines that are read.
const LINES_MAX: usize = 5_000;

/// What one recipient's part of a session came to.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub text: String,
    pub command: Option<&'static str>,
    /// It stands in a transcript that tells commands: no command means that none was sent.
    pub in_session: bool,
}

#[derive(Debug, Default)]
pub struct Transcript {
    told: Vec<(String, Line)>,
    /// The first refusal that names nobody.
    unnamed: Option<Line>,
}

impl Transcript {
    pub fn read(words: &str) -> Self {
        let mut transcript = Self::default();
        let mut command = None;
        let mut named: Option<String> = None;
        let mut replies: Vec<String> = Vec::new();
        let mut no_recipient_was_taken = false;
        let mut in_reply = false;
        let mut in_session = false;
        // what a local program said stands bare above the verdict
        let mut remark: Option<&str> = None;
        for line in words.lines().take(LINES_MAX) {
            let line = line.trim_end();
            let bare = line.trim_start();
            if let Some(sent) = sent(bare) {
                in_session = true;
                // no summary follows where each refusal stands under its command
                let refused = !replies.is_empty() && command == Some("RCPT");
                if let Some(address) = named.take_if(|_| refused) {
                    transcript.add(address, Line { text: replies.join(" "), command, in_session });
                }
                command = said::command_at_front(sent.trim_start());
                named = match command {
                    Some("RCPT") => said::addresses_in(sent).into_iter().next(),
                    _ => named,
                };
                replies.clear();
                in_reply = false;
            } else if let Some(reply) = received(bare) {
                let reply = reply.trim();
                if needs_recipient(reply) {
                    no_recipient_was_taken = true;
                } else if !reply.starts_with(['2', '3']) {
                    replies.push(reply.to_owned());
                }
                in_reply = true;
            } else if let Some((address, summary)) = summary(bare) {
                let line = match (replies.is_empty(), remark.take()) {
                    (false, _) => Line { text: replies.join(" "), command, in_session },
                    (true, Some(remark)) => {
                        Line { text: format!("{summary} {remark}"), command: None, in_session }
                    }
                    (true, None) => Line { text: summary, command: None, in_session },
                };
                transcript.add(address, line);
                replies.clear();
                in_reply = false;
            } else if in_reply && line.starts_with([' ', '\t']) && !bare.is_empty() {
                replies.extend(Some(bare.to_owned()));
            } else if bare.is_empty() || is_reply(bare) {
                if !replies.is_empty() || is_reply(bare) {
                    let text = if replies.is_empty() { bare.to_owned() } else { replies.join(" ") };
                    transcript.close(named.take(), Line { text, command, in_session });
                    replies.clear();
                }
                in_reply = false;
                remark = None;
            } else {
                remark = Some(bare).filter(|bare| bare.contains(": "));
            }
        }
        if !replies.is_empty() {
            transcript.close(named, Line { text: replies.join(" "), command, in_session });
        }
        if no_recipient_was_taken {
            transcript.told_after_pipelining();
        }
        transcript
    }

    /// What is told of that recipient, else of nobody in particular.
    pub fn of(&self, address: Option<&str>) -> Option<Line> {
        let told = address.and_then(|address| {
            self.told.iter().find(|(known, _)| known.eq_ignore_ascii_case(address)).map(|(_, line)| line)
        });
        told.or(self.unnamed.as_ref()).cloned()
    }

    pub fn recipients(&self) -> Vec<String> {
        self.told.iter().map(|(address, _)| address.clone()).collect()
    }

    fn add(&mut self, address: String, line: Line) {
        if !self.told.iter().any(|(known, _)| known.eq_ignore_ascii_case(&address)) {
            self.told.push((address, line));
        }
    }

    fn close(&mut self, named: Option<String>, line: Line) {
        match named {
            Some(address) => self.add(address, line),
            None => self.unnamed = self.unnamed.take().or(Some(line)),
        }
    }

    /// With pipelining DATA is on its way before RCPT is answered; a server that then misses a recipient has
    /// refused RCPT.
    fn told_after_pipelining(&mut self) {
        let lines = self.told.iter_mut().map(|(_, line)| line).chain(self.unnamed.as_mut());
        for line in lines.filter(|line| line.command == Some("DATA")) {
            line.command = Some("RCPT");
        }
    }
}

fn needs_recipient(reply: &str) -> bool {
    let reply = reply.to_lowercase();
    reply.contains("need rcpt") || reply.contains("no valid recipients") || reply.contains("need recipient")
}

/// `550 5.1.1 <a@b.example>... User unknown`, `<a@b.example>... Deferred: 421`.
fn summary(line: &str) -> Option<(String, String)> {
    let (before, _) = line.split_once("... ")?;
    let address = said::addresses_in(before).into_iter().next()?;
    let lead = before.split(address.as_str()).next()?.trim_matches([' ', '<', '.', '-']);
    let is_codes = lead.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b' '));
    is_codes.then(|| (address, line.to_owned()))
}

/// `554 5.0.0 Service unavailable` on a line of its own.
fn is_reply(line: &str) -> bool {
    let bytes = line.as_bytes();
    matches!(bytes.first(), Some(b'4' | b'5'))
        && bytes.get(1..3).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
        && matches!(bytes.get(3), Some(b' ' | b'-'))
}

/// A command as sendmail quotes it, InterScan, whose arrows point the other way, or MDaemon, with the time before it.
fn sent(line: &str) -> Option<&str> {
    line.strip_prefix(">>>").or_else(|| line.strip_prefix("Sent <<<")).or_else(|| logged(line, ": --> "))
}

fn received(line: &str) -> Option<&str> {
    line.strip_prefix("<<<").or_else(|| line.strip_prefix("Received >>>")).or_else(|| logged(line, ": <-- "))
}

/// What follows an arrow in a line that opens with when it was.
fn logged<'t>(line: &'t str, arrow: &str) -> Option<&'t str> {
    let (when, rest) = line.split_once(arrow)?;
    (when.len() < 40 && when.ends_with(|last: char| last.is_ascii_digit())).then_some(rest)
}
