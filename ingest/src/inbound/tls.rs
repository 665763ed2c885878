//! STARTTLS for the listener (RFC 3207): its certificate from PEM files, which are read again when they change, or one
//! that it signs itself. Senders of reports rarely verify; the point is that reports are not read on the way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

/// A certificate that cannot be used. Says which file, and why.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{} holds no certificates or key in PEM form: {problem}", path.display())]
    Pem { path: PathBuf, problem: String },
    #[error("certificate {} and key {} cannot be used together: {problem}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, problem: String },
    #[error("no certificate can be made for {hostname:?}: {problem}")]
    SelfSigned { hostname: String, problem: String },
}

/// The certificate in use. Handshakes take what is there when they begin.
#[derive(Debug)]
pub struct Certificate {
    files: Option<(PathBuf, PathBuf)>,
    in_use: RwLock<(Stamp, Arc<CertifiedKey>)>,
}

/// When the two files were last written.
type Stamp = [Option<SystemTime>; 2];

impl Certificate {
    /// A chain with the server's own certificate first, and its key.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<Self>, CertificateError> {
        let stamp = [written(certificate), written(key)];
        let pair = Arc::new(read(certificate, key)?);
        let files = Some((certificate.to_owned(), key.to_owned()));
        Ok(Arc::new(Self { files, in_use: RwLock::new((stamp, pair)) }))
    }

    /// A new one in the name of `hostname`, signed by nobody but itself.
    pub fn self_signed(hostname: &str) -> Result<Arc<Self>, CertificateError> {
        let failed =
            |problem: String| CertificateError::SelfSigned { hostname: hostname.to_owned(), problem };
        let made = rcgen::generate_simple_self_signed([hostname.to_owned()])
            .map_err(|error| failed(error.to_string()))?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|error| failed(error.to_owned()))?;
        let pair = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(Self { files: None, in_use: RwLock::new(([None; 2], Arc::new(pair))) }))
    }

    /// Reads the files again if they were written since; the old ones stay in use when the new ones are not good.
    /// Returns whether there are others now.
    pub fn refresh(&self) -> Result<bool, CertificateError> {
        let Some((certificate, key)) = &self.files else { return Ok(false) };
        let stamp = [written(certificate), written(key)];
        if self.in_use.read().unwrap_or_else(PoisonError::into_inner).0 == stamp {
            return Ok(false);
        }
        let pair = Arc::new(read(certificate, key)?);
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = (stamp, pair);
        Ok(true)
    }

    /// What makes a connection a secure one, with TLS 1.2 or 1.3.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner).1))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn written(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|of| of.modified()).ok()
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let pem = |path: &Path, problem: String| CertificateError::Pem { path: path.to_owned(), problem };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| pem(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(certificate, "it has no BEGIN CERTIFICATE".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error.to_string()))?;
    CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| CertificateError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(dir: &tempfile::TempDir, hostname: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed([hostname.to_owned()]).unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    }

    #[test]
    fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = pem(&dir, "mx.example");
        let in_use = Certificate::from_files(&certificate, &key).unwrap();
        let first = in_use.in_use.read().unwrap().1.clone();
        assert!(!in_use.refresh().unwrap());
        let later = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
        pem(&dir, "mx.example");
        std::fs::File::options().append(true).open(&key).unwrap().set_modified(later).unwrap();
        assert!(in_use.refresh().unwrap());
        let second = in_use.in_use.read().unwrap().1.clone();
        assert_ne!(first.cert, second.cert);
        std::fs::write(&certificate, "gone").unwrap();
        let error = in_use.refresh().unwrap_err().to_string();
        assert!(error.contains("cert.pem") && error.contains("PEM"), "{error}");
        assert_eq!(in_use.in_use.read().unwrap().1.cert, second.cert);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let error =
            Certificate::from_files(&pem(&one, "a.example").0, &pem(&other, "b.example").1).unwrap_err();
        assert!(error.to_string().contains("cannot be used together"), "{error}");
    }
}
