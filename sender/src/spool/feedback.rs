//! Feedback: events that come from outside and are logged once however often they come, and the suppressions that
//! events call for, kept until they are in force.

use redb::ReadableTable;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::Event;
use uuid::Uuid;

use super::entry::{decode_wish, encode_event, encode_wish};
use super::read::{SpoolReader, open_table};
use super::table::{Tables, WISHES};
use super::{Spool, SpoolError};
use crate::suppression::{Wish, wish_of_elsewhere};

/// How long it is remembered that an event was logged: longer than tokens of reports are good for.
pub const SEEN_DAYS: i64 = 120;

/// Where the id of the last event is kept that was handed over.
const HANDED_OVER: &str = "handed_over";

impl Spool {
    /// Logs each event unless one was logged under its key before; the key is remembered in the same transaction.
    /// Returns, in order, which ones were new. Keys stand in clear: put no address in them.
    pub async fn log_once(&self, events: Vec<(String, Event)>) -> Result<Vec<bool>, SpoolError> {
        let now = self.ids.now();
        let sealed = events
            .into_iter()
            .map(|(key, event)| Ok((key, encode_event(self.sealer.as_ref(), &event)?)))
            .collect::<Result<Vec<_>, SpoolError>>()?;
        self.writer
            .write(
                move |tables| {
                    sealed
                        .iter()
                        .map(|(key, event)| {
                            let is_new = tables.see(key.as_bytes(), now, SEEN_DAYS)?;
                            if is_new {
                                tables.log(event)?;
                            }
                            Ok(is_new)
                        })
                        .collect()
                },
                |_| (),
            )
            .await
    }

    /// Logs an event unless one was logged under the first of its keys; all of them are remembered in the same transaction.
    /// Returns whether it was new. Keys stand in clear: put no address in them.
    pub async fn log_once_under(&self, keys: Vec<String>, event: &Event) -> Result<bool, SpoolError> {
        let now = self.ids.now();
        let sealed = encode_event(self.sealer.as_ref(), event)?;
        let log = move |tables: &mut Tables<'_>| {
            let mut is_new = None;
            for key in &keys {
                let unseen = tables.see(key.as_bytes(), now, SEEN_DAYS)?;
                is_new.get_or_insert(unseen);
            }
            let is_new = is_new.unwrap_or(true);
            if is_new {
                tables.log(&sealed)?;
            }
            Ok(is_new)
        };
        self.writer.write(log, |_| ()).await
    }

    /// Logs each event of another sender unless one with its id was logged before; ids are remembered for `days`.
    /// With `suppress`, what the events call for is wished for, also where an event was known. Returns, in order, which
    /// ones were new.
    pub async fn log_elsewhere(
        &self,
        events: &[Event],
        suppress: bool,
        days: i64,
    ) -> Result<Vec<bool>, SpoolError> {
        let now = self.ids.now();
        let mut sealed = Vec::with_capacity(events.len());
        for event in events {
            let key = [b"e".as_slice(), event.event_id.as_bytes()].concat();
            let wish = if suppress { wish_of_elsewhere(event) } else { None };
            let wish = wish.map(|wish| encode_wish(self.sealer.as_ref(), &wish)).transpose()?;
            sealed.push((key, encode_event(self.sealer.as_ref(), event)?, wish));
        }
        self.writer
            .write(
                move |tables| {
                    sealed
                        .iter()
                        .map(|(key, event, wish)| {
                            let is_new = tables.see(key, now, days)?;
                            if is_new {
                                tables.log(event)?;
                            }
                            if let Some(wish) = wish {
                                tables.wish(wish)?;
                            }
                            Ok(is_new)
                        })
                        .collect()
                },
                |_| (),
            )
            .await
    }

    /// Remembers two keys for `days`: one that is used once, and the use that is made of it. False where the one was used
    /// before for something else.
    pub async fn see_together(
        &self,
        one: Vec<u8>,
        use_of_it: Vec<u8>,
        days: i64,
    ) -> Result<bool, SpoolError> {
        let now = self.ids.now();
        self.writer
            .write(
                move |tables| {
                    // what is refused is not remembered: it would be let through the next time
                    if tables.is_seen(&one, now)? {
                        return tables.is_seen(&use_of_it, now);
                    }
                    tables.see(&one, now, days)?;
                    tables.see(&use_of_it, now, days)?;
                    Ok(true)
                },
                |_| (),
            )
            .await
    }

    /// Keeps a suppression that an operator wants, until it is in force.
    pub async fn wish(&self, wish: &Wish) -> Result<(), SpoolError> {
        let sealed = encode_wish(self.sealer.as_ref(), wish)?;
        self.writer.write(move |tables| tables.wish(&sealed), |()| ()).await
    }

    /// Wishes are in force, or nothing is left of them: forgets each.
    pub async fn settle_wishes(&self, settled: Vec<Uuid>) -> Result<(), SpoolError> {
        self.writer
            .write(
                move |tables| {
                    for event_id in &settled {
                        tables.wishes.remove(event_id.as_bytes().as_slice())?;
                    }
                    Ok(())
                },
                |()| (),
            )
            .await
    }

    /// Logs events that another store hands over in order, and hands over again after a crash until it knows that they
    /// are here: when the last one logged this way is among them, only those after it.
    pub async fn log_handed_over(&self, events: &[Event]) -> Result<(), SpoolError> {
        let mut sealed = Vec::with_capacity(events.len());
        for event in events {
            sealed.push((event.event_id, encode_event(self.sealer.as_ref(), event)?));
        }
        let log = move |tables: &mut Tables<'_>| {
            let last = tables.meta(HANDED_OVER)?.and_then(|id| Uuid::from_slice(&id).ok());
            let known = sealed.iter().position(|(id, _)| Some(*id) == last).map_or(0, |place| place + 1);
            for (event_id, event) in sealed.iter().skip(known) {
                tables.log(event)?;
                tables.set_meta(HANDED_OVER, event_id.as_bytes())?;
            }
            Ok(())
        };
        self.writer.write(log, |()| ()).await
    }

    /// Resolves after new wishes have become durable.
    pub async fn wished(&self) {
        self.writer.wished().notified().await;
    }
}

impl SpoolReader {
    /// Up to `max` suppressions that events called for and that are not known to be in force.
    pub fn wishes(&self, max: usize) -> Result<Vec<Wish>, SpoolError> {
        let Some(wishes) = open_table(&self.begin()?, WISHES)? else { return Ok(Vec::new()) };
        wishes.range::<&[u8]>(..)?.take(max).map(|row| decode_wish(self.sealer(), row?.1.value())).collect()
    }
}

impl Tables<'_> {
    fn is_seen(&self, key: &[u8], now: Timestamp) -> Result<bool, SpoolError> {
        Ok(self.seen.get(key)?.is_some_and(|until| until.value() > now.0.max(0).cast_unsigned()))
    }

    /// Remembers a key for some days. False when it is remembered already.
    fn see(&mut self, key: &[u8], now: Timestamp, days: i64) -> Result<bool, SpoolError> {
        let known_until = self.seen.get(key)?.map(|until| until.value());
        match known_until {
            Some(until) if until > now.0.max(0).cast_unsigned() => return Ok(false),
            Some(until) => {
                self.seen_expiry.remove(expiry_key(until, key).as_slice())?;
            }
            None => {}
        }
        let until = now.plus_secs(days.saturating_mul(86_400)).0.max(0).cast_unsigned();
        self.seen.insert(key, until)?;
        self.seen_expiry.insert(expiry_key(until, key).as_slice(), ())?;
        Ok(true)
    }

    /// Forgets keys whose time is over, at most `max` of them.
    pub(super) fn purge_seen(&mut self, now: Timestamp, max: usize) -> Result<usize, SpoolError> {
        let end = now.0.max(0).cast_unsigned().to_be_bytes();
        let expired: Vec<Vec<u8>> = self
            .seen_expiry
            .range::<&[u8]>(..end.as_slice())?
            .take(max)
            .map(|row| row.map(|(key, _)| key.value().to_vec()))
            .collect::<Result<_, _>>()?;
        for expiry in &expired {
            self.seen_expiry.remove(expiry.as_slice())?;
            if let Some((_, key)) = expiry.split_at_checked(8) {
                self.seen.remove(key)?;
            }
        }
        Ok(expired.len())
    }
}

fn expiry_key(until: u64, key: &[u8]) -> Vec<u8> {
    [until.to_be_bytes().as_slice(), key].concat()
}
