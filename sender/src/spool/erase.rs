//! Erasing from the spool: messages that wait are withdrawn, and what the store holds can be looked through. Events
//! that wait for the lake are not touched here: they are flushed, and erased there.

use std::sync::Arc;

use redb::ReadableTable;
use sendlake_ingest::event::EventType;
use uuid::Uuid;

use super::entry::{QueueEntry, decode_content, decode_entry, decode_event, decode_wish, encode_event};
use super::read::{Place, SpoolReader, open_table};
use super::table::{CONTENT, HELD, IDEMPOTENCY, IN_FLIGHT, OUTBOX, QUEUE, SEEN, WISHES};
use super::{Spool, SpoolError};

/// Messages withdrawn in one durable write: others wait no longer than for that.
const STEP: usize = 500;

/// Which messages are meant.
pub type Wanted = Arc<dyn Fn(&QueueEntry) -> bool + Send + Sync>;

/// What became of the messages that were meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// Queued or held; gone now.
    pub cancelled: usize,
    /// In a session's hands: their end has to be waited for.
    pub in_flight: usize,
}

impl Spool {
    /// Withdraws queued and held messages. Each logs a `cancelled` event that does not name the recipient, and its
    /// content goes with the last message of its submission. Those in flight are counted.
    pub async fn withdraw(&self, wanted: Wanted) -> Result<Withdrawn, SpoolError> {
        let reader = self.reader().clone();
        let found = tokio::task::spawn_blocking(move || reader.find_entries(wanted.as_ref()));
        let found = found.await.map_err(|ended| SpoolError::Stopped(ended.to_string()))??;
        let mut done = Withdrawn { cancelled: 0, in_flight: found.in_flight };
        for step in found.waiting.chunks(STEP) {
            let (step, sealer, ids) = (step.to_vec(), Arc::clone(&self.sealer), self.ids.clone());
            let change = move |tables: &mut super::Tables<'_>| {
                let mut cancelled = 0;
                for (place, key) in &step {
                    // a session or an operator may have been faster
                    let Some(sealed) = tables.take(*place, key)? else { continue };
                    let mut entry = decode_entry(sealer.as_ref(), &sealed)?;
                    entry.seq += 1;
                    let mut event = entry.event(&ids, EventType::Cancelled);
                    event.recipient = None;
                    event.recipient_domain = None;
                    event.campaign_id = None;
                    if let Some(counted) = entry.counted.as_ref().filter(|_| entry.attempts == 0) {
                        tables.add_usage(counted, -1);
                    }
                    tables.log(&encode_event(sealer.as_ref(), &event)?)?;
                    tables.settle(entry.submission_id)?;
                    cancelled += 1;
                }
                Ok(cancelled)
            };
            done.cancelled += self.writer.write(change, |_| ()).await?;
        }
        Ok(done)
    }
}

struct FoundEntries {
    waiting: Vec<(Place, Vec<u8>)>,
    in_flight: usize,
}

impl SpoolReader {
    fn find_entries(&self, wanted: &dyn Fn(&QueueEntry) -> bool) -> Result<FoundEntries, SpoolError> {
        let txn = self.begin()?;
        let mut found = FoundEntries { waiting: Vec::new(), in_flight: 0 };
        for (place, table) in [(Place::Queue, QUEUE), (Place::Held, HELD)] {
            let Some(table) = open_table(&txn, table)? else { continue };
            for row in table.iter()? {
                let (key, sealed) = row?;
                if wanted(&decode_entry(self.sealer(), sealed.value())?) {
                    found.waiting.push((place, key.value().to_vec()));
                }
            }
        }
        if let Some(table) = open_table(&txn, IN_FLIGHT)? {
            for row in table.iter()? {
                found.in_flight += usize::from(wanted(&decode_entry(self.sealer(), row?.1.value())?));
            }
        }
        Ok(found)
    }

    /// Opens every value of the store and asks `is_in` about its bytes. Returns, in words, where it said yes.
    pub fn mentions(&self, is_in: &dyn Fn(&[u8]) -> bool) -> Result<Vec<String>, SpoolError> {
        let txn = self.begin()?;
        let mut found = Vec::new();
        let json = |value: serde_json::Result<Vec<u8>>| {
            value.map_err(|error| SpoolError::Damaged(error.to_string()))
        };
        for (what, table) in [("queued", QUEUE), ("held", HELD), ("in flight", IN_FLIGHT)] {
            let Some(table) = open_table(&txn, table)? else { continue };
            for row in table.iter()? {
                let entry = decode_entry(self.sealer(), row?.1.value())?;
                if is_in(entry.recipient.to_string().as_bytes()) || is_in(&json(serde_json::to_vec(&entry))?)
                {
                    found.push(format!("message {} ({what})", entry.message_id));
                }
            }
        }
        if let Some(table) = open_table(&txn, CONTENT)? {
            for row in table.iter()? {
                let (id, sealed) = row?;
                let id =
                    Uuid::from_slice(id.value()).map_err(|error| SpoolError::Damaged(error.to_string()))?;
                let content = decode_content(self.sealer(), id, sealed.value())?;
                if is_in(&content.headers) || is_in(&content.body) {
                    found.push(format!(
                        "the content of submission {id}, which others of its messages still need"
                    ));
                }
            }
        }
        if let Some(table) = open_table(&txn, OUTBOX)? {
            for row in table.iter()? {
                let (lsn, sealed) = row?;
                let event = decode_event(self.sealer(), sealed.value())?;
                if is_in(&json(serde_json::to_vec(&event))?) {
                    found.push(format!("event {} of the outbox", lsn.value()));
                }
            }
        }
        if let Some(table) = open_table(&txn, WISHES)? {
            for row in table.iter()? {
                let wish = decode_wish(self.sealer(), row?.1.value())?;
                if is_in(&json(serde_json::to_vec(&wish))?) {
                    found.push(format!("the suppression that event {} calls for", wish.event_id));
                }
            }
        }
        if let Some(table) = open_table(&txn, IDEMPOTENCY)? {
            for row in table.iter()? {
                if is_in(row?.0.value()) {
                    found.push("an idempotency key".to_owned());
                }
            }
        }
        if let Some(table) = open_table(&txn, SEEN)? {
            for row in table.iter()? {
                if is_in(row?.0.value()) {
                    found.push("the key of an event that is logged once".to_owned());
                }
            }
        }
        Ok(found)
    }
}
