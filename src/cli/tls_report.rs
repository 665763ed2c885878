//! `sendlake tls-report`: what is reported to other domains on the TLS of their MX hosts, shown or sent.

use axum::http::Request;
use clap::Args;
use sendlake_control::domain::parse_domain;
use serde::Serialize;

use super::{CommandResult, Failure, Format, FormatArg, day, rows};
use crate::config::Config;
use crate::node::{AskTlsReports, call_local};
use crate::tls_reports::{Stage, Told};

#[derive(Args, Debug)]
pub(crate) struct TlsReportArgs {
    /// The day (UTC) that is reported on.
    #[arg(long, value_parser = day, value_name = "DAY")]
    day: String,
    /// Only the report about this recipient domain; its document is printed.
    #[arg(long)]
    domain: Option<String>,
    /// Send the reports that were not sent yet, instead of only showing them. The server does so by itself.
    #[arg(long)]
    send: bool,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Serialize)]
struct Row<'a> {
    domain: &'a str,
    stage: Stage,
    successful_sessions: i64,
    failed_sessions: i64,
    destinations: String,
    detail: &'a str,
    report: Option<&'a serde_json::Value>,
}

pub(crate) async fn run(config: &Config, args: TlsReportArgs) -> CommandResult {
    let domain = args.domain.as_deref().map(parse_domain).transpose();
    let domain = domain.map_err(|error| Failure::Usage(error.into()))?;
    let asked = AskTlsReports { day: args.day, domain, send: args.send };
    let request = Request::post("/local/tls-reports")
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&asked).map_err(anyhow::Error::from)?.into())
        .map_err(anyhow::Error::from)?;
    let answer = call_local(config, request).await?;
    if !answer.status.is_success() {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let said = body.get("detail").and_then(serde_json::Value::as_str).unwrap_or("the server refused");
        return Err(Failure::Refused(said.to_owned()));
    }
    let found: Vec<Told> = serde_json::from_slice(&answer.body).map_err(anyhow::Error::from)?;
    let rows: Vec<Row<'_>> = found
        .iter()
        .map(|told| Row {
            domain: &told.domain,
            stage: told.stage,
            successful_sessions: told.successful_sessions,
            failed_sessions: told.failed_sessions,
            destinations: told.destinations.join(" "),
            detail: &told.detail,
            report: told.report.as_ref(),
        })
        .collect();
    let columns = ["domain", "stage", "successful_sessions", "failed_sessions", "destinations", "detail"];
    rows::print(&rows, &columns, args.format.format)?;
    if asked.domain.is_some() && args.format.format == Format::Table {
        for report in found.iter().filter_map(|told| told.report.as_ref()) {
            let text = serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?;
            rows::emit(format!("{text}\n").as_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sendlake_sender::spool::SpoolError;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_a_sender_or_sessions_there_is_nothing_to_report() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        crate::stores::open_control(&config, &crate::system::ids()).await.unwrap();
        let args = |domain: Option<&str>| TlsReportArgs {
            day: "2026-03-02".into(),
            domain: domain.map(str::to_owned),
            send: false,
            format: FormatArg { format: Format::Table },
        };
        // a node that was dropped keeps its store for a moment
        let run = async |config: &Config, domain: Option<&str>| loop {
            match run(config, args(domain)).await {
                Err(Failure::Other(error)) if matches!(error.downcast_ref(), Some(SpoolError::InUse(_))) => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                done => break done,
            }
        };
        let off = run(&config, None).await.unwrap_err();
        assert!(matches!(&off, Failure::Refused(said) if said.contains("tls_reports.from")), "{off}");
        config.tls_reports.from = "tlsrpt@acme.example".into();
        let nothing = run(&config, Some("B.example")).await.unwrap_err();
        assert!(
            matches!(&nothing, Failure::Refused(said) if said.contains("MX host of b.example")),
            "{nothing}"
        );
        run(&config, None).await.unwrap();
    }
}
