//! The command line: what can be asked, and in which words. Each command's work is in a file of its own.

mod alerts;
mod classify;
mod control;
mod domain_check;
mod elsewhere;
mod export;
mod feedback_loop;
mod ingest;
mod lake;
mod list;
mod message;
mod queue;
mod quota;
mod reverse;
mod review;
mod rows;
mod rules;
mod run;
mod secret;
mod send;
mod sql;
mod suppression;
mod tls_report;
mod webhook_in;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::key::Scope;
use sendlake_sender::stream::Stream;

pub(crate) use self::message::print as print_history;
use crate::config::{self, Config};
use crate::stores;

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 no such thing · 4 refused (by a rule or a \
limit) · 5 the server or its store cannot be reached";

/// Accepts mail, delivers it, and keeps every fact about it in a lake that you own.
#[derive(Debug, Parser)]
#[command(name = "sendlake", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Global {
    /// Configuration file (TOML). Without one, the defaults and the environment count.
    #[arg(long, global = true, env = "SENDLAKE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, instead of the configuration's `storage.dir`.
    #[arg(long, global = true, env = "SENDLAKE_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: HTTP API, delivery, lake writer, SQL.
    Serve(run::ServeArgs),
    /// A story in five acts: thousands of messages to make-believe providers over real SMTP, what comes back, a new domain that warms up,
    /// a campaign that people complain about, and every event of it in files for a warehouse.
    Demo(run::DemoArgs),
    /// Ask the lake, in SQL. Tables: events, outcomes, bounces, complaint_baseline, quotas, … (SHOW TABLES lists them).
    Sql(sql::SqlArgs),
    /// Send one message: RFC 5322 text from a file or standard input.
    Send(send::SendArgs),
    /// Show the whole history of one message.
    Message(message::MessageArgs),
    /// Look at the queue, and change it.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Whom not to write to: unsubscribes, complaints, mailboxes that are gone.
    #[command(subcommand)]
    Suppression(suppression::SuppressionCommand),
    /// Lists of recipients: what they are worth before anybody sends to them.
    #[command(subcommand)]
    List(list::ListCommand),
    /// Take bounces and feedback reports from files (RFC 5322 text, one mail each), and tell what became of each; or, with
    /// --from, another sender's logs and events.
    Ingest(ingest::IngestArgs),
    /// Addresses that other senders push their events to: SES, SendGrid, Mailgun, Postmark, SparkPost.
    #[command(subcommand)]
    WebhookIn(webhook_in::WebhookInCommand),
    /// Look at the lake's tables, and keep them in shape; beside a running server or without one.
    #[command(subcommand)]
    Lake(lake::LakeCommand),
    /// The limits that the sender obeys: which there are, and why.
    #[command(subcommand)]
    Quota(quota::QuotaCommand),
    /// Alerts: what somebody should look at.
    #[command(subcommand)]
    Alerts(alerts::AlertsCommand),
    /// Reviews: what complaints have cut, and what is decided about it.
    #[command(subcommand)]
    Review(review::ReviewCommand),
    /// Exports to warehouses and buckets: how they are doing; run, backfill, verify, pause.
    #[command(subcommand)]
    Export(export::ExportCommand),
    /// Reverse ETL: a query's rows, posted as upserts to a CRM; how that is doing, run, preview.
    #[command(subcommand)]
    Reverse(reverse::ReverseCommand),
    /// Credentials of exports, sealed in the control store.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Tenants: who sends.
    #[command(subcommand)]
    Tenant(control::TenantCommand),
    /// API keys: who may ask for what.
    #[command(subcommand)]
    Key(control::KeyCommand),
    /// Sending domains: whom a tenant may send as, with DKIM keys and the DNS records to publish.
    #[command(subcommand)]
    Domain(control::DomainCommand),
    /// Feedback loops that domains and addresses are enrolled in.
    #[command(subcommand)]
    FeedbackLoop(feedback_loop::FeedbackLoopCommand),
    /// Reports to other domains on the TLS of their MX hosts (RFC 8460): what is sent for a day.
    TlsReport(tls_report::TlsReportArgs),
    /// Who changed what: the latest entries of the audit log.
    Audit(control::AuditArgs),
    /// Say what bounces, complaints and automatic replies mean: one row per recipient.
    Classify(classify::ClassifyArgs),
    /// Bounce rules: how refusals are read.
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for your shell.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration can be used; name file, line and key where not.
    Check {
        /// Also ask the lake's place whether it can be read and written. Puts one small object into a bucket.
        #[arg(long)]
        open: bool,
    },
    /// Print the configuration in force: defaults, file and environment together, without secrets.
    Show,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Csv,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FormatArg {
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Why a command ended without success; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{}", sentence(.0))]
    Usage(anyhow::Error),
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{}", sentence(.0))]
    Other(#[from] anyhow::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Other(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Missing(_) => 3,
            Failure::Refused(_) => 4,
            Failure::Unreachable(_) => 5,
        }
    }
}

/// An error with its causes in one line. A cause that an error has told already is not told again.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
    }
    said
}

/// Longest wait for work in the background after a command's answer.
const SHUTDOWN_MAX: std::time::Duration = std::time::Duration::from_secs(2);

pub(crate) type CommandResult = Result<(), Failure>;

/// Parses the arguments, runs the command, and says in one line what went wrong where it did.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    watch_panics(matches!(cli.command, Command::Serve(_) | Command::Demo(_)));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(&Failure::Other(error.into())),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run_command(cli))));
    // What is still blocked, such as an upload to a bucket that is away, does not hold up the end.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => ended(&failure),
        // What it was has been told where it happened.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Two panics are not faults of the program. `println!` panics when whoever reads our output has left (`sendlake … |
/// head -1`): that is no error. Only standard output counts: a connection that breaks is one. And redb panics on
/// pages that make no sense: no thread of a server may go on beside such a store, accepting what is never sent.
#[expect(clippy::print_stderr, reason = "the last words, from wherever it happened")]
fn watch_panics(serves: bool) {
    let panicked = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.to_string();
        if said.contains("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(0);
        }
        if let Some(at) = panic.location().filter(|at| is_of_the_store(at.file())) {
            eprintln!(
                "sendlake: the queue's store, spool/spool.redb, is damaged: a page of it cannot be read ({at}). Nothing is \
                 changed there. Restore spool/ from a backup; or move it away to start with an empty queue (mail that waits in \
                 it is not sent). What the lake holds is not touched"
            );
            if serves {
                std::process::exit(1);
            }
            return;
        }
        panicked(panic);
    }));
}

/// Whether a source file is redb's, whose folder is named after its version.
fn is_of_the_store(file: &str) -> bool {
    file.split(['/', '\\']).any(|folder| folder == "redb" || folder.starts_with("redb-"))
}

#[expect(clippy::print_stderr, reason = "where a command line tells its errors")]
fn ended(failure: &Failure) -> ExitCode {
    eprintln!("sendlake: {failure}");
    ExitCode::from(failure.code())
}

async fn run_command(cli: Cli) -> CommandResult {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "sendlake", &mut script);
        rows::emit(&script);
        return Ok(());
    }
    let mut config = config::load(cli.global.config.as_deref(), std::env::vars())
        .map_err(|error| Failure::Usage(error.into()))?;
    if let Some(dir) = cli.global.dir.clone() {
        config.storage.dir = dir;
    }
    if !config.rules.file.as_os_str().is_empty() {
        let own =
            rules::read(&config.rules.file).map_err(|error| Failure::Usage(error.context("rules.file")))?;
        own.offer().put_in_force();
    }
    match cli.command {
        Command::Serve(args) => run::serve(config, args).await,
        Command::Demo(args) => run::demo(config, cli.global.dir, args).await,
        Command::Sql(args) => sql::run(&config, args).await,
        Command::Send(args) => send::run(&config, args).await,
        Command::Message(args) => message::run(&config, args).await,
        Command::Queue(command) => queue::run(&config, command).await,
        Command::Suppression(command) => suppression::run(&config, command).await,
        Command::List(command) => list::run(&config, command).await,
        Command::Ingest(args) => ingest::run(&config, args).await,
        Command::WebhookIn(command) => webhook_in::run(&config, command).await,
        Command::Lake(command) => lake::run(&config, command).await,
        Command::Quota(command) => quota::run(&config, command).await,
        Command::Alerts(command) => alerts::run(&config, command).await,
        Command::Review(command) => review::run(&config, command).await,
        Command::Export(command) => export::run(&config, command).await,
        Command::Reverse(command) => reverse::run(&config, command).await,
        Command::Secret(command) => secret::run(&config, command).await,
        Command::Tenant(command) => control::tenant(&config, command).await,
        Command::Key(command) => control::key(&config, command).await,
        Command::Domain(command) => control::domain(&config, command).await,
        Command::FeedbackLoop(command) => feedback_loop::run(&config, command).await,
        Command::TlsReport(args) => tls_report::run(&config, args).await,
        Command::Audit(args) => control::audit(&config, args).await,
        Command::Classify(args) => classify::run(&args),
        Command::Rules(command) => rules::run(&config, command).await,
        Command::Config(ConfigCommand::Check { open }) => {
            check(&config, cli.global.config.as_deref(), open).await
        }
        Command::Config(ConfigCommand::Show) => show(&config),
        Command::Completions { .. } => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn check(config: &Config, file: Option<&std::path::Path>, open: bool) -> CommandResult {
    let what = file.map_or_else(|| "defaults and environment".into(), |path| path.display().to_string());
    let (data, lake) = (config.storage.dir.display(), config.lake_place());
    if !open {
        println!("{what}: good. Data in {data}, lake in {lake} (not opened; --open tries it).");
        return Ok(());
    }
    let there = match stores::try_lake(config).await? {
        true => "it can be read and written, and holds a lake",
        false => "it can be read and written, and holds no lake yet",
    };
    println!("{what}: good. Data in {data}, lake in {lake}: {there}.");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn show(config: &Config) -> CommandResult {
    let mut shown = config.clone();
    for (key, value) in &mut shown.storage.options {
        if is_secret(key) {
            *value = "(not shown)".into();
        }
    }
    let text = toml::to_string_pretty(&shown).map_err(anyhow::Error::from)?;
    print!("{text}");
    Ok(())
}

/// Whether an object store's option holds what must not reach a terminal or a ticket.
fn is_secret(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    let names_no_secret = option.ends_with("_id") || option.ends_with("_path") || option.ends_with("_file");
    !names_no_secret
        && ["secret", "token", "password", "key", "sas", "credential"]
            .iter()
            .any(|word| option.contains(word))
}

/// A tenant's name as an argument.
fn tenant_id(text: &str) -> Result<TenantId, String> {
    TenantId::new(text).map_err(|error| error.to_string())
}

fn stream(text: &str) -> Result<Stream, String> {
    text.parse().map_err(|error: sendlake_sender::stream::InvalidStream| error.to_string())
}

/// An instant as an argument.
fn instant(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "an instant looks like 2026-11-22T09:30:00Z".to_owned())
}

/// A UTC day as an argument, in the form that partitions have.
fn day(text: &str) -> Result<String, String> {
    let midnight = Timestamp::parse(&format!("{text}T00:00:00Z")).map(|_| text.to_owned());
    midnight.ok_or_else(|| "a day looks like 2026-11-22".to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    text.parse::<Scope>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such thing");
        let error = anyhow::Error::new(cause).context("cannot read x: no such thing").context("start");
        assert_eq!(sentence(&error), "start: cannot read x: no such thing");
    }

    #[test]
    fn a_day_is_one_of_the_calendar() {
        assert_eq!(day("2026-02-28").unwrap(), "2026-02-28");
        for text in ["2026-13-01", "2026-02-30", "yesterday", "2026-1-1", ""] {
            assert!(day(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_panic_of_the_store_is_told_from_others() {
        assert!(is_of_the_store("/home/x/registry/src/index-1/redb-4.1.0/src/tree_store/btree.rs"));
        assert!(is_of_the_store("vendor/redb/src/db.rs"));
        assert!(!is_of_the_store("src/redbook.rs") && !is_of_the_store("sender/src/spool/mod.rs"));
    }

    #[test]
    fn credentials_of_a_bucket_are_not_shown() {
        for option in
            ["aws_secret_access_key", "aws_session_token", "account_key", "google_service_account_key"]
        {
            assert!(is_secret(option), "{option}");
        }
        for option in ["aws_region", "aws_access_key_id", "aws_endpoint", "google_service_account_path"] {
            assert!(!is_secret(option), "{option}");
        }
    }
}
