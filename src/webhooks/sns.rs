//! Messages of Amazon SNS over HTTPS: what is signed, by whom, and how a subscription is confirmed. "Verifying the
//! signatures of Amazon SNS messages" of the SNS developer guide (docs.aws.amazon.com/sns/latest/dg).
//!
//! Whoever has the address can send anything. So nothing but hosts of SNS is ever asked for anything, by HTTPS, without
//! following redirects, and no message counts whose certificate did not come from there, is not valid now, is not in
//! the name of SNS or has an issuer beside it that no public root vouches for; nor one that is older than SNS tries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime, alg_id,
};
use sendlake_control::clock::Timestamp;
use serde::Deserialize;
use url::{Host, Url};

const CERTIFICATE_BYTES_MAX: usize = 64 << 10;
/// Certificates of one file: its own, and who issued it.
const CHAIN_MAX: usize = 8;
/// SNS gives a message up after an hour: "Amazon SNS message delivery retries", the same guide.
const AGE_S_MAX: i64 = 3_600;
/// Clocks differ.
const AHEAD_S_MAX: i64 = 300;
/// In whose name the certificates are; one of the region's host would do as well.
const NAMES: [&str; 2] = ["sns.amazonaws.com", "sns.amazonaws.com.cn"];
/// SNS has a handful of certificates at a time.
const CERTIFICATES_MAX: usize = 64;
const ASK_MAX: Duration = Duration::from_secs(10);

/// Why a message does not count.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("it is no message of SNS: {0}")]
    Form(String),
    #[error("{0} is no address of SNS")]
    Address(String),
    #[error("its signature does not fit what it says")]
    Signature,
    #[error("its certificate does not count: {0}")]
    Certificate(String),
    #[error("it was published {age_s} seconds ago; messages are taken for {AGE_S_MAX}")]
    Age { age_s: i64 },
    /// It may count later.
    #[error("SNS cannot be asked: {0}")]
    Unavailable(String),
}

/// A message as SNS posts it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Message {
    #[serde(rename = "Type")]
    pub kind: String,
    message_id: String,
    pub topic_arn: String,
    #[serde(default)]
    subject: Option<String>,
    message: String,
    timestamp: String,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
    #[serde(default, rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

impl Message {
    pub fn read(body: &[u8]) -> Result<Self, Refused> {
        let message: Self = serde_json::from_slice(body).map_err(|error| Refused::Form(error.to_string()))?;
        let known = ["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"];
        if known.contains(&message.kind.as_str()) {
            Ok(message)
        } else {
            Err(Refused::Form("its Type is unknown".into()))
        }
    }

    /// The names and values that are signed, a line each, by name.
    fn signed(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                text.push_str(name);
                text.push('\n');
                text.push_str(value);
                text.push('\n');
            }
        };
        let is_notification = self.kind == "Notification";
        line("Message", Some(&self.message));
        line("MessageId", Some(&self.message_id));
        if is_notification {
            line("Subject", self.subject.as_deref());
        } else {
            line("SubscribeURL", self.subscribe_url.as_deref());
        }
        line("Timestamp", Some(&self.timestamp));
        if !is_notification {
            line("Token", self.token.as_deref());
        }
        line("TopicArn", Some(&self.topic_arn));
        line("Type", Some(&self.kind));
        text
    }
}

/// Asks SNS. Made for tests to stand in for it.
#[async_trait]
pub trait Sns: Send + Sync {
    /// The body at an address of SNS, at most `bytes_max` of it. No redirect is followed.
    async fn get(&self, url: &Url, bytes_max: usize) -> Result<Vec<u8>, String>;
}

/// Certificates of SNS, kept once they were asked for.
pub struct Certificates {
    sns: Arc<dyn Sns>,
    roots: Vec<TrustAnchor<'static>>,
    known: Mutex<HashMap<Url, Arc<[CertificateDer<'static>]>>>,
}

impl Certificates {
    /// `roots` vouch for who issues certificates; [`public_roots`] for the real SNS.
    pub fn new(sns: Arc<dyn Sns>, roots: Vec<TrustAnchor<'static>>) -> Self {
        Self { sns, roots, known: Mutex::default() }
    }

    /// Checks that SNS has signed what the message says, and lately.
    pub async fn verify(&self, message: &Message, now: Timestamp) -> Result<(), Refused> {
        let url = address(&message.signing_cert_url)?;
        if !url.path().ends_with(".pem") || url.query().is_some() {
            return Err(Refused::Address(message.signing_cert_url.clone()));
        }
        let signature = STANDARD.decode(message.signature.trim()).map_err(|_| Refused::Signature)?;
        let chain = self.chain(&url).await?;
        let (own, issuers) =
            chain.split_first().ok_or_else(|| Refused::Form("it has no certificate".into()))?;
        let certificate = webpki::EndEntityCert::try_from(own)
            .map_err(|error| Refused::Form(format!("its certificate cannot be read: {error}")))?;
        self.vouched_for(&certificate, issuers, url.host_str().unwrap_or_default(), now)?;
        let algorithm: &dyn SignatureVerificationAlgorithm = match message.signature_version.as_str() {
            "1" => &Sha1WithRsa,
            "2" => webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
            other => return Err(Refused::Form(format!("its SignatureVersion is {other:?}, not 1 or 2"))),
        };
        certificate
            .verify_signature(algorithm, message.signed().as_bytes(), &signature)
            .map_err(|_| Refused::Signature)?;
        // not before: a time that nobody signed says nothing
        let at = Timestamp::parse(&message.timestamp)
            .ok_or_else(|| Refused::Form(format!("its Timestamp is {:?}", message.timestamp)))?;
        let age_s = now.as_secs().saturating_sub(at.as_secs());
        if (-AHEAD_S_MAX..=AGE_S_MAX).contains(&age_s) { Ok(()) } else { Err(Refused::Age { age_s }) }
    }

    /// Whether a certificate is valid now, in the name of SNS, and issued by somebody whom a root vouches for. A file
    /// without its issuers cannot show the last; then it counts since the host gave it, by HTTPS under a certificate of its
    /// own that a public root does vouch for.
    fn vouched_for(
        &self,
        certificate: &webpki::EndEntityCert<'_>,
        issuers: &[CertificateDer<'_>],
        host: &str,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_secs()).unwrap_or(0)));
        let usage = webpki::KeyUsage::server_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let chained = certificate.verify_for_usage(algorithms, &self.roots, issuers, time, usage, None, None);
        match chained {
            Ok(_) => {}
            Err(webpki::Error::UnknownIssuer) if issuers.is_empty() => {}
            Err(error) => return Err(Refused::Certificate(error.to_string())),
        }
        let is_named = |name: &str| {
            ServerName::try_from(name)
                .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
        };
        if NAMES.iter().any(|name| is_named(name)) || is_named(host) {
            Ok(())
        } else {
            Err(Refused::Certificate("it is in another name than SNS's".into()))
        }
    }

    /// Confirms a subscription whose message was verified.
    pub async fn confirm(&self, message: &Message) -> Result<(), Refused> {
        let url =
            message.subscribe_url.as_deref().ok_or_else(|| Refused::Form("it has no SubscribeURL".into()))?;
        let url = address(url)?;
        if !url.query_pairs().any(|(name, value)| name == "Action" && value == "ConfirmSubscription") {
            return Err(Refused::Address(url.to_string()));
        }
        self.sns.get(&url, CERTIFICATE_BYTES_MAX).await.map(drop).map_err(Refused::Unavailable)
    }

    async fn chain(&self, url: &Url) -> Result<Arc<[CertificateDer<'static>]>, Refused> {
        if let Some(known) = self.known.lock().get(url) {
            return Ok(Arc::clone(known));
        }
        let pem = self.sns.get(url, CERTIFICATE_BYTES_MAX).await.map_err(Refused::Unavailable)?;
        let chain: Arc<[CertificateDer<'static>]> = chain_in(&pem).into();
        if chain.is_empty() {
            return Err(Refused::Form("there is no certificate at its address".into()));
        }
        let mut known = self.known.lock();
        if known.len() >= CERTIFICATES_MAX {
            known.clear();
        }
        known.insert(url.clone(), Arc::clone(&chain));
        Ok(chain)
    }
}

/// An address at `sns.<region>.amazonaws.com`, by HTTPS at its usual port, without a user.
fn address(text: &str) -> Result<Url, Refused> {
    let refused = || Refused::Address(text.chars().take(200).collect());
    let url = Url::parse(text).map_err(|_| refused())?;
    let Some(Host::Domain(host)) = url.host() else { return Err(refused()) };
    let region = host.strip_prefix("sns.").and_then(|rest| {
        rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))
    });
    let is_region = region.is_some_and(|region| {
        !region.is_empty()
            && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    });
    let is_plain = url.scheme() == "https"
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_region && is_plain { Ok(url) } else { Err(refused()) }
}

/// The roots that browsers trust.
pub fn public_roots() -> Vec<TrustAnchor<'static>> {
    webpki_roots::TLS_SERVER_ROOTS.to_vec()
}

/// The certificates of a PEM file (RFC 7468), as many as a chain may have.
fn chain_in(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1).take(CHAIN_MAX);
    let inner = blocks.filter_map(|block| block.split_once("-----END CERTIFICATE-----"));
    inner
        .filter_map(|(inner, _)| STANDARD.decode(inner.split_whitespace().collect::<String>()).ok())
        .map(CertificateDer::from)
        .collect()
}

/// SignatureVersion 1. webpki has no algorithm with SHA-1, and rightly so.
#[derive(Debug)]
struct Sha1WithRsa;

impl SignatureVerificationAlgorithm for Sha1WithRsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        // sha1WithRSAEncryption (RFC 3279, section 2.2.1)
        AlgorithmIdentifier::from_slice(&[
            0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x05, 0x05, 0x00,
        ])
    }
}

/// The real SNS, over HTTPS. Its client is made by the first message: most installations never need it.
#[derive(Default)]
pub struct Https(Mutex<Option<reqwest::Client>>);

impl Https {
    fn client(&self) -> Result<reqwest::Client, reqwest::Error> {
        let mut made = self.0.lock();
        if let Some(client) = made.as_ref() {
            return Ok(client.clone());
        }
        let client = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ASK_MAX)
            .build()?;
        Ok(made.insert(client).clone())
    }
}

#[async_trait]
impl Sns for Https {
    async fn get(&self, url: &Url, bytes_max: usize) -> Result<Vec<u8>, String> {
        let client = self.client().map_err(|error| error.to_string())?;
        let mut response = client.get(url.clone()).send().await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("{url} answers {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
            if body.len() + chunk.len() > bytes_max {
                return Err(format!("{url} answers with more than {bytes_max} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

#[cfg(test)]
pub(crate) mod tests;
