//! Fourth act, the incident: a campaign's complaints creep up from 0.03 % to 0.25 % in 36 hours and never reach the
//! 0.3 % at which a provider would act. One provider reports complaints; the largest other never does.

use anyhow::Context;
use sendlake_control::clock::Timestamp;
use serde_json::{Value, json};

use super::chart::{Chart, percent};
use super::complaints::Complainers;
use super::history::{self, Mailing};
use super::story::{Sender, Story};
use super::usual::{self, UsualMail};
use super::{ask, say};

pub(super) const HOURS: i64 = 36;
const CAMPAIGN: &str = "autumn-sale";
const MESSAGES_PER_HOUR: usize = 1_700;
/// Complaints per delivery at the end: 0.25 %.
const RATE_LAST: f64 = 0.002_5;
/// What still waits to be sent when the cut comes, as real mail.
const CAMPAIGN_LEFT: usize = 2_000;
const RECEIPTS: usize = 400;
const HOUR_S: i64 = 3_600;
/// A server judges after each complaint; here every third hour keeps the story short.
const JUDGED_EVERY_H: i64 = 3;

/// The cut, as the lake has it.
struct Cut {
    hour: i64,
    at: Timestamp,
}

pub(super) async fn play(
    story: &Story,
    usual: &mut UsualMail,
    sender: &Sender,
    from: Timestamp,
) -> anyhow::Result<()> {
    say(&format!(
        "\n== 4. The incident ==\n\n\
         acme sends {CAMPAIGN}: {MESSAGES_PER_HOUR} messages an hour (simulated as events, on the simulated clock). More and more people\n\
         press \"spam\": complaints climb from {} of deliveries to almost {} within {HOURS} hours, and never reach 0.3 %.\n\
         {} sends a feedback report for each (real ARF over SMTP). gmail-like never sends any.\n",
        percent(usual::COMPLAINT_RATE),
        percent(RATE_LAST),
        usual::REPORTING,
    ))?;
    let mailing = Mailing { campaign_id: CAMPAIGN, ..usual.mailing.clone() };
    let mut complainers = Complainers::default();
    let mut cut = None;
    for hour in 1..=HOURS {
        let (began, ends) = (from.plus_secs((hour - 1) * HOUR_S), from.plus_secs(hour * HOUR_S));
        story.clock.set_forward(ends);
        if cut.is_none() {
            let span = (began, ends);
            let sent =
                history::deliver(&story.running, &story.ids, &mailing, MESSAGES_PER_HOUR, span).await?;
            complainers.took(sent.into_iter().filter(|one| one.provider == usual::REPORTING));
        }
        usual.reporter.report(&complainers.complain(rate_at(hour), ends)).await?;
        if cut.is_none() && hour % JUDGED_EVERY_H == 0 {
            story.running.publish_quotas().await.context("judge and publish limits")?;
            if is_cut(story).await? {
                cut = Some(Cut { hour, at: story.ids.now() });
                after_the_cut(story, sender).await?;
            }
        }
    }
    tell(story, cut).await
}

/// When the cut was judged, as `--as-of` takes it.
pub(super) async fn judged_at(story: &Story) -> anyhow::Result<String> {
    let rows = ask::rows(&story.running, include_str!("sql/cut.sql")).await?;
    Ok(rows.first().map_or_else(String::new, |row| ask::text(row, "judged_at").to_owned()))
}

/// Slow at first, then faster, then levelling off: from the usual rate to the last one.
#[expect(clippy::cast_precision_loss, reason = "hours")]
fn rate_at(hour: i64) -> f64 {
    let share = ((hour as f64 - 3.0) / (HOURS as f64 - 3.0)).clamp(0.0, 1.0);
    let eased = share * share * (3.0 - 2.0 * share);
    usual::COMPLAINT_RATE + (RATE_LAST - usual::COMPLAINT_RATE) * eased
}

async fn is_cut(story: &Story) -> anyhow::Result<bool> {
    let rows = ask::rows(&story.running, include_str!("sql/cut.sql")).await?;
    Ok(!rows.is_empty())
}

/// What is left of the campaign, and the tenant's receipts, as real mail through the API.
async fn after_the_cut(story: &Story, sender: &Sender) -> anyhow::Result<()> {
    let campaign = (0..CAMPAIGN_LEFT).map(|number| message(sender, number, true));
    let receipts = (0..RECEIPTS).map(|number| message(sender, number, false));
    let messages = campaign.chain(receipts).map(|message| (sender.key.clone(), message));
    story.post(messages.collect()).await?;
    story.rest().await
}

fn message(sender: &Sender, number: usize, campaign: bool) -> Value {
    let domain =
        history::audience_of(usual::AUDIENCE, number).map_or("gmail.test", |one| one.recipient_domain);
    let (local, stream, subject) = if campaign {
        ("news", "marketing", "Autumn sale: last chance, again")
    } else {
        ("orders", "transactional", "Your receipt")
    };
    let person = if campaign { "reader" } else { "buyer" };
    let mut message = json!({
        "from": { "email": format!("{local}@{}", sender.domain.domain), "name": sender.display_name },
        "to": [format!("{person}.{number}@{domain}")],
        "stream": stream,
        "subject": subject,
        "text": format!("Hello,\n\nthis is number {number}.\n"),
    });
    if campaign && let Some(fields) = message.as_object_mut() {
        fields.insert("campaign_id".into(), CAMPAIGN.into());
    }
    message
}

/// Broken into lines of at most 110 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + word.chars().count() < 110 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("    {word}")),
        }
    }
    lines.join("\n")
}

/// The curve as hours and rates, drawn out to the last hour.
#[expect(clippy::cast_precision_loss, reason = "hours")]
fn points(curve: &[Value]) -> Vec<(f64, f64)> {
    let mut points: Vec<_> =
        curve.iter().map(|row| (ask::number(row, "hour"), ask::number(row, "rate"))).collect();
    if let Some((_, rate)) = points.last().copied() {
        points.push((HOURS as f64, rate));
    }
    points
}

async fn tell(story: &Story, cut: Option<Cut>) -> anyhow::Result<()> {
    if let Some(lake) = &story.running.lake {
        lake.flush().await.context("bring the last events into the lake")?;
    }
    let curve = ask::rows(&story.running, include_str!("sql/complaint_curve.sql")).await?;
    let baseline = ask::rows(&story.running, include_str!("sql/baseline.sql")).await?;
    let baseline = baseline.first().map_or(usual::COMPLAINT_RATE, |row| ask::number(row, "baseline_rate"));
    let chart = Chart {
        title: format!("Complaints per delivery of {CAMPAIGN} at {} so far", usual::REPORTING),
        points: points(&curve),
        baseline,
        twice: baseline * 2.0,
        pause: 0.003,
        #[expect(clippy::cast_precision_loss, reason = "hours")]
        cut: cut.as_ref().map(|cut| (cut.hour as f64, "acme's marketing is cut; a review is opened".into())),
    };
    say(&chart.terminal())?;
    say("(The curve goes on rising after the cut: people complain about what they already have.)")?;
    let picture = story.dir.join("complaints.svg");
    std::fs::write(&picture, chart.svg()).with_context(|| format!("write {}", picture.display()))?;
    say(&format!("The same as a picture: {}\n", picture.display()))?;
    match &cut {
        Some(cut) => {
            let at = cut.at.to_chrono().format("%Y-%m-%d %H:%M UTC");
            say(&format!("The cut, {} hours in, at {at} of the simulated clock:\n", cut.hour))?;
        }
        None => say("No cut was needed: the complaints stayed below twice the baseline.\n")?,
    }
    ask::table(&story.running, include_str!("sql/cut.sql")).await?;
    for row in ask::rows(&story.running, include_str!("sql/cut_reasons.sql")).await? {
        say(&format!(
            "\n{}",
            wrapped(&format!("{}: {}.", ask::text(&row, "provider"), ask::text(&row, "reason")))
        ))?;
    }
    say(&format!(
        "\n{CAMPAIGN_LEFT} messages of the campaign and {RECEIPTS} receipts were handed over after the cut, as real mail. The campaign\n\
         waits, but for a tenth of a usual day; receipts are not touched:"
    ))?;
    ask::table(&story.running, include_str!("sql/after_the_cut.sql")).await?;
    say("\nA review waits for a person, who approves or stops:")?;
    ask::table(&story.running, include_str!("sql/reviews.sql")).await?;
    say("\nBounces by provider and category, over all of the demo:")?;
    ask::table(&story.running, include_str!("sql/bounces_by_provider.sql")).await?;
    say("\nWhere the new domain's warm-up stands:")?;
    ask::table(&story.running, include_str!("sql/warmup.sql")).await
}
