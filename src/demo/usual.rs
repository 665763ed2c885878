//! What acme sends every day, and has sent for years: simulated as events, with the few complaints that such mail
//! earns. It is the history that the incident is measured against.

use sendlake_control::clock::Timestamp;

use super::complaints::{Complainers, Reporter};
use super::history::{self, Audience, Mailing};
use super::story::Story;

/// Messages a day.
pub(super) const PER_DAY: usize = 10_000;
/// Complaints per delivery of usual mail: 0.03 %.
pub(super) const COMPLAINT_RATE: f64 = 0.000_3;
/// The one provider that tells about complaints.
pub(super) const REPORTING: &str = "yahoo-like";
/// A day passes in so many steps: complaints come in between.
const STEPS_PER_DAY: i64 = 4;
const STEP_S: i64 = 86_400 / STEPS_PER_DAY;

pub(super) const AUDIENCE: &[Audience] = &[
    Audience { provider: REPORTING, recipient_domain: "yahoo.test", percent: 45 },
    Audience { provider: "gmail-like", recipient_domain: "gmail.test", percent: 30 },
    Audience { provider: "microsoft-like", recipient_domain: "outlook.test", percent: 20 },
    Audience { provider: "corporate-gateway", recipient_domain: "corp.test", percent: 5 },
];

pub(super) struct UsualMail {
    pub mailing: Mailing,
    pub reporter: Reporter,
    pub complainers: Complainers,
}

impl UsualMail {
    /// The day from `from` on. The clock ends a day later; limits are not judged in between.
    pub async fn day(&mut self, story: &Story, from: Timestamp) -> anyhow::Result<()> {
        for step in 1..=STEPS_PER_DAY {
            let (began, ends) = (from.plus_secs((step - 1) * STEP_S), from.plus_secs(step * STEP_S));
            story.clock.set_forward(ends);
            let messages = PER_DAY / usize::try_from(STEPS_PER_DAY).unwrap_or(1);
            let delivered =
                history::deliver(&story.running, &story.ids, &self.mailing, messages, (began, ends)).await?;
            self.complainers.took(delivered.into_iter().filter(|one| one.provider == REPORTING));
            let complaining = self.complainers.complain(COMPLAINT_RATE, ends);
            self.reporter.report(&complaining).await?;
        }
        Ok(())
    }
}
