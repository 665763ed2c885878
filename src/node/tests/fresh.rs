//! What was logged is in the next answer: here at once, on another node within the commit interval.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn queries_in_a_tight_loop_count_each_event_once_while_commits_run() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let (_, ids_here) = ids(1);
    let here =
        with_tenant(Node::open(config(&dir.path().join("a"), &lake), ids_here.clone()).await.unwrap()).await;
    let there = Node::open(config(&dir.path().join("b"), &lake), ids(2).1).await.unwrap();
    let settings = LakeWriterSettings { commit_interval_ms: 200, ..LakeWriterSettings::default() };
    let writer = Writer::start(&here, settings);
    let (logged, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let logging = tokio::spawn({
        let (spool, logged, done) = (here.spool.clone(), logged.clone(), done.clone());
        async move {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(4) {
                spool.log(&deliveries(&ids_here, 5)).await.unwrap();
                logged.fetch_add(5, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    let (mut seen_here, mut seen_there, mut asked) = (0, 0, 0);
    // When this much had been logged here; it has to be there so much later.
    let mut due = std::collections::VecDeque::new();
    let mut latest = Duration::ZERO;
    while !done.load(Ordering::SeqCst) {
        let before = logged.load(Ordering::SeqCst);
        due.push_back((Instant::now(), before));
        let counted = count(&here).await;
        let newest = here.spool.last_lsn().unwrap();
        assert!(
            counted >= before && counted >= seen_here && counted <= newest,
            "{before} {counted} {newest}"
        );
        seen_here = counted;
        let counted = count(&there).await;
        assert!(
            counted >= seen_there && counted <= here.spool.last_lsn().unwrap(),
            "never twice, never backwards"
        );
        seen_there = counted;
        while let Some((at, rows)) = due.front().copied().filter(|(_, rows)| *rows <= seen_there) {
            latest = latest.max(at.elapsed());
            assert!(rows <= seen_there);
            due.pop_front();
        }
        asked += 1;
    }
    logging.await.unwrap();
    let overdue = due.iter().filter(|(at, _)| at.elapsed() > Duration::from_secs(3)).count();
    println!("{asked} rounds; the other node saw events after {latest:?} at most");
    assert_eq!(overdue, 0, "an interval of 200 ms, a commit, and a slow machine");
    assert!(asked > 3 && seen_there > 0);
    writer.stop().await.unwrap();
    let logged = logged.load(Ordering::SeqCst);
    assert_eq!((total(&here).await, total(&there).await), ((logged, logged), (logged, logged)));
}
