//! Opening, sharing and refusing a store, as its operator sees it.

use tempfile::TempDir;

use super::*;
use crate::clock::{ManualClock, SeededEntropy, Timestamp};
use crate::secret::SecretError;

/// 2026-01-31 09:30 UTC.
pub(crate) const START: Timestamp = Timestamp(1_769_851_800_000_000);

pub(crate) fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn ids(seed: u64) -> Ids {
    Ids { clock: Arc::new(ManualClock::new(START)), entropy: Arc::new(SeededEntropy::new(seed)) }
}

fn master(dir: &TempDir) -> MasterKey {
    MasterKey::load_or_create(&dir.path().join("master.key"), &SeededEntropy::new(99)).unwrap()
}

async fn open(dir: &TempDir, seed: u64) -> Result<ControlStore, ControlError> {
    ControlStore::open(&dir.path().join("control.db"), master(dir), ids(seed)).await
}

async fn open_read_only(dir: &TempDir) -> Result<ControlStore, ControlError> {
    ControlStore::open_read_only(&dir.path().join("control.db"), master(dir), ids(7)).await
}

/// A fresh store; it goes when the folder is dropped.
pub(crate) async fn open_temporary() -> (TempDir, ControlStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 1).await.unwrap();
    (dir, store)
}

/// A fresh store under a clock that the test moves.
pub(crate) async fn open_temporary_at(clock: Arc<ManualClock>) -> (TempDir, ControlStore) {
    let dir = tempfile::tempdir().unwrap();
    let ids = Ids { clock, ..ids(1) };
    let store = ControlStore::open(&dir.path().join("control.db"), master(&dir), ids).await.unwrap();
    (dir, store)
}

/// The same store, as another process would open it.
pub(crate) async fn reopen(dir: &TempDir) -> ControlStore {
    open(dir, 2).await.unwrap()
}

#[tokio::test]
async fn what_was_sealed_opens_after_a_restart() {
    let (dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let sealed = store.keyring().seal(&acme(), b"body/1", b"hello").unwrap();
    let derived = store.keyring().derive("return-path");
    store.close().await;

    let store = reopen(&dir).await;
    assert_eq!(store.keyring().open(&acme(), b"body/1", &sealed).unwrap(), b"hello");
    assert_eq!(store.keyring().derive("return-path"), derived);
}

#[tokio::test]
async fn the_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = open_temporary().await;
    store.first_start().await.unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.path().display());
    }
}

#[tokio::test]
async fn tenant_made_by_another_process_can_seal_here_once_ensured() {
    let (dir, server) = open_temporary().await;
    let command_line = reopen(&dir).await;
    command_line.create_tenant("cli", &acme(), "Acme").await.unwrap();
    assert!(matches!(server.keyring().seal(&acme(), b"", b"x"), Err(SecretError::NoDataKey { .. })));
    server.ensure_data_key(&acme()).await.unwrap();
    let sealed = server.keyring().seal(&acme(), b"", b"x").unwrap();
    assert_eq!(command_line.keyring().open(&acme(), b"", &sealed).unwrap(), b"x");
    let nobody = TenantId::new("nobody").unwrap();
    assert!(matches!(server.ensure_data_key(&nobody).await, Err(ControlError::NoSuchTenant { .. })));
}

#[tokio::test]
async fn rotated_key_seals_and_the_old_one_goes_on_opening() {
    let (dir, server) = open_temporary().await;
    server.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let old = server.keyring().seal(&acme(), b"", b"old").unwrap();
    let command_line = reopen(&dir).await;
    command_line.rotate_data_key("cli", &acme()).await.unwrap();
    let new = command_line.keyring().seal(&acme(), b"", b"new").unwrap();
    assert_eq!(command_line.keyring().open(&acme(), b"", &old).unwrap(), b"old");
    assert!(matches!(server.keyring().open(&acme(), b"", &new), Err(SecretError::UnknownKey { .. })));
    server.refresh_data_keys().await.unwrap();
    assert_eq!(server.keyring().open(&acme(), b"", &new).unwrap(), b"new");
}

#[tokio::test]
async fn several_first_starts_at_once_found_one_installation() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = tokio::join!(open(&dir, 1), open(&dir, 2), open(&dir, 3));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!(a.keyring().derive("x"), b.keyring().derive("x"));
    assert_eq!(a.keyring().derive("x"), c.keyring().derive("x"));
    let log = a.audit_log(10).await.unwrap();
    assert_eq!(log.iter().filter(|entry| entry.action == "installation_created").count(), 1);
}

#[tokio::test]
async fn changes_from_two_stores_all_land() {
    let (dir, a) = open_temporary().await;
    let b = reopen(&dir).await;
    let make = async |store: &ControlStore, prefix: &str| {
        for n in 0..10 {
            let tenant = TenantId::new(&format!("{prefix}{n}")).unwrap();
            store.create_tenant("cli", &tenant, "T").await.unwrap();
        }
    };
    tokio::join!(make(&a, "a"), make(&b, "b"));
    assert_eq!(a.tenants().await.unwrap().len(), 21);
    let seqs: Vec<i64> = a.audit_log(100).await.unwrap().iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (1..=21).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn another_master_key_is_refused_by_naming_where_it_came_from() {
    let (dir, store) = open_temporary().await;
    store.close().await;
    let other = MasterKey::from_base64(
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "the environment variable SENDLAKE_MASTER_KEY",
    )
    .unwrap();
    let error = ControlStore::open(&dir.path().join("control.db"), other, ids(3)).await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("SENDLAKE_MASTER_KEY") && error.contains("control.db"), "{error}");
    assert!(error.contains("original master key"), "{error}");
}

#[tokio::test]
async fn damaged_file_is_refused_and_left_as_it_is() {
    let (dir, store) = open_temporary().await;
    store.close().await;
    let path = dir.path().join("control.db");
    let good = std::fs::read(&path).unwrap();
    let mut scribbled = good.clone();
    scribbled[4096..8192].fill(0xA5);
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    for bad in [b"this is not a database, but it is long enough to be looked at".repeat(20), scribbled, cut] {
        std::fs::write(&path, &bad).unwrap();
        let error = open(&dir, 3).await.unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("backup"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
    std::fs::write(&path, &good).unwrap();
    open(&dir, 3).await.unwrap();
}

#[tokio::test]
async fn somebody_elses_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    let theirs = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let theirs = SqlitePool::connect_with(theirs).await.unwrap();
    sqlx::query("CREATE TABLE recipes (name TEXT)").execute(&theirs).await.unwrap();
    let error = open(&dir, 1).await.unwrap_err().to_string();
    assert!(error.contains("not a control store"), "{error}");
    let tables: Vec<(String,)> =
        sqlx::query_as("SELECT name FROM sqlite_master").fetch_all(&theirs).await.unwrap();
    assert_eq!(tables, [("recipes".to_owned(),)]);
}

#[tokio::test]
async fn store_of_a_newer_version_is_refused() {
    let (dir, store) = open_temporary().await;
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9000, 'later', TRUE, x'00', 0)")
        .execute(&store.pool)
        .await
        .unwrap();
    for error in [open(&dir, 3).await.unwrap_err(), open_read_only(&dir).await.unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("newer sendlake") && error.contains("9000"), "{error}");
    }
}

#[test]
fn errors_are_small_enough_to_return() {
    assert!(size_of::<ControlError>() < 128, "{}", size_of::<ControlError>());
}

#[tokio::test]
async fn reading_beside_a_running_server_writes_nothing() {
    let (dir, server) = open_temporary().await;
    let reader = open_read_only(&dir).await.unwrap();
    server.create_tenant("cli", &acme(), "Acme").await.unwrap();
    assert_eq!(reader.tenants().await.unwrap().len(), 2);
    let error = reader.create_tenant("cli", &TenantId::new("bolt").unwrap(), "Bolt").await.unwrap_err();
    assert!(error.to_string().contains("reading only"), "{error}");
    server.close().await;
    assert_eq!(open_read_only(&dir).await.unwrap().tenants().await.unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_to_read_yet_says_how_to_begin() {
    let dir = tempfile::tempdir().unwrap();
    let error = open_read_only(&dir).await.unwrap_err().to_string();
    assert!(error.contains("sendlake serve"), "{error}");
    let nowhere = dir.path().join("no/such/folder/control.db");
    let error = ControlStore::open(&nowhere, master(&dir), ids(1)).await.unwrap_err().to_string();
    assert!(error.contains("no/such/folder") && error.contains("folder exists"), "{error}");
}
