//! What the stand-in cannot say: no. A server that does, and Google's token server in small.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::mapping;
use crate::bigquery::auth::Auth;
use crate::bigquery::client::Client;
use crate::bigquery::{Settings, connect};
use crate::secret::SecretRef;
use crate::secret::tests::NoSecrets;
use crate::target::{Target, TargetError};

/// Answers the token endpoint, or a dataset to whoever has its token, until told a status to refuse with.
#[derive(Clone, Default)]
struct Google {
    refuse: Arc<AtomicU16>,
    refuse_tokens: Arc<AtomicU16>,
}

async fn answer(State(google): State<Google>, request: Request) -> Response {
    let json =
        |status: u16, body: Value| (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response();
    if request.uri().path() == "/token" {
        return match google.refuse_tokens.load(Ordering::SeqCst) {
            0 => json(200, json!({"access_token": "tok-1", "expires_in": 3600, "token_type": "Bearer"})),
            status => json(status, json!({"error": "invalid_grant"})),
        };
    }
    let reason = match google.refuse.load(Ordering::SeqCst) {
        0 if request.headers().get("authorization").is_some_and(|token| token == "Bearer tok-1") => {
            return json(200, json!({"location": "EU"}));
        }
        0 | 401 => (401, "authError"),
        403 => (403, "accessDenied"),
        429 => (429, "rateLimitExceeded"),
        status => (status, "backendError"),
    };
    json(reason.0, json!({"error": {"message": "no", "errors": [{"reason": reason.1}]}}))
}

async fn google() -> (Google, String) {
    let google = Google::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(google.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (google, url)
}

/// The JSON key of a service account whose tokens come from `url`.
fn key_file(dir: &std::path::Path, url: &str) -> SecretRef {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'static> = key.as_der().unwrap();
    let pem = data_encoding::BASE64.encode(der.as_ref());
    let json = json!({
        "type": "service_account", "project_id": "acme-data", "private_key_id": "1", "client_id": "1",
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
        "client_email": "sendlake@acme-data.iam.gserviceaccount.com", "token_uri": format!("{url}/token"),
    });
    let path = dir.join("key.json");
    std::fs::write(&path, json.to_string()).unwrap();
    SecretRef::File(path)
}

#[tokio::test]
async fn a_service_account_signs_and_refusals_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (google, url) = google().await;
    let settings = Settings {
        project: "acme-data".into(),
        dataset: "email".into(),
        credentials: Some(key_file(dir.path(), &url)),
        ..Settings::default()
    };
    // The key's own token server, and this server in the place of Google's.
    let open = async || {
        let auth = Auth::of(&settings, &NoSecrets).await.unwrap();
        let here = Settings { endpoint: url.parse().ok(), credentials: None, ..settings.clone() };
        Client::new(&here, auth).unwrap()
    };
    assert_eq!(open().await.location().await.unwrap(), "EU");
    for (status, kind) in
        [(401, "credentials"), (403, "credentials"), (429, "quota"), (500, "away"), (503, "away")]
    {
        google.refuse.store(status, Ordering::SeqCst);
        let error = open().await.location().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(!error.to_string().contains("tok-1"), "{error}");
    }
    // The key was deleted.
    google.refuse_tokens.store(400, Ordering::SeqCst);
    let error = open().await.location().await.unwrap_err();
    assert_eq!(error.kind(), "credentials", "{error}");
}

#[tokio::test]
async fn a_key_that_is_none_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.json");
    std::fs::write(&path, r#"{"private_key": "hunter2", "client_email": 5}"#).unwrap();
    let settings = Settings {
        project: "acme-data".into(),
        dataset: "email".into(),
        credentials: Some(SecretRef::File(path)),
        ..Settings::default()
    };
    let error = connect(&settings, "warehouse", &NoSecrets).await.unwrap_err();
    assert!(matches!(&error, TargetError::Credentials(said) if !said.contains("hunter2")), "{error:?}");
    let nowhere = Settings { credentials: Some(SecretRef::File("/nowhere".into())), ..settings };
    let error = connect(&nowhere, "warehouse", &NoSecrets).await.unwrap_err();
    assert_eq!(error.kind(), "credentials", "{error}");
}

#[tokio::test]
async fn nobody_there_is_away() {
    let endpoint = format!("http://127.0.0.1:{}", crate::testing::free_port()).parse().ok();
    let settings =
        Settings { project: "acme-data".into(), dataset: "email".into(), endpoint, ..Settings::default() };
    let target = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    let error = target.prepare(&mapping(&[])).await.unwrap_err();
    assert_eq!(error.kind(), "away", "{error}");
}
