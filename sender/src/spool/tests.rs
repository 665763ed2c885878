//! The spool as its users see it: what is accepted stays, what is over is gone, and a crash repeats nothing
//! but what it says.

mod feedback;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sendlake_control::clock::{ManualClock, SeededEntropy, Timestamp};
use sendlake_control::id::TenantId;
use sendlake_ingest::outbox::Outbox;

use super::held::HeldLane;
use super::intake::SendingFacts;
use super::read::Due;
use super::work::{Decided, Fate, Outcome};
use super::*;
use crate::address::Address;
use crate::policy::HoldKind;
use crate::policy::usage::{Counted, Scope, hour_of};
use crate::stream::Stream;
use crate::submission::{Accepted, Content, Idempotency, NewMessage, Submission};

/// Binds values to tenant and place, without hiding them.
struct Plain;

impl Sealer for Plain {
    fn seal(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
        Ok([tenant.as_str().as_bytes(), aad, plain].concat())
    }

    fn open(&self, tenant: &TenantId, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let prefix = [tenant.as_str().as_bytes(), aad].concat();
        sealed.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec).ok_or_else(|| "another place".into())
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    ids: Ids,
}

impl Fixture {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_780_000_000)));
        let ids = Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(7)) };
        Self { dir: tempfile::tempdir().unwrap(), clock, ids }
    }

    fn settings(&self) -> SpoolSettings {
        SpoolSettings {
            dir: self.dir.path().to_owned(),
            node_id: "test".into(),
            free_space_floor_bytes: 0,
            outbox_rows_max: 1_000,
            cache_bytes: 1 << 20,
        }
    }

    fn open(&self) -> Spool {
        let on_fatal = Arc::new(|sentence: &str| panic!("{sentence}"));
        Spool::open(&self.settings(), Arc::new(Plain), self.ids.clone(), on_fatal).unwrap()
    }

    fn submission(&self, recipients: &[&str], idempotency: Option<Idempotency>) -> Submission {
        let now = self.ids.now();
        Submission {
            submission_id: self.ids.uuid(),
            tenant_id: TenantId::new("acme").unwrap(),
            stream: Stream::Marketing,
            campaign_id: None,
            tags: BTreeMap::new(),
            header_from_domain: "acme.test".into(),
            recipients: recipients
                .iter()
                .map(|to| NewMessage { message_id: self.ids.uuid(), recipient: Address::parse(to).unwrap() })
                .collect(),
            accepted_at: now,
            not_before: now,
            content: Content {
                headers: b"Subject: hi\r\n".to_vec(),
                body: b"body\r\n".to_vec(),
                has_message_id: false,
                has_feedback_id: false,
                has_list_unsubscribe: false,
                needs_smtputf8: false,
                needs_8bitmime: false,
                tracking: crate::submission::Tracking::default(),
            },
            subject_hash: None,
            content_fingerprint: None,
            idempotency,
        }
    }
}

async fn dispatch_all(spool: &Spool, now: Timestamp) -> Vec<QueueEntry> {
    let mut taken = Vec::new();
    for lane in spool.lanes().take_due(now, 100) {
        let (due, next) = spool.reader().due(&lane, now, 100).unwrap();
        let send = |due| Decided { due, fate: Fate::Send, count: None, uncount: None, event: None };
        taken.extend(spool.dispatch(due.into_iter().map(send).collect()).await.unwrap().marked);
        if let Some(next) = next {
            spool.lanes().touch(&lane, next);
        }
    }
    taken
}

fn kinds(spool: &Spool) -> Vec<EventType> {
    spool.reader().events(0, 1_000).unwrap().iter().map(|row| row.event.event_type).collect()
}

async fn finish(spool: &Spool, mut entry: QueueEntry, ids: &Ids, kind: EventType, outcome: Outcome) {
    entry.attempts += 1;
    entry.seq += 1;
    let event = entry.event(ids, kind);
    spool.complete(entry, outcome, &[event]).unwrap().await.unwrap();
}

#[tokio::test]
async fn a_clock_set_back_between_two_runs_holds_up_no_retry() {
    const HOURS_5_MS: i64 = 5 * 3_600_000;
    let fixture = Fixture::new();
    let spool = fixture.open();
    let facts = SendingFacts::default();
    spool.accept(fixture.submission(&["retry@x.test"], None), &facts).await.unwrap();
    let entry = dispatch_all(&spool, fixture.ids.now()).await.remove(0);
    let retry_at = fixture.ids.now().plus_secs(600);
    finish(&spool, entry, &fixture.ids, EventType::Deferred, Outcome::Retry(retry_at)).await;
    // Accepted and never tried; and asked for at a time of day, which is what it was, whatever the clock says.
    spool.accept(fixture.submission(&["new@y.test"], None), &facts).await.unwrap();
    let mut scheduled = fixture.submission(&["later@z.test"], None);
    let send_at = fixture.ids.now().plus_secs(3_600);
    scheduled.not_before = send_at;
    spool.accept(scheduled, &facts).await.unwrap();
    drop(spool);

    fixture.clock.advance_millis(-HOURS_5_MS);
    let spool = fixture.open();
    let domains = |taken: Vec<QueueEntry>| -> Vec<String> {
        taken.iter().map(|entry| entry.recipient.domain().to_owned()).collect()
    };
    assert_eq!(domains(dispatch_all(&spool, fixture.ids.now()).await), ["y.test"]);
    fixture.clock.advance_millis(599_000);
    assert_eq!(domains(dispatch_all(&spool, fixture.ids.now()).await), [""; 0]);
    fixture.clock.advance_millis(1_000);
    let retried = dispatch_all(&spool, fixture.ids.now()).await;
    assert!(retried[0].not_before <= fixture.ids.now(), "it does not wait in the future");
    assert_eq!(domains(retried), ["x.test"]);
    assert_eq!(spool.lanes().next_due(), Some(send_at));
    drop(spool);

    // Once is enough: the store knows the new time.
    let again = fixture.open();
    assert_eq!(again.recovered(), 2);
    assert_eq!(again.lanes().next_due(), Some(fixture.ids.now()));
}

#[tokio::test]
async fn accepted_message_waits_across_a_restart_and_leaves_once() {
    let fixture = Fixture::new();
    let submission = fixture.submission(&["a@x.test", "b@x.test", "c@y.test"], None);
    let id = submission.submission_id;
    let spool = fixture.open();
    assert_eq!(spool.accept(submission, &SendingFacts::default()).await.unwrap(), Accepted::New);
    drop(spool);

    let spool = fixture.open();
    let now = fixture.ids.now();
    let taken = dispatch_all(&spool, now).await;
    assert_eq!(taken.len(), 3);
    assert_eq!(spool.reader().content(id).unwrap().unwrap().body, b"body\r\n");
    for entry in taken {
        finish(&spool, entry, &fixture.ids, EventType::Delivered, Outcome::Terminal).await;
    }
    assert_eq!(spool.reader().content(id).unwrap(), None, "content goes with the last message");
    let counts = spool.reader().counts().unwrap();
    assert_eq!((counts.queued, counts.in_flight, counts.outbox_rows), (0, 0, 6));
}

#[tokio::test]
async fn message_in_flight_at_a_crash_is_in_doubt_and_due_again() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    spool.accept(fixture.submission(&["a@x.test"], None), &SendingFacts::default()).await.unwrap();
    assert_eq!(dispatch_all(&spool, fixture.ids.now()).await.len(), 1);
    drop(spool); // its outcome is never recorded

    let spool = fixture.open();
    assert_eq!(spool.recovered(), 1);
    assert_eq!(kinds(&spool), [EventType::Accepted, EventType::AttemptInDoubt]);
    let again = dispatch_all(&spool, fixture.ids.now()).await;
    assert_eq!((again[0].attempts, again[0].seq), (1, 2));
    finish(&spool, again[0].clone(), &fixture.ids, EventType::Delivered, Outcome::Terminal).await;
    drop(spool);
    assert_eq!(fixture.open().recovered(), 0);
}

#[tokio::test]
async fn deferred_message_comes_back_at_its_time_and_not_before() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    spool.accept(fixture.submission(&["a@x.test"], None), &SendingFacts::default()).await.unwrap();
    let entry = dispatch_all(&spool, fixture.ids.now()).await.remove(0);
    let later = fixture.ids.now().plus_secs(60);
    finish(&spool, entry, &fixture.ids, EventType::Deferred, Outcome::Retry(later)).await;
    assert_eq!(spool.lanes().next_due(), Some(later));
    assert!(dispatch_all(&spool, fixture.ids.now()).await.is_empty());
    fixture.clock.advance_millis(60_000);
    let entry = dispatch_all(&spool, fixture.ids.now()).await.remove(0);
    assert_eq!((entry.attempts, entry.seq), (1, 2));
}

#[tokio::test]
async fn idempotency_key_repeats_its_answer_for_a_day() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let key = |request| Some(Idempotency { key_hash: [1; 32], request_hash: [request; 32] });
    let facts = SendingFacts::default();
    let first = fixture.submission(&["a@x.test"], key(1));
    let (submission_id, message_ids) = (first.submission_id, vec![first.recipients[0].message_id]);
    assert_eq!(spool.accept(first, &facts).await.unwrap(), Accepted::New);
    let repeat = spool.accept(fixture.submission(&["a@x.test"], key(1)), &facts).await.unwrap();
    assert_eq!(repeat, Accepted::Repeat { submission_id, message_ids });
    let other = spool.accept(fixture.submission(&["b@x.test"], key(2)), &facts).await.unwrap();
    assert_eq!(other, Accepted::KeyReused);
    assert_eq!(spool.reader().counts().unwrap().queued, 1);

    fixture.clock.advance_millis(24 * 3_600_000);
    assert_eq!(spool.accept(fixture.submission(&["b@x.test"], key(2)), &facts).await.unwrap(), Accepted::New);
    assert_eq!(spool.purge_idempotency().await.unwrap(), 0, "the new use of the key is kept");
    fixture.clock.advance_millis(25 * 3_600_000);
    assert_eq!(spool.purge_idempotency().await.unwrap(), 1);
}

#[tokio::test]
async fn operator_retries_and_bounces_what_is_not_in_flight() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let mut later = fixture.submission(&["a@x.test", "b@y.test"], None);
    later.not_before = fixture.ids.now().plus_secs(3_600);
    spool.accept(later, &SendingFacts::default()).await.unwrap();
    assert_eq!(spool.retry_now(|key| key.lane.recipient_domain == "x.test", 10).await.unwrap(), 1);
    assert_eq!(dispatch_all(&spool, fixture.ids.now()).await.len(), 1);
    assert_eq!(spool.bounce(|_| true, 10, "wrong campaign").await.unwrap(), 1);
    assert_eq!(kinds(&spool), [EventType::Accepted, EventType::Accepted, EventType::Bounced]);
    assert_eq!(spool.reader().list(|_| true, 10).unwrap().len(), 1);
}

#[tokio::test]
async fn events_that_lie_in_a_file_and_still_in_the_store_wait_once() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let many: Vec<String> = (0..900).map(|n| format!("r{n}@x.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    spool.accept(fixture.submission(&many, None), &SendingFacts::default()).await.unwrap();
    // As while they move: the file is there, the store is not trimmed yet.
    let rows = spool.reader().events(0, 600).unwrap();
    spool.reader().spill().write(&rows).unwrap();
    assert_eq!(spool.check_room(), Ok(()), "900 events wait, not 1,500");
    spool.trim(600).await.unwrap();
    assert_eq!(spool.check_room(), Ok(()));
}

#[tokio::test]
async fn too_many_waiting_events_or_a_full_disk_refuse_new_mail() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    assert_eq!(spool.check_room(), Ok(()));
    let many: Vec<String> = (0..1_001).map(|n| format!("r{n}@x.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    spool.accept(fixture.submission(&many, None), &SendingFacts::default()).await.unwrap();
    assert!(matches!(spool.check_room(), Err(intake::IntakeRefused::OutboxFull { rows: 1_001, .. })));
    spool.trim(1_001).await.unwrap();
    assert_eq!(spool.check_room(), Ok(()));
    drop(spool);
    let settings = SpoolSettings { free_space_floor_bytes: u64::MAX, ..fixture.settings() };
    let spool = Spool::open(&settings, Arc::new(Plain), fixture.ids.clone(), Arc::new(|_| ())).unwrap();
    assert!(matches!(spool.check_room(), Err(intake::IntakeRefused::FreeSpace { .. })));
}

#[tokio::test]
async fn reader_beside_the_writer_sees_what_is_durable() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let reader = SpoolReader::open(fixture.dir.path(), Arc::new(Plain), "test").unwrap();
    assert_eq!(reader.counts().unwrap().queued, 0);
    spool.accept(fixture.submission(&["a@x.test"], None), &SendingFacts::default()).await.unwrap();
    assert_eq!(reader.counts().unwrap().queued, 1);
    assert_eq!(reader.incarnation(), spool.reader().incarnation());
    let second = Spool::open(&fixture.settings(), Arc::new(Plain), fixture.ids.clone(), Arc::new(|_| ()));
    assert!(matches!(second.err(), Some(SpoolError::InUse(_))));
}

#[tokio::test]
async fn reader_opens_what_a_killed_server_left() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    spool.accept(fixture.submission(&["a@x.test"], None), &SendingFacts::default()).await.unwrap();
    // what a kill leaves: the file as it is while a server has it open
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(fixture.dir.path().join("spool.redb"), copy.path().join("spool.redb")).unwrap();
    let reader = SpoolReader::open(copy.path(), Arc::new(Plain), "test").unwrap();
    assert_eq!(reader.counts().unwrap().queued, 1);
}

#[test]
fn damaged_store_is_refused_with_advice() {
    let fixture = Fixture::new();
    std::fs::write(fixture.dir.path().join("spool.redb"), b"this is not a store, it is a letter home")
        .unwrap();
    let error = Spool::open(&fixture.settings(), Arc::new(Plain), fixture.ids.clone(), Arc::new(|_| ()));
    assert!(error.err().unwrap().to_string().contains("restore spool/ from a backup"));
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    Dispatch,
    Deliver,
    Defer,
    Crash,
    Advance,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..4u8).prop_map(Step::Accept),
        Just(Step::Dispatch),
        Just(Step::Deliver),
        Just(Step::Defer),
        Just(Step::Crash),
        Just(Step::Advance),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens in whatever order: each accepted message ends exactly once, `seq` has no gap, and
    /// LSNs run 1, 2, 3 ….
    #[test]
    fn every_message_ends_exactly_once(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let mut spool = fixture.open();
            let mut flying: Vec<QueueEntry> = Vec::new();
            let mut accepted = 0;
            for step in steps {
                match step {
                    Step::Accept(recipients) => {
                        let to: Vec<String> = (0..recipients).map(|n| format!("r{n}@d{n}.test")).collect();
                        let to: Vec<&str> = to.iter().map(String::as_str).collect();
                        spool.accept(fixture.submission(&to, None), &SendingFacts::default()).await.unwrap();
                        accepted += usize::from(recipients);
                    }
                    Step::Dispatch => flying.extend(dispatch_all(&spool, fixture.ids.now()).await),
                    Step::Deliver => if let Some(entry) = flying.pop() {
                        finish(&spool, entry, &fixture.ids, EventType::Delivered, Outcome::Terminal).await;
                    },
                    Step::Defer => if let Some(entry) = flying.pop() {
                        let at = fixture.ids.now().plus_secs(1);
                        finish(&spool, entry, &fixture.ids, EventType::Deferred, Outcome::Retry(at)).await;
                    },
                    Step::Crash => {
                        drop(spool);
                        spool = fixture.open();
                        assert_eq!(spool.recovered(), flying.len());
                        flying.clear();
                    }
                    Step::Advance => fixture.clock.advance_millis(1_500),
                }
            }
            fixture.clock.advance_millis(10_000);
            flying.extend(dispatch_all(&spool, fixture.ids.now()).await);
            for entry in flying {
                finish(&spool, entry, &fixture.ids, EventType::Delivered, Outcome::Terminal).await;
            }
            let events = spool.reader().events(0, usize::MAX).unwrap();
            assert!(events.iter().map(|row| row.lsn).eq(1..=events.len() as u64));
            let mut by_message: BTreeMap<String, Vec<(i64, EventType)>> = BTreeMap::new();
            for row in events {
                let id = row.event.message_id.clone().unwrap();
                by_message.entry(id).or_default().push((row.event.seq.unwrap(), row.event.event_type));
            }
            assert_eq!(by_message.len(), accepted);
            for history in by_message.values() {
                assert!(history.iter().map(|(seq, _)| *seq).eq(1..=history.len() as i64), "{history:?}");
                let ends = history.iter().filter(|(_, kind)| *kind == EventType::Delivered).count();
                assert_eq!(ends, 1);
            }
            assert_eq!(spool.reader().counts().unwrap().queued, 0);
        });
    }
}

fn held_lane(provider: &str) -> HeldLane {
    let scope = Scope {
        tenant_id: TenantId::new("acme").unwrap(),
        stream: Stream::Marketing,
        sending_domain: "acme.test".into(),
        provider: provider.into(),
    };
    HeldLane { scope, retries: false }
}

/// Holds everything that is due.
async fn hold_all(spool: &Spool, ids: &Ids) {
    let now = ids.now();
    for lane in spool.lanes().take_due(now, 100) {
        let (due, _) = spool.reader().due(&lane, now, 100).unwrap();
        let hold = |mut due: Due| {
            due.entry.seq += 1;
            due.entry.held =
                Some(Held { kind: "quota".into(), reason: "a test".into(), since: now, quota_version: None });
            let event = Some(due.entry.event(ids, EventType::Held));
            let fate = Fate::Hold(held_lane("google"), now.plus_secs(60));
            Decided { due, fate, count: None, uncount: None, event }
        };
        spool.dispatch(due.into_iter().map(hold).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn held_mail_waits_across_a_restart_and_is_let_go_oldest_first() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    for to in ["a@x.test", "b@y.test", "c@x.test"] {
        spool.accept(fixture.submission(&[to], None), &SendingFacts::default()).await.unwrap();
        fixture.clock.advance_millis(1_000);
    }
    hold_all(&spool, &fixture.ids).await;
    assert!(spool.held().next_look().is_some());
    drop(spool);

    let spool = fixture.open();
    let counts = spool.reader().counts().unwrap();
    assert_eq!((counts.queued, counts.held, counts.in_flight), (0, 3, 0));
    assert_eq!(spool.held().take_due(fixture.ids.now(), 9), [held_lane("google")], "looked at after a start");
    let held = spool.reader().held(&held_lane("google"), 2).unwrap();
    let to: Vec<_> = held.iter().map(|due| due.entry.recipient.to_string()).collect();
    assert_eq!(to, ["a@x.test", "b@y.test"]);

    let now = fixture.ids.now();
    let counted = Counted { scope: held_lane("google").scope, hour: hour_of(now) };
    let let_go = |mut due: Due| {
        due.entry.next_attempt_at = now;
        due.entry.counted = Some(counted.clone());
        Decided { due, fate: Fate::Queue, count: Some(counted.clone()), uncount: None, event: None }
    };
    spool.dispatch(held.into_iter().map(let_go).collect()).await.unwrap();
    assert_eq!(spool.reader().usage(now).unwrap(), [(counted.clone(), 2)]);
    let listed = spool.reader().list(|_| true, 9).unwrap();
    assert_eq!(listed.iter().filter(|queued| queued.held).count(), 1);

    // one is offered, one ends without an attempt: that one's count is given back
    let mut sent = dispatch_all(&spool, now).await;
    finish(&spool, sent.remove(0), &fixture.ids, EventType::Delivered, Outcome::Terminal).await;
    spool.complete(sent.remove(0), Outcome::Terminal, &[]).unwrap().await.unwrap();
    assert_eq!(spool.reader().usage(now).unwrap(), [(counted, 1)]);
    fixture.clock.advance_millis(49 * 3_600_000);
    spool.purge_idempotency().await.unwrap();
    assert_eq!(spool.reader().usage(Timestamp(0)).unwrap(), []);
}

#[tokio::test]
async fn operators_reach_held_mail_and_new_reasons_are_told_in_portions() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    spool
        .accept(fixture.submission(&["a@x.test", "b@y.test", "c@z.test"], None), &SendingFacts::default())
        .await
        .unwrap();
    hold_all(&spool, &fixture.ids).await;
    let (lane, kind) = (held_lane("google"), HoldKind::Paused);
    let portions: Vec<usize> = (0..3).map(|_| spool.next_to_tell(&lane, kind, 2).unwrap().len()).collect();
    assert_eq!(portions, [2, 1, 0]);
    assert_eq!(spool.next_to_tell(&lane, kind, 9).unwrap().len(), 3, "from the start again");

    assert_eq!(spool.retry_now(|key| key.lane.recipient_domain == "x.test", 9).await.unwrap(), 1);
    assert_eq!(spool.bounce(|key| key.lane.recipient_domain == "y.test", 9, "a test").await.unwrap(), 1);
    let counts = spool.reader().counts().unwrap();
    assert_eq!((counts.queued, counts.held), (1, 1));
    assert_eq!(dispatch_all(&spool, fixture.ids.now()).await.len(), 1);
}
