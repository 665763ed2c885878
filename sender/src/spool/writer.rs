//! The one thread that writes. Work that arrives while a sync runs forms the next group: no timer.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use redb::{Database, Durability};
use sendlake_control::clock::Clock;
use tokio::sync::{Notify, oneshot, watch};

use super::SpoolError;
use super::table::Tables;

/// Most pieces of work in one group: bounds the time a group takes, and so the wait of the next one.
const GROUP_MAX: usize = 1_024;

type Answer = Box<dyn FnOnce() + Send>;
type Work = Box<dyn FnOnce(&mut Tables<'_>) -> Result<Answer, SpoolError> + Send>;

/// Called once with a sentence when the store has failed: nothing is trusted after it, the process must end.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The handle of the writing thread. Dropping it writes what is queued, then ends the thread.
pub(super) struct Writer {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    fatal: Arc<OnceLock<String>>,
    last_lsn: watch::Receiver<u64>,
    wished: Arc<Notify>,
}

impl Writer {
    pub(super) fn start(
        db: Arc<Database>,
        last_lsn: u64,
        clock: Arc<dyn Clock>,
        on_fatal: OnFatal,
    ) -> Result<Self, SpoolError> {
        let (work, inbox) = channel();
        let (lsn_sender, lsn_receiver) = watch::channel(last_lsn);
        let fatal = Arc::new(OnceLock::new());
        let latch = Arc::clone(&fatal);
        let wished = Arc::new(Notify::new());
        let wishes = Arc::clone(&wished);
        let thread = std::thread::Builder::new()
            .name("spool-writer".into())
            .spawn(move || {
                if let Err(error) = run(&db, &inbox, &lsn_sender, &wishes, clock.as_ref()) {
                    let said = error.to_string();
                    let _ = latch.set(said.clone());
                    on_fatal(&said);
                }
            })
            .map_err(|e| SpoolError::Io("start the spool's writer".into(), e))?;
        Ok(Self { work: Some(work), thread: Some(thread), fatal, last_lsn: lsn_receiver, wished })
    }

    /// Queues `change`. Once it is durable, `then` runs on the writing thread and the future resolves.
    /// Dropping the future takes neither back.
    pub(super) fn write<T, C, A>(
        &self,
        change: C,
        then: A,
    ) -> impl Future<Output = Result<T, SpoolError>> + Send + use<T, C, A>
    where
        T: Send + 'static,
        C: FnOnce(&mut Tables<'_>) -> Result<T, SpoolError> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (answer, durable) = oneshot::channel();
        let work: Work = Box::new(move |tables| {
            let result = change(tables)?;
            Ok(Box::new(move || {
                then(&result);
                drop(answer.send(result));
            }))
        });
        let fatal = Arc::clone(&self.fatal);
        let sent = self.work.as_ref().is_some_and(|inbox| inbox.send(work).is_ok());
        async move {
            let stopped = || SpoolError::Stopped(fatal.get().cloned().unwrap_or_default());
            if !sent {
                return Err(stopped());
            }
            durable.await.map_err(|_| stopped())
        }
    }

    /// Told after each group that brought wishes.
    pub(super) fn wished(&self) -> &Notify {
        &self.wished
    }

    pub(super) fn last_lsn(&self) -> watch::Receiver<u64> {
        self.last_lsn.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has told `on_fatal` already if it failed
        }
    }
}

fn run(
    db: &Database,
    inbox: &Receiver<Work>,
    last_lsn: &watch::Sender<u64>,
    wished: &Notify,
    clock: &dyn Clock,
) -> Result<(), SpoolError> {
    while let Ok(first) = inbox.recv() {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate).map_err(|e| SpoolError::Store(e.to_string()))?;
        txn.set_quick_repair(true);
        let mut answers = Vec::new();
        let mut tables = Tables::open(&txn)?;
        answers.push(first(&mut tables)?);
        while answers.len() < GROUP_MAX
            && let Ok(work) = inbox.try_recv()
        {
            answers.push(work(&mut tables)?);
        }
        tables.written_at(clock.now())?;
        let has_new_wishes = tables.has_new_wishes;
        let lsn = tables.finish()?;
        txn.commit()?;
        if has_new_wishes {
            wished.notify_one();
        }
        last_lsn.send_if_modified(|known| std::mem::replace(known, lsn) != lsn);
        for answer in answers {
            answer();
        }
    }
    Ok(())
}
