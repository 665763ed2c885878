//! Which kind of mail came back: a DSN in fields or in words, a feedback report, an automatic reply, or none.

use std::sync::LazyLock;

use regex::Regex;

use super::mail::Mail;
use super::{DsnAction, Report, ReportError, extract, feedback, notice, said};

static SUBJECT_FAILS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)undeliver|returned mail|return(?:ed)? to sender|delivery (?:status|fail|problem|report|notif|error|unsuccess|delay|has)",
        r"|failure notice|(?:mail|message|delivery)\b.{0,20}\bfail|mail (?:system )?error|non-?deliver|not (?:be )?delivered",
        r"|could not (?:be )?(?:send|sent|deliver)|warning: (?:could|message)|(?:user|recipient|address) unknown|unknown (?:user|recipient|address)|delayed mail|rejected mail|mail delivery",
        r"|unzustellbar|zustell|non remis|non d.{1,2}livr|.{1,2}chec de (?:la )?(?:remise|livraison|l.envoi)|no (?:se (?:pudo|ha podido) )?entrega|error de entrega|devuelto",
        r"|consegna|n.{1,3}o (?:foi )?entregue|falha (?:na|de) entrega|devolvid|недоставл|не доставл|не (?:может быть|удалось) достав|ошибка достав|не доставлен",
        r"|niet (?:bezorgd|afgeleverd)|onbestelbaar|kunde inte levereras|inte levererat|ikke leveres|kunne ikke levere|kan ikke leveres|ei voitu toimittaa",
        r"|nie dostarczono|niedostarcz|zwrot wiadomo|nedoru|nebyla? doru|nepoda.{1,3}ilo (?:se )?doru|k.{1,2}zbes.{1,2}t.{1,2}s|teslim edileme|nelivrat|不達|未達|退信|退回|配信|配達(?:でき|不能|エラー|失敗)|エラー|送信でき|발송 실패|전송 실패|반송",
    ))
    .ok()
});
static WORDS_FAIL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)(?:could|can|did|was|were|has|have|been|is) ?(?:not|n't)( be| been)? (?:deliver|sen[dt]|reach|relay|accept)",
        r"|cannot be delivered|undeliver|delivery .{0,40}fail|fail\w* to deliver|unable to deliver|non-?deliver|delivery problems",
        r"|returned to sender|not delivered|delivery errors|had permanent|permanent fatal|<<< [45]\d\d|diagnostic",
        r"|送信でき|配信でき|届け|konnte nicht|no se (?:pudo|ha podido)|n'a pas pu|non .{1,4} stato (?:possibile )?consegn|n.{1,2}o p.{1,2}de ser|не (?:может быть|удалось) достав",
        r"|niet (?:bezorgd|worden)|inte levereras|ikke leveres|nie (?:zosta|mo)|nepoda|edilemedi|退回|无法|전송하지 못|배달하지 못",
    ))
    .ok()
});
static SUBJECT_AUTOMATIC: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)out of (?:the )?office|auto(?:matic|mated|matisch\w*)?[- :]*(?:re(?:ply|sponse|ponse)|antwort|wort)|away (?:from|until)|\bvacation\b",
        r"|abwesen|absen[ct]e|on (?:leave|holiday)|respuesta autom|r.{1,2}ponse automatique|risposta automatica|resposta autom",
        r"|afwezig|fuori (?:sede|ufficio)|autosvar|automatisk svar|fr.{1,2}nvar|frav.{1,2}r|automaattinen|odpowied. automat|automatick|automatikus|otomatik",
        r"|^auto:|^auto ?resp|fuera de (?:la )?oficina|fora do escrit|автоответ|автоматическ|自動返信|自動応答|自动回复|自動回覆|不在|자동 ?(?:회신|응답)|부재",
    ))
    .ok()
});
/// How those who are away begin. Whoever writes so by hand is away as well.
static WORDS_AWAY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?is)\A.{0,80}\b(?:i am|i'm|i\u{2019}m|i will be|i'll be) (?:currently |now )?(?:away|out of (?:the |my )?office|on (?:holiday|vacation|(?:annual |sick |parental |maternity )?leave)|not in the office)\b.{0,80}\b(?:until|till|returning|return|back|from|without|with (?:limited|no))",
        r"|(?is)\A.{0,80}\bthis is an (?:automatic|automated) (?:reply|response)",
        r"|(?is)\A.{0,80}(?:ich bin (?:bis|vom|ab|derzeit|zur ?zeit|momentan) .{0,60}(?:nicht|abwesend|urlaub)|je suis (?:actuellement )?absent|estoy fuera de|sono fuori|no escrit.rio|ik ben .{0,40}afwezig|休暇をいただ|不在にし|出張中|休假)",
    ))
    .ok()
});
/// RFC 3464 knows reports of success; some servers send them without its fields.
static SUBJECT_SUCCEEDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)^(?:re: ?)?(?:delivered|relayed|expanded|zugestellt|.{0,2}bermittelt|remis|distribu.{1,2}|entregado|consegnato|entregue|bezorgd|levererat|доставлено|配信完了|已送达|已送達) ?:",
        r"|success(?:ful)?(?:ly)? (?:mail )?deliver|deliver\w* success|delivery (?:confirm|receipt)|return receipt",
        r"|delivery status notification \(success\)|delivery notification: delivery has been successful",
    ))
    .ok()
});
static WORDS_SUCCEED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)(?:success\w*|has been|was|were|have been) (?:success\w* )?(?:deliver|relay)ed|deliver\w* (?:was )?success",
        r"|erfolgreich|wurde .{0,60}(?:zugestellt|.{0,2}bermittelt)|a .{1,2}t.{1,2} remis|ha sido entregado|se entreg|.{1,2} stat[ao] consegnat|foi entregue",
        r"|is (?:bezorgd|afgeleverd)|har levererats|доставлено|配信されました|已成功",
    ))
    .ok()
});
static SUBJECT_COMPLAINS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:complaint|abuse|spam|feedback|fbl)\b.{0,20}\b(?:about|report|notification|loop|from|for)|email feedback report|^\[spamcop \(")
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
    if let Some((fields, further)) = mail.feedback.split_first() {
        return Ok(Report::Feedback(Box::new(feedback::read(mail, fields, further))));
    }
    // Microsoft marks the message that somebody complained about, and only such a one
    let is_marked = mail.originals.iter().any(|original| original.complained_by.is_some());
    if mail.report_type.as_deref() == Some("feedback-report") || is_marked {
        return Ok(Report::Feedback(Box::new(feedback::plain_complaint(mail))));
    }
    let finds =
        |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    // RFC 8098: what a recipient's program did with a mail that arrived. Dovecot also refuses mail by it.
    let is_disposition = mail.report_type.as_deref() == Some("disposition-notification");
    if is_disposition && !finds(&WORDS_FAIL, &mail.words) && !mail.words.contains("automatically rejected") {
        return Ok(Report::AutoReply);
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
    if mail.has_original && finds(&SUBJECT_COMPLAINS, &mail.subject) && !finds(&SUBJECT_FAILS, &mail.subject)
    {
        return Ok(Report::Feedback(Box::new(feedback::plain_complaint(mail))));
    }
    let subject = mail.subject.trim_start().to_lowercase();
    let is_an_answer =
        ["re:", "aw:", "sv:", "antw:", "r\u{e9}p:"].iter().any(|mark| subject.starts_with(mark));
    let says_failure =
        !mail.failed_recipients.is_empty() || (finds(&SUBJECT_FAILS, &mail.subject) && !is_an_answer);
    // `From: <>` is a program's
    let from_machine = finds(&DAEMON, &mail.from) || mail.from.is_empty();
    let automatic = mail.auto_header
        || mail.auto_submitted.as_deref().is_some_and(|how| how.trim() != "no")
        || finds(&SUBJECT_AUTOMATIC, &mail.subject)
        || finds(&WORDS_AWAY, mail.words.trim_start());
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
        let mut entries = extract::from_words(mail)?;
        if finds(&SUBJECT_SUCCEEDS, &mail.subject)
            && finds(&WORDS_SUCCEED, &mail.words)
            && !finds(&WORDS_FAIL, &mail.words)
        {
            entries.iter_mut().for_each(|entry| entry.action = DsnAction::Delivered);
        }
        if !entries.is_empty() {
            return Ok(Report::Dsn(entries));
        }
    }
    Ok(if automatic { Report::AutoReply } else { Report::Other })
}
