//! TLS for sessions: one set-up, and for each handshake a verdict on the certificate.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mail_send::SmtpClient;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sendlake_control::clock::Clock;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("TLS for delivery cannot be set up: {0}")]
pub struct TlsError(String);

/// The TLS client of all sessions.
#[derive(Clone, Debug)]
pub struct Tls {
    config: ClientConfig,
    roots: Arc<WebPkiServerVerifier>,
}

/// What keeps a session from TLS, in the words of RFC 8460, section 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The host does not announce STARTTLS, or refuses it.
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    /// No root that is trusted vouches for the certificate.
    CertificateNotTrusted,
    /// Anything else in the handshake.
    ValidationFailure,
}

impl TlsFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            TlsFailure::StarttlsNotSupported => "starttls-not-supported",
            TlsFailure::CertificateHostMismatch => "certificate-host-mismatch",
            TlsFailure::CertificateExpired => "certificate-expired",
            TlsFailure::CertificateNotTrusted => "certificate-not-trusted",
            TlsFailure::ValidationFailure => "validation-failure",
        }
    }

    /// What a verifier's complaint is called.
    fn of(error: &rustls::Error) -> Self {
        use CertificateError as Certificate;
        match error {
            rustls::Error::InvalidCertificate(
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
            ) => TlsFailure::CertificateHostMismatch,
            rustls::Error::InvalidCertificate(
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. },
            ) => TlsFailure::CertificateExpired,
            rustls::Error::InvalidCertificate(_) => TlsFailure::CertificateNotTrusted,
            _ => TlsFailure::ValidationFailure,
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub version: Option<String>,
    pub cipher: Option<String>,
    pub verified: bool,
}

impl Tls {
    /// Trusts the public roots that Mozilla trusts.
    pub fn with_public_roots(clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        Self::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, clock)
    }

    /// Trusts these roots. The clock says whether a certificate is within its dates.
    pub fn new(roots: RootCertStore, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let failed = |err: &dyn std::fmt::Display| TlsError(err.to_string());
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|err| failed(&err))?;
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(InjectedTime(clock)))
            .with_safe_default_protocol_versions()
            .map_err(|err| failed(&err))?
            .with_webpki_verifier(roots.clone())
            .with_no_client_auth();
        // A resumed session shows no certificate, so nothing could be said about it.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config, roots })
    }

    /// Upgrades a connection. `must_verify`: fail unless the certificate is valid for `host`; else take any,
    /// and say whether it was.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        host: &str,
        ip: IpAddr,
        must_verify: bool,
        within: Duration,
    ) -> Result<(TlsStream<TcpStream>, Agreed), (TlsFailure, String)> {
        let verifier = Arc::new(RecordingVerifier {
            roots: self.roots.clone(),
            must_verify,
            verified: AtomicBool::new(false),
            refusal: OnceLock::new(),
        });
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(verifier.clone());
        let name = ServerName::try_from(host).map_or_else(|_| ip.to_string(), |_| host.to_owned());
        let client = SmtpClient { stream, timeout: within };
        let client = client.into_tls(&TlsConnector::from(Arc::new(config)), &name).await.map_err(|err| {
            let failure = verifier.refusal.get().copied().unwrap_or(TlsFailure::ValidationFailure);
            (failure, err.to_string())
        })?;
        let connection = client.tls_connection();
        let agreed = Agreed {
            version: connection.protocol_version().and_then(|version| version.as_str()).map(version_name),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .map(|name| name.replacen("TLS13_", "TLS_", 1)),
            verified: verifier.verified.load(Ordering::Relaxed),
        };
        Ok((client.stream, agreed))
    }
}

/// `TLSv1_3` → `TLSv1.3`.
fn version_name(name: &str) -> String {
    name.replace('_', ".")
}

#[derive(Debug)]
struct InjectedTime(Arc<dyn Clock>);

impl TimeProvider for InjectedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

/// Verifies one connection's certificate, and remembers how it went. Opportunistic TLS takes any certificate
/// (RFC 7435): the alternative is no encryption at all, and the event says what it was worth.
#[derive(Debug)]
struct RecordingVerifier {
    roots: Arc<WebPkiServerVerifier>,
    must_verify: bool,
    verified: AtomicBool,
    /// Why the certificate was refused, where it was.
    refusal: OnceLock<TlsFailure>,
}

impl RecordingVerifier {
    fn settle<T>(&self, result: Result<T, rustls::Error>, lenient: T) -> Result<T, rustls::Error> {
        match result {
            Err(_) if !self.must_verify => {
                self.verified.store(false, Ordering::Relaxed);
                Ok(lenient)
            }
            Err(error) => {
                let _ = self.refusal.set(TlsFailure::of(&error));
                Err(error)
            }
            good => good,
        }
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result =
            self.roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.verified.store(result.is_ok(), Ordering::Relaxed);
        self.settle(result, ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let result = self.roots.verify_tls12_signature(message, cert, dss);
        self.settle(result, HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let result = self.roots.verify_tls13_signature(message, cert, dss);
        self.settle(result, HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.supported_verify_schemes()
    }
}
