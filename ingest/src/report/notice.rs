//! Notifications in JSON as Amazon SES sends them through SNS by mail: bounces, complaints, deliveries.

use serde_json::Value;

use super::mail::Mail;
use super::{DsnAction, Feedback, RECIPIENTS_MAX, RecipientStatus, Report, ReportError, said};

/// Reads the notification in the words, if there is one.
pub fn read(mail: &Mail) -> Result<Option<Report>, ReportError> {
    let Some(notice) = object_in(&mail.words) else { return Ok(None) };
    let kind = notice.get("notificationType").or_else(|| notice.get("eventType")).and_then(Value::as_str);
    let told = |field: &str, list: &str| -> Vec<Value> {
        let list = notice.get(field).and_then(|field| field.get(list)).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let message_id = notice.pointer("/mail/commonHeaders/messageId").and_then(Value::as_str);
    let message_id = message_id.map(|id| id.trim_matches(['<', '>']).to_owned());
    match kind {
        Some("Bounce") => {
            let recipients = told("bounce", "bouncedRecipients");
            if recipients.len() > RECIPIENTS_MAX {
                return Err(ReportError::TooManyRecipients);
            }
            let kind = notice.pointer("/bounce/bounceSubType").and_then(Value::as_str).unwrap_or_default();
            let mta = notice.pointer("/bounce/reportingMTA").and_then(Value::as_str);
            let entries = recipients.iter().map(|recipient| {
                let diagnosis = text(recipient, "diagnosticCode").unwrap_or_else(|| kind.to_owned());
                let diagnosis = diagnosis.split_once(';').map_or(diagnosis.as_str(), |(_, rest)| rest).trim();
                let (reply_code, quoted) = said::codes_in(diagnosis);
                RecipientStatus {
                    action: DsnAction::Failed,
                    recipient: text(recipient, "emailAddress"),
                    original_recipient: None,
                    status: quoted.or_else(|| text(recipient, "status")),
                    reply_code,
                    smtp_command: None,
                    text: said::tidy(diagnosis),
                    remote_mta: None,
                    reporting_mta: mta.map(str::to_owned),
                    original_message_id: message_id.clone(),
                }
            });
            Ok(Some(Report::Dsn(entries.collect())))
        }
        Some("Complaint") => {
            let recipients = told("complaint", "complainedRecipients");
            let kind = notice.pointer("/complaint/complaintFeedbackType").and_then(Value::as_str);
            let mut feedback = Feedback {
                feedback_type: kind.unwrap_or("abuse").to_lowercase(),
                reported_by: mail.from_domain.clone(),
                original_recipients: recipients
                    .iter()
                    .take(100)
                    .filter_map(|one| text(one, "emailAddress"))
                    .collect(),
                ..Feedback::default()
            };
            feedback.original.message_id = message_id;
            Ok(Some(Report::Feedback(Box::new(feedback))))
        }
        Some("Delivery") => {
            let recipients = told("delivery", "recipients");
            let entries = recipients.iter().take(RECIPIENTS_MAX).map(|recipient| RecipientStatus {
                action: DsnAction::Delivered,
                recipient: recipient.as_str().map(str::to_owned),
                text: notice
                    .pointer("/delivery/smtpResponse")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .into(),
                original_message_id: message_id.clone(),
                ..RecipientStatus::default()
            });
            Ok(Some(Report::Dsn(entries.collect())))
        }
        _ => Ok(None),
    }
}

/// The first JSON object, and the one that it carries as text.
fn object_in(words: &str) -> Option<Value> {
    let start =
        words.find('{').filter(|_| words.contains("otificationType") || words.contains("ventType"))?;
    // mail servers break lines of a thousand characters with an exclamation mark
    let text = words.get(start..)?.replace("!\r\n ", "").replace("!\n ", "");
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    match value.get("Message").and_then(Value::as_str) {
        Some(inner) => serde_json::from_str(inner).ok(),
        None => Some(value),
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned).filter(|text| !text.is_empty())
}
