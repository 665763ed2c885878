//! Envelope encryption: a master key from outside the store wraps one data key per tenant, and data keys
//! seal everything else (DKIM keys, spool values).
//!
//! Nothing here reads the database; [`crate::store`] keeps the wrapped keys and fills the keyring.

mod envelope;
mod keyring;
mod master;

use std::path::PathBuf;

use crate::id::TenantId;

pub use keyring::Keyring;
pub use master::MasterKey;

/// Why a value could not be sealed or opened, or a master key not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "the master key file {} can be neither read nor made: check its folder and permissions, or name \
         another file",
        path.display()
    )]
    MasterKeyFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{origin} is not a master key: it must be 32 bytes in base64 (44 characters). Put the original key \
         back, or make one for a new installation: head -c 32 /dev/urandom | base64"
    )]
    MasterKeyText { origin: String },
    #[error(
        "no data key of tenant {tenant} is loaded: the tenant does not exist, or another process has just \
         made it (ensure_data_key loads it)"
    )]
    NoDataKey { tenant: TenantId },
    #[error(
        "a value of tenant {tenant} is sealed under data key {key_id}, which this process does not know: \
         another process made it later (refresh_data_keys loads it), or the control store was restored from \
         an older copy"
    )]
    UnknownKey { tenant: TenantId, key_id: u32 },
    #[error("a value opened for tenant {tenant} is sealed under data key {key_id} of another tenant")]
    OtherTenant { tenant: TenantId, key_id: u32 },
    #[error(
        "a value of tenant {tenant} does not open under its data key {key_id}: it was altered, or moved from \
         where it was sealed"
    )]
    Tampered { tenant: TenantId, key_id: u32 },
    #[error("a value of tenant {tenant} is not in the sealed form: {problem}")]
    Malformed { tenant: TenantId, problem: String },
    #[error("a value of tenant {tenant} is too long to seal")]
    TooLong { tenant: TenantId },
}
