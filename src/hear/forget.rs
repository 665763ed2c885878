//! People who were erased do not come back in what others write: before a report is recorded, their addresses in it are
//! replaced as the erasure replaced them in the lake. Also on the legal list by an operator's word: nothing of them is kept.

use std::borrow::Cow;

use sendlake_control::id::TenantId;
use sendlake_ingest::domain_report::DomainReport;
use sendlake_ingest::domain_tables::Whose;
use sendlake_ingest::erase::forms::AddressForms;
use sendlake_ingest::event::Event;

use super::unsubscribe::is_erased;
use crate::suppressions::ControlSuppressions;

/// Places in one text that are looked at: a transcript may name thousands.
const PLACES_MAX: usize = 64;
/// Beginnings of an address that are tried at one place, as in `bounces+42-ann=a.test`.
const BEGINNINGS_MAX: usize = 6;

/// Replaces the addresses of people who were erased in an event's texts.
pub fn redact(list: &ControlSuppressions, event: &mut Event) {
    let tenant = event.tenant_id.clone();
    let texts = [
        &mut event.reply_text,
        &mut event.detail,
        &mut event.transcript,
        &mut event.reported_by,
        &mut event.user_agent,
        &mut event.smtp_command,
    ];
    for text in texts.into_iter().flatten() {
        redact_text(list, &tenant, text);
    }
}

/// The same in a report about a domain, for the tenant whose it is.
pub fn redact_report(list: &ControlSuppressions, whose: Whose<'_>, report: &mut DomainReport) {
    let (domain, texts): (_, Vec<&mut Option<String>>) = match report {
        DomainReport::Aggregate(report) => {
            (Some(report.policy.domain.clone()), vec![&mut report.org_email, &mut report.extra_contact_info])
        }
        DomainReport::Failure(report) => (
            report.reported_domain.clone(),
            vec![
                &mut report.original_rcpt_to,
                &mut report.original_mail_from,
                &mut report.original_envelope_id,
                &mut report.authentication_results,
                &mut report.user_agent,
            ],
        ),
        DomainReport::Tls(report) => (None, vec![&mut report.contact_info]),
    };
    let tenant = domain.and_then(|domain| whose(&domain)).unwrap_or_else(TenantId::platform);
    for text in texts.into_iter().flatten() {
        redact_text(list, &tenant, text);
    }
}

fn redact_text(list: &ControlSuppressions, tenant: &TenantId, text: &mut String) {
    for address in addresses_in(text) {
        if !is_erased(list, tenant, &address) {
            continue;
        }
        let Ok(forms) = AddressForms::new(&address) else { continue };
        if let Some(clean) = forms.redact(text) {
            *text = clean;
        }
    }
}

/// What may be an address in a text, in the forms that [`AddressForms`] knows.
fn addresses_in(text: &str) -> Vec<String> {
    let mut plain = Cow::Borrowed(text);
    for at in ["%2540", "%40", "=40", "\\u0040", "&#64;", "&#x40;"] {
        if plain.contains(at) {
            plain = Cow::Owned(plain.replace(at, "@"));
        }
    }
    let is_domain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_local = |c: char| is_domain(c) || "!#$%&'*+/=?^`{|}~".contains(c);
    let mut found: Vec<String> = Vec::new();
    for (at, sign) in plain.match_indices(['@', '=']).take(PLACES_MAX) {
        let (Some(before), Some(after)) = (plain.get(..at), plain.get(at + sign.len()..)) else { continue };
        let domain: String = after.chars().take_while(|c| is_domain(*c)).collect();
        let domain = domain.trim_end_matches(['.', '-', '_']);
        if !domain.contains('.') {
            continue;
        }
        let start = before.rfind(|c| !is_local(c)).map_or(0, |place| {
            place + before.get(place..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
        });
        let local = before.get(start..).unwrap_or_default();
        let joints =
            local.match_indices(|c: char| !c.is_alphanumeric()).map(|(place, joint)| place + joint.len());
        for beginning in
            std::iter::once(0).chain(joints.collect::<Vec<_>>().into_iter().rev().take(BEGINNINGS_MAX))
        {
            let local = local.get(beginning..).unwrap_or_default();
            // of a VERP address on its right, only what ends before the next sign
            let ends = std::iter::once(domain.len()).chain(domain.match_indices('-').map(|(place, _)| place));
            for end in ends.take(BEGINNINGS_MAX) {
                let address = format!("{local}@{}", domain.get(..end).unwrap_or_default());
                if !local.is_empty() && !found.contains(&address) {
                    found.push(address);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_seen_in_every_form_in_which_they_are_replaced() {
        for text in [
            "<ann.o@a.test>: no such user",
            "550 5.1.1 ann.o@a.test.",
            "rfc822;ann.o@a.test",
            "https://t.example/?to=ann.o%40a.test&x=1",
            "bounces+42-ann.o=a.test@acme.example",
            "bounces-ann.o=a.test-7@acme.example",
            r#"{"to":"ann.o@a.test"}"#,
        ] {
            assert!(
                addresses_in(text).contains(&"ann.o@a.test".to_owned()),
                "{text}: {:?}",
                addresses_in(text)
            );
        }
        assert_eq!(addresses_in("nobody = at all, 5 @ 6"), Vec::<String>::new());
        assert!(addresses_in(&"a@b.test ".repeat(10_000)).len() < 10);
    }
}
