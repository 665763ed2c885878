//! What can go wrong in the control store, in words for whoever has to put it right.

use std::path::PathBuf;

use crate::id::TenantId;
use crate::secret::SecretError;

/// Why the control store could not be opened, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "there is no control store at {}: start `sendlake serve` there once, or name another folder",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error(
        "the control store {} is damaged ({damage}): nothing was changed. Move it and its -wal and -shm files \
         aside and restore all of them from a backup",
        path.display()
    )]
    Corrupt { path: PathBuf, damage: String },
    #[error(
        "{} is a SQLite database but not a control store: nothing was changed. Name another file or folder",
        path.display()
    )]
    NotAControlStore { path: PathBuf },
    #[error(
        "the control store {} was written by a newer sendlake (schema {found}, this one knows {known}): \
         nothing was changed. Run that version or a later one",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error(
        "the control store {} was written by an older sendlake: start `sendlake serve` once to bring it up to \
         date, then repeat the command",
        path.display()
    )]
    OlderSchema { path: PathBuf },
    #[error("the schema of the control store {} could not be brought up to date", path.display())]
    Migration {
        path: PathBuf,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    #[error(
        "the master key in {origin} does not open the control store {}: it was made under another one. Put \
         the original master key back there (without it, sealed DKIM keys and queued mail cannot be read), or \
         name another folder to start afresh",
        path.display()
    )]
    WrongMasterKey { path: PathBuf, origin: String },
    #[error("the control store {} did not {doing}: {advice}", path.display())]
    Database {
        path: PathBuf,
        doing: &'static str,
        advice: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("the control store holds a {what} {name} that this version cannot read: {problem}")]
    Unreadable { what: &'static str, name: String, problem: String },
    #[error(transparent)]
    Secret(#[from] SecretError),

    #[error("there is no tenant {tenant}: `sendlake tenant ls` lists them, `sendlake tenant add` makes one")]
    NoSuchTenant { tenant: TenantId },
    #[error("tenant {tenant} exists already")]
    TenantExists { tenant: TenantId },
    #[error("tenant {tenant} is the installation itself and cannot be suspended")]
    ReservedTenant { tenant: TenantId },
    #[error("{what} must be 1 to {max_chars} characters on one line")]
    InvalidText { what: &'static str, max_chars: usize },

    #[error("there is no API key {key_id}: `sendlake key ls` lists them")]
    NoSuchKey { key_id: String },
    #[error("a key needs at least one scope: send, read, sql or admin")]
    NoScopes,

    #[error("{domain:?} cannot be a sending domain: {problem}")]
    InvalidDomain { domain: String, problem: &'static str },
    #[error(
        "{selector:?} is not a DKIM selector: use labels of a-z, 0-9 and '-', with dots between (RFC 6376, 3.1)"
    )]
    InvalidSelector { selector: String },
    #[error("{domain} is among this tenant's domains already")]
    DomainExists { domain: String },
    /// Does not say whose: tenants do not learn of each other.
    #[error("{domain} belongs to another tenant, or lies below or above a domain that does")]
    DomainTaken { domain: String },
    #[error("there is no sending domain {domain}: `sendlake domain ls` lists them")]
    NoSuchDomain { domain: String },
    #[error("there is no webhook {webhook_id}: `sendlake webhook-in ls` lists them")]
    NoSuchWebhook { webhook_id: String },
    #[error("there is no webhook endpoint {endpoint_id}: `sendlake webhook ls` lists them")]
    NoSuchEndpoint { endpoint_id: String },
    #[error("there is no replay {replay_id} of this endpoint: `sendlake webhook replays` lists them")]
    NoSuchReplay { replay_id: String },
    #[error("a tenant has at most {limit} webhook endpoints: remove one, or have one take more events")]
    TooManyEndpoints { limit: i64 },
    #[error("{limit} replays of {endpoint_id} run already: wait for one to end, or cancel one")]
    TooManyReplays { endpoint_id: String, limit: i64 },
    #[error("{address:?} is no mail address")]
    NotAnAddress { address: String },
    #[error("this suppression is a wish ({reason}): say with --note why it is lifted")]
    SuppressionIsAWish { reason: crate::suppression::Reason },
    #[error(
        "the list of suppressions was kept under another key; this one cannot change its own, as {entries} of its entries \
         have no address to find them by again (persons who were erased, or bursts that are not decided): restore \
         control.db from a backup instead"
    )]
    ListKeyStays { entries: i64 },
    #[error("no DKIM key could be made for {domain}: the machine's random source failed; try again")]
    DkimKey { domain: String },
}

impl ControlError {
    /// What was asked for does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::NoSuchTenant { .. }
                | Self::NoSuchKey { .. }
                | Self::NoSuchDomain { .. }
                | Self::NoSuchWebhook { .. }
                | Self::NoSuchEndpoint { .. }
                | Self::NoSuchReplay { .. }
        )
    }

    /// The store itself is at fault, rather than what was asked of it.
    pub fn is_store_failure(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::Corrupt { .. }
                | Self::NotAControlStore { .. }
                | Self::NewerSchema { .. }
                | Self::OlderSchema { .. }
                | Self::Migration { .. }
                | Self::WrongMasterKey { .. }
                | Self::Database { .. }
                | Self::Unreadable { .. }
                | Self::Secret(_)
        )
    }
}
