//! Which kind of mail came back: a DSN in fields or in words, a feedback report, an automatic reply, or none.

use std::sync::LazyLock;

use regex::Regex;

use super::mail::Mail;
use super::{Report, ReportError, extract, feedback, notice, said};

static SUBJECT_FAILS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)undeliver|returned mail|return(?:ed)? to sender|delivery (?:status|fail|problem|report|notif|error|unsuccess|delay|has)",
        r"|failure notice|(?:mail|message|delivery)\b.{0,20}\bfail|mail (?:system )?error|non-?deliver|not (?:be )?delivered",
        r"|could not (?:be )?(?:send|sent|deliver)|warning: (?:could|message)|(?:user|recipient|address) unknown|unknown (?:user|recipient|address)|delayed mail|rejected mail|mail delivery",
        r"|unzustellbar|zustell|non remis|no entregado|consegna|n.{1,3}o entregue|недоставл|не доставл|退信|配信|エラー|送信でき",
    ))
    .ok()
});
static WORDS_FAIL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)(?:could|can|did|was|were|has|have|been|is) ?(?:not|n't)( be| been)? (?:deliver|sen[dt]|reach|relay|accept)",
        r"|cannot be delivered|undeliver|delivery .{0,40}fail|fail\w* to deliver|unable to deliver|non-?deliver|delivery problems",
        r"|returned to sender|not delivered|delivery errors|had permanent|permanent fatal|<<< [45]\d\d|diagnostic",
        r"|送信でき|配信でき|konnte nicht|no se pudo|n'a pas pu|не может быть доставлено",
    ))
    .ok()
});
static SUBJECT_AUTOMATIC: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)out of (?:the )?office|auto(?:matic|mated|matisch\w*)?[- :]*(?:re(?:ply|sponse|ponse)|antwort|wort)|away (?:from|until)|\bvacation\b",
        r"|abwesen|absen[ct]e|on (?:leave|holiday)|respuesta autom|r.{1,2}ponse automatique|risposta automatica|resposta autom",
        r"|afwezig|fuori sede|автоответ|自動返信|自动回复|自動回覆|不在",
    ))
    .ok()
});
static SUBJECT_COMPLAINS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:complaint|abuse|spam|feedback|fbl)\b.{0,20}\b(?:about|report|notification|loop|from|for)|email feedback report")
        .ok()
});
static DAEMON: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"mailer[-_.]?daemon|^mdaemon\b|^po+st[-_]?master|mail ?deliver|delivery (?:sub)?system|^mail(?:er)?[-_]?(?:daemon|system|admin)|mail administrator",
        r"|content-?filter|^(?:owner-|listserv|majordomo|mailman|sympa)|-(?:admin|owner|request|daemon|errors?)@",
    ))
    .ok()
});

pub fn decide(mail: &Mail) -> Result<Report, ReportError> {
    if let Some(fields) = &mail.feedback {
        return Ok(Report::Feedback(Box::new(feedback::read(mail, fields))));
    }
    if mail.report_type.as_deref() == Some("feedback-report") {
        return Ok(Report::Feedback(Box::new(feedback::plain_complaint(mail))));
    }
    if let Some(report) = notice::read(mail)? {
        return Ok(report);
    }
    let mut blocks = mail.statuses.join("\n\n");
    if !said::has_status_fields(&blocks) && said::has_status_fields(&mail.words) {
        blocks.push_str("\n\n");
        blocks.push_str(&mail.words);
    }
    if !blocks.trim().is_empty() {
        let entries = extract::from_fields(mail, &blocks)?;
        if !entries.is_empty() {
            return Ok(Report::Dsn(entries));
        }
    }
    if mail.subject.trim().eq_ignore_ascii_case("unsubscribe") {
        return Ok(Report::Feedback(Box::new(feedback::opt_out(mail))));
    }
    let finds =
        |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    if mail.has_original && finds(&SUBJECT_COMPLAINS, &mail.subject) && !finds(&SUBJECT_FAILS, &mail.subject)
    {
        return Ok(Report::Feedback(Box::new(feedback::plain_complaint(mail))));
    }
    let subject = mail.subject.trim_start().to_lowercase();
    let is_an_answer =
        ["re:", "aw:", "sv:", "antw:", "r\u{e9}p:"].iter().any(|mark| subject.starts_with(mark));
    let says_failure =
        !mail.failed_recipients.is_empty() || (finds(&SUBJECT_FAILS, &mail.subject) && !is_an_answer);
    let from_machine = finds(&DAEMON, &mail.from);
    let automatic = mail.auto_header
        || mail.auto_submitted.as_deref().is_some_and(|how| how.trim() != "no")
        || finds(&SUBJECT_AUTOMATIC, &mail.subject);
    if automatic && !says_failure && !from_machine {
        return Ok(Report::AutoReply);
    }
    // words alone are a person's as well, and a person's letter must not end somebody's mail
    let by_a_program = mail.null_return_path || automatic || mail.has_original;
    if says_failure
        || from_machine
        || mail.report_type.is_some()
        || (by_a_program && finds(&WORDS_FAIL, &mail.words))
    {
        let entries = extract::from_words(mail)?;
        if !entries.is_empty() {
            return Ok(Report::Dsn(entries));
        }
    }
    Ok(if automatic { Report::AutoReply } else { Report::Other })
}
