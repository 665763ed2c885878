//! `sendlake tenant|key|domain|audit`: the control store, beside a running server or without one.

use std::net::IpAddr;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use sendlake_control::domain::{DomainOptions, Outbound, parse_domain};
use sendlake_control::id::TenantId;
use sendlake_control::key::Scope;
use sendlake_control::tracking::TrackingDomain;
use sendlake_control::{ControlError, ControlStore};
use serde::Serialize;

use super::{CommandResult, Failure, FormatArg, rows, scope, tenant_id};
use crate::config::Config;
use crate::node::{notify, public_host};
use crate::{stores, system, tlsrpt_routes};

/// Who stands in the audit log for changes made on the command line.
pub(crate) fn actor() -> String {
    let user =
        std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".into());
    format!("cli:{user}")
}

pub(crate) async fn open(config: &Config) -> Result<ControlStore, Failure> {
    Ok(stores::open_control(config, &system::ids()).await?)
}

pub(crate) async fn read(config: &Config) -> Result<ControlStore, Failure> {
    Ok(stores::read_control(config, &system::ids()).await?)
}

pub(crate) fn failure(error: ControlError) -> Failure {
    if error.is_missing() {
        return Failure::Missing(error.to_string());
    }
    let store_failed = error.is_store_failure();
    let said = anyhow!(error);
    if store_failed { Failure::Other(said) } else { Failure::Refused(format!("{said:#}")) }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Add a tenant.
    Add {
        /// 1 to 63 of a-z, 0-9 and '-'.
        #[arg(value_parser = tenant_id)]
        name: TenantId,
        /// What people call it; by default its name.
        #[arg(long, default_value = "", hide_default_value = true)]
        display_name: String,
    },
    /// List tenants.
    Ls {
        #[command(flatten)]
        format: FormatArg,
    },
    /// Take nothing new from a tenant; what is queued still goes out.
    Suspend {
        #[arg(value_parser = tenant_id)]
        name: TenantId,
    },
    /// End a suspension.
    Resume {
        #[arg(value_parser = tenant_id)]
        name: TenantId,
    },
    /// Say what is tracked of a tenant's messages that say nothing themselves. Without options, show it.
    Tracking {
        #[arg(value_parser = tenant_id)]
        name: TenantId,
        /// Whether opens are tracked.
        #[arg(long, value_enum)]
        opens: Option<Switch>,
        /// Whether clicks are tracked.
        #[arg(long, value_enum)]
        clicks: Option<Switch>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Serialize)]
struct TenantRow {
    tenant_id: TenantId,
    display_name: String,
    state: String,
    created_at: String,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn tenant(config: &Config, command: TenantCommand) -> CommandResult {
    match command {
        TenantCommand::Add { name, display_name } => {
            let display_name = if display_name.is_empty() { name.to_string() } else { display_name };
            open(config).await?.create_tenant(&actor(), &name, &display_name).await.map_err(failure)?;
            println!("tenant {name} added");
            println!("next: sendlake domain add --tenant {name} example.com");
            println!("      sendlake key add --tenant {name} --scope send --scope read --scope sql");
        }
        TenantCommand::Ls { format } => {
            let tenants = read(config).await?.tenants().await.map_err(failure)?;
            let tenants: Vec<TenantRow> = tenants
                .into_iter()
                .map(|tenant| TenantRow {
                    tenant_id: tenant.tenant_id,
                    display_name: tenant.display_name,
                    state: tenant.state.to_string(),
                    created_at: tenant.created_at.to_string(),
                })
                .collect();
            rows::print(&tenants, &["tenant_id", "display_name", "state", "created_at"], format.format)?;
        }
        TenantCommand::Suspend { name } => {
            open(config).await?.suspend_tenant(&actor(), &name).await.map_err(failure)?;
            println!("tenant {name} suspended: within seconds nothing new is taken from it");
        }
        TenantCommand::Resume { name } => {
            open(config).await?.resume_tenant(&actor(), &name).await.map_err(failure)?;
            println!("tenant {name} may send again");
        }
        TenantCommand::Tracking { name, opens, clicks } => tracking(config, &name, opens, clicks).await?,
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn tracking(
    config: &Config,
    name: &TenantId,
    opens: Option<Switch>,
    clicks: Option<Switch>,
) -> CommandResult {
    let is_asked = opens.is_none() && clicks.is_none();
    let store = if is_asked { read(config).await? } else { open(config).await? };
    if store.tenant(name).await.map_err(failure)?.is_none() {
        return Err(failure(ControlError::NoSuchTenant { tenant: name.clone() }));
    }
    let known = store.tracking_defaults().await.map_err(failure)?;
    let known = known.into_iter().find(|(tenant, _)| tenant == name).map(|(_, known)| known);
    let mut wanted = known.unwrap_or_default();
    wanted.opens = opens.map_or(wanted.opens, |switch| switch == Switch::On);
    wanted.clicks = clicks.map_or(wanted.clicks, |switch| switch == Switch::On);
    if !is_asked {
        store.set_tracking_default(&actor(), name, wanted).await.map_err(failure)?;
        notify(config).await;
    }
    let word = |on| if on { "on" } else { "off" };
    println!(
        "{name}: opens {}, clicks {}, for messages that say nothing themselves",
        word(wanted.opens),
        word(wanted.clicks)
    );
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key. Its secret is printed once and stored nowhere.
    Add {
        /// The tenant it belongs to; without one it is for the whole installation.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        /// What it may do: send, read, sql, admin. May be given several times.
        #[arg(long, required = true, value_parser = scope)]
        scope: Vec<Scope>,
        /// What it is for, in the list of keys and the audit log.
        #[arg(long, default_value = "made by `sendlake key add`")]
        label: String,
    },
    /// List keys, without their secrets.
    Ls {
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Revoke a key: refused everywhere within five seconds.
    Revoke { key_id: String },
}

#[derive(Serialize)]
struct KeyRow {
    key_id: String,
    tenant_id: String,
    scopes: Vec<Scope>,
    label: String,
    created_at: String,
    created_by: String,
    revoked_at: Option<String>,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn key(config: &Config, command: KeyCommand) -> CommandResult {
    match command {
        KeyCommand::Add { tenant, scope, label } => {
            let store = open(config).await?;
            let key = store.create_key(&actor(), tenant.as_ref(), &scope, &label).await.map_err(failure)?;
            println!("{}", key.secret);
        }
        KeyCommand::Ls { tenant, format } => {
            let keys = read(config).await?.keys(tenant.as_ref()).await.map_err(failure)?;
            let keys: Vec<KeyRow> = keys
                .into_iter()
                .map(|key| KeyRow {
                    key_id: key.key_id,
                    tenant_id: key.tenant_id.map_or_else(|| "*".to_owned(), |tenant| tenant.to_string()),
                    scopes: key.scopes,
                    label: key.label,
                    created_at: key.created_at.to_string(),
                    created_by: key.created_by,
                    revoked_at: key.revoked_at.map(|at| at.to_string()),
                })
                .collect();
            let columns =
                ["key_id", "tenant_id", "scopes", "label", "created_at", "created_by", "revoked_at"];
            rows::print(&keys, &columns, format.format)?;
        }
        KeyCommand::Revoke { key_id } => {
            open(config).await?.revoke_key(&actor(), &key_id).await.map_err(failure)?;
            println!("key {key_id} revoked");
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Let a tenant send as a domain: makes its DKIM key and prints the DNS records to publish.
    Add {
        /// The tenant that sends as it.
        #[arg(long, value_parser = tenant_id)]
        tenant: TenantId,
        /// The domain in From:, such as example.com; its subdomains come with it.
        domain: String,
        /// Where bounces come back; a subdomain of the domain. By default bounces.<domain>.
        #[arg(long)]
        bounce_domain: Option<String>,
        /// Name that tracked links are served under; a subdomain of the domain, such as links.<domain>.
        #[arg(long)]
        tracking_domain: Option<String>,
        /// It has sent in volume before, elsewhere: no warm-up ceiling holds its mail back.
        #[arg(long)]
        warm: bool,
    },
    /// Say that a domain has sent in volume before, elsewhere: its warm-up ceiling goes.
    Warm { domain: String },
    /// List sending domains.
    Ls {
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Print the DNS records to publish, as lines of a zone file.
    Dns { domain: String },
    /// Give a domain the name that its tracked links are served under, and print the DNS record to publish.
    Tracking {
        domain: String,
        /// A subdomain of it, such as links.example.com. Without one, the domain goes back to the installation's own name.
        name: Option<String>,
    },
    /// Ask the DNS for all records of a domain: which are well, missing or different, and what to do. Links use a tracking
    /// domain once it leads here. Exit code 0 only when all is well, 5 when the DNS did not answer.
    Check {
        domain: String,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Take a domain away. Mail already queued goes out unsigned.
    Rm { domain: String },
}

#[derive(Serialize)]
struct DomainRow {
    domain: String,
    tenant_id: TenantId,
    selector: String,
    bounce_domain: String,
    created_at: String,
    warm_at: Option<String>,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn domain(config: &Config, command: DomainCommand) -> CommandResult {
    match command {
        DomainCommand::Add { tenant, domain, bounce_domain, tracking_domain, warm } => {
            let store = open(config).await?;
            let options = DomainOptions { bounce_domain, warm, ..DomainOptions::default() };
            let added = store.add_domain(&actor(), &tenant, &domain, options).await.map_err(failure)?;
            let tracking = match &tracking_domain {
                Some(name) => store.set_tracking_domain(&actor(), &added.domain, Some(name)).await,
                None => Ok(None),
            };
            notify(config).await;
            println!("{tenant} may send as {}. Publish:", added.domain);
            print_records(config, &added);
            print_tracking(config, tracking.map_err(failure)?.as_ref());
        }
        DomainCommand::Ls { tenant, format } => {
            let domains = read(config).await?.domains(tenant.as_ref()).await.map_err(failure)?;
            let domains: Vec<DomainRow> = domains
                .into_iter()
                .map(|domain| DomainRow {
                    domain: domain.domain,
                    tenant_id: domain.tenant_id,
                    selector: domain.selector,
                    bounce_domain: domain.bounce_domain,
                    created_at: domain.created_at.to_string(),
                    warm_at: domain.warm_at.map(|at| at.to_string()),
                })
                .collect();
            let columns = ["domain", "tenant_id", "selector", "bounce_domain", "created_at", "warm_at"];
            rows::print(&domains, &columns, format.format)?;
        }
        DomainCommand::Warm { domain } => {
            open(config).await?.warm_domain(&actor(), &domain).await.map_err(failure)?;
            notify(config).await;
            println!("{domain} counts as warm: no ceiling from the next publication on");
        }
        DomainCommand::Dns { domain } => {
            let found = read(config).await?.domain(&domain).await.map_err(failure)?;
            let found = found.ok_or_else(|| {
                Failure::Missing(format!("{domain} is no sending domain; see `sendlake domain ls`"))
            })?;
            print_records(config, &found);
            print_tracking(config, tracking_domain_of(&read(config).await?, &found.domain).await?.as_ref());
        }
        DomainCommand::Tracking { domain, name } => {
            let store = open(config).await?;
            let set = store.set_tracking_domain(&actor(), &domain, name.as_deref()).await.map_err(failure)?;
            notify(config).await;
            match &set {
                Some(set) => {
                    println!("Publish, then run `sendlake domain check {}`:", set.domain);
                    print_tracking(config, Some(set));
                }
                None => println!("tracked links of {domain} lead to {}", config.http.public_url),
            }
        }
        DomainCommand::Check { domain, format } => {
            super::domain_check::run(config, &domain, format.format).await?;
        }
        DomainCommand::Rm { domain } => {
            open(config).await?.remove_domain(&actor(), &domain).await.map_err(failure)?;
            notify(config).await;
            println!("{domain} removed");
        }
    }
    Ok(())
}

/// How the installation looks from outside, and whether its host's name is known and no placeholder.
pub(super) fn outbound(config: &Config) -> (Outbound, bool) {
    let source_ips: Vec<IpAddr> = config.source.iter().filter_map(|source| source.bind).collect();
    let ehlo = config.source.iter().map(|source| source.ehlo.as_str()).find(|ehlo| !ehlo.is_empty());
    let mail_host = ehlo.unwrap_or("mail.example.com").to_owned();
    (Outbound { mail_host, source_ips }, ehlo.is_some())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_records(config: &Config, domain: &sendlake_control::domain::Domain) {
    let (outbound, knows_mail_host) = outbound(config);
    for record in domain.dns_records(&outbound) {
        println!("; {}\n{}", record.purpose, record.zone_line());
    }
    if config.http.public_url.starts_with("https://") {
        let base = config.http.public_url.trim_end_matches('/');
        println!(
            "; TLS reports come by HTTPS as well: in both records, in place of the mailto: or after it and a comma,\n; {base}{}{}",
            tlsrpt_routes::PATH,
            domain.domain
        );
    }
    if !knows_mail_host {
        println!("; mail.example.com stands for your mail host: set `ehlo` under [[source]] to its name");
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_tracking(config: &Config, tracking: Option<&TrackingDomain>) {
    if let Some(tracking) = tracking {
        let record = tracking.dns_record(&public_host(config));
        println!("; {}\n{}", record.purpose, record.zone_line());
    }
}

pub(super) async fn tracking_domain_of(
    store: &ControlStore,
    domain: &str,
) -> Result<Option<TrackingDomain>, Failure> {
    let domain = parse_domain(domain).map_err(failure)?;
    let all = store.tracking_domains().await.map_err(failure)?;
    Ok(all.into_iter().find(|tracking| tracking.domain == domain))
}

#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// Only this tenant's entries.
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
    /// Most entries, the newest first.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Serialize)]
struct AuditRow {
    seq: i64,
    at: String,
    actor: String,
    tenant_id: TenantId,
    action: String,
    subject: String,
    detail: serde_json::Value,
}

pub(crate) async fn audit(config: &Config, args: AuditArgs) -> CommandResult {
    let store = read(config).await?;
    let entries = match &args.tenant {
        Some(tenant) => store.audit_log_of(tenant, args.limit).await,
        None => store.audit_log(args.limit).await,
    };
    let entries: Vec<AuditRow> = entries
        .map_err(failure)?
        .into_iter()
        .map(|entry| AuditRow {
            seq: entry.seq,
            at: entry.at.to_string(),
            actor: entry.actor,
            tenant_id: entry.tenant_id,
            action: entry.action,
            subject: entry.subject,
            detail: entry.detail,
        })
        .collect();
    let columns = ["seq", "at", "actor", "tenant_id", "action", "subject", "detail"];
    rows::print(&entries, &columns, args.format.format)?;
    Ok(())
}
