//! What the demo shows: progress while it works, then what SQL makes of it.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sendlake_query::Scope;
use sendlake_query::output::{Format, write};
use uuid::Uuid;

use super::ask::table;
use super::deliver::Pace;
use super::say;
use crate::cli::print_history;
use crate::node::Running;
use crate::ports::{events_of, history};

/// One line that is written over on a terminal, and now and then a line elsewhere.
pub(super) struct Progress {
    terminal: bool,
    next_at: Duration,
}

impl Progress {
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), next_at: Duration::ZERO }
    }

    pub fn show(
        &mut self,
        elapsed: Duration,
        accepted: usize,
        total: usize,
        left: u64,
    ) -> anyhow::Result<()> {
        if elapsed < self.next_at {
            return Ok(());
        }
        self.next_at = elapsed + Duration::from_millis(if self.terminal { 100 } else { 1_000 });
        let settled = (accepted as u64).saturating_sub(left);
        let line = format!(
            "{:5.1} s   accepted {accepted:>6} of {total}   settled {settled:>6}   in the queue {left:>6}",
            elapsed.as_secs_f64()
        );
        let mut out = std::io::stdout().lock();
        if self.terminal {
            write!(out, "\r{line}")?
        } else {
            writeln!(out, "{line}")?
        }
        out.flush().context("write to standard output")
    }

    pub fn end(&self) -> anyhow::Result<()> {
        if self.terminal { say("") } else { Ok(()) }
    }
}

pub(super) async fn print(running: &Running, pace: &Pace) -> anyhow::Result<()> {
    if let Some(lake) = &running.lake {
        lake.flush().await.context("bring the last events into the lake")?;
    }
    say("\nWhat became of them, by provider and last reply:")?;
    table(running, include_str!("sql/outcomes_by_provider.sql")).await?;
    say("\nWhy some had to wait:")?;
    table(running, include_str!("sql/deferrals.sql")).await?;
    say("\nThe slowest deliveries:")?;
    table(running, include_str!("sql/slowest.sql")).await?;
    let message_id = one_message(running).await?;
    if let Some(message_id) = message_id {
        say("\nOne message, step by step:")?;
        let events = events_of(&running.engine, &Scope::AllTenants, message_id).await?;
        print_history(&history(message_id, events).context("the message has no history")?)?;
    }
    print_pace(pace)
}

/// What to look at next. `judged_at` is the instant of the cut.
pub(super) fn close(dir: &Path, judged_at: &str) -> anyhow::Result<()> {
    let dir = dir.display();
    say(&format!(
        "\nEverything lies in {dir}/: lake/events is a Delta table that DuckDB, Spark or pandas read too. Three questions to try:\n\n\
         What did the views know when they cut?\n  \
         sendlake sql --dir {dir} --as-of {judged_at} \"SELECT provider, covered, deliveries, complaints, rate, rate_lower, \
         baseline_rate FROM complaint_baseline WHERE tenant_id = 'acme' AND stream = 'marketing' AND age_h = 6 ORDER BY 1\"\n\
         Why was mail held, and how much?\n  \
         sendlake sql --dir {dir} \"SELECT tenant_id, policy_id, count(*) AS messages, min(hold_reason) AS for_instance \
         FROM events WHERE event_type = 'held' GROUP BY 1, 2 ORDER BY 3 DESC\"\n\
         Which rule called which bounce what?\n  \
         sendlake sql --dir {dir} \"SELECT provider, bounce_reason, bounce_rule, min(reply_text) AS for_instance FROM bounces \
         GROUP BY 1, 2, 3 ORDER BY 1, 2\"\n\n\
         `sendlake review ls --dir {dir}` lists the review. `sendlake` stands for the binary just built:\n{}",
        std::env::current_exe()
            .map_or_else(|_| "target/debug/sendlake".into(), |path| path.display().to_string()),
    ))
}

async fn one_message(running: &Running) -> anyhow::Result<Option<Uuid>> {
    let sql = include_str!("sql/one_message.sql");
    let output = running.engine.query(&Scope::AllTenants, sql, running.engine.limits().query).await?;
    let mut csv = Vec::new();
    write(&output, Format::Csv, &mut csv)?;
    Ok(String::from_utf8_lossy(&csv).lines().nth(1).and_then(|id| Uuid::parse_str(id).ok()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages")]
fn print_pace(pace: &Pace) -> anyhow::Result<()> {
    let per_s = |count: f64, time: Duration| count / time.as_secs_f64().max(0.001);
    let messages = pace.messages as f64;
    say(&format!(
        "\n{} messages accepted in {:.1} s ({:.0}/s, each durable before its 202), nine of ten settled after {:.1} s \
         ({:.0}/s), all after {:.1} s: retries wait on purpose.",
        pace.messages,
        pace.accepting.as_secs_f64(),
        per_s(messages, pace.accepting),
        pace.most_settled.as_secs_f64(),
        per_s(messages * 0.9, pace.most_settled),
        pace.settled.as_secs_f64(),
    ))?;
    if pace.left > 0 {
        say(&format!("{} messages are still in the queue; `sendlake queue ls` shows them.", pace.left))?;
    }
    Ok(())
}
