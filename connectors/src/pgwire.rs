//! PostgreSQL's wire protocol, as PostgreSQL and Redshift speak it: connections with TLS, and what their errors mean.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::target::TargetError;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Encrypted, and the server's certificate and name are verified: libpq's `verify-full`, and nothing weaker.
    #[default]
    Require,
    /// In the clear, password exchange too: for a server on this machine.
    Disable,
}

/// Where to, and as whom.
pub struct Address<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
    pub password: Option<&'a str>,
    pub sslmode: SslMode,
    /// PEM; without one, the roots that this machine trusts.
    pub ca_file: Option<&'a Path>,
}

/// A connection that ends with this value: the server then rolls back what was not committed.
pub struct Connection {
    pub client: Client,
    /// Named in messages: `host:port/database`.
    pub place: String,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub async fn open(address: &Address<'_>) -> Result<Self, TargetError> {
        let place = format!("{}:{}/{}", address.host, address.port, address.database);
        let mut config = Config::new();
        config
            .host(address.host)
            .port(address.port)
            .dbname(address.database)
            .user(address.user)
            .application_name("sendlake")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(Duration::from_secs(60))
            .keepalives_idle(Duration::from_secs(30));
        if let Some(password) = address.password {
            config.password(password);
        }
        let opened = async {
            match address.sslmode {
                SslMode::Disable => {
                    config.ssl_mode(tokio_postgres::config::SslMode::Disable);
                    let (client, connection) =
                        config.connect(NoTls).await.map_err(|error| said(&place, &error))?;
                    Ok::<_, TargetError>((client, tokio::spawn(drive(connection))))
                }
                SslMode::Require => {
                    config.ssl_mode(tokio_postgres::config::SslMode::Require);
                    let tls = tls(address.ca_file)?;
                    let (client, connection) =
                        config.connect(tls).await.map_err(|error| said(&place, &error))?;
                    Ok((client, tokio::spawn(drive(connection))))
                }
            }
        };
        let (client, driver) = tokio::time::timeout(CONNECT_TIMEOUT, opened)
            .await
            .map_err(|_| TargetError::Away(format!("{place} did not answer within 30 s")))??;
        Ok(Self { client, place, driver })
    }

    /// One statement; returns its rows as text, and how many rows it changed or gave.
    pub async fn run(&self, sql: &str, within: Duration) -> Result<(Vec<Row>, u64), TargetError> {
        let answer = tokio::time::timeout(within, self.client.simple_query(sql)).await;
        let answer = answer.map_err(|_| {
            let begin: String = sql.chars().take(60).collect();
            TargetError::Away(format!(
                "{}: no answer within {} s to {begin:?}…; the connection was dropped",
                self.place,
                within.as_secs()
            ))
        })?;
        let (mut rows, mut count) = (Vec::new(), 0);
        for message in answer.map_err(|error| said(&self.place, &error))? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push(
                        (0..row.len()).map(|i| row.try_get(i).ok().flatten().map(str::to_owned)).collect(),
                    );
                }
                SimpleQueryMessage::CommandComplete(changed) => count = changed,
                _ => {}
            }
        }
        Ok((rows, count))
    }
}

/// The values of a row as text, `None` for NULL.
pub type Row = Vec<Option<String>>;

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // What ends a connection reaches whoever waits for an answer on it.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to a warehouse ended");
    }
}

fn tls(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, TargetError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let Some(path) = ca_file else {
        // Already there in the server; the first one stays.
        let _ = provider.install_default();
        let (connector, _) = MakeRustlsConnect::with_native_certs().map_err(|errors| {
            TargetError::Refused(format!(
                "this machine trusts no certificate authority ({} could not be read); install ca-certificates, or set \
                 ca_file",
                errors.len()
            ))
        })?;
        return Ok(connector);
    };
    let roots = read_roots(path).map_err(|reason| {
        TargetError::Refused(format!(
            "ca_file {} cannot be used: {reason}; it must hold certificates as PEM",
            path.display()
        ))
    })?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TargetError::Local(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(roots) }
}

/// What an error of the driver or the server means to us.
pub fn said(place: &str, error: &tokio_postgres::Error) -> TargetError {
    let Some(database) = error.as_db_error() else {
        let reason = error_chain(error);
        return if reason.contains("password missing") {
            TargetError::Credentials(format!(
                "{place} asks for a password and none is configured; set password"
            ))
        } else if reason.contains("certificate") {
            TargetError::Refused(format!(
                "{place}: its certificate is not accepted ({reason}); set ca_file to the authority that signed it"
            ))
        } else if reason.contains("does not support TLS") {
            TargetError::Refused(format!(
                "{place} does not offer TLS; switch it on there, or, on this machine alone, set sslmode = \"disable\""
            ))
        } else {
            TargetError::Away(format!("{place}: {reason}"))
        };
    };
    let code = database.code();
    let mut text = format!("{place}: {} ({})", database.message(), code.code());
    for more in [database.detail(), database.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    meaning(code, database.message(), text)
}

/// By SQLSTATE (PostgreSQL, appendix A); Redshift's own errors are mostly XX000 and told apart by their words.
pub fn meaning(code: &SqlState, message: &str, text: String) -> TargetError {
    let class = code.code().get(..2).unwrap_or_default();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match class {
        "28" => TargetError::Credentials(text),
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => TargetError::Credentials(text),
        _ if has(&[
            "Access Denied",
            "AccessDenied",
            "not authorized to assume",
            "InvalidAccessKeyId",
            "403",
        ]) && has(&["S3", "IAM", "iam", "Spectrum"]) =>
        {
            TargetError::Credentials(text)
        }
        // 1023: another transaction was first; 40001, 40P01: the same in PostgreSQL.
        "40" | "08" | "53" | "57" => TargetError::Away(text),
        "55" => TargetError::Away(text),
        _ if has(&["erializable isolation violation", "1023", "could not complete because of conflict"]) => {
            TargetError::Away(text)
        }
        "42" | "22" | "23" | "3F" => TargetError::Schema(text),
        "XX" | "58" => TargetError::JobFailed(text),
        _ => TargetError::Refused(text),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// Keys and problems that a file on this machine can have, for `check`.
pub fn check_ca(ca_file: Option<&PathBuf>) -> Result<(), (&'static str, String)> {
    match ca_file.map(|path| read_roots(path)) {
        Some(Err(reason)) => Err(("ca_file", format!("it cannot be used: {reason}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_mean_what_somebody_can_do_about_them() {
        let kind = |code: &str, message: &str| {
            meaning(&SqlState::from_code(code), message, message.to_owned()).kind()
        };
        assert_eq!(kind("28P01", "password authentication failed"), "credentials");
        assert_eq!(kind("42501", "permission denied for table events"), "credentials");
        assert_eq!(kind("XX000", "S3ServiceException:Access Denied,Status 403"), "credentials");
        assert_eq!(kind("XX000", "1023: Serializable isolation violation on table"), "away");
        assert_eq!(kind("40001", "could not serialize access"), "away");
        assert_eq!(kind("57P03", "the database system is starting up"), "away");
        assert_eq!(kind("42703", "column does not exist"), "schema");
        assert_eq!(kind("XX000", "Spectrum Scan Error"), "job_failed");
        assert_eq!(kind("3D000", "database does not exist"), "refused");
    }
}
