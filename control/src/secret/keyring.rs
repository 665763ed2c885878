//! The data keys in memory: seals and opens without I/O, so that the spool can call it on its writer thread.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hkdf;
use parking_lot::RwLock;

use super::SecretError;
use super::envelope::{Cipher, OpenFailure, TooLong, key_id};
use crate::clock::Entropy;
use crate::id::TenantId;

/// Every data key that this process knows. Share it in an [`Arc`]; [`crate::ControlStore`] fills it.
pub struct Keyring {
    entropy: Arc<dyn Entropy>,
    /// What [`Keyring::derive`] expands (HKDF, RFC 5869).
    installation: hkdf::Prk,
    keys: RwLock<Keys>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<u32, Arc<DataKey>>,
    /// The newest of each tenant: the one that seals.
    current: HashMap<TenantId, Arc<DataKey>>,
}

struct DataKey {
    key_id: u32,
    tenant: TenantId,
    cipher: Cipher,
}

impl Keyring {
    pub(crate) fn new(entropy: Arc<dyn Entropy>, installation_secret: &[u8; 32]) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sendlake installation secret");
        Self { entropy, installation: salt.extract(installation_secret), keys: RwLock::default() }
    }

    /// Seals `plaintext` under the tenant's current data key. It opens only for the same tenant with the same
    /// `aad` (which is not stored: use what names the value's place, such as its table and key).
    pub fn seal(&self, tenant: &TenantId, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SecretError> {
        let key = self.keys.read().current.get(tenant).cloned();
        let key = key.ok_or_else(|| SecretError::NoDataKey { tenant: tenant.clone() })?;
        key.cipher
            .seal(key.key_id, [tenant.as_str().as_bytes(), aad], plaintext, self.entropy.as_ref())
            .map_err(|TooLong| SecretError::TooLong { tenant: tenant.clone() })
    }

    /// Opens what [`Keyring::seal`] made for this tenant with this `aad`, under any of the tenant's keys.
    pub fn open(&self, tenant: &TenantId, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let failed = |failure, key_id| match failure {
            OpenFailure::Malformed(problem) => SecretError::Malformed { tenant: tenant.clone(), problem },
            OpenFailure::Tampered => SecretError::Tampered { tenant: tenant.clone(), key_id },
        };
        let key_id = key_id(sealed).map_err(|failure| failed(failure, 0))?;
        let key = self.keys.read().by_id.get(&key_id).cloned();
        let key = key.ok_or_else(|| SecretError::UnknownKey { tenant: tenant.clone(), key_id })?;
        if key.tenant != *tenant {
            return Err(SecretError::OtherTenant { tenant: tenant.clone(), key_id });
        }
        let plaintext = key
            .cipher
            .open([tenant.as_str().as_bytes(), aad], sealed)
            .map_err(|failure| failed(failure, key_id))?;
        // The caller gets the only copy.
        Ok(std::mem::take(&mut *{ plaintext }))
    }

    /// A key for one purpose, the same on every node and after every restart: HKDF-SHA256 (RFC 5869) of a
    /// secret that the installation was born with. Different purposes give unrelated keys.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        #[expect(clippy::expect_used, reason = "one block of output is within HKDF's limit")]
        self.installation
            .expand(&[b"sendlake/v1/", purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("HKDF-SHA256 gives 32 bytes");
        key
    }

    /// Whether this tenant's values can be sealed now.
    pub fn has_data_key(&self, tenant: &TenantId) -> bool {
        self.keys.read().current.contains_key(tenant)
    }

    pub(crate) fn knows(&self, key_id: u32) -> bool {
        self.keys.read().by_id.contains_key(&key_id)
    }

    pub(crate) fn add(&self, tenant: &TenantId, key_id: u32, key: &[u8; 32]) {
        let key = Arc::new(DataKey { key_id, tenant: tenant.clone(), cipher: Cipher::new(key) });
        let mut keys = self.keys.write();
        keys.by_id.insert(key_id, key.clone());
        let current = keys.current.entry(tenant.clone()).or_insert_with(|| key.clone());
        if current.key_id < key_id {
            *current = key;
        }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} data keys)", self.keys.read().by_id.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn keyring() -> Keyring {
        let keyring = Keyring::new(Arc::new(SeededEntropy::new(1)), &[9; 32]);
        keyring.add(&tenant("acme"), 1, &[1; 32]);
        keyring.add(&tenant("bolt"), 2, &[2; 32]);
        keyring
    }

    #[test]
    fn value_opens_for_its_tenant_in_its_place_only() {
        let keyring = keyring();
        let sealed = keyring.seal(&tenant("acme"), b"body/1", b"hello").unwrap();
        assert!(!sealed.windows(5).any(|window| window == b"hello"));
        assert_eq!(keyring.open(&tenant("acme"), b"body/1", &sealed).unwrap(), b"hello");
        assert!(matches!(
            keyring.open(&tenant("acme"), b"body/2", &sealed),
            Err(SecretError::Tampered { key_id: 1, .. })
        ));
        assert!(matches!(
            keyring.open(&tenant("bolt"), b"body/1", &sealed),
            Err(SecretError::OtherTenant { key_id: 1, .. })
        ));
    }

    #[test]
    fn naming_the_other_tenants_key_in_the_value_does_not_help() {
        let keyring = keyring();
        let mut sealed = keyring.seal(&tenant("acme"), b"x", b"hello").unwrap();
        sealed[1..5].copy_from_slice(&2_u32.to_be_bytes());
        assert!(matches!(keyring.open(&tenant("bolt"), b"x", &sealed), Err(SecretError::Tampered { .. })));
    }

    #[test]
    fn same_value_never_looks_the_same_twice() {
        let keyring = keyring();
        let seal = || keyring.seal(&tenant("acme"), b"x", b"hello").unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn older_keys_go_on_opening_and_the_newest_seals() {
        let keyring = keyring();
        let old = keyring.seal(&tenant("acme"), b"x", b"old").unwrap();
        keyring.add(&tenant("acme"), 3, &[3; 32]);
        let new = keyring.seal(&tenant("acme"), b"x", b"new").unwrap();
        assert_eq!(new[1..5], 3_u32.to_be_bytes());
        assert_eq!(keyring.open(&tenant("acme"), b"x", &old).unwrap(), b"old");
        assert_eq!(keyring.open(&tenant("acme"), b"x", &new).unwrap(), b"new");
    }

    #[test]
    fn unknown_tenant_and_unknown_key_say_what_to_load() {
        let keyring = keyring();
        let error = keyring.seal(&tenant("nobody"), b"", b"").unwrap_err().to_string();
        assert!(error.contains("nobody") && error.contains("ensure_data_key"), "{error}");
        let mut sealed = keyring.seal(&tenant("acme"), b"", b"").unwrap();
        sealed[1..5].copy_from_slice(&77_u32.to_be_bytes());
        let error = keyring.open(&tenant("acme"), b"", &sealed).unwrap_err().to_string();
        assert!(error.contains("data key 77") && error.contains("refresh_data_keys"), "{error}");
    }

    #[test]
    fn derived_keys_are_stable_and_differ_by_purpose() {
        assert_eq!(keyring().derive("return-path"), keyring().derive("return-path"));
        assert_ne!(keyring().derive("return-path"), keyring().derive("tracking"));
    }
}
