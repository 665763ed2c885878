//! Second act: a domain that nobody knows yet sends a large newsletter. Its ceiling lets out what a stranger may
//! send, holds the rest, and rises with each day that went well.

use sendlake_control::clock::Timestamp;
use serde_json::{Value, json};

use super::story::{Sender, Story};
use super::usual::UsualMail;
use super::{ask, history, say, usual};

pub(super) const DOMAIN: &str = "fresh.example";
pub(super) const DAYS: i64 = 7;
const MESSAGES: usize = 4_000;
const DAY_S: i64 = 86_400;

pub(super) async fn play(story: &Story, usual: &mut UsualMail, from: Timestamp) -> anyhow::Result<()> {
    let sender = story.sender("initech", "Initech", DOMAIN, false).await?;
    say(&format!(
        "\n== 2. A new domain warms up ==\n\n\
         {DOMAIN} has never sent. It hands over a newsletter to {MESSAGES} people at once. sendlake takes all of it, lets out\n\
         what a stranger may send, and holds the rest. The clock of this demo is simulated and skips from day to day; the\n\
         mail of {DOMAIN} is real SMTP. (Meanwhile acme's usual mail passes, {} messages a day, simulated as events\n\
         through the same log.)\n",
        usual::PER_DAY
    ))?;
    let messages = (0..MESSAGES).map(|number| (sender.key.clone(), newsletter(&sender, number)));
    story.post(messages.collect()).await?;
    say(&format!(
        "{:>10}  {:>9}  {:>9}  {:>6}  {}",
        "day (UTC)", "delivered", "in all", "held", "the ceiling in force"
    ))?;
    let mut before = 0.0;
    for day in 0..DAYS {
        let today = from.plus_secs(day * DAY_S);
        story.move_to(today).await?;
        story.rest().await?;
        let ceiling = ask::rows(&story.running, include_str!("sql/warmup_ceiling.sql")).await?;
        usual.day(story, today).await?;
        let row = ask::rows(&story.running, include_str!("sql/warmup_day.sql")).await?;
        let row = row.first().cloned().unwrap_or_default();
        let delivered = ask::number(&row, "delivered");
        say(&format!(
            "{:>10}  {:>9}  {:>9}  {:>7}  {}",
            today.to_chrono().format("%Y-%m-%d"),
            delivered - before,
            delivered,
            ask::number(&row, "waiting"),
            ceiling.first().map_or("", |row| ask::text(row, "reason")),
        ))?;
        before = delivered;
    }
    Ok(())
}

fn newsletter(sender: &Sender, number: usize) -> Value {
    let domain =
        history::audience_of(usual::AUDIENCE, number).map_or("gmail.test", |one| one.recipient_domain);
    json!({
        "from": { "email": format!("hello@{}", sender.domain.domain), "name": sender.display_name },
        "to": [format!("reader{number}@{domain}")],
        "stream": "marketing", "campaign_id": "hello-world",
        "subject": "We are open",
        "text": "Hello,\n\nyou asked us to tell you when we open. We have opened.\n",
    })
}
