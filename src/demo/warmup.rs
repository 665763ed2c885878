//! Third act: a domain that nobody knows yet sends a large newsletter. Its ceiling lets out what a stranger may
//! send, holds the rest, and rises with each day that went well.

use sendlake_control::clock::Timestamp;
use serde_json::{Value, json};

use super::receivers::mailbox::{Mailbox, Nature};
use super::story::{Sender, Story};
use super::usual::UsualMail;
use super::{ask, history, say, usual};

pub(super) const DOMAIN: &str = "fresh.example";
pub(super) const DAYS: i64 = 7;
/// Below 1,000 to each provider, so that one pooled ceiling tells the story.
const MESSAGES: usize = 2_000;
const DAY_S: i64 = 86_400;

pub(super) async fn play(
    story: &Story,
    usual: &mut UsualMail,
    from: Timestamp,
    seed: u64,
) -> anyhow::Result<()> {
    let sender = story.sender("initech", "Initech", DOMAIN, false).await?;
    say(&format!(
        "\n== 3. A new domain warms up ==\n\n\
         {DOMAIN} has never sent. It hands over a newsletter to {MESSAGES} people at once. sendlake takes all of it, lets out\n\
         what a stranger may send in a day, and holds the rest; with each good day the ceiling rises. The mail is real SMTP;\n\
         the clock is simulated and skips from day to day. (Meanwhile acme's usual mail passes, {} messages a day, simulated\n\
         as events through the same log: the history that act 4 is measured against.)\n",
        usual::PER_DAY
    ))?;
    let people = (0..).filter_map(|number| newsletter(&sender, number, seed)).take(MESSAGES);
    story.post(people.map(|message| (sender.key.clone(), message)).collect()).await?;
    say(&format!(
        "{:>10}  {:>7}  {:>9}  {:>7}  {:>7}  why",
        "day (UTC)", "ceiling", "delivered", "refused", "waiting"
    ))?;
    let mut before = (0.0, 0.0);
    for day in 0..DAYS {
        let today = from.plus_secs(day * DAY_S);
        story.move_to(today).await?;
        story.rest().await?;
        let ceiling = ask::rows(&story.running, include_str!("sql/warmup_ceiling.sql")).await?;
        let row = ask::rows(&story.running, include_str!("sql/warmup_day.sql")).await?;
        let (ceiling, row) =
            (ceiling.first().cloned().unwrap_or_default(), row.first().cloned().unwrap_or_default());
        let so_far = (ask::number(&row, "delivered"), ask::number(&row, "refused"));
        if so_far != before {
            say(&format!(
                "{:>10}  {:>7}  {:>9}  {:>7}  {:>7}  {}",
                today.to_chrono().format("%Y-%m-%d"),
                ask::number(&ceiling, "limit_messages"),
                so_far.0 - before.0,
                so_far.1 - before.1,
                ask::number(&row, "waiting"),
                ask::text(&ceiling, "reason"),
            ))?;
        }
        before = so_far;
        usual.day(story, today).await?;
    }
    Ok(())
}

/// The newsletter to the n-th person who signed up; none where the address is wrong. They confirmed theirs.
fn newsletter(sender: &Sender, number: usize, seed: u64) -> Option<Value> {
    let domain = history::audience_of(usual::AUDIENCE, number)?.recipient_domain;
    let local = format!("member.{number}");
    let (.., profile) = super::providers().into_iter().find(|(known, ..)| *known == domain)?;
    if Mailbox::draw(profile.name, &profile.shares, seed, &local).nature == Nature::Unknown {
        return None;
    }
    Some(json!({
        "from": { "email": format!("hello@{}", sender.domain.domain), "name": sender.display_name },
        "to": [format!("{local}@{domain}")],
        "stream": "marketing", "campaign_id": "hello-world",
        "subject": "We are open",
        "text": "Hello,\n\nyou asked us to tell you when we open. We have opened.\n",
    }))
}
