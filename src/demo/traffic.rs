//! What the demo sends: receipts, password resets and a newsletter, to people of four providers.

use anyhow::Context;
use serde_json::{Value, json};

use super::story::Sender;

const FIRST_NAMES: [&str; 12] =
    ["ada", "bo", "chidi", "dora", "emil", "fatima", "goro", "hanna", "ivo", "jun", "kofi", "lea"];
/// Recipients' domains by their share, in tenths.
const DOMAINS: [&str; 10] = [
    "gmail.test",
    "gmail.test",
    "gmail.test",
    "gmail.test",
    "outlook.test",
    "outlook.test",
    "outlook.test",
    "yahoo.test",
    "yahoo.test",
    "corp.test",
];

/// The n-th message, and the key that it is posted with. The same number makes the same message.
pub(super) fn message(senders: &[Sender], number: usize) -> anyhow::Result<(&str, Value)> {
    let pick = |from: &'static [&'static str], salt: usize| {
        from.get((number.wrapping_mul(31) + salt) % from.len()).copied().unwrap_or_default()
    };
    let sender = senders.get(number % senders.len().max(1)).context("the demo has no tenant")?;
    let name = pick(&FIRST_NAMES, number / 12);
    let to = format!("{name}.{number}@{}", pick(&DOMAINS, number / 10));
    let from = |local: &str| json!({ "email": format!("{local}@{}", sender.domain.domain), "name": sender.display_name });
    let body = match number % 6 {
        0 => json!({
            "from": from("hello"), "to": [to], "stream": "transactional", "tags": { "kind": "password-reset" },
            "subject": "Reset your password",
            "text": format!("Hi {name},\n\nsomebody asked to reset your password. Ignore this if it was not you.\n\nCode: {:06}\n", number * 7919 % 1_000_000),
        }),
        1 | 2 => json!({
            "from": from("orders"), "to": [to], "stream": "transactional", "tags": { "kind": "receipt" },
            "subject": format!("Your order {number}"),
            "text": format!("Hi {name},\n\nthank you for your order {number}. It leaves our house tomorrow.\n"),
            "html": format!("<p>Hi {name},</p><p>thank you for your order <b>{number}</b>. It leaves our house tomorrow.</p>"),
        }),
        _ => json!({
            "from": from("news"), "to": [to], "stream": "marketing", "campaign_id": "autumn-shoes",
            "subject": "New for autumn: shoes that stay dry",
            "text": newsletter(name, "", "\n\n"),
            "html": newsletter(name, "<p>", "</p>\n"),
        }),
    };
    Ok((&sender.key, body))
}

/// A few KiB, as newsletters have.
fn newsletter(name: &str, open: &str, close: &str) -> String {
    let mut text = format!("{open}Hi {name},{close}");
    for chapter in 1..=12 {
        text.push_str(&format!(
            "{open}Chapter {chapter}. The rain comes back, and so do boots that keep it out: welted soles, waxed \
             leather, laces that hold. We walked in them for a month before we put them on this page.{close}"
        ));
    }
    text
}
