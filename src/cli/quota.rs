//! `sendlake quota …`: the limits in force, and why they are what they are.

use clap::{Args, Subcommand};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_ingest::quotas::{PublishedQuotas, QuotaRow, QuotasTable};
use sendlake_sender::stream::Stream;
use serde::Serialize;

use super::{CommandResult, Failure, FormatArg, rows, stream, tenant_id};
use crate::config::Config;
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// List the published limits.
    Ls {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Say in words what limits somebody's mail, and by which numbers.
    Explain {
        #[command(flatten)]
        whom: Whom,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Whom {
    /// Only this tenant's mail.
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
    /// Only mail of this sending domain.
    #[arg(long)]
    domain: Option<String>,
    /// Only this stream.
    #[arg(long, value_parser = stream)]
    stream: Option<Stream>,
    /// Only mail to this provider.
    #[arg(long)]
    provider: Option<String>,
}

impl Whom {
    /// Whether `row` may bind the mail that is meant; `own` are the providers with rows of their own.
    fn matches(&self, row: &QuotaRow, own: &dyn Fn(&QuotaRow, &str) -> bool) -> bool {
        let is =
            |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| found == "*" || found == wanted);
        let provider = match (self.provider.as_deref(), row.provider.as_str()) {
            (Some(wanted), "(others)") => !own(row, wanted),
            (wanted, found) => is(wanted, found),
        };
        is(self.tenant.as_ref().map(TenantId::as_str), &row.tenant_id)
            && is(self.domain.as_deref().map(str::to_ascii_lowercase).as_deref(), &row.identity)
            && is(self.stream.map(|stream| stream.to_string()).as_deref(), &row.stream)
            && provider
    }

    fn of<'a>(&self, all: &'a [QuotaRow]) -> Vec<&'a QuotaRow> {
        let own = |others: &QuotaRow, provider: &str| {
            all.iter().any(|row| {
                row.provider == provider
                    && (&row.tenant_id, &row.stream, &row.identity, row.window_s)
                        == (&others.tenant_id, &others.stream, &others.identity, others.window_s)
            })
        };
        all.iter().filter(|row| self.matches(row, &own)).collect()
    }
}

#[derive(Serialize)]
struct Row<'a> {
    tenant_id: &'a str,
    stream: &'a str,
    identity: &'a str,
    provider: &'a str,
    state: &'a str,
    limit_messages: Option<i64>,
    window_s: i64,
    reason: &'a str,
    as_of: String,
    valid_until: String,
    version: u64,
}

const COLUMNS: [&str; 7] =
    ["tenant_id", "identity", "stream", "provider", "state", "limit_messages", "reason"];

pub(crate) async fn run(config: &Config, command: QuotaCommand) -> CommandResult {
    let now = system::ids().now();
    match command {
        QuotaCommand::Ls { whom, format } => {
            let published = read(config).await?;
            let version = published.as_ref().map_or(0, |published| published.version);
            let all = published.as_ref().map_or(&[] as &[_], |published| &published.rows);
            let found: Vec<Row<'_>> = whom.of(all).into_iter().map(|row| line(row, version)).collect();
            rows::print(&found, &COLUMNS, format.format)?;
            warn(state_of(published.as_ref(), now));
            Ok(())
        }
        QuotaCommand::Explain { whom } => {
            let published = read(config).await?;
            let all = published.as_ref().map_or(&[] as &[_], |published| &published.rows);
            let found = whom.of(all);
            for row in &found {
                rows::emit(explained(row).as_bytes());
            }
            warn(state_of(published.as_ref(), now));
            if found.is_empty() && published.is_some() {
                return Err(Failure::Missing(
                    "no limit was published for that; `sendlake quota ls` lists all, `sendlake domain ls` the domains"
                        .into(),
                ));
            }
            Ok(())
        }
    }
}

async fn read(config: &Config) -> anyhow::Result<Option<PublishedQuotas>> {
    if !config.control_path().exists() {
        anyhow::bail!(
            "{} is no data folder: it holds no control.db; name one with --dir, or make one with `sendlake serve`",
            config.storage.dir.display()
        );
    }
    let store = stores::open_place(config)?;
    match QuotasTable::open_existing(&store).await? {
        Some(table) => Ok(table.load().await?),
        None => Ok(None),
    }
}

fn line(row: &QuotaRow, version: u64) -> Row<'_> {
    Row {
        tenant_id: &row.tenant_id,
        stream: &row.stream,
        identity: &row.identity,
        provider: &row.provider,
        state: &row.state,
        limit_messages: row.limit_messages,
        window_s: row.window_s,
        reason: &row.reason,
        as_of: row.as_of.to_string(),
        valid_until: row.valid_until.to_string(),
        version,
    }
}

fn explained(row: &QuotaRow) -> String {
    let window = match row.window_s {
        86_400 => "per UTC day".to_owned(),
        3_600 => "per hour".to_owned(),
        seconds => format!("per {seconds} s"),
    };
    let limit = match (row.state.as_str(), row.limit_messages) {
        ("paused", _) => "nothing goes out".to_owned(),
        (_, Some(limit)) => format!("at most {limit} first attempts {window}"),
        (_, None) => "no limit".to_owned(),
    };
    let provider = match row.provider.as_str() {
        "*" => "to everybody".to_owned(),
        "(others)" => "to all providers without a limit of their own, together".to_owned(),
        provider => format!("to {provider}"),
    };
    let stream = if row.stream == "*" { "all mail".to_owned() } else { format!("{} mail", row.stream) };
    format!(
        "{stream} of {} ({}) {provider}: {}, {limit}\n  because: {}\n  numbers: {}\n  judged at {} by {}, holds until {}\n",
        row.identity,
        row.tenant_id,
        row.state,
        row.reason,
        row.inputs,
        row.as_of,
        row.view_version,
        row.valid_until
    )
}

/// What is wrong with the table as a whole, if anything.
fn state_of(published: Option<&PublishedQuotas>, now: Timestamp) -> Option<String> {
    let Some(published) = published else {
        return Some(
            "no limits are published yet: marketing and cold mail waits for the first, transactional mail goes out"
                .into(),
        );
    };
    let until = published.rows.iter().map(|row| row.valid_until).min()?;
    (until <= now).then(|| {
        format!(
            "these limits are stale since {until}: marketing and cold mail waits, transactional mail goes out at the \
             last known limit; see why nothing is published (`sendlake serve` logs it)"
        )
    })
}

#[expect(clippy::print_stderr, reason = "a remark that must not mix with the rows")]
fn warn(remark: Option<String>) {
    if let Some(remark) = remark {
        eprintln!("{remark}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stream: &str, provider: &str) -> QuotaRow {
        QuotaRow {
            tenant_id: "acme".into(),
            stream: stream.into(),
            identity_kind: "sending_domain".into(),
            identity: "acme.example".into(),
            provider: provider.into(),
            window_s: 86_400,
            limit_messages: Some(200),
            state: "warming".into(),
            reason: "warming up".into(),
            inputs: "{}".into(),
            view_version: "quotas 1".into(),
            as_of: Timestamp::from_secs(0),
            valid_until: Timestamp::from_secs(900),
        }
    }

    #[test]
    fn others_are_those_without_a_row_of_their_own() {
        let all = [row("*", "google"), row("*", "(others)"), row("marketing", "*"), row("cold", "*")];
        let whom = |provider: &str| Whom {
            tenant: None,
            domain: Some("ACME.example".into()),
            stream: Some(Stream::Marketing),
            provider: Some(provider.into()),
        };
        let found = |provider: &str| {
            whom(provider).of(&all).into_iter().map(|row| row.provider.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found("google"), ["google", "*"]);
        assert_eq!(found("gmx"), ["(others)", "*"]);
    }

    #[test]
    fn missing_and_stale_limits_are_said() {
        assert!(state_of(None, Timestamp(0)).unwrap().contains("no limits are published"));
        let published = PublishedQuotas { version: 1, rows: vec![row("*", "*")] };
        assert_eq!(state_of(Some(&published), Timestamp::from_secs(899)), None);
        assert!(state_of(Some(&published), Timestamp::from_secs(900)).unwrap().contains("stale"));
        assert!(explained(&published.rows[0]).contains("at most 200 first attempts per UTC day"));
    }
}
