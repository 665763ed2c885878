//! `sendlake send`: one RFC 5322 message from a file or standard input into the queue.

use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use sendlake_control::id::TenantId;
use sendlake_sender::stream::Stream;
use serde_json::{Value, json};

use super::{CommandResult, Failure, stream, tenant_id};
use crate::config::Config;
use crate::node::{call_local, is_running};
use crate::{stores, system};

#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    /// The message's own sender, as in its From header. Decides the tenant where --tenant does not.
    #[arg(long)]
    from: String,
    /// Recipient; may be given several times.
    #[arg(long, required = true)]
    to: Vec<String>,
    /// Whose mail this is; by default the owner of the sender's domain.
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
    #[arg(long, value_parser = stream, default_value = "transactional")]
    stream: Stream,
    /// The message; `-` for standard input.
    file: PathBuf,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer, and a remark beside it")]
pub(crate) async fn run(config: &Config, args: SendArgs) -> CommandResult {
    let raw = read(&args.file)?;
    let tenant = match args.tenant {
        Some(tenant) => tenant,
        None => owner_of(config, &args.from).await?,
    };
    let body = json!({
        "envelope": { "from": args.from, "to": args.to },
        "raw": STANDARD.encode(&raw),
        "stream": args.stream,
    });
    let request = axum::http::Request::post("/v1/messages/raw")
        .header("content-type", "application/json")
        .header("sendlake-tenant", tenant.as_str())
        .body(serde_json::to_vec(&body).map_err(anyhow::Error::from)?.into())
        .map_err(anyhow::Error::from)?;
    let answer = call_local(config, request).await?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !answer.status.is_success() {
        return Err(refusal(answer.status.as_u16(), &body));
    }
    if !is_running(config).await {
        eprintln!("queued; no server runs on {}: it goes out when one does", config.storage.dir.display());
    }
    for message in body.get("messages").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| message.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        println!("{}  {}", text("message_id"), text("recipient"));
    }
    Ok(())
}

fn read(file: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    use anyhow::Context;
    if file.as_os_str() == "-" {
        let mut raw = Vec::new();
        std::io::stdin().lock().read_to_end(&mut raw).context("cannot read standard input")?;
        return Ok(raw);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

async fn owner_of(config: &Config, from: &str) -> Result<TenantId, Failure> {
    let domain = from.rsplit_once('@').map(|(_, domain)| domain.trim_end_matches('>').to_ascii_lowercase());
    let domain =
        domain.ok_or_else(|| Failure::Usage(anyhow::anyhow!("--from {from:?} is not an address")))?;
    let control = stores::read_control(config, &system::ids()).await?;
    let domains = control.domains(None).await.map_err(anyhow::Error::from)?;
    std::iter::successors(Some(domain.as_str()), |domain| domain.split_once('.').map(|(_, parent)| parent))
        .find_map(|name| domains.iter().find(|known| known.domain == name))
        .map(|known| known.tenant_id.clone())
        .ok_or_else(|| {
            Failure::Refused(format!(
                "no tenant may send as {domain}; add it with `sendlake domain add --tenant NAME {domain}`"
            ))
        })
}

/// All errors of a problem document, each with its field.
fn refusal(status: u16, problem: &Value) -> Failure {
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut said = text(problem, "detail");
    if said.is_empty() {
        said = text(problem, "title");
    }
    for error in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        said.push_str(&format!("\n  {}: {}", text(error, "pointer"), text(error, "detail")));
    }
    if status == 503 { Failure::Unreachable(said) } else { Failure::Refused(said) }
}
