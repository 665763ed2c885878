//! One node: its stores opened, its parts wired together, and the tasks that run while it serves.

mod drop_folder;
mod elsewhere;
mod erasing;
mod feedback;
mod http;
mod judging;
mod local;
pub(crate) mod maintenance;
mod meeting;
mod parts;
pub(crate) mod rollups;
mod routes;
mod safekeeping;
mod tls_reports;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router as HttpRouter;
use sendlake_control::ControlStore;
use sendlake_control::id::Ids;
use sendlake_control::key::NewKey;
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::quotas::QuotasTable;
use sendlake_ingest::table::EventsTable;
use sendlake_ingest::writer::{LakeHandle, LakeWriter, LakeWriterSettings};
use sendlake_query::QueryEngine;
use sendlake_sender::api::{self, Api};
use sendlake_sender::delivery::{Delivery, DeliveryParts};
use sendlake_sender::source::Sources;
use sendlake_sender::spool::Spool;
use sendlake_sender::token::TokenKeys;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::feedback::{
    AddSuppression, FiguresWanted, ImportSuppressions, Imported, Refusal, RemoveSuppression,
};
pub use self::judging::ReviewDecision;
pub use self::local::{
    Answer, OPERATOR_HEADER, QueueSelection, call as call_local, call_running, is_running, notify,
};
pub use self::meeting::Expected;
pub use self::parts::{public_host, resolver};
pub use self::safekeeping::{DecideBurst, RebuildSuppressions};
pub use self::tls_reports::AskTlsReports;
use crate::alerts::Alerts;
use crate::config::Config;
use crate::domain_reports::DomainReports;
use crate::erase::Eraser;
use crate::exports::{self, Exports};
use crate::hear::quarantine::Quarantine;
use crate::hear::tracking::{self, Tracking};
use crate::hear::visits::Visits;
use crate::hear::{Hearing, HearingParts, one_click};
use crate::identities::ControlIdentities;
use crate::limits::TableLimits;
use crate::list_routes;
use crate::ports::{ControlAuthenticator, LakeHistory, SpoolIntake};
use crate::publisher::{Publication, Publisher};
use crate::reverse::{self, Reverses};
use crate::stores;
use crate::suppression_routes;
use crate::suppressions::ControlSuppressions;
use crate::suppressions::bursts::Bursts;
use crate::suppressions::keeping::Keeping;
use crate::suppressions::rebuild::Rebuilder;
use crate::tls_reports::TlsReports;
use crate::webhooks::sns::{Certificates, Https, public_roots};
use crate::webhooks::{self, Webhooks};

/// How often sending domains are read anew: a domain added by a command is usable after this.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// Longest time that a stop waits for the lake.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(20);

/// The parts that a `serve --roles …` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Send API, delivery, and the way of events into the lake.
    pub sender: bool,
    /// The SQL endpoint.
    pub query: bool,
    /// Exports.
    pub export: bool,
}

impl Roles {
    pub const ALL: Roles = Roles { sender: true, query: true, export: true };
}

/// An opened node. It does nothing by itself until it is started.
pub struct Node {
    pub config: Config,
    pub ids: Ids,
    pub control: Arc<ControlStore>,
    pub spool: Arc<Spool>,
    pub lake: Arc<EventsTable>,
    pub engine: Arc<QueryEngine>,
    pub suppressions: Arc<ControlSuppressions>,
    /// The limits that the sender obeys.
    pub quotas: Arc<QuotasTable>,
    pub limits: Arc<TableLimits>,
    pub publisher: Arc<Publisher>,
    pub(crate) identities: Arc<ControlIdentities>,
    sources: Arc<Sources>,
    delivery_parts: DeliveryParts,
    pub hearing: Arc<Hearing>,
    visits: Arc<Visits>,
    eraser: Arc<Eraser>,
    pub keeping: Arc<Keeping>,
    pub bursts: Arc<Bursts>,
    /// Reports to other domains, where they are wanted.
    pub tls_reports: Option<Arc<TlsReports>>,
    pub alerts: Arc<Alerts>,
    pub exports: Arc<Exports>,
    reverses: Reverses,
}

impl Node {
    /// Opens everything under the data folder, and makes what is missing.
    pub async fn open(config: Config, ids: Ids) -> anyhow::Result<Self> {
        Self::open_with(config, ids, Expected::OurLake).await
    }

    /// The same, told what to find in the lake's place. A first start finds itself out.
    pub async fn open_with(config: Config, ids: Ids, expected: Expected) -> anyhow::Result<Self> {
        let first = !config.control_path().exists();
        let expected = if first { Expected::FirstStart } else { expected };
        let control = Arc::new(stores::open_control(&config, &ids).await?);
        if !first {
            stores::tell_what_is_missing(&config)?;
        }
        for tenant in control.tenants().await? {
            control.ensure_data_key(&tenant.tenant_id).await?;
        }
        let spool =
            Spool::open(&stores::spool_settings(&config), stores::sealer(&control), ids.clone(), on_fatal())?;
        if spool.recovered() > 0 {
            tracing::warn!(
                messages = spool.recovered(),
                "the last process ended in mid-attempt: those are in doubt"
            );
        }
        let lake = stores::open_lake(&config)?;
        let spool = meeting::meet(spool, &lake, &ids, expected).await?;
        let spool = Arc::new(spool);
        let outbox: Arc<dyn Outbox> = spool.clone();
        let store = stores::open_place(&config)?;
        let surroundings =
            stores::NodeSurroundings { control: control.clone(), lake: store, ids: ids.clone() };
        let engine = Arc::new(stores::open_engine(&config, lake.clone(), Some(outbox), surroundings)?);
        let identities = Arc::new(ControlIdentities::new(config.dkim.sign, &config.dkim.platform_domain));
        identities.refresh(&control).await?;
        let suppressions = Arc::new(ControlSuppressions::new(&control).kept_in(config.suppressions_path()));
        suppressions.refresh(&control).await?;
        let quotas = stores::open_quotas(&config)?;
        let limits = Arc::new(TableLimits::new(quotas.clone(), ids.clock.clone(), config.policy.enforce));
        let publisher = Arc::new(Publisher::new(
            engine.clone(),
            quotas.clone(),
            limits.clone(),
            spool.clone(),
            ids.clone(),
            Duration::from_secs(config.policy.publish_interval_s.into()),
        ));
        let sources = Arc::new(parts::sources(&config)?);
        let tokens = token_keys(&control);
        let quarantine = Arc::new(Quarantine::new(
            config.quarantine_dir(),
            config.reports_dir().join("quarantine"),
            spool.clone(),
            control.clone(),
            ids.clone(),
        ));
        let reports = Arc::new(DomainReports::new(
            &config.reports_dir(),
            quarantine.clone(),
            stores::open_report_tables(&config)?,
            identities.clone(),
            suppressions.clone(),
            ids.clone(),
            config.maintenance.retention_days,
        ));
        let hearing = Arc::new(Hearing::new(HearingParts {
            reports: reports.clone(),
            report_addresses: config.inbound.report_addresses.clone(),
            spool: spool.clone(),
            control: control.clone(),
            engine: engine.clone(),
            identities: identities.clone(),
            suppressions: suppressions.clone(),
            tokens: tokens.clone(),
            feedback_addresses: config.inbound.feedback_addresses.clone(),
            quarantine: quarantine.clone(),
            ids: ids.clone(),
        }));
        let keeping = Arc::new(Keeping::new(
            control.clone(),
            suppressions.clone(),
            spool.clone(),
            stores::open_place(&config)?,
            &config.node.id,
            ids.clone(),
        ));
        let visits = Arc::new(Visits::new(
            spool.clone(),
            control.clone(),
            suppressions.clone(),
            ids.clone(),
            config.maintenance.retention_days,
        ));
        let alerts = Arc::new(Alerts::new(
            engine.clone(),
            control.clone(),
            spool.clone(),
            ids.clone(),
            Duration::from_secs(config.policy.publish_interval_s.into()),
        ));
        let bursts = Arc::new(Bursts {
            control: control.clone(),
            engine: engine.clone(),
            suppressions: suppressions.clone(),
            wishes: hearing.wishes.clone(),
            ids: ids.clone(),
        });
        let eraser = Arc::new(Eraser {
            control: control.clone(),
            spool: spool.clone(),
            suppressions: suppressions.clone(),
            wishes: hearing.wishes.clone(),
            lake: lake.clone(),
            store: stores::open_place(&config)?,
            writer: Arc::default(),
            quarantine,
            exports: config.export_dir(),
            reports,
            ids: ids.clone(),
            holder: format!("{}, erasing", maintenance::holder(&config)),
            settings: stores::rewrite_settings(&config),
        });
        let exporter = exports::exporter(&config, &control, &lake, stores::open_place(&config)?, &ids);
        let exports = Arc::new(Exports::new(exporter.clone(), spool.clone(), &config));
        let connectors = reverse::connectors(&config, &control, &engine)?;
        let reverses = Reverses { exporter, spool: spool.clone(), connectors };
        let delivery_parts = DeliveryParts {
            spool: spool.clone(),
            router: Arc::new(parts::router(&config, &sources, &ids)?),
            sources: sources.clone(),
            connector: parts::connector(&config, &ids)?,
            identities: identities.clone(),
            suppressions: suppressions.clone(),
            limits: limits.clone(),
            tokens,
            ids: ids.clone(),
            settings: parts::delivery_settings(&config),
        };
        let tls_reports = tls_reports::reports(
            &config,
            tls_reports::Parts {
                spool: &spool,
                control: &control,
                identities: &identities,
                sources: &sources,
            },
            &engine,
            &ids,
        )?;
        Ok(Self {
            config,
            ids,
            control,
            spool,
            lake,
            engine,
            suppressions,
            quotas,
            limits,
            publisher,
            identities,
            sources,
            delivery_parts,
            hearing,
            visits,
            eraser,
            keeping,
            bursts,
            tls_reports,
            alerts,
            exports,
            reverses,
        })
    }

    /// Starts everything that `roles` name, and returns when it all listens.
    pub async fn start(self, roles: Roles) -> anyhow::Result<Running> {
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let listener = tokio::net::TcpListener::bind(self.config.http.listen)
            .await
            .with_context(|| format!("cannot listen on http.listen = {}", self.config.http.listen))?;
        let http = listener.local_addr()?;
        let routes = self.public_routes(self.api(), roles);
        tasks.spawn(http::serve(listener, routes, shutdown.clone()));
        let socket = self.config.socket_path();
        local::serve(&socket, self.local_routes(), shutdown.clone(), &mut tasks)?;
        let mut inbound = None;
        if roles.sender && !self.config.inbound.listen.is_empty() {
            inbound =
                Some(feedback::listen(&self.config, self.hearing.clone(), &shutdown, &mut tasks).await?);
        }
        if roles.sender && !self.config.inbound.drop_dir.as_os_str().is_empty() {
            let folder = self.config.inbound.drop_dir.clone();
            tasks.spawn(drop_folder::watch(folder, self.hearing.clone(), shutdown.clone()));
        }
        let mut lake = None;
        let lake_shutdown = CancellationToken::new();
        let mut lake_tasks = JoinSet::new();
        if roles.sender {
            let settings = LakeWriterSettings {
                commit_interval_ms: self.config.lake.commit_interval_ms,
                commit_rows_max: self.config.lake.commit_rows_max,
                spill_rows: self.config.lake.spill_rows,
                // A query may begin just before a file is over, and wait for the lake first.
                spill_grace_ms: self.config.sql.time_ms_max.saturating_mul(2).saturating_add(60_000),
                ..LakeWriterSettings::default()
            };
            let outbox: Arc<dyn Outbox> = self.spool.clone();
            let (writer, handle) =
                LakeWriter::new(outbox, self.lake.clone(), self.ids.clock.clone(), settings);
            let stop = lake_shutdown.clone();
            lake_tasks.spawn(async move {
                // Two spools under one identity: nothing may be written any more. The next start puts it right.
                if let Err(error) = writer.run(stop).await {
                    on_fatal()(&error.to_string());
                }
            });
            // There is one writer, made here.
            let _ = self.eraser.writer.set(handle.clone());
            tasks.spawn(self.hearing.clone().hasten(handle.clone(), shutdown.clone()));
            tasks.spawn(self.hearing.wishes.clone().run(shutdown.clone()));
            self.keeping.start().await;
            tasks.spawn(self.keeping.clone().run(handle.clone(), shutdown.clone()));
            tasks.spawn(self.visits.clone().run(shutdown.clone()));
            tasks.spawn(self.bursts.clone().run(shutdown.clone()));
            tasks.spawn(self.hearing.reports.clone().run(shutdown.clone()));
            if let Some(reports) = self.tls_reports {
                tasks.spawn(reports.run(shutdown.clone()));
            }
            lake = Some(handle);
            let delivery = Delivery::new(self.delivery_parts, shutdown.clone());
            tasks.spawn(async move {
                if let Err(error) = delivery.run().await {
                    tracing::error!(%error, "delivery ended");
                }
            });
            tasks.spawn(self.limits.clone().run(shutdown.clone()));
            tasks.spawn(purge(self.spool.clone(), shutdown.clone()));
            if self.config.maintenance.enabled {
                tasks.spawn(maintenance::run(&self.config, self.lake.clone(), &self.ids, shutdown.clone())?);
            }
            tasks.spawn(self.publisher.clone().run(self.hearing.feedback_arrived.clone(), shutdown.clone()));
            tasks.spawn(self.alerts.clone().run(shutdown.clone()));
            rollups::keep_up(&self.config, &self.lake, &self.ids, &shutdown, &mut tasks)?;
        }
        if roles.export {
            tasks.spawn(self.exports.run(shutdown.clone()));
            tasks.spawn(self.reverses.run(shutdown.clone()));
        }
        tasks.spawn(refresh(self.identities.clone(), self.control.clone(), shutdown.clone()));
        Ok(Running {
            http,
            inbound,
            suppressions: self.suppressions,
            keeping: self.keeping,
            limits: self.limits,
            feedback_arrived: self.hearing.feedback_arrived.clone(),
            control: self.control,
            identities: self.identities,
            spool: self.spool,
            engine: self.engine,
            publisher: self.publisher,
            lake,
            shutdown,
            tasks,
            lake_shutdown,
            lake_tasks,
            socket,
        })
    }
}

/// A node at work.
pub struct Running {
    pub http: SocketAddr,
    pub control: Arc<ControlStore>,
    pub spool: Arc<Spool>,
    pub engine: Arc<QueryEngine>,
    /// Where reports are taken by SMTP.
    pub inbound: Option<SocketAddr>,
    pub suppressions: Arc<ControlSuppressions>,
    keeping: Arc<Keeping>,
    pub limits: Arc<TableLimits>,
    /// Told after each complaint and unsubscribe.
    pub feedback_arrived: Arc<tokio::sync::Notify>,
    pub publisher: Arc<Publisher>,
    /// The lake's writer, where this node has one.
    pub lake: Option<LakeHandle>,
    identities: Arc<ControlIdentities>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    lake_shutdown: CancellationToken,
    lake_tasks: JoinSet<()>,
    socket: std::path::PathBuf,
}

impl Running {
    /// The admin key, when this start is the first one.
    pub async fn first_key(&self) -> anyhow::Result<Option<NewKey>> {
        Ok(self.control.first_start().await?)
    }

    /// Takes note of sending domains that were added just now.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        self.identities.refresh(&self.control).await?;
        self.publisher.wake.notify_one();
        Ok(())
    }

    /// Judges now, and publishes what follows.
    pub async fn publish_quotas(&self) -> anyhow::Result<Publication> {
        self.publisher.publish().await
    }

    /// Stops in order: no new mail, messages in hand finished, events into the lake. What does not reach the
    /// lake in time stays in the spool.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Some(lake) = &self.lake {
            match tokio::time::timeout(LAST_FLUSH_MAX, lake.flush()).await {
                Ok(Ok(_)) => {
                    if let Err(error) = self.keeping.keep(lake).await {
                        tracing::debug!(%error, "the sum of the suppressions is kept at the next start");
                    }
                    self.lake_shutdown.cancel();
                    while self.lake_tasks.join_next().await.is_some() {}
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the last events stay in the spool until the next start")
                }
                Err(_) => tracing::warn!("the lake took too long: the last events stay in the spool"),
            }
        }
        // A try at a bucket that is away may go on for minutes; cut off, it is what a crash would leave.
        self.lake_tasks.shutdown().await;
        let _ = std::fs::remove_file(&self.socket);
        self.suppressions.save(&self.control).await;
        self.control.close().await;
    }
}

/// The keys of this installation's tokens.
pub fn token_keys(control: &ControlStore) -> TokenKeys {
    TokenKeys::new(1, control.keyring().derive("return-path token 1"))
}

async fn refresh(identities: Arc<ControlIdentities>, control: Arc<ControlStore>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(REFRESH_EVERY)).await.is_some() {
        if let Err(error) = identities.refresh(&control).await {
            tracing::warn!(%error, "sending domains could not be read anew; those known stay in use");
        }
    }
}

async fn purge(spool: Arc<Spool>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(PURGE_EVERY)).await.is_some() {
        if let Err(error) = spool.purge_idempotency().await {
            tracing::warn!(%error, "idempotency keys could not be purged");
        }
    }
}

/// Nothing is trusted after the spool's store has failed: the process ends, and a supervisor or a person looks.
#[expect(clippy::print_stderr, reason = "the process is about to end, and must say why")]
fn on_fatal() -> sendlake_sender::spool::OnFatal {
    Arc::new(|sentence| {
        eprintln!("sendlake: {sentence}");
        std::process::exit(1);
    })
}

#[cfg(test)]
mod tests;
