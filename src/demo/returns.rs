//! Second act, what comes back: readers of a newsletter answer it each in a way of their own, hours or days after it was
//! delivered; then everybody is written to again. The letters are in [`answers`].

mod answers;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sendlake_control::clock::Timestamp;
use serde_json::{Value, json};

use self::answers::{Answer, Mail};
use super::client::Client;
use super::letters::{self, Letter};
use super::receivers::Receiver;
use super::story::{Sender, Story};
use super::{ask, say};

/// The readers' provider: it takes everything, and keeps what it took, as mailboxes do.
pub(super) const PROVIDER: &str = "readers-isp";
pub(super) const READERS_DOMAIN: &str = "readers.test";
const TENANT: &str = "harbour";
const FIRST: &str = "autumn-letter";
const SECOND: &str = "winter-letter";
/// The answers come so long after the newsletter.
const LATER_S: i64 = 6 * 3_600;
/// Longest wait for the last suppression to come into force.
const IN_FORCE_MAX: Duration = Duration::from_secs(10);

/// Local part and what this reader, or the server of this mailbox, does.
const READERS: [(&str, Answer); 9] = [
    ("ann", Answer::PressesUnsubscribe),
    ("bruno", Answer::WritesUnsubscribe),
    ("carla", Answer::PressesSpam),
    ("dele", Answer::IsGone),
    ("eva", Answer::IsGoneInProse),
    ("finn", Answer::IsFull),
    ("gita", Answer::IsAway),
    ("hugo", Answer::IsForged),
    ("ines", Answer::None),
];

pub(super) async fn play(story: &Story, receiver: &Receiver) -> anyhow::Result<()> {
    let sender = story.sender(TENANT, "Harbour Books", "harbour.example", true).await?;
    say(&format!(
        "\n== 2. What comes back ==\n\n\
         Harbour Books sends a newsletter to {} readers at {READERS_DOMAIN}, and it is delivered. {} hours later the answers come,\n\
         over real SMTP and HTTP, made from the mail in the readers' mailboxes. Then everybody gets the next newsletter and a receipt.\n",
        READERS.len(),
        LATER_S / 3_600,
    ))?;
    write_to_all(story, &sender, &[("marketing", FIRST)]).await?;
    story.move_to(story.ids.now().plus_secs(LATER_S)).await?;
    let came_at = story.ids.now();
    let wishes = answer(story, receiver).await?;
    in_force(story, wishes).await?;
    write_to_all(story, &sender, &[("marketing", SECOND), ("transactional", "receipt")]).await?;
    tell(story, came_at).await
}

/// One message of each kind to every reader, and a wait until they have left.
async fn write_to_all(story: &Story, sender: &Sender, kinds: &[(&str, &str)]) -> anyhow::Result<()> {
    let messages = READERS.iter().flat_map(|(reader, _)| {
        kinds.iter().map(move |(stream, campaign)| message(sender, reader, stream, campaign))
    });
    story.post(messages.map(|message| (sender.key.clone(), message)).collect()).await?;
    story.rest().await
}

fn message(sender: &Sender, reader: &str, stream: &str, campaign: &str) -> Value {
    let local = if stream == "marketing" { "letters" } else { "orders" };
    json!({
        "from": { "email": format!("{local}@{}", sender.domain.domain), "name": sender.display_name },
        "to": [format!("{reader}@{READERS_DOMAIN}")],
        "stream": stream, "campaign_id": campaign,
        "subject": format!("Harbour Books: {campaign}"),
        "text": format!("Dear {reader},\n\nthree books came in with the tide.\n"),
    })
}

/// Every reader answers the newsletter in the mailbox. Gives how many suppressions are called for.
async fn answer(story: &Story, receiver: &Receiver) -> anyhow::Result<usize> {
    let inbound = story.running.inbound.context("the demo's node listens for feedback")?;
    let mut http = Client::connect(story.running.http).await?;
    let kept = receiver.recorded();
    let (mut wishes, mut letters): (usize, Vec<Letter>) = (0, Vec::new());
    for (reader, answer) in READERS {
        let recipient = format!("{reader}@{READERS_DOMAIN}");
        let mail = kept
            .iter()
            .find(|mail| mail.forward_path == recipient)
            .and_then(|mail| Mail::of(mail, story.ids.now()))
            .with_context(|| format!("the newsletter to {recipient} did not arrive"))?;
        wishes += usize::from(answer.suppresses());
        if answer == Answer::PressesUnsubscribe {
            http.submit(&mail.one_click_path()?, "List-Unsubscribe=One-Click").await?;
        }
        letters.extend(answer.letter(&mail)?);
    }
    letters::post(inbound, "mx.readers.test", letters).await?;
    Ok(wishes)
}

/// Waits until as many suppressions are in force.
async fn in_force(story: &Story, wanted: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let rows = ask::rows(&story.running, include_str!("sql/returned.sql")).await?;
        let there = rows.iter().filter(|row| !ask::text(row, "suppressed_as").is_empty()).count();
        if there == wanted {
            return Ok(());
        }
        ensure!(
            started.elapsed() < IN_FORCE_MAX,
            "{there} of {wanted} suppressions came into force within {IN_FORCE_MAX:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn tell(story: &Story, came_at: Timestamp) -> anyhow::Result<()> {
    say(&format!("What came back, from {} UTC on:", came_at.to_chrono().format("%H:%M")))?;
    ask::table(&story.running, include_str!("sql/returned.sql")).await?;
    say(
        "\nA wish to leave or a complaint stops newsletters, and receipts go on; a mailbox that is gone stops both. A full mailbox and an\n\
         answer from the holidays stop nothing, and neither does a report with a forged token: it is about no message of ours.",
    )?;
    ask::table(&story.running, include_str!("sql/unattributed.sql")).await
}
