//! What an endpoint on loopback sees, what its answers mean, and where nothing is ever sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::http::{HeaderMap, StatusCode as Status};
use axum::response::IntoResponse as _;
use axum::routing::post;
use sendlake_control::clock::ManualClock;
use tokio::net::TcpListener;

use super::*;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

/// A name service with one name, whose addresses change with every question.
struct Rebinding {
    asked: AtomicUsize,
    allow_loopback: bool,
}

#[async_trait]
impl Guard for Rebinding {
    fn allows(&self, ip: IpAddr) -> bool {
        self.allow_loopback || !ip.is_loopback()
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        if name != "hooks.test" {
            return Err(format!("the DNS knows no address of {name}"));
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

fn sender(allow_loopback: bool, settings: SendSettings) -> (Sender, Arc<Rebinding>) {
    let guard = Arc::new(Rebinding { asked: AtomicUsize::new(0), allow_loopback });
    let clock = Arc::new(ManualClock::new(NOON));
    (Sender::new(guard.clone(), clock, settings).unwrap(), guard)
}

fn quick() -> SendSettings {
    SendSettings { answer_max: Duration::from_millis(300), allow_http: true, ..SendSettings::default() }
}

async fn answers(headers: HeaderMap, body: axum::body::Bytes) -> axum::response::Response {
    assert_eq!(headers["webhook-id"], "evt");
    assert_eq!(headers["webhook-timestamp"], "1795348800");
    assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    assert_eq!(headers["content-type"], "application/json");
    match body.as_ref() {
        b"gone" => Status::GONE.into_response(),
        b"busy" => (Status::TOO_MANY_REQUESTS, [("retry-after", "7")]).into_response(),
        b"later" => {
            (Status::SERVICE_UNAVAILABLE, [("retry-after", "Sun, 22 Nov 2026 12:01:00 GMT")]).into_response()
        }
        b"moved" => (Status::FOUND, [("location", "/in")]).into_response(),
        b"broken" => Status::INTERNAL_SERVER_ERROR.into_response(),
        b"hang" => std::future::pending().await,
        b"endless" => {
            let chunk = Ok::<_, std::io::Error>(axum::body::Bytes::from_static(&[b'x'; 65_536]));
            axum::body::Body::from_stream(futures::stream::repeat_with(move || match &chunk {
                Ok(chunk) => Ok::<_, std::io::Error>(chunk.clone()),
                Err(_) => Ok(axum::body::Bytes::new()),
            }))
            .into_response()
        }
        _ => Status::NO_CONTENT.into_response(),
    }
}

async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/in", post(answers))).await.unwrap();
    });
    port
}

async fn sent(sender: &Sender, url: &str, body: &str) -> Outcome {
    let secrets = [SigningSecret::of_key(&[7; 32], NOON)];
    let url = Url::parse(url).unwrap();
    sender.send(Message { url: &url, secrets: &secrets, id: "evt", body: body.into(), replay_id: None }).await
}

fn said(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { said, .. } | Outcome::Gone { said } => said,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_means_what_its_status_says() {
    let (port, (sender, guard)) = (server().await, sender(true, quick()));
    let url = format!("http://hooks.test:{port}/in");
    for body in ["fine", "endless"] {
        assert_eq!(sent(&sender, &url, body).await, Outcome::Delivered, "{body}");
    }
    assert!(matches!(sent(&sender, &url, "gone").await, Outcome::Gone { .. }));
    for (body, wait_s) in
        [("busy", Some(7)), ("later", Some(60)), ("broken", None), ("moved", None), ("hang", None)]
    {
        match sent(&sender, &url, body).await {
            Outcome::Failed { retry_after_s, .. } => assert_eq!(retry_after_s, wait_s, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert!(said(&sent(&sender, &url, "moved").await).contains("redirects are not followed"));
    assert!(said(&sent(&sender, &url, "hang").await).contains("no answer within"));
    assert!(guard.asked.load(Ordering::Relaxed) > 0, "names are asked of the guard");
    let missing = sent(&sender, "http://nowhere.test/in?token=hunter2", "x").await;
    assert!(said(&missing).contains("the DNS knows no address of nowhere.test"), "{missing:?}");
    assert!(!said(&missing).contains("hunter2"));
}

#[tokio::test]
async fn nothing_is_sent_to_an_internal_address_or_in_clear() {
    let port = server().await;
    let (guarded, guard) = sender(false, quick());
    let by_name = sent(&guarded, &format!("http://hooks.test:{port}/in"), "x").await;
    assert!(said(&by_name).contains("hooks.test leads to no public address"), "{by_name:?}");
    assert_eq!(guard.asked.load(Ordering::Relaxed), 1);
    for host in ["127.0.0.1", "[::1]", "2130706433"] {
        let by_number = sent(&guarded, &format!("http://{host}:{port}/in"), "x").await;
        assert!(said(&by_number).contains("internal network"), "{by_number:?}");
    }
    let (strict, _) = sender(true, SendSettings { allow_http: false, ..quick() });
    let in_clear = sent(&strict, &format!("http://hooks.test:{port}/in"), "x").await;
    assert!(matches!(in_clear, Outcome::Failed { .. }), "{in_clear:?}");
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_gets_nothing() {
    let made = rcgen::generate_simple_self_signed(["hooks.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (stream, _) = listener.accept().await.unwrap();
            // a client that does not trust us leaves
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    let url = format!("https://hooks.test:{port}/in");
    let (stranger, _) =
        sender(true, SendSettings { answer_max: Duration::from_secs(5), ..SendSettings::default() });
    let refused = sent(&stranger, &url, "x").await;
    assert!(said(&refused).to_lowercase().contains("certificate"), "{refused:?}");
    let root = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let settings =
        SendSettings { roots: vec![root], answer_max: Duration::from_secs(5), ..SendSettings::default() };
    assert_eq!(sent(&sender(true, settings).0, &url, "x").await, Outcome::Delivered);
}
