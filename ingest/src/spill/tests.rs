//! Spilled events come back as they were, survive what a crash leaves, and go only when nobody reads them.

use crate::testing::{event, events};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);

fn lsns(batches: &[RecordBatch]) -> Vec<i64> {
    let column =
        |batch: &RecordBatch| batch.column_by_name("lsn").unwrap().as_primitive::<Int64Type>().clone();
    let mut lsns: Vec<i64> = batches.iter().flat_map(|batch| column(batch).values().to_vec()).collect();
    lsns.sort_unstable();
    lsns
}

#[test]
fn rows_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::open(dir.path().join("spill")).unwrap();
    assert_eq!(spill.files().unwrap(), [], "a folder that is not there is empty");
    let rows = events(SPOOL, 5..=44);
    let file = spill.write(&rows).unwrap().unwrap();
    assert_eq!((file.first_lsn, file.last_lsn, file.rows(), spill.waiting_rows()), (5, 44, 40, 40));
    assert_eq!(spill.files().unwrap(), std::slice::from_ref(&file));
    let back = arrow::compute::concat_batches(&EVENTS_SCHEMA, &file.read().unwrap()).unwrap();
    assert_eq!(back, layout::sort(&to_batch(&rows).unwrap()).unwrap());
    assert_eq!(spill.write(&[]).unwrap(), None);

    let again = Spill::open(dir.path().join("spill")).unwrap();
    assert_eq!((again.waiting_rows(), again.last_lsn(SPOOL).unwrap()), (40, 44));
    assert_eq!(again.last_lsn(Uuid::nil()).unwrap(), 0);
}

#[test]
fn what_a_crash_left_is_removed_and_foreign_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::open(dir.path().to_owned()).unwrap();
    let file = spill.write(&events(SPOOL, 1..=3)).unwrap().unwrap();
    let staged = dir.path().join(format!("{SPOOL}-4-9.staged"));
    std::fs::write(&staged, b"half").unwrap();
    let foreign = ["notes.parquet", "README", "5e4d-1-2.parquet", &format!("{SPOOL}-9-4.parquet")];
    for name in foreign {
        std::fs::write(dir.path().join(name), b"mine").unwrap();
    }
    let again = Spill::open(dir.path().to_owned()).unwrap();
    assert_eq!(again.files().unwrap(), [file]);
    assert!(!staged.exists());
    assert!(foreign.iter().all(|name| dir.path().join(name).exists()));
}

#[test]
fn a_torn_file_is_named_with_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::open(dir.path().to_owned()).unwrap();
    let file = spill.write(&events(SPOOL, 1..=300)).unwrap().unwrap();
    let whole = std::fs::read(&file.path).unwrap();
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file.path, &whole[..length]).unwrap();
        let message = file.read().unwrap_err().to_string();
        assert!(message.contains("1 to 300") && message.contains("restore the file"), "{message}");
    }
    std::fs::write(&file.path, &whole).unwrap();
    assert_eq!(lsns(&file.read().unwrap()).len(), 300);
}

#[test]
fn a_disk_that_takes_nothing_costs_no_event() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("spill"), b"in the way").unwrap();
    let message = Spill::beside(dir.path().join("spill")).write(&[event(SPOOL, 1)]).unwrap_err().to_string();
    assert!(message.contains("stay in the spool's store"), "{message}");
}

#[test]
fn a_relabelled_spool_keeps_its_rows_above_the_fork() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::open(dir.path().to_owned()).unwrap();
    spill.write(&events(SPOOL, 1..=10)).unwrap();
    spill.write(&events(SPOOL, 11..=20)).unwrap();
    let other = Uuid::from_u128(0xf00d);
    spill.relabel(SPOOL, 14, other).unwrap();
    let files = spill.files().unwrap();
    let mut own = files.iter().filter(|file| file.incarnation == SPOOL);
    assert_eq!(own.next().map(|file| file.last_lsn), Some(10));
    let moved = files.iter().find(|file| file.incarnation == other).unwrap();
    let batches = moved.read().unwrap();
    assert_eq!(lsns(&batches), (15..=20).collect::<Vec<_>>());
    let spools = batches[0].column_by_name("incarnation").unwrap().as_string::<i32>().clone();
    assert!(spools.iter().all(|spool| spool == Some(other.to_string().as_str())));
}

#[tokio::test]
async fn a_file_that_the_lake_has_outlives_the_queries_that_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::open(dir.path().to_owned()).unwrap();
    let file = spill.write(&events(SPOOL, 1..=3)).unwrap().unwrap();
    spill.retire(&file).await;
    spill.retire(&file).await;
    assert_eq!(spill.waiting_rows(), 0);
    spill.sweep(Duration::from_secs(60)).await;
    assert!(file.path.exists());
    spill.sweep(Duration::ZERO).await;
    assert_eq!(spill.files().unwrap(), []);
}
