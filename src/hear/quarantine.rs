//! What came in and cannot be read, or must not count: kept for a person to look at, with the reason beside it, and told by
//! an event. Bounds in number, size and age keep it from being somebody else's disk, or flood.

mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::spool::Spool;
use serde_json::json;

use self::folder::Folder;
use super::Unavailable;

/// Events in one hour: anybody may send what cannot be read. Beyond it files and the log tell.
const EVENTS_PER_HOUR_MAX: u32 = 2_000;
/// Longest reason in an event.
const REASON_CHARS_MAX: usize = 1_000;

/// What it is that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A report about a domain: DMARC or SMTP TLS. Nobody can say whose addresses are in it.
    DomainReport,
    Bounce,
    Complaint,
    /// Mail that was not even read.
    Mail,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::DomainReport => "domain_report",
            Kind::Bounce => "bounce",
            Kind::Complaint => "complaint",
            Kind::Mail => "mail",
        }
    }
}

/// Something that came in and cannot be used.
#[derive(Clone, Debug)]
pub struct Unusable<'a> {
    pub kind: Kind,
    /// Whose address it came to; none for one of the installation.
    pub owner: Option<&'a TenantId>,
    pub data: &'a Arc<[u8]>,
    pub why: &'a str,
}

/// The folder `quarantine/` of the data folder, and the events that tell what goes there. Share it in an [`Arc`].
pub struct Quarantine {
    folder: Folder,
    spool: Arc<Spool>,
    control: Arc<ControlStore>,
    ids: Ids,
    /// The hour, and the events in it.
    told: Mutex<(i64, u32)>,
}

impl Quarantine {
    /// `former` is where earlier versions kept reports: what lies there is aged, bounded and erased with the rest.
    pub fn new(
        folder: PathBuf,
        former: PathBuf,
        spool: Arc<Spool>,
        control: Arc<ControlStore>,
        ids: Ids,
    ) -> Self {
        Self { folder: Folder { own: folder, former }, spool, control, ids, told: Mutex::default() }
    }

    /// Keeps it, durable, and logs its event, once for the same content and addressee. Returns where it lies.
    pub async fn keep(&self, it: Unusable<'_>) -> Result<PathBuf, Unavailable> {
        let name = name(it.owner, it.data);
        let extension = if it.kind == Kind::DomainReport { folder::REPORT } else { folder::MAIL };
        let (folder, data, why) = (self.folder.clone(), Arc::clone(it.data), it.why.to_owned());
        let (file, now) = (format!("{name}.{extension}"), self.ids.now());
        let kept = tokio::task::spawn_blocking(move || folder.keep(&file, &data, &why, now)).await;
        let place = kept
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| Unavailable(format!("it cannot be kept in quarantine: {error}")))?;
        tracing::warn!(file = %place.display(), kind = it.kind.as_str(), why = it.why, "what came in cannot be used");
        self.tell(&it, &name, &place, now).await?;
        Ok(place)
    }

    /// Logs the event of something that is not kept, as it is too large to be held.
    pub async fn tell_unkept(&self, owner: Option<&TenantId>, why: &str) -> Result<(), Unavailable> {
        let event = self.event(owner, json!({ "kind": Kind::Mail.as_str(), "reason": told(why) }));
        // each is another one: nobody read what it says
        let key = format!("quarantined/{}/{}", event.tenant_id, event.event_id);
        self.log(key, event).await
    }

    async fn tell(
        &self,
        it: &Unusable<'_>,
        name: &str,
        place: &Path,
        now: Timestamp,
    ) -> Result<(), Unavailable> {
        let file = place.file_name().unwrap_or_default().to_string_lossy();
        let mut event = self.event(
            it.owner,
            json!({ "kind": it.kind.as_str(), "reason": told(it.why), "file": file, "bytes": it.data.len() }),
        );
        event.occurred_at = now;
        event.size_bytes = i64::try_from(it.data.len()).ok();
        self.log(format!("quarantined/{name}"), event).await
    }

    fn event(&self, owner: Option<&TenantId>, detail: serde_json::Value) -> Event {
        let tenant_id = owner.cloned().unwrap_or_else(TenantId::platform);
        let mut event = Event::new(self.ids.uuid(), EventType::ReportQuarantined, self.ids.now(), tenant_id);
        event.detail = Some(detail.to_string());
        event
    }

    async fn log(&self, key: String, event: Event) -> Result<(), Unavailable> {
        let failed = |error: &dyn std::fmt::Display| Unavailable(error.to_string());
        let hour = event.recorded_at.as_secs().div_euclid(3_600);
        {
            let mut told = self.told.lock();
            if told.0 != hour {
                *told = (hour, 0);
            }
            told.1 += 1;
            if told.1 > EVENTS_PER_HOUR_MAX {
                return Ok(());
            }
        }
        self.control.ensure_data_key(&event.tenant_id).await.map_err(|error| failed(&error))?;
        self.spool.log_once(vec![(key, event)]).await.map(drop).map_err(|error| failed(&error))
    }

    /// For an erasure: removes every mail that is meant, and every report about a domain, since it may be packed. Returns how
    /// many. Blocks.
    pub fn forget(&self, is_meant: impl Fn(&[u8]) -> bool) -> std::io::Result<usize> {
        self.folder.forget(is_meant)
    }
}

/// What a file is called: the same for the same content and addressee.
fn name(owner: Option<&TenantId>, data: &[u8]) -> String {
    format!("{}.{}", owner.map_or("_", TenantId::as_str), super::hash(data))
}

/// A reason for an event: of bounded length, and without what a report may have put into it that looks like an address.
fn told(why: &str) -> String {
    let words = why.split_whitespace().map(|word| if word.contains('@') { "(an address)" } else { word });
    let mut text = String::new();
    for word in words {
        if text.len() + word.len() > REASON_CHARS_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_an_event_names_nobody_and_is_short() {
        assert_eq!(told("no  <ann@a.test>,\nin \"it\""), "no (an address) in \"it\"");
        assert!(told(&"word ".repeat(1_000)).len() <= REASON_CHARS_MAX + 10);
        assert_eq!(told(&"x".repeat(5_000)), "");
    }

    #[test]
    fn a_name_tells_content_and_addressee_apart() {
        let acme = TenantId::new("acme").unwrap();
        assert_ne!(name(Some(&acme), b"a"), name(None, b"a"));
        assert_ne!(name(None, b"b"), name(None, b"a"));
        assert!(name(None, b"a").starts_with("_."));
    }
}
