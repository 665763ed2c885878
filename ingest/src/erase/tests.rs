//! After an erasure nothing of the address is in any file, whoever else wrote meanwhile; what stays, stays right.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sendlake_control::id::TenantId;
use uuid::Uuid;

use super::forms::AddressForms;
use super::*;
use crate::quotas::{QuotaRow, QuotasTable};
use crate::testing::{NOON, event, events, ids, lake, lsns};
use crate::verify::{Depth, Verify, trace};

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);
const OTHER: Uuid = Uuid::from_u128(0x07e4);
const ADDRESS: &str = "person20@secret.example";

fn erase(dir: &tempfile::TempDir, events: &Arc<EventsTable>, whose: Whose) -> Erase {
    Erase {
        store: lake(dir),
        events: Arc::clone(events),
        whose,
        settings: RewriteSettings {
            memory_bytes: 32 << 20,
            spill_dir: dir.path().join("_spilled"),
            target_file_bytes: 1 << 30,
        },
        ids: ids(),
        holder: "test".to_owned(),
    }
}

fn recipient(address: &str) -> Whose {
    Whose::Recipient { forms: AddressForms::new(address).unwrap(), tenant: None }
}

async fn agrees(dir: &tempfile::TempDir) {
    let scratch = dir.path().join("_scratch");
    let report =
        Verify { store: lake(dir), outbox: None, depth: Depth::Whole, scratch, now: NOON }.run().await;
    assert!(report.agrees(), "{:#?}", report.findings);
}

/// Where the address is, under the lake.
async fn left(dir: &tempfile::TempDir, address: &str) -> Vec<String> {
    let mut findings = Vec::new();
    trace(&lake(dir), &AddressForms::new(address).unwrap(), &mut findings).await;
    findings.into_iter().map(|finding| format!("{}: {}", finding.place, finding.what)).collect()
}

fn quota(reason: &str) -> QuotaRow {
    QuotaRow {
        tenant_id: "acme".into(),
        stream: "marketing".into(),
        identity_kind: "*".into(),
        identity: "*".into(),
        provider: "*".into(),
        window_s: 86_400,
        limit_messages: Some(7),
        state: "normal".into(),
        reason: reason.into(),
        inputs: "{}".into(),
        view_version: "1".into(),
        as_of: NOON,
        valid_until: NOON,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_recipient_is_in_no_file_and_the_books_stay_right() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    let mut rows = events(SPOOL, 1..=50);
    // Feedback about their message without an address, and an event of others that quotes it.
    rows[6].event.message_id = rows[19].event.message_id.clone();
    rows[6].event.recipient = None;
    rows[6].event.reply_text = None;
    rows[30].event.detail = Some(r#"{"cc":"PERSON20%40secret.example"}"#.to_owned());
    table.append(SPOOL, rows).await.unwrap();
    table.append(OTHER, events(OTHER, 1..=30)).await.unwrap();
    let quotas = QuotasTable::open(&lake(&dir)).await.unwrap();
    quotas.publish(&[quota("held for person20=secret.example"), quota("fine")]).await.unwrap();
    assert!(!left(&dir, ADDRESS).await.is_empty());

    let done = erase(&dir, &table, recipient("Person20@Secret.example")).run().await.unwrap();
    assert!(done.found_any() && done.left.is_empty(), "{done:?}");
    let events_done = &done.tables[0];
    assert_eq!((events_done.rows_erased, events_done.rows_redacted), (3, 1), "{done:?}");
    assert!(
        events_done.files_replaced >= 2 && events_done.files_removed == events_done.files_replaced,
        "{done:?}"
    );
    assert_eq!(left(&dir, ADDRESS).await, Vec::<String>::new());
    agrees(&dir).await;
    let pinned = table.pin(None).await.unwrap();
    let kept: Vec<u64> = (1..=50).filter(|lsn| ![7, 20].contains(lsn)).collect();
    assert_eq!(lsns(&pinned.table, SPOOL).await, kept);
    assert_eq!(lsns(&pinned.table, OTHER).await.len(), 29);
    let published = quotas.load().await.unwrap().unwrap();
    let reasons: Vec<&str> = published.rows.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(reasons, ["held for [erased]", "fine"]);

    let again = erase(&dir, &table, recipient(ADDRESS)).run().await.unwrap();
    assert!(!again.found_any(), "nothing was left: {again:?}");
    let before: Vec<u64> = done.tables.iter().map(|table| table.version).collect();
    assert_eq!(again.tables.iter().map(|table| table.version).collect::<Vec<_>>(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_tenant_has_no_rows_and_others_have_all_of_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    table.append(SPOOL, events(SPOOL, 1..=60)).await.unwrap();
    let quotas = QuotasTable::open(&lake(&dir)).await.unwrap();
    let zebra = QuotaRow { tenant_id: "zebra".into(), ..quota("theirs") };
    quotas.publish(&[quota("ours"), zebra]).await.unwrap();
    let whose = Whose::Tenant(TenantId::new("zebra").unwrap());
    let done = erase(&dir, &table, whose).run().await.unwrap();
    assert_eq!((done.tables[0].rows_erased, done.tables[1].rows_erased), (20, 1));
    let pinned = table.pin(None).await.unwrap();
    let kept: Vec<u64> = (1..=60u64).filter(|lsn| !lsn.is_multiple_of(3)).collect();
    assert_eq!(lsns(&pinned.table, SPOOL).await, kept);
    assert_eq!(quotas.load().await.unwrap().unwrap().rows.len(), 1);
    agrees(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_beside_full_speed_ingest_leaves_nothing_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    let (suppressed, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let obeying = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = [SPOOL, OTHER]
        .into_iter()
        .map(|spool| {
            let (suppressed, stop, obeying) =
                (Arc::clone(&suppressed), Arc::clone(&stop), Arc::clone(&obeying));
            // One in this process, one in another that shares nothing but the lake.
            let (table, store) = (Arc::clone(&table), lake(&dir));
            tokio::spawn(async move {
                let table =
                    if spool == SPOOL { table } else { Arc::new(EventsTable::open(&store).await.unwrap()) };
                let (mut lsn, mut last_to_them, mut obeys) = (0, 0, false);
                while !stop.load(Ordering::SeqCst) {
                    let may_write = !suppressed.load(Ordering::SeqCst);
                    let mut rows: Vec<_> = (lsn + 1..=lsn + 200).map(|lsn| event(spool, lsn)).collect();
                    for row in &mut rows {
                        row.event.message_id = Some(format!("{spool}-{}", row.lsn));
                    }
                    for row in rows.iter_mut().filter(|row| may_write && row.lsn % 7 == 0) {
                        row.event.recipient = Some(ADDRESS.to_owned());
                        row.event.reply_text = Some(format!("250 {ADDRESS}"));
                        last_to_them = row.lsn;
                    }
                    table.append(spool, rows).await.unwrap();
                    lsn += 200;
                    if !may_write && !obeys {
                        obeys = true;
                        obeying.fetch_add(1, Ordering::SeqCst);
                    }
                    // A commit every few hundredths of a second is far above what a server does.
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
                (spool, lsn, last_to_them)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(400)).await;
    suppressed.store(true, Ordering::SeqCst);
    // What was in hand when the tombstone came is flushed before the lake is erased.
    while obeying.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = erase(&dir, &table, recipient(ADDRESS)).run().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::SeqCst);
    let ends: Vec<(Uuid, u64, u64)> =
        futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(left(&dir, ADDRESS).await, Vec::<String>::new());
    assert!(done.left.is_empty(), "{done:?}");
    agrees(&dir).await;
    let pinned = table.pin(None).await.unwrap();
    for (spool, last, last_to_them) in ends {
        assert!(last_to_them > 0 && last > last_to_them, "the test wrote before and after");
        let there = lsns(&pinned.table, spool).await;
        assert_eq!(there.last(), Some(&last));
        let after: Vec<u64> = there.into_iter().filter(|lsn| *lsn > last_to_them).collect();
        assert_eq!(after, (last_to_them + 1..=last).collect::<Vec<_>>(), "nobody else lost anything");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_compaction_replaced_and_old_orphans_go_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    table.append(SPOOL, events(SPOOL, 1..=50)).await.unwrap();
    let job = erase(&dir, &table, recipient(ADDRESS));
    let lease = job.lease().await.unwrap();
    let files = table.files(&table.pin(None).await.unwrap()).unwrap();
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    table.rewrite(&lease, &paths, None, &job.settings).await.unwrap();
    lease.release().await.unwrap();
    let orphan = dir.path().join("events/event_date=2026-01-30/part-0-orphan.parquet");
    let holding = paths.iter().find(|path| path.contains("2026-01-30")).unwrap();
    std::fs::copy(dir.path().join("events").join(holding), &orphan).unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&orphan).unwrap().set_modified(long_ago).unwrap();
    let done = job.run().await.unwrap();
    assert_eq!(done.tables[0].files_removed, 3, "the replaced, the rewritten and the orphan: {done:?}");
    assert!(!orphan.exists());
    assert_eq!(left(&dir, ADDRESS).await, Vec::<String>::new());
    agrees(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_stops_the_erasure_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    table.append(SPOOL, events(SPOOL, 1..=9)).await.unwrap();
    let file = table.files(&table.pin(None).await.unwrap()).unwrap().remove(0);
    let path = dir.path().join("events").join(&file.path);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = erase(&dir, &table, recipient("person3@secret.example")).run().await.unwrap_err().to_string();
    assert!(error.contains(&file.path) && error.contains("verify"), "{error}");
}
