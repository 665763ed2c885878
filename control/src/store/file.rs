//! The database file: made private, opened, checked, migrated; and its errors put into words.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::error::ControlError;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: u32 = 4;

/// Opens or makes the file, and brings its schema up to date.
pub(super) async fn open(path: &Path) -> Result<SqlitePool, ControlError> {
    create_private(path).map_err(|error| database_error(path, "open", error.into()))?;
    let options = options(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A revoked key must stay revoked through a power failure; changes here are rare enough to sync each.
        .synchronous(SqliteSynchronous::Full);
    let pool = connect_patiently(path, options).await?;
    let migrated = migrate(path, &pool).await;
    closed_on_error(&pool, migrated).await?;
    Ok(pool)
}

/// Opens a file that must be there, with the schema that this version knows.
pub(super) async fn open_read_only(path: &Path) -> Result<SqlitePool, ControlError> {
    let missing = || ControlError::Missing { path: path.to_owned() };
    if !path.exists() {
        return Err(missing());
    }
    let pool = connect(path, options(path).read_only(true)).await?;
    let current = match applied_version(path, &pool).await {
        Ok(None) => Err(missing()),
        Ok(Some(found)) if found > known_version() => Err(newer(path, found)),
        Ok(Some(found)) if found < known_version() => {
            Err(ControlError::OlderSchema { path: path.to_owned() })
        }
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error),
    };
    closed_on_error(&pool, current).await?;
    Ok(pool)
}

/// Lets go of the file before the error is reported, so that whoever reads it may move the file at once.
pub(super) async fn closed_on_error<T>(
    pool: &SqlitePool,
    result: Result<T, ControlError>,
) -> Result<T, ControlError> {
    if result.is_err() {
        pool.close().await;
    }
    result
}

/// SQLite would make the file readable by all; its -wal and -shm files take over the mode set here.
fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).foreign_keys(true)
}

/// The switch of a new file to WAL does not wait for its lock, whatever the busy timeout: two first starts at once
/// meet there, and the later one tries again.
async fn connect_patiently(path: &Path, options: SqliteConnectOptions) -> Result<SqlitePool, ControlError> {
    const PAUSE: Duration = Duration::from_millis(50);
    let tries = BUSY_TIMEOUT.as_millis() / PAUSE.as_millis();
    for _ in 0..tries {
        match connect(path, options.clone()).await {
            Err(ControlError::Database { source, .. }) if is_locked(&source) => {
                tokio::time::sleep(PAUSE).await
            }
            connected => return connected,
        }
    }
    connect(path, options).await
}

async fn connect(path: &Path, options: SqliteConnectOptions) -> Result<SqlitePool, ControlError> {
    let failed = |source| database_error(path, "open", source);
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .connect_with(options)
        .await
        .map_err(failed)?;
    let sound = check(path, &pool).await;
    closed_on_error(&pool, sound).await?;
    Ok(pool)
}

/// Reads the whole file: a fraction of a second for a store of some megabytes, against serving from a damaged one. Of
/// a file with millions of suppressions, only the other tables; those are counted anew by whoever relies on them.
async fn check(path: &Path, pool: &SqlitePool) -> Result<(), ControlError> {
    const WHOLE_BYTES_MAX: u64 = 64 << 20;
    const SMALL: [&str; 6] =
        ["tenants", "data_keys", "installation_secrets", "api_keys", "domains", "audit_log"];
    let is_large = std::fs::metadata(path).is_ok_and(|file| file.len() > WHOLE_BYTES_MAX);
    let checks = if is_large {
        SMALL.iter().map(|table| format!("PRAGMA quick_check({table})")).collect()
    } else {
        vec!["PRAGMA quick_check(1)".to_owned()]
    };
    for statement in &checks {
        let verdict: Result<(String,), sqlx::Error> = sqlx::query_as(statement).fetch_one(pool).await;
        match verdict {
            Ok((verdict,)) if verdict == "ok" => {}
            Ok((damage,)) => return Err(ControlError::Corrupt { path: path.to_owned(), damage }),
            Err(error) => return Err(database_error(path, "open", error)),
        }
    }
    Ok(())
}

async fn migrate(path: &Path, pool: &SqlitePool) -> Result<(), ControlError> {
    match applied_version(path, pool).await? {
        Some(found) if found > known_version() => return Err(newer(path, found)),
        _ => {}
    }
    let failed = |source| database_error(path, "bring its schema up to date", source);
    // SQLite gives sqlx no migration lock; the write lock keeps two first starts from both making tables.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    MIGRATIONS.run_direct(&mut *transaction).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => newer(path, found),
        source => ControlError::Migration { path: path.to_owned(), source },
    })?;
    transaction.commit().await.map_err(failed)
}

/// The latest migration that the file has seen; `None` for an empty file.
async fn applied_version(path: &Path, pool: &SqlitePool) -> Result<Option<i64>, ControlError> {
    let failed = |source| database_error(path, "read its schema", source);
    let tables: Vec<(String,)> =
        sqlx::query_as("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .fetch_all(pool)
            .await
            .map_err(failed)?;
    if tables.is_empty() {
        return Ok(None);
    }
    let ours = |name: &str| tables.iter().any(|(table,)| table == name);
    if !ours("_sqlx_migrations") || !ours("audit_log") {
        return Err(ControlError::NotAControlStore { path: path.to_owned() });
    }
    let (version,) =
        sqlx::query_as("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(pool).await.map_err(failed)?;
    Ok(version)
}

fn known_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn newer(path: &Path, found: i64) -> ControlError {
    ControlError::NewerSchema { path: path.to_owned(), found, known: known_version() }
}

/// The low byte of SQLite's extended result code: the kind of failure (sqlite.org/rescode.html).
fn result_code(error: &sqlx::Error) -> Option<i32> {
    match error {
        sqlx::Error::Database(error) => Some(error.code()?.parse::<i32>().ok()? & 0xff),
        _ => None,
    }
}

fn is_locked(error: &sqlx::Error) -> bool {
    matches!(result_code(error), Some(5 | 6))
}

/// A database error with advice on what to do about it.
pub(super) fn database_error(path: &Path, doing: &'static str, source: sqlx::Error) -> ControlError {
    let path = path.to_owned();
    let advice = match result_code(&source) {
        Some(11 | 26) => return ControlError::Corrupt { path, damage: source.to_string() },
        Some(5 | 6) => "another process kept it locked for five seconds; try again",
        Some(8) => "it is open for reading only; use a command that writes, as a user who may",
        Some(10) => "its disk failed; look at the system's log",
        Some(13) => "its disk is full; free some space and try again",
        _ => "check that its folder exists and that this user may read and write there",
    };
    ControlError::Database { path, doing, advice, source }
}
