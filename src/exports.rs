//! Exports of this installation: its connectors put together from configuration, control store and lake, and the task that
//! runs each of them by its schedule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_connectors::run::{Connector, ExportError, Exporter};
use sendlake_connectors::schedule::Schedule;
use sendlake_connectors::secret::SecretSource;
use sendlake_connectors::settings::ExportSettings;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::export::ExportConnector;
use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::store::LakeStore;
use sendlake_ingest::table::EventsTable;
use sendlake_sender::spool::Spool;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::config::Config;

/// How often a connector's state is looked at: what a command asked for begins within this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Failures in a row before an outage is told as an event; those that need a person are told at once.
const FAILURES_TOLD: i64 = 3;

/// Credentials sealed in the control store.
pub struct StoredSecrets(pub Arc<ControlStore>);

#[async_trait]
impl SecretSource for StoredSecrets {
    async fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        self.0.secret(name).await.map_err(|error| error.to_string())
    }
}

/// What all connectors share, for a server or for a command beside it.
pub fn exporter(
    config: &Config,
    control: &Arc<ControlStore>,
    lake: &Arc<EventsTable>,
    store: LakeStore,
    ids: &Ids,
) -> Arc<Exporter> {
    Arc::new(Exporter {
        // An installation's list of suppressions has a name that no other's has.
        holder: format!("{} of {}", config.node.id, control.suppression_list_id()),
        control: Arc::clone(control),
        lake: Arc::clone(lake),
        store,
        staging: config.export_dir(),
        ids: ids.clone(),
        prepared: Default::default(),
    })
}

/// The connectors of a server, each run by a task of its own.
pub struct Exports {
    exporter: Arc<Exporter>,
    spool: Arc<Spool>,
    settings: HashMap<String, ExportSettings>,
}

impl Exports {
    pub fn new(exporter: Arc<Exporter>, spool: Arc<Spool>, config: &Config) -> Self {
        let settings = config.export.clone().into_iter().collect();
        Self { exporter, spool, settings }
    }

    /// Runs every connector until `stop`. What is being loaded then is finished after the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        for name in self.settings.keys().cloned() {
            let (exports, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move { stop.run_until_cancelled(exports.run_one(name)).await });
        }
        tasks.join_all().await;
    }

    async fn run_one(&self, name: String) {
        let name = name.as_str();
        let Some(settings) = self.settings.get(name) else { return };
        // Checked when the configuration was read.
        let Ok(schedule) = Schedule::parse(&settings.schedule) else { return };
        let mut pacing = Pacing { schedule, began: self.exporter.ids.now(), backfilled: None };
        let mut connector = None;
        loop {
            if let Err(error) = self.look(name, settings, &mut pacing, &mut connector).await {
                tracing::warn!(connector = name, %error, "the ledger of exports cannot be used; tried again");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(
        &self,
        name: &str,
        settings: &ExportSettings,
        pacing: &mut Pacing,
        connected: &mut Option<Connector>,
    ) -> Result<(), ExportError> {
        let control = &self.exporter.control;
        let state = control.export_connector(name).await?;
        let now = self.exporter.ids.now();
        if state.paused_at.is_some() {
            return Ok(());
        }
        let is_live = pacing.is_due(&state, now);
        let is_backfill = !is_live && state.error.is_none() && pacing.may_backfill(settings, now) && {
            let backfills = control.export_backfills(Some(name)).await?;
            backfills.iter().any(|backfill| backfill.ended_at.is_none())
        };
        if !is_live && !is_backfill {
            return Ok(());
        }
        let secrets = StoredSecrets(Arc::clone(control));
        let connector = match connected.take() {
            Some(connector) => Ok(connector),
            None => {
                settings.connect(name, &secrets, &self.exporter.ids.clock).await.map_err(ExportError::from)
            }
        };
        let (ran, kept) = match connector {
            Err(error) => (self.exporter.take_note(name, Err(error)).await, None),
            Ok(connector) if is_live => (self.exporter.run(&connector).await, Some(connector)),
            Ok(connector) => {
                pacing.backfilled = Some(now);
                (self.exporter.run_backfill(&connector).await, Some(connector))
            }
        };
        // After a failure credentials and settings are read anew.
        *connected = kept.filter(|_| ran.is_ok());
        tell(&self.exporter, &self.spool, name, &state, ran.map(drop)).await
    }
}

/// A line in the log, and an event when it gets serious and when it is over: the view `alerts` reads these.
pub(crate) async fn tell(
    exporter: &Exporter,
    spool: &Spool,
    name: &str,
    before: &ExportConnector,
    ran: Result<(), ExportError>,
) -> Result<(), ExportError> {
    let (event_type, said) = match ran {
        Err(ExportError::Busy { .. }) => return Ok(()),
        Err(error) => {
            let failures = before.failures + 1;
            tracing::warn!(connector = name, failures, %error, "an export did not get through");
            let is_grave = matches!(error.kind(), "credentials" | "schema" | "refused");
            let is_first_grave = is_grave && before.error_kind.as_deref() != Some(error.kind());
            if !is_first_grave && failures != FAILURES_TOLD {
                return Ok(());
            }
            (EventType::ExportFailing, format!("{}: {error}", error.kind()))
        }
        Ok(_) if before.error.is_some() => (EventType::ExportRecovered, "loads get through again".to_owned()),
        Ok(_) => return Ok(()),
    };
    let tenant = TenantId::platform();
    let ids = &exporter.ids;
    let mut event = Event::new(ids.uuid(), event_type, ids.now(), tenant.clone());
    event.reported_by = Some(name.to_owned());
    event.reply_text = Some(said);
    exporter.control.ensure_data_key(&tenant).await?;
    if let Err(error) = spool.log(&[event]).await {
        tracing::warn!(%error, "an event about an export could not be logged");
    }
    Ok(())
}

/// Whether a connector is to run now, by its schedule or since it is time to try again. One that never ran is due from `began` on.
pub(crate) fn is_due(schedule: &Schedule, began: Timestamp, state: &ExportConnector, now: Timestamp) -> bool {
    if state.error.is_some() {
        return state.retry_at.is_none_or(|at| at <= now.0);
    }
    match (state.last_run_at, schedule) {
        (_, Schedule::Manual) => false,
        (None, _) => began <= now,
        (Some(at), schedule) => schedule.next_after(Timestamp(at)).is_some_and(|next| next <= now),
    }
}

/// When a connector is run next.
struct Pacing {
    schedule: Schedule,
    /// When this task began: a connector that never ran is due then.
    began: Timestamp,
    backfilled: Option<Timestamp>,
}

impl Pacing {
    fn is_due(&self, state: &ExportConnector, now: Timestamp) -> bool {
        is_due(&self.schedule, self.began, state, now)
    }

    fn may_backfill(&self, settings: &ExportSettings, now: Timestamp) -> bool {
        let pause_ms = 60_000 / i64::from(settings.backfill_batches_per_min.max(1));
        self.backfilled.is_none_or(|at| now.millis_since(at) >= pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_is_due_by_schedule_and_by_what_went_wrong() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let now = at("2026-11-23T10:07:00Z");
        let pacing =
            Pacing { schedule: Schedule::parse("*/15 * * * *").unwrap(), began: now, backfilled: None };
        let state = |last_run: Option<&str>| ExportConnector {
            last_run_at: last_run.map(|text| at(text).0),
            ..ExportConnector::default()
        };
        assert!(pacing.is_due(&state(None), now), "it never ran");
        assert!(!pacing.is_due(&state(Some("2026-11-23T10:01:00Z")), now));
        assert!(pacing.is_due(&state(Some("2026-11-23T09:59:00Z")), now), "the quarter was missed");
        let failing = |retry_at| ExportConnector {
            error: Some("away".into()),
            retry_at,
            ..state(Some("2026-11-23T09:59:00Z"))
        };
        assert!(!pacing.is_due(&failing(Some(now.plus_secs(1).0)), now));
        assert!(pacing.is_due(&failing(Some(now.0)), now));
        assert!(pacing.is_due(&failing(None), now), "somebody asked for it");
        let manual = Pacing { schedule: Schedule::Manual, ..pacing };
        assert!(!manual.is_due(&state(None), now));
        let settings = ExportSettings { backfill_batches_per_min: 6, ..ExportSettings::default() };
        assert!(manual.may_backfill(&settings, now));
        let manual = Pacing { backfilled: Some(now.plus_secs(-9)), ..manual };
        assert!(!manual.may_backfill(&settings, now) && manual.may_backfill(&settings, now.plus_secs(1)));
    }
}
