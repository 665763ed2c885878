//! Erasing a person, or a tenant, from everything this node keeps, in an order in which nothing comes back: first
//! the tombstone, then what waits in the spool, then the lake, then the receipt.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::StatusCode;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::erase::forms::{AddressForms, NoAddress};
use sendlake_ingest::erase::{Erase, EraseError, LakeErased, Whose, keep_receipt};
use sendlake_ingest::maintain::rewrite::RewriteSettings;
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::store::LakeStore;
use sendlake_ingest::table::EventsTable;
use sendlake_ingest::writer::{LakeHandle, LakeWriter, LakeWriterSettings};
use sendlake_sender::spool::erase::{Wanted, Withdrawn};
use sendlake_sender::spool::{Spool, SpoolError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::domain_reports::DomainReports;
use crate::hear::quarantine::Quarantine;
use crate::hear::wishes::{WishError, Wishes};
use crate::suppressions::ControlSuppressions;

/// How long messages in a session's hands are waited for.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(200);
const IN_FLIGHT_LOOKS_MAX: usize = 600;

/// Who is to be erased: a recipient, of one tenant or of all, or a whole tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EraseRequest {
    #[serde(default)]
    pub recipient: Option<String>,
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
}

/// What was erased, without saying whom: kept in the audit log and in the lake.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Receipt {
    pub id: String,
    pub at: Timestamp,
    /// Who asked.
    pub actor: String,
    /// `recipient` or `tenant`.
    pub kind: String,
    pub tenant_id: Option<TenantId>,
    /// The keyed hash of the address, as suppressions have it.
    pub address_hash: Option<String>,
    /// Messages that waited and are withdrawn.
    pub messages_withdrawn: u64,
    #[serde(flatten)]
    pub lake: LakeErased,
}

impl Receipt {
    pub fn found_any(&self) -> bool {
        self.messages_withdrawn > 0 || self.lake.found_any()
    }
}

/// Why an erasure did not end. What it did so far stands, and the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum NotErased {
    #[error("name a recipient with --recipient, a tenant with --tenant, or both")]
    Nobody,
    #[error(transparent)]
    NoAddress(#[from] NoAddress),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("suppressions that wait could not be brought into force: {0}")]
    Wishes(#[from] WishError),
    #[error(
        "{0} messages to it are in the hands of sessions and do not end; the suppression is in force, and nothing new \
         goes out: erase again in a few minutes"
    )]
    InFlight(usize),
    #[error(
        "events that wait in the outbox could not be brought into the lake ({0}); the suppression is in force: erase \
         again when the lake can be written"
    )]
    Flush(String),
    #[error(
        "mails in quarantine could not be looked through ({0}); erase again when the folder can be read and written"
    )]
    Quarantine(std::io::Error),
    #[error(transparent)]
    Lake(#[from] EraseError),
}

impl NotErased {
    /// As an HTTP status: what was wrong with the request, what to try again, what is broken.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Nobody | Self::NoAddress(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Control(error) if error.is_missing() => StatusCode::NOT_FOUND,
            Self::Control(error) if !error.is_store_failure() => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InFlight(_) | Self::Flush(_) | Self::Lake(EraseError::Busy { .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The parts that hold data of persons.
pub struct Eraser {
    pub control: Arc<ControlStore>,
    pub spool: Arc<Spool>,
    pub suppressions: Arc<ControlSuppressions>,
    pub wishes: Arc<Wishes>,
    pub lake: Arc<EventsTable>,
    pub store: LakeStore,
    /// Set once the lake's writer runs. Without one the outbox is carried over here.
    pub writer: Arc<OnceLock<LakeHandle>>,
    /// Reports that wait for the lake.
    pub reports: Arc<DomainReports>,
    pub ids: Ids,
    pub quarantine: Arc<Quarantine>,
    /// The folder of batches that wait to be exported.
    pub exports: PathBuf,
    /// Who takes the maintenance lease, in words.
    pub holder: String,
    pub settings: RewriteSettings,
}

impl Eraser {
    /// Erases, and returns the receipt. May take as long as reading the whole lake. Run again after a failure or a
    /// crash, it goes on; run again after success, it finds nothing.
    pub async fn erase(&self, actor: &str, request: &EraseRequest) -> Result<Receipt, NotErased> {
        let whose = whose(request)?;
        let id = self.ids.uuid();
        tracing::info!(%id, kind = kind(request), "an erasure begins");
        // Changes that are not told yet name the address in the control store.
        self.wishes.drain().await?;
        let address_hash = self.entomb(actor, request, id).await?;
        self.suppressions.refresh(&self.control).await?;
        // Wishes for the recipient bring the address to the list: once more, when none waits.
        self.wishes.drain().await?;
        self.entomb(actor, request, id).await?;
        // The tombstones' events must reach the lake with everything else before it is looked through.
        self.wishes.tell_changes().await?;
        let messages_withdrawn = self.withdraw(&whose).await?;
        // reports that wait are looked through in the lake, and those that cannot be read go with the quarantine
        self.reports.drain().await.map_err(|error| NotErased::Flush(error.to_string()))?;
        self.flush().await?;
        self.empty_quarantine(&whose).await?;
        let erase = Erase {
            store: self.store.clone(),
            events: Arc::clone(&self.lake),
            whose,
            settings: self.settings.clone(),
            ids: self.ids.clone(),
            holder: self.holder.clone(),
        };
        let receipt = Receipt {
            id: id.to_string(),
            at: self.ids.now(),
            actor: actor.to_owned(),
            kind: kind(request).to_owned(),
            tenant_id: request.tenant_id.clone(),
            address_hash,
            messages_withdrawn: messages_withdrawn as u64,
            lake: erase.run().await?,
        };
        self.keep(&receipt).await?;
        self.clear_exports();
        tracing::info!(%id, found = receipt.found_any(), "the erasure is done");
        Ok(receipt)
    }

    /// Removes batches that wait to be exported: they are made again from what the lake holds now.
    fn clear_exports(&self) {
        let folders = std::fs::read_dir(&self.exports).into_iter().flatten().flatten();
        for file in folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten() {
            let path = file.path();
            if path.extension().is_some()
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "a batch that waits for export could not be removed");
            }
        }
    }

    /// The tombstone; for a tenant, its suspension. Returns the hash of the address.
    async fn entomb(
        &self,
        actor: &str,
        request: &EraseRequest,
        id: uuid::Uuid,
    ) -> Result<Option<String>, NotErased> {
        let tenant = request.tenant_id.as_ref();
        Ok(match (&request.recipient, tenant) {
            (Some(address), _) => {
                Some(self.control.erase_recipient(actor, tenant, address, id).await?.to_hex())
            }
            (None, Some(tenant)) => {
                self.control.erase_tenant(actor, tenant).await?;
                None
            }
            (None, None) => return Err(NotErased::Nobody),
        })
    }

    /// Removes mails in quarantine that name the recipient, and reports that cannot be read, since nobody can say who is in
    /// them; for a tenant everything.
    async fn empty_quarantine(&self, whose: &Whose) -> Result<(), NotErased> {
        let (quarantine, whose) = (Arc::clone(&self.quarantine), whose.clone());
        let forget = move || {
            quarantine.forget(|mail| match &whose {
                Whose::Recipient { forms, .. } => forms.may_be_in(mail),
                Whose::Tenant(_) => true,
            })
        };
        let forgotten = tokio::task::spawn_blocking(forget).await;
        forgotten.map_err(std::io::Error::other).flatten().map(drop).map_err(NotErased::Quarantine)
    }

    /// Withdraws what waits, until nothing is in a session's hands either.
    async fn withdraw(&self, whose: &Whose) -> Result<usize, NotErased> {
        let of = whose.clone();
        let wanted: Wanted = Arc::new(move |entry| match &of {
            Whose::Recipient { forms, tenant } => {
                tenant.as_ref().is_none_or(|tenant| *tenant == entry.tenant_id)
                    && forms.is(&entry.recipient.to_string())
            }
            Whose::Tenant(tenant) => *tenant == entry.tenant_id,
        });
        let mut cancelled = 0;
        let mut looks = 0;
        loop {
            let done: Withdrawn = self.spool.withdraw(Arc::clone(&wanted)).await?;
            cancelled += done.cancelled;
            looks += 1;
            if done.in_flight == 0 {
                return Ok(cancelled);
            }
            if looks == IN_FLIGHT_LOOKS_MAX {
                return Err(NotErased::InFlight(done.in_flight));
            }
            tokio::time::sleep(IN_FLIGHT_PAUSE).await;
        }
    }

    /// Brings every event that was logged before this into the lake, and removes the files in which they waited.
    async fn flush(&self) -> Result<(), NotErased> {
        self.carry_over().await?;
        let spill = self.spool.reader().spill();
        for file in spill.files().map_err(|error| NotErased::Flush(error.to_string()))? {
            let committed_lsn = self.lake.committed_lsn(file.incarnation).await;
            let committed_lsn = committed_lsn.map_err(|error| NotErased::Flush(error.to_string()))?;
            if file.last_lsn <= committed_lsn {
                spill.retire(&file).await;
            }
        }
        // Without grace: a query that still reads one fails and is asked again, an address that stays does harm.
        spill.sweep(Duration::ZERO).await;
        Ok(())
    }

    async fn carry_over(&self) -> Result<(), NotErased> {
        if let Some(writer) = self.writer.get() {
            return writer.flush().await.map(drop).map_err(|error| NotErased::Flush(error.to_string()));
        }
        let outbox: Arc<dyn Outbox> = self.spool.clone();
        let clock = self.ids.clock.clone();
        let (writer, handle) =
            LakeWriter::new(outbox, self.lake.clone(), clock, LakeWriterSettings::default());
        // Stopped before it starts, it carries over what there is, once.
        let stop = CancellationToken::new();
        stop.cancel();
        writer.run(stop).await.map_err(|error| NotErased::Flush(error.to_string()))?;
        match handle.status().last_error {
            Some(fault) => Err(NotErased::Flush(fault.reason)),
            None => Ok(()),
        }
    }

    /// The receipt goes to the audit log first, which cannot fail for the network's sake, then beside the tables.
    async fn keep(&self, receipt: &Receipt) -> Result<(), NotErased> {
        let subject = match (&receipt.address_hash, &receipt.tenant_id) {
            (Some(hash), _) => format!("recipient {hash}"),
            (None, Some(tenant)) => format!("tenant {tenant}"),
            (None, None) => receipt.id.clone(),
        };
        let tenant = receipt.tenant_id.as_ref();
        self.control.audit(&receipt.actor, tenant, "erased", &subject, json!(receipt)).await?;
        let text = serde_json::to_vec_pretty(receipt).unwrap_or_default();
        keep_receipt(&self.store, &receipt.id, text).await.map_err(NotErased::Lake)
    }
}

fn whose(request: &EraseRequest) -> Result<Whose, NotErased> {
    match (&request.recipient, &request.tenant_id) {
        (Some(address), tenant) => {
            Ok(Whose::Recipient { forms: AddressForms::new(address)?, tenant: tenant.clone() })
        }
        (None, Some(tenant)) => Ok(Whose::Tenant(tenant.clone())),
        (None, None) => Err(NotErased::Nobody),
    }
}

fn kind(request: &EraseRequest) -> &'static str {
    if request.recipient.is_some() { "recipient" } else { "tenant" }
}
