//! `sendlake webhook-in …`: addresses that other senders push their events to.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use sendlake_control::ControlError;
use sendlake_control::id::TenantId;
use sendlake_control::webhook::{Webhook, WebhookSettings};
use sendlake_sender::stream::Stream;
use serde::Serialize;

use super::control::actor;
use super::{CommandResult, Failure, FormatArg, rows, stream, tenant_id};
use crate::config::Config;
use crate::webhooks::is_verification_key;
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookInCommand {
    /// Make an address for another sender's events. It holds a secret and is shown once.
    Add(AddArgs),
    /// List the webhooks, without their secrets.
    Ls {
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Take nothing more at an address.
    Rm { webhook_id: String },
}

/// Who pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pusher {
    Ses,
    Sendgrid,
    Mailgun,
    Postmark,
    Sparkpost,
}

impl Pusher {
    fn as_str(self) -> &'static str {
        match self {
            Pusher::Ses => "ses",
            Pusher::Sendgrid => "sendgrid",
            Pusher::Mailgun => "mailgun",
            Pusher::Postmark => "postmark",
            Pusher::Sparkpost => "sparkpost",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    sender: Pusher,
    /// Whose mail it is.
    #[arg(long, value_parser = tenant_id)]
    tenant: TenantId,
    /// transactional, marketing or cold, where the events do not tell.
    #[arg(long, value_parser = stream)]
    stream: Option<Stream>,
    /// The sending domain, where the events do not tell.
    #[arg(long)]
    domain: Option<String>,
    /// Bring into force what hard bounces, complaints and unsubscribes call for.
    #[arg(long)]
    suppress: bool,
    /// ses: the SNS topic, arn:aws:sns:…; messages of others are refused.
    #[arg(long, value_name = "ARN")]
    topic: Option<String>,
    /// sendgrid: the verification key of the signed event webhook.
    #[arg(long, value_name = "BASE64")]
    public_key: Option<String>,
    /// mailgun: a file with the HTTP webhook signing key; - for standard input.
    #[arg(long, value_name = "FILE")]
    signing_key_file: Option<PathBuf>,
    /// postmark, sparkpost, sendgrid: a file with `user:password` for basic authentication; - for standard input.
    #[arg(long, value_name = "FILE")]
    basic_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Row {
    webhook_id: String,
    tenant_id: String,
    sender: String,
    stream: Option<String>,
    domain: Option<String>,
    suppress: bool,
    proof: String,
    created_at: String,
    created_by: String,
}

const COLUMNS: [&str; 9] = [
    "webhook_id",
    "tenant_id",
    "sender",
    "stream",
    "domain",
    "suppress",
    "proof",
    "created_at",
    "created_by",
];

pub(crate) async fn run(config: &Config, command: WebhookInCommand) -> CommandResult {
    match command {
        WebhookInCommand::Add(args) => add(config, args).await,
        WebhookInCommand::Ls { tenant, format } => {
            let control = stores::read_control(config, &system::ids()).await?;
            let found = control.webhooks(tenant.as_ref()).await.map_err(failure)?;
            let found: Vec<Row> = found.into_iter().map(row).collect();
            Ok(rows::print(&found, &COLUMNS, format.format)?)
        }
        WebhookInCommand::Rm { webhook_id } => {
            let control = stores::open_control(config, &system::ids()).await?;
            control.remove_webhook(&actor(), &webhook_id).await.map_err(failure)
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn add(config: &Config, args: AddArgs) -> CommandResult {
    let settings = settings(&args)?;
    let control = stores::open_control(config, &system::ids()).await?;
    let sender = args.sender.as_str();
    let made = control.add_webhook(&actor(), &args.tenant, sender, &settings).await.map_err(failure)?;
    let base = match config.http.public_url.as_str() {
        "" => format!("http://{}", config.http.listen),
        public_url => public_url.trim_end_matches('/').to_owned(),
    };
    println!("{base}/v1/webhooks/{sender}/{}", made.token);
    println!("Give {sender} this address, whole; it is not shown again. Its id is {}.", made.webhook_id);
    Ok(())
}

/// What the arguments come to; each proof belongs to its sender.
fn settings(args: &AddArgs) -> Result<WebhookSettings, Failure> {
    let usage = |text: &str| Failure::Usage(anyhow::anyhow!("{text}"));
    let only = |given: bool, senders: &[Pusher], text: &str| {
        if given && !senders.contains(&args.sender) { Err(usage(text)) } else { Ok(()) }
    };
    only(args.topic.is_some(), &[Pusher::Ses], "--topic is for ses")?;
    only(args.public_key.is_some(), &[Pusher::Sendgrid], "--public-key is for sendgrid")?;
    only(args.signing_key_file.is_some(), &[Pusher::Mailgun], "--signing-key-file is for mailgun")?;
    let with_password = [Pusher::Postmark, Pusher::Sparkpost, Pusher::Sendgrid];
    only(args.basic_file.is_some(), &with_password, "--basic-file is for postmark, sparkpost and sendgrid")?;
    let is_topic = |arn: &String| arn.starts_with("arn:aws") && arn.contains(":sns:");
    if args.sender == Pusher::Ses && !args.topic.as_ref().is_some_and(is_topic) {
        return Err(usage(
            "ses needs --topic arn:aws:sns:…: anybody can have SNS sign messages of a topic of theirs",
        ));
    }
    if args.sender == Pusher::Mailgun && args.signing_key_file.is_none() {
        return Err(usage(
            "mailgun needs --signing-key-file, with the HTTP webhook signing key of the account",
        ));
    }
    if args.public_key.as_deref().is_some_and(|key| !is_verification_key(key)) {
        return Err(usage(
            "--public-key is no P-256 key in base64; copy it from SendGrid's signed event webhook",
        ));
    }
    let basic = args.basic_file.as_deref().map(secret).transpose()?;
    if basic.as_ref().is_some_and(|basic| !basic.contains(':')) {
        return Err(usage("--basic-file must hold user:password"));
    }
    Ok(WebhookSettings {
        stream: args.stream.map(|stream| stream.as_str().to_owned()),
        domain: args.domain.as_ref().map(|domain| domain.trim().to_lowercase()),
        suppress: args.suppress,
        topic_arn: args.topic.clone(),
        public_key: args.public_key.clone(),
        signing_key: args.signing_key_file.as_deref().map(secret).transpose()?,
        basic,
    })
}

/// A secret in a file: one line, so that it is in no list of processes and no history.
fn secret(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|found| text = found)
    };
    read.map_err(|error| Failure::Other(anyhow::anyhow!("{} cannot be read: {error}", path.display())))?;
    let text = text.trim();
    if text.is_empty() || text.contains('\n') {
        return Err(Failure::Usage(anyhow::anyhow!("{} must hold one line", path.display())));
    }
    Ok(text.to_owned())
}

fn row(webhook: Webhook) -> Row {
    let settings = webhook.settings;
    let proofs = [
        (settings.topic_arn.is_some(), "SNS signature"),
        (settings.public_key.is_some(), "ECDSA signature"),
        (settings.signing_key.is_some(), "HMAC"),
        (settings.basic.is_some(), "password"),
    ];
    let shown: Vec<&str> = proofs.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    Row {
        webhook_id: webhook.webhook_id,
        tenant_id: webhook.tenant_id.to_string(),
        sender: webhook.source,
        stream: settings.stream,
        domain: settings.domain,
        suppress: settings.suppress,
        proof: if shown.is_empty() { "address alone".into() } else { shown.join(", ") },
        created_at: webhook.created_at.to_string(),
        created_by: webhook.created_by,
    }
}

fn failure(error: ControlError) -> Failure {
    if error.is_missing() { Failure::Missing(error.to_string()) } else { Failure::Other(error.into()) }
}
