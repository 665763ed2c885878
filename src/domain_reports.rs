//! DMARC and SMTP TLS reports that come in: durable in a folder before anybody is told that they were taken, in the lake
//! soon after, once. What cannot be read goes into the quarantine.
//!
//! Nothing waits for the lake: a mail is answered when its file is synced. Providers' own figures, which an operator brings
//! as files, go there at once (`figures`).

pub mod figures;
mod folder;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::domain_report::Reading;
use sendlake_ingest::domain_tables::rows::NoRows;
use sendlake_ingest::domain_tables::{Kind, ReportRows, ReportTables};
use sendlake_ingest::event::EventType;
use sendlake_ingest::table::LakeError;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use self::folder::{Folder, Kept};
use crate::hear::quarantine::{Kind as Unread, Quarantine, Unusable};
use crate::hear::{Heard, Unavailable, forget};
use crate::identities::ControlIdentities;
use crate::suppressions::ControlSuppressions;

/// Reports that come at about the same time go into one commit.
const GATHER: Duration = Duration::from_secs(2);
/// How often the folder is looked at without a reason, and how soon again after the lake refused.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often the tables are tidied up.
const TIDY_EVERY: Duration = Duration::from_secs(1_800);
/// Files of one commit, and their bytes together.
const FILES_MAX: usize = 200;
const BYTES_MAX: u64 = 32 << 20;
/// Reports of one mail that are named to people.
const TITLES_MAX: usize = 3;

/// Takes reports, and carries them to the lake. Share it in an [`Arc`].
pub struct DomainReports {
    folder: Folder,
    quarantine: Arc<Quarantine>,
    tables: ReportTables,
    identities: Arc<ControlIdentities>,
    suppressions: Arc<ControlSuppressions>,
    ids: Ids,
    retention_days: u32,
    arrived: Notify,
    draining: Mutex<()>,
}

/// What becomes of something that looks like a report and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is taken, and lies in the quarantine with the reason beside it.
    Aside,
    /// It lies there too, and is refused with the reason.
    Refuse,
    /// It is something else.
    Pass,
}

/// What became of one file's reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub added: usize,
    pub repeats: usize,
}

impl DomainReports {
    /// `dir` is the folder for what waits; made by its first use.
    pub fn new(
        dir: &Path,
        quarantine: Arc<Quarantine>,
        tables: ReportTables,
        identities: Arc<ControlIdentities>,
        suppressions: Arc<ControlSuppressions>,
        ids: Ids,
        retention_days: u32,
    ) -> Self {
        Self {
            folder: Folder::below(dir),
            quarantine,
            tables,
            identities,
            suppressions,
            ids,
            retention_days,
            arrived: Notify::new(),
            draining: Mutex::default(),
        }
    }

    /// Takes a mail that came to an address of `owner`, or to one of the installation. `None` for one in which there is no
    /// report. When it returns, what it took is on the disk.
    pub async fn receive(
        &self,
        owner: Option<&TenantId>,
        data: &Arc<[u8]>,
        unreadable: Unreadable,
    ) -> Result<Option<Heard>, Unavailable> {
        let (text, folder, whose) = (Arc::clone(data), self.folder.clone(), owner.cloned());
        let taken = tokio::task::spawn_blocking(move || take(&folder, whose.as_ref(), &text, unreadable));
        let taken = taken.await.map_err(|error| Unavailable(error.to_string()))?;
        let Some(Taken { mut heard, unread }) = taken.map_err(|error| Unavailable(error.to_string()))? else {
            return Ok(None);
        };
        if let Some(why) = unread {
            self.set_aside(owner, data, &why).await?;
            if heard.outcome != "recorded" {
                heard.event_type = Some(EventType::ReportQuarantined.as_str());
                heard.tenant_id = Some(owner.cloned().unwrap_or_else(TenantId::platform));
            }
        }
        if heard.outcome == "recorded" {
            self.arrived.notify_one();
        }
        Ok(Some(heard))
    }

    async fn set_aside(
        &self,
        owner: Option<&TenantId>,
        data: &Arc<[u8]>,
        why: &str,
    ) -> Result<(), Unavailable> {
        let unusable = Unusable { kind: Unread::DomainReport, owner, data, why };
        self.quarantine.keep(unusable).await.map(drop)
    }

    /// The same for an operator's file: waits until it is in the lake, if that can be reached, and refuses what cannot be read.
    pub async fn receive_file(
        &self,
        owner: Option<&TenantId>,
        data: &Arc<[u8]>,
    ) -> Result<Option<Heard>, Unavailable> {
        let Some(mut heard) = self.receive(owner, data, Unreadable::Refuse).await? else { return Ok(None) };
        if heard.outcome != "recorded" {
            return Ok(Some(heard));
        }
        match self.drain().await {
            Ok(carried) => match carried.get(&folder::name(owner, data)) {
                Some(Carried { added: 0, repeats: 1.. }) => {
                    heard.outcome = "repeat";
                    heard.detail.push_str(": it was known already");
                }
                Some(Carried { added: 0, repeats: 0 }) => {
                    heard.outcome = "refused";
                    heard.detail.push_str(": see the quarantine for the reason");
                }
                _ => {}
            },
            Err(error) => heard.detail.push_str(&format!(": it waits for the lake ({error})")),
        }
        Ok(Some(heard))
    }

    /// Carries everything that waits to the lake. Returns what became of each file, by its name.
    pub async fn drain(&self) -> Result<BTreeMap<String, Carried>, LakeError> {
        let _turn = self.draining.lock().await;
        let mut all = BTreeMap::new();
        loop {
            let folder = self.folder.clone();
            let waiting = tokio::task::spawn_blocking(move || folder.waiting(FILES_MAX, BYTES_MAX)).await?;
            if waiting.is_empty() {
                return Ok(all);
            }
            let done = match self.carry(&waiting).await {
                // one damaged file of the lake must not hold up reports of other days
                Err(LakeError::Unreadable { .. }) if waiting.len() > 1 => self.carry_each(&waiting).await?,
                done => done?,
            };
            all.extend(done);
        }
    }

    async fn carry_each(&self, waiting: &[Kept]) -> Result<BTreeMap<String, Carried>, LakeError> {
        let mut all = BTreeMap::new();
        let mut first = None;
        for one in waiting {
            match self.carry(std::slice::from_ref(one)).await {
                Ok(done) => all.extend(done),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(all), Err)
    }

    /// Carries these files' reports to the lake, and removes the files after that.
    async fn carry(&self, waiting: &[Kept]) -> Result<BTreeMap<String, Carried>, LakeError> {
        let read = {
            let (waiting, identities) = (waiting.to_vec(), Arc::clone(&self.identities));
            let suppressions = Arc::clone(&self.suppressions);
            let now = self.ids.now();
            tokio::task::spawn_blocking(move || {
                waiting
                    .into_iter()
                    .map(|kept| read(kept, &identities, &suppressions, now))
                    .collect::<Vec<_>>()
            })
            .await?
        };
        let mut done: BTreeMap<String, Carried> = BTreeMap::new();
        for kind in Kind::ALL {
            let of_kind = read.iter().flat_map(|Read { kept, rows, .. }| {
                rows.iter().filter(|rows| rows.kind == kind).map(move |rows| (kept, rows))
            });
            let (files, rows): (Vec<&Kept>, Vec<ReportRows>) =
                of_kind.map(|(kept, rows)| (kept, rows.clone())).unzip();
            if rows.is_empty() {
                continue;
            }
            let was_new = self.tables.of(kind).append(&rows).await?;
            for (kept, new) in files.into_iter().zip(was_new) {
                let carried = done.entry(kept.name.clone()).or_default();
                carried.added += usize::from(new);
                carried.repeats += usize::from(!new);
            }
        }
        for Read { kept, unread, .. } in &read {
            if let Some(why) = unread
                && let Err(error) = self.set_aside(kept.owner.as_ref(), &Arc::from(&*kept.data), why).await
            {
                tracing::error!(why, %error, "a report cannot be taken, nor be put aside");
            }
            self.folder.forget(kept);
            done.entry(kept.name.clone()).or_default();
        }
        let added: usize = done.values().map(|carried| carried.added).sum();
        if added > 0 {
            tracing::info!(added, files = read.len(), "reports are in the lake");
        }
        Ok(done)
    }

    /// Carries what arrives until `stop`, and tidies the tables up now and then.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut failing = false;
        let mut wait = Duration::ZERO;
        let mut tidied = tokio::time::Instant::now();
        while stop.run_until_cancelled(self.something(wait)).await.is_some() {
            wait = LOOK_EVERY;
            match self.drain().await {
                Ok(_) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "DMARC and TLS reports wait for the lake in the data folder");
                    }
                    failing = true;
                    wait = TRY_AGAIN;
                }
            }
            if tidied.elapsed() >= TIDY_EVERY {
                tidied = tokio::time::Instant::now();
                if let Err(error) = self.tables.tidy(self.ids.now(), self.retention_days).await {
                    tracing::warn!(%error, "the tables of reports could not be tidied up; the next turn tries again");
                }
            }
        }
    }

    async fn something(&self, wait: Duration) {
        if tokio::time::timeout(wait, self.arrived.notified()).await.is_ok() {
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// What became of a file, and what in it cannot be read.
struct Taken {
    heard: Heard,
    unread: Option<String>,
}

/// Reads what came, and keeps it. `None` for something else.
fn take(
    folder: &Folder,
    owner: Option<&TenantId>,
    data: &[u8],
    unreadable: Unreadable,
) -> std::io::Result<Option<Taken>> {
    let reading = Reading::of(data);
    if reading.is_something_else {
        return Ok(None);
    }
    let why = reading.problems.join("; ");
    let unread = (!reading.problems.is_empty()).then(|| why.clone());
    if reading.reports.is_empty() {
        let heard = match unreadable {
            Unreadable::Pass => return Ok(None),
            Unreadable::Refuse => Heard::refused(why),
            Unreadable::Aside => Heard { outcome: "quarantined", detail: why, ..Heard::default() },
        };
        return Ok(Some(Taken { heard, unread }));
    }
    folder.keep(owner, data)?;
    let mut titles: Vec<String> = reading.reports.iter().take(TITLES_MAX).map(ToString::to_string).collect();
    if reading.reports.len() > TITLES_MAX {
        titles.push(format!("{} more", reading.reports.len() - TITLES_MAX));
    }
    if !why.is_empty() {
        titles.push(format!("not read: {why}"));
    }
    let heard = Heard { outcome: "recorded", detail: titles.join("; "), ..Heard::default() };
    Ok(Some(Taken { heard, unread }))
}

/// A kept file, its rows, and why it has none, or fewer than it should.
struct Read {
    kept: Kept,
    rows: Vec<ReportRows>,
    unread: Option<String>,
}

fn read(
    kept: Kept,
    identities: &ControlIdentities,
    suppressions: &ControlSuppressions,
    now: sendlake_control::clock::Timestamp,
) -> Read {
    let mut rows = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    let mut reading = Reading::of(&kept.data);
    // what came to one tenant's address says nothing about another's domain
    let whose = |domain: &str| {
        let owner = identities.owner_of(domain)?;
        kept.owner.as_ref().is_none_or(|addressee| *addressee == owner).then_some(owner)
    };
    for report in &mut reading.reports {
        forget::redact_report(suppressions, &whose, report);
        match ReportRows::of(report, reading.submitter.as_deref(), &whose, now) {
            Ok(made) => rows.push(made),
            Err(no_rows) => problems.push(NoRows::to_string(&no_rows)),
        }
    }
    if rows.is_empty() {
        problems.extend(reading.problems);
    }
    let unread = (!problems.is_empty()).then(|| problems.join("; "));
    Read { kept, rows, unread }
}

#[cfg(test)]
mod tests;
