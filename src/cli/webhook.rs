//! `sendlake webhook …`: where events are pushed to; beside a running server, which notices within a second, or without one.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use sendlake_connectors::webhooks::filter;
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::UndeliveredState;
use sendlake_control::endpoint::replay::ReplaySelection;
use sendlake_control::endpoint::{Endpoint, EndpointSettings, EndpointState, EventFilter};
use sendlake_control::id::TenantId;
use sendlake_control::{ControlError, ControlStore};
use serde::Serialize;

use super::control::{actor, open, read};
use super::{CommandResult, Failure, Format, FormatArg, instant, rows, tenant_id};
use crate::config::Config;
use crate::system;
use crate::webhooks_out::{self, EndpointView, KEEP_S, ReplayView, UndeliveredView, view};

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Push a tenant's events to an address from now on. Prints the endpoint's id and its signing secret.
    Add(AddArgs),
    /// List the endpoints, and where each is.
    Ls {
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Show all about one endpoint, as JSON.
    Show {
        endpoint_id: String,
        /// Also its signing secrets, newest first.
        #[arg(long)]
        secrets: bool,
    },
    /// Make a new signing secret; the old one signs beside it for a while.
    Rotate {
        endpoint_id: String,
        /// How long the old secret still signs.
        #[arg(long, value_name = "SECONDS", default_value_t = KEEP_S)]
        keep_s: u32,
    },
    /// Send nothing until it is resumed; events wait in the lake.
    Pause { endpoint_id: String },
    /// Go on where it stopped, also after it was disabled.
    Resume { endpoint_id: String },
    /// End an endpoint, and its replays.
    Rm { endpoint_id: String },
    /// Send one signed message of type webhook_test from here, and say what was answered.
    Test { endpoint_id: String },
    /// Send events again, from the lake. Without anything named, all that the endpoint's filter lets through.
    Replay(ReplayArgs),
    /// List an endpoint's replays, newest first.
    Replays {
        endpoint_id: String,
        #[command(flatten)]
        format: FormatArg,
    },
    /// End a replay.
    Cancel { endpoint_id: String, replay_id: String },
    /// List events that an endpoint did not take: those that were given up.
    Failed {
        endpoint_id: String,
        /// Those that are still tried, and what waits behind them.
        #[arg(long)]
        parked: bool,
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        format: FormatArg,
    },
}

/// What is done to recipients before they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MaskArg {
    /// 32 digits, the same for the same address within this endpoint.
    Hash,
    /// What comes after the @.
    Domain,
    /// Nothing leaves.
    Null,
}

impl MaskArg {
    fn as_str(self) -> &'static str {
        match self {
            MaskArg::Hash => "hash",
            MaskArg::Domain => "domain",
            MaskArg::Null => "null",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// https://…
    url: String,
    /// Whose events.
    #[arg(long, value_parser = tenant_id)]
    tenant: TenantId,
    /// Only events of this type, such as bounced; may be given again.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only of this stream; may be given again.
    #[arg(long = "stream")]
    streams: Vec<String>,
    /// Only of this campaign; may be given again.
    #[arg(long = "campaign", value_name = "ID")]
    campaigns: Vec<String>,
    /// Only with this tag; given again, with all of them.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// What is done to recipients before they leave.
    #[arg(long, value_enum)]
    mask: Option<MaskArg>,
    /// What it is for, in words.
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    endpoint_id: String,
    /// Recorded at or after: 2026-11-22T09:30:00Z.
    #[arg(long, value_parser = instant)]
    from: Option<Timestamp>,
    /// Recorded before; now where nothing is said.
    #[arg(long, value_parser = instant)]
    to: Option<Timestamp>,
    /// Only events of this type; may be given again.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events of this message.
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Only events that were given up.
    #[arg(long)]
    failed: bool,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a tag looks like name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

const COLUMNS: [&str; 11] = [
    "endpoint_id",
    "tenant_id",
    "url",
    "state",
    "state_reason",
    "circuit",
    "delivered",
    "parked",
    "failed",
    "through",
    "last_error",
];
const REPLAY_COLUMNS: [&str; 7] =
    ["replay_id", "state", "delivered", "failed", "through", "last_error", "created_at"];
const FAILED_COLUMNS: [&str; 6] =
    ["event_id", "event_type", "message_id", "attempts", "next_attempt_at", "last_error"];

pub(crate) async fn run(config: &Config, command: WebhookCommand) -> CommandResult {
    match command {
        WebhookCommand::Add(args) => add(config, args).await,
        WebhookCommand::Ls { tenant, format } => {
            let control = read(config).await?;
            let mut found: Vec<EndpointView> = Vec::new();
            for endpoint in control.endpoints(tenant.as_ref()).await.map_err(failure)? {
                found.push(view(&control, &system::ids(), endpoint).await.map_err(failure)?);
            }
            Ok(rows::print(&found, &COLUMNS, format.format)?)
        }
        WebhookCommand::Show { endpoint_id, secrets } => show(config, &endpoint_id, secrets).await,
        WebhookCommand::Rotate { endpoint_id, keep_s } => {
            let (control, endpoint) = writable(config, &endpoint_id).await?;
            let secret =
                control.rotate_endpoint_secret(&actor(), &endpoint, keep_s).await.map_err(failure)?;
            rows::emit(format!("{}\n", secret.as_str()).as_bytes());
            Ok(())
        }
        WebhookCommand::Pause { endpoint_id } => set(config, &endpoint_id, EndpointState::Paused).await,
        WebhookCommand::Resume { endpoint_id } => set(config, &endpoint_id, EndpointState::Active).await,
        WebhookCommand::Rm { endpoint_id } => {
            let (control, endpoint) = writable(config, &endpoint_id).await?;
            control.remove_endpoint(&actor(), &endpoint).await.map_err(failure)
        }
        WebhookCommand::Test { endpoint_id } => test(config, &endpoint_id).await,
        WebhookCommand::Replay(args) => replay(config, args).await,
        WebhookCommand::Replays { endpoint_id, format } => {
            let control = read(config).await?;
            control.require_endpoint(None, &endpoint_id).await.map_err(failure)?;
            let found = control.replays(&endpoint_id, 100).await.map_err(failure)?;
            let found: Vec<ReplayView> = found.into_iter().map(Into::into).collect();
            Ok(rows::print(&found, &REPLAY_COLUMNS, format.format)?)
        }
        WebhookCommand::Cancel { endpoint_id, replay_id } => {
            let (control, endpoint) = writable(config, &endpoint_id).await?;
            match control.cancel_replay(&actor(), &endpoint, &replay_id).await.map_err(failure)? {
                true => Ok(()),
                false => Err(Failure::Refused(format!("{replay_id} has ended already"))),
            }
        }
        WebhookCommand::Failed { endpoint_id, parked, limit, format } => {
            let control = read(config).await?;
            control.require_endpoint(None, &endpoint_id).await.map_err(failure)?;
            let state = if parked { UndeliveredState::Parked } else { UndeliveredState::Failed };
            let found = control.undelivered(&endpoint_id, state, None, None, limit).await.map_err(failure)?;
            let found: Vec<UndeliveredView> = found.into_iter().map(Into::into).collect();
            Ok(rows::print(&found, &FAILED_COLUMNS, format.format)?)
        }
    }
}

async fn writable(config: &Config, endpoint_id: &str) -> Result<(ControlStore, Endpoint), Failure> {
    let control = open(config).await?;
    let endpoint = control.require_endpoint(None, endpoint_id).await.map_err(failure)?;
    Ok((control, endpoint))
}

async fn set(config: &Config, endpoint_id: &str, state: EndpointState) -> CommandResult {
    let (control, endpoint) = writable(config, endpoint_id).await?;
    control.set_endpoint_state(&actor(), &endpoint, state, None).await.map_err(failure)
}

#[derive(Serialize)]
struct Made {
    endpoint_id: String,
    secret: String,
}

async fn add(config: &Config, args: AddArgs) -> CommandResult {
    let settings = EndpointSettings {
        url: args.url,
        description: args.description,
        filter: EventFilter {
            event_types: args.types,
            streams: args.streams,
            campaign_ids: args.campaigns,
            tags: args.tags.into_iter().collect::<BTreeMap<_, _>>(),
        },
        mask: args.mask.map(|mask| mask.as_str().to_owned()),
    };
    let sender = webhooks_out::sender(config, &system::ids())?;
    filter::check(&settings, sender.allows_http(), |ip| sender.guard().allows(ip))
        .map_err(|error| Failure::Usage(error.into()))?;
    let control = open(config).await?;
    let made = control.add_endpoint(&actor(), &args.tenant, &settings).await.map_err(failure)?;
    let made = Made { endpoint_id: made.endpoint_id, secret: made.secret.to_string() };
    if args.format.format == Format::Table {
        rows::emit(format!("{}\n{}\n", made.endpoint_id, made.secret).as_bytes());
        return Ok(());
    }
    Ok(rows::print_json(&made)?)
}

async fn show(config: &Config, endpoint_id: &str, secrets: bool) -> CommandResult {
    #[derive(Serialize)]
    struct Shown {
        #[serde(flatten)]
        endpoint: EndpointView,
        #[serde(skip_serializing_if = "Option::is_none")]
        signing_secrets: Option<Vec<String>>,
    }
    let control = read(config).await?;
    let endpoint = control.require_endpoint(None, endpoint_id).await.map_err(failure)?;
    let texts = endpoint.secrets.iter().map(|secret| secret.text().to_string()).collect();
    let signing_secrets = secrets.then_some(texts);
    let endpoint = view(&control, &system::ids(), endpoint).await.map_err(failure)?;
    Ok(rows::print_json(&Shown { endpoint, signing_secrets })?)
}

async fn test(config: &Config, endpoint_id: &str) -> CommandResult {
    let control = read(config).await?;
    let endpoint = control.require_endpoint(None, endpoint_id).await.map_err(failure)?;
    let ids = system::ids();
    let tested = webhooks_out::test(&webhooks_out::sender(config, &ids)?, &ids, &endpoint).await?;
    rows::print_json(&tested)?;
    match tested.error {
        None => Ok(()),
        Some(error) => Err(Failure::Refused(format!("the endpoint did not take it: {error}"))),
    }
}

async fn replay(config: &Config, args: ReplayArgs) -> CommandResult {
    filter::check_types(&args.types).map_err(|error| Failure::Usage(error.into()))?;
    let (control, endpoint) = writable(config, &args.endpoint_id).await?;
    let selection = ReplaySelection {
        from: args.from,
        to: args.to,
        event_types: args.types,
        message_id: args.message_id,
        failed: args.failed,
    };
    let replay = control.add_replay(&actor(), &endpoint, &selection).await.map_err(failure)?;
    rows::emit(format!("{}\n", replay.replay_id).as_bytes());
    Ok(())
}

fn failure(error: ControlError) -> Failure {
    if error.is_missing() {
        Failure::Missing(error.to_string())
    } else if error.is_store_failure() {
        Failure::Other(error.into())
    } else {
        Failure::Refused(error.to_string())
    }
}
