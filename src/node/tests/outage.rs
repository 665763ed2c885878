//! The lake away for an hour's worth of events, on a virtual clock: what the disk holds, what new mail is told, and how it
//! goes when the lake comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sendlake_sender::spool::intake::IntakeRefused;

use super::*;

/// Events of the outage: `SENDLAKE_OUTAGE_EVENTS`, or what the test suite has time for. An hour at the benched rate of
/// 3,000 a second is 10,800,000.
fn events() -> usize {
    std::env::var("SENDLAKE_OUTAGE_EVENTS").ok().map_or(60_000, |text| text.parse().unwrap())
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_the_lake_refuses_at_the_bound_keeps_every_event_and_drains_beside_live_mail() {
    let dir = tempfile::tempdir().unwrap();
    let (data, lake) = (dir.path().join("data"), dir.path().join("lake"));
    let events = events();
    let mut config = config(&data, &lake);
    config.spool.outbox_rows_max = events as u64 * 9 / 10;
    config.sql.memory_bytes_max = 2 << 30;
    config.sql.time_ms_max = 600_000;
    let (clock, ids) = ids(3);
    let node = Arc::new(with_tenant(opened(config.clone(), &ids).await).await);
    let spill_rows = (events as u64 / 10).min(config.lake.spill_rows);
    let settings = LakeWriterSettings {
        commit_interval_ms: 200,
        commit_rows_max: usize::try_from(spill_rows).unwrap(),
        spill_rows,
        spill_grace_ms: 60_000,
        ..LakeWriterSettings::default()
    };
    let writer = Writer::start(&node, settings);
    writer.handle.flush().await.unwrap();
    let away = lake.join("events");
    let away = Away(&away);
    away.leave();

    // An hour passes.
    let began = Instant::now();
    let mut refused_at = None;
    let (mut logged, mut stored_max) = (0, 0);
    while logged < events {
        let batch = deliveries(&ids, 500.min(events - logged));
        logged += batch.len();
        // What is queued goes out and its events are kept, past the bound too.
        node.spool.log(&batch).await.unwrap();
        clock.advance_millis(3_600_000 * 500 / events as i64);
        stored_max = stored_max.max(node.spool.reader().counts().unwrap().outbox_rows);
        match node.spool.check_room() {
            Ok(()) => assert!(logged as u64 <= config.spool.outbox_rows_max),
            Err(refused) => {
                assert!(matches!(refused, IntakeRefused::OutboxFull { .. }), "{refused}");
                refused_at.get_or_insert(logged);
            }
        }
    }
    let hour = began.elapsed();
    let spill = node.spool.reader().spill().clone();
    let spilled_bytes = folder_bytes(&data.join("spool/spill"));
    let spilled_rows = spill.waiting_rows();
    let store_bytes = std::fs::metadata(data.join("spool/spool.redb")).unwrap().len();
    assert!(refused_at.is_some_and(|at| at as u64 >= config.spool.outbox_rows_max), "{refused_at:?}");
    assert!(spilled_rows > events as u64 / 2 && writer.handle.status().last_error.is_some());
    println!(
        "{events} events in {hour:.1?} ({:.0}/s): refused after {}, at most {stored_max} rows in the store \
         ({} MB), {spilled_rows} spilled ({} MB, {} bytes each)",
        events as f64 / hour.as_secs_f64(),
        refused_at.unwrap_or(0),
        store_bytes >> 20,
        spilled_bytes >> 20,
        spilled_bytes / spilled_rows.max(1),
    );

    // It comes back, and mail goes on meanwhile.
    away.come_back();
    let drained = Arc::new(AtomicBool::new(false));
    let live = tokio::spawn({
        let (node, ids, drained) = (node.clone(), ids.clone(), drained.clone());
        async move {
            let (mut waits, mut count) = (Vec::new(), 0);
            while !drained.load(Ordering::SeqCst) {
                let batch = deliveries(&ids, 10);
                let asked = Instant::now();
                node.spool.log(&batch).await.unwrap();
                waits.push(asked.elapsed());
                count += batch.len();
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            waits.sort_unstable();
            (waits, count)
        }
    });
    let began = Instant::now();
    let mut seen = 0;
    loop {
        let newest = node.spool.last_lsn().unwrap();
        let counted = count(&node).await;
        assert!(
            counted >= newest && counted >= seen,
            "fresh events are seen all along: {counted} of {newest}"
        );
        assert!(counted <= node.spool.last_lsn().unwrap(), "and none twice");
        seen = counted;
        if writer.handle.status().lsn >= events as u64 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60 + events as u64 / 1_000), "the drain stalls");
    }
    let drain = began.elapsed();
    drained.store(true, Ordering::SeqCst);
    let (waits, more) = live.await.unwrap();
    let share = |part: usize| waits[(waits.len() - 1) * part / 100];
    println!(
        "drained in {drain:.1?} ({:.0}/s) beside {more} new events; waits for the spool: p50 {:.1?}, p99 {:.1?}, max {:.1?}",
        events as f64 / drain.as_secs_f64(),
        share(50),
        share(99),
        share(100),
    );
    assert!(share(50) < Duration::from_secs(1) && share(100) < Duration::from_secs(10));
    writer.handle.flush().await.unwrap();
    assert_eq!(node.spool.check_room(), Ok(()));
    // A file that was being written while the lake took its rows counts until the next look at the folder.
    let asked = Instant::now();
    while spill.waiting_rows() > 0 && asked.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((spill.waiting_rows(), node.spool.reader().counts().unwrap().outbox_rows), (0, 0));
    writer.stop().await.unwrap();
    let all = (events + more) as u64;
    assert_eq!(total(&node).await, (all, all));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_an_outage_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (data, lake) = (dir.path().join("data"), dir.path().join("lake"));
    let (_, ids) = ids(4);
    let settings = LakeWriterSettings { spill_rows: 50, retry_ms_max: 20, ..LakeWriterSettings::default() };
    let node = with_tenant(opened(config(&data, &lake), &ids).await).await;
    node.spool.log(&deliveries(&ids, 30)).await.unwrap();
    let writer = Writer::start(&node, settings);
    writer.handle.flush().await.unwrap();
    let spool = node.spool.incarnation();
    let (events, quotas) = (lake.join("events"), lake.join("quotas"));
    let (events, quotas) = (Away(&events), Away(&quotas));
    let has_quotas = quotas.0.exists();
    events.leave();
    node.spool.log(&deliveries(&ids, 200)).await.unwrap();
    spilled(&node, 100).await;
    writer.stop().await.unwrap();
    drop(node);

    // The lake is still away: the server starts all the same, and takes mail.
    let node = opened(config(&data, &lake), &ids).await;
    assert_eq!(node.spool.incarnation(), spool);
    assert_eq!(node.spool.check_room(), Ok(()));
    let refused =
        node.engine.query(&Scope::Tenant(acme()), "SELECT 1 FROM events", node.engine.limits().query).await;
    assert!(matches!(refused, Err(QueryError::Source(_))), "SQL says that it cannot know: {refused:?}");
    let writer = Writer::start(&node, settings);
    node.spool.log(&deliveries(&ids, 70)).await.unwrap();
    events.come_back();
    while writer.handle.flush().await.is_err() {}
    assert!(!has_quotas || quotas.0.exists());
    assert_eq!((committed(&node).await, total(&node).await), (300, (300, 300)));
    writer.stop().await.unwrap();
}

async fn spilled(node: &Node, rows: u64) {
    for _ in 0..1_000 {
        if node.spool.reader().spill().waiting_rows() >= rows {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing is spilled");
}
