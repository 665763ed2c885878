//! Order, parking, the circuit and the cursor, as a receiver and an operator notice them.

use sendlake_control::id::TenantId;
use sendlake_ingest::event::{Event, EventType};

use super::*;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

fn lane(position: EndpointPosition, parked: Vec<Undelivered>) -> Lane {
    let schedule = Schedule { failures_to_open: 3, ..Schedule::default() };
    Lane::new(
        "wh_1",
        Uuid::nil(),
        position,
        parked,
        LaneLimits { in_flight_max: 4, ..LaneLimits::default() },
        schedule,
    )
}

fn fresh() -> Lane {
    lane(EndpointPosition::default(), Vec::new())
}

fn event(lsn: u64, message: &str) -> Arc<LoggedEvent> {
    let id = Uuid::from_u128(lsn.into());
    let mut event = Event::new(id, EventType::Delivered, NOON, TenantId::new("acme").unwrap());
    event.message_id = Some(message.into());
    Arc::new(LoggedEvent { incarnation: Uuid::nil(), node_id: "n".into(), lsn, event })
}

fn offer(lane: &mut Lane, events: &[(u64, &str)], through_lsn: u64) {
    lane.offer(
        events.iter().map(|(lsn, message)| event(*lsn, message)).collect(),
        through_lsn,
        Some(NOON),
        0,
    );
}

fn started(lane: &mut Lane, now: Timestamp) -> Vec<u64> {
    let lsn = |start: &Start| match start {
        Start::Event(event) => event.lsn,
        Start::Parked { lsn, .. } => *lsn,
    };
    lane.start(now).iter().map(lsn).collect()
}

fn fails() -> Outcome {
    Outcome::Failed { said: "it answers 500".into(), retry_after_s: None }
}

fn ends(lane: &mut Lane, lsn: u64, outcome: Outcome, now: Timestamp) {
    assert_eq!(lane.ended(lsn, outcome, now, 20), Verdict::GoOn);
}

#[test]
fn events_of_one_message_leave_one_at_a_time_in_order() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a"), (2, "a"), (3, "b"), (4, "a")], 9);
    assert_eq!(started(&mut lane, NOON), [1, 3]);
    assert_eq!(lane.cursor(), 0);
    ends(&mut lane, 3, Outcome::Delivered, NOON);
    assert_eq!(lane.cursor(), 0, "1 is not over");
    ends(&mut lane, 1, Outcome::Delivered, NOON);
    assert_eq!((started(&mut lane, NOON), lane.cursor()), (vec![2], 1));
    ends(&mut lane, 2, Outcome::Delivered, NOON);
    assert_eq!(started(&mut lane, NOON), [4]);
    ends(&mut lane, 4, Outcome::Delivered, NOON);
    let progress = lane.progress().unwrap();
    assert_eq!((progress.position.cursor_lsn, progress.position.delivered), (9, 4));
    assert!(lane.progress().is_none(), "nothing changed");
}

#[test]
fn a_failed_event_holds_back_its_message_and_no_other() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a"), (2, "a"), (3, "b")], 3);
    assert_eq!(started(&mut lane, NOON), [1, 3]);
    ends(&mut lane, 1, fails(), NOON);
    ends(&mut lane, 3, Outcome::Delivered, NOON);
    offer(&mut lane, &[(4, "a"), (5, "b")], 5);
    assert_eq!(started(&mut lane, NOON), [5], "a waits");
    ends(&mut lane, 5, Outcome::Delivered, NOON);
    let saved = lane.progress().unwrap();
    assert_eq!(saved.position.cursor_lsn, 5, "what is parked does not hold up the cursor");
    let kept: Vec<(u64, u32)> =
        saved.undelivered.iter().map(|(lsn, kept)| (*lsn, kept.as_ref().unwrap().attempts)).collect();
    assert_eq!(kept, [(1, 1), (2, 0), (4, 0)]);
    assert_eq!(lane.wakes_at(), Some(NOON.plus_secs(5)));

    // the same after a restart, from what was saved
    let parked = saved.undelivered.into_values().flatten().collect();
    let mut again = self::lane(saved.position, parked);
    for lane in [&mut lane, &mut again] {
        assert_eq!(started(lane, NOON.plus_secs(4)), [] as [u64; 0]);
        let mut now = NOON.plus_secs(5);
        for lsn in [1, 2, 4] {
            assert_eq!(started(lane, now), [lsn]);
            ends(lane, lsn, Outcome::Delivered, now);
            now = now.plus_secs(1);
        }
        let over = lane.progress().unwrap();
        assert!(over.undelivered.len() == 3 && over.undelivered.values().all(Option::is_none));
        assert_eq!(over.position.cursor_lsn, 5);
    }
}

#[test]
fn an_open_circuit_asks_now_and_then_keeps_its_cursor_and_comes_back() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f")], 6);
    assert_eq!(started(&mut lane, NOON), [1, 2, 3, 4]);
    for lsn in [1, 2, 3] {
        ends(&mut lane, lsn, fails(), NOON);
    }
    assert_eq!(started(&mut lane, NOON.plus_secs(60)), [] as [u64; 0], "one is in flight still");
    ends(&mut lane, 4, fails(), NOON);
    let saved = lane.progress().unwrap();
    assert_eq!(saved.position.cursor_lsn, 3, "4 was in flight when it opened, and is kept by name");
    assert!(saved.position.circuit_open && saved.position.failing_since == Some(NOON.0));
    // it reads one that was never tried, and leaves the rest where it is
    assert_eq!(lane.reads_after(NOON), Some(3));
    offer(&mut lane, &[(4, "d"), (5, "e"), (6, "f")], 6);
    assert_eq!((lane.reads_after(NOON), lane.cursor()), (None, 5));
    let mut now = lane.wakes_at().unwrap();
    assert_eq!(started(&mut lane, now), [5], "the one that was tried least");
    ends(&mut lane, 5, fails(), now);
    let pause = lane.wakes_at().unwrap().millis_since(now);
    assert_eq!(pause, 10_000, "pauses grow");
    now = lane.wakes_at().unwrap();
    assert_eq!(started(&mut lane, now), [1]);
    ends(&mut lane, 1, Outcome::Delivered, now);
    assert_eq!(started(&mut lane, now), [2, 3, 4, 5], "all that is parked is due at once");
    for lsn in [2, 3, 4, 5] {
        ends(&mut lane, lsn, Outcome::Delivered, now);
    }
    assert_eq!(lane.reads_after(now), Some(5));
    offer(&mut lane, &[(6, "f")], 6);
    assert_eq!(started(&mut lane, now), [6]);
    ends(&mut lane, 6, Outcome::Delivered, now);
    let saved = lane.progress().unwrap().position;
    assert_eq!((saved.cursor_lsn, saved.delivered, saved.circuit_open), (6, 6, false));
}

#[test]
fn one_event_that_nobody_would_take_does_not_keep_a_circuit_open() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "bad")], 1);
    let mut now = NOON;
    for _ in 0..3 {
        assert_eq!(started(&mut lane, now), [1]);
        ends(&mut lane, 1, fails(), now);
        now = lane.wakes_at().unwrap();
    }
    assert!(lane.progress().unwrap().position.circuit_open);
    offer(&mut lane, &[(2, "good")], 2);
    assert_eq!(started(&mut lane, now), [2]);
    ends(&mut lane, 2, Outcome::Delivered, now);
    assert!(!lane.progress().unwrap().position.circuit_open);
}

#[test]
fn after_days_an_event_has_failed_and_the_next_of_its_message_goes() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a"), (2, "a")], 2);
    let mut now = NOON;
    let mut attempts = 0;
    loop {
        assert_eq!(started(&mut lane, now), [1]);
        attempts += 1;
        ends(&mut lane, 1, fails(), now);
        // the endpoint takes others meanwhile
        let other = 100 + attempts;
        offer(&mut lane, &[(other, "other")], other);
        let next = started(&mut lane, now);
        ends(&mut lane, other, Outcome::Delivered, now);
        if next != [other] {
            assert_eq!(next, [2, other]);
            break;
        }
        now = lane.wakes_at().unwrap();
    }
    assert!(now.millis_since(NOON) >= 3 * 86_400_000, "{now}");
    let saved = lane.progress().unwrap();
    let failed = saved.undelivered[&1].as_ref().unwrap();
    assert_eq!((failed.state, failed.attempts), (UndeliveredState::Failed, u32::try_from(attempts).unwrap()));
    assert!(failed.next_attempt_at.is_none() && failed.last_error.is_some());
}

#[test]
fn an_endpoint_that_takes_nothing_for_days_or_is_gone_is_disabled() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a")], 1);
    let mut now = NOON;
    let reason = loop {
        let lsns = started(&mut lane, now);
        let mut reason = None;
        for lsn in lsns {
            if let Verdict::Disable { reason: said } = lane.ended(lsn, fails(), now, 20) {
                reason = Some(said);
            }
        }
        if let Some(reason) = reason {
            break reason;
        }
        if let Some(after_lsn) = lane.reads_after(now) {
            offer(&mut lane, &[(after_lsn + 1, &format!("m{after_lsn}"))], after_lsn + 1);
        }
        now = lane.wakes_at().unwrap().max(now.plus_secs(1));
    };
    assert!(reason.contains("5 days") && reason.contains("500"), "{reason}");
    let days = now.millis_since(NOON) / 86_400_000;
    assert_eq!(days, 5);
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a")], 1);
    started(&mut lane, NOON);
    let gone = lane.ended(1, Outcome::Gone { said: "it answers 410 Gone".into() }, NOON, 20);
    assert_eq!(gone, Verdict::Disable { reason: "it answers 410 Gone".into() });
    assert_eq!(lane.progress().unwrap().undelivered.len(), 1, "it is kept for a replay");
}

#[test]
fn an_endpoint_that_asks_for_a_pause_gets_it() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")], 5);
    assert_eq!(started(&mut lane, NOON).len(), 4);
    let busy = Outcome::Failed { said: "it answers 429".into(), retry_after_s: Some(90) };
    ends(&mut lane, 1, busy, NOON);
    assert_eq!(started(&mut lane, NOON.plus_secs(89)), [] as [u64; 0]);
    assert_eq!((lane.reads_after(NOON), lane.wakes_at()), (None, Some(NOON.plus_secs(90))));
    // it is read again, not kept: those in flight are not read twice
    let later = NOON.plus_secs(90);
    assert_eq!(lane.reads_after(later), Some(1));
    offer(&mut lane, &[(2, "b"), (3, "c"), (4, "d"), (5, "e")], 5);
    assert_eq!(started(&mut lane, later), [1]);
    ends(&mut lane, 2, Outcome::Delivered, later);
    assert_eq!(started(&mut lane, later), [5]);
    let forever = Outcome::Failed { said: "it answers 503".into(), retry_after_s: Some(1_000_000) };
    ends(&mut lane, 3, forever, later);
    assert_eq!(lane.wakes_at(), Some(later.plus_secs(RETRY_AFTER_MAX_S)));
}

#[test]
fn what_was_erased_meanwhile_is_dropped() {
    let mut lane = fresh();
    offer(&mut lane, &[(1, "a"), (2, "a")], 2);
    started(&mut lane, NOON);
    ends(&mut lane, 1, fails(), NOON);
    let later = NOON.plus_secs(60);
    assert_eq!(started(&mut lane, later), [1]);
    ends(&mut lane, 1, Outcome::Erased, later);
    assert_eq!(started(&mut lane, later), [2]);
    ends(&mut lane, 2, Outcome::Unread, later);
    assert_eq!(lane.wakes_at(), Some(later.plus_secs(5)), "the lake is away: nobody's fault");
    assert!(lane.progress().unwrap().undelivered[&2].as_ref().unwrap().attempts == 0);
}

/// Whatever happens, each event is delivered at least once, and each message's first deliveries are in order.
#[test]
fn nothing_is_lost_or_out_of_order_whatever_fails_and_however_often_it_restarts() {
    for seed in 1..40_u64 {
        let mut state = seed;
        let mut dice = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let mut log = Vec::new();
        for lsn in 1..=200 {
            if dice(3) > 0 {
                log.push((lsn, format!("m{}", dice(12))));
            }
        }
        let (mut saved, mut parked) = (EndpointPosition::default(), BTreeMap::<u64, Undelivered>::new());
        let mut lane = self::lane(saved.clone(), Vec::new());
        let (mut first, mut now, mut turns) = (Vec::<u64>::new(), NOON, 0);
        let mut flying: Vec<u64> = Vec::new();
        while first.len() < log.len() {
            turns += 1;
            assert!(turns < 100_000, "seed {seed}: stuck at {}", first.len());
            let is_down = turns % 400 < 120;
            if let Some(after_lsn) = lane.reads_after(now) {
                let events = log.iter().filter(|(lsn, _)| *lsn > after_lsn).take(5);
                let events: Vec<_> = events.map(|(lsn, message)| event(*lsn, message)).collect();
                let through_lsn = if events.len() == 5 { events[4].lsn } else { 200 };
                lane.offer(events, through_lsn.max(after_lsn), Some(now), 0);
            }
            flying.extend(started(&mut lane, now));
            if !flying.is_empty() && dice(3) > 0 {
                let lsn = flying.swap_remove(usize::try_from(dice(flying.len() as u64)).unwrap());
                let fails_now = is_down || dice(6) == 0;
                if !fails_now && !first.contains(&lsn) {
                    first.push(lsn);
                }
                ends(&mut lane, lsn, if fails_now { fails() } else { Outcome::Delivered }, now);
            } else if flying.is_empty() {
                now = lane.wakes_at().unwrap_or(now).max(now.plus_millis(100));
            }
            if dice(5) == 0
                && let Some(progress) = lane.progress()
            {
                saved = progress.position;
                for (lsn, kept) in progress.undelivered {
                    match kept {
                        Some(kept) => drop(parked.insert(lsn, kept)),
                        None => drop(parked.remove(&lsn)),
                    }
                }
            }
            if dice(60) == 0 {
                flying.clear();
                lane = self::lane(saved.clone(), parked.values().cloned().collect());
            }
        }
        for message in (0..12).map(|n| format!("m{n}")) {
            let of = |lsn: &&u64| log.iter().any(|(other, name)| other == *lsn && *name == message);
            let order: Vec<u64> = first.iter().filter(of).copied().collect();
            assert!(order.is_sorted(), "seed {seed}, {message}: {order:?}");
        }
    }
}
