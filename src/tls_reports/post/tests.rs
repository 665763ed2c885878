//! Reports by HTTPS to servers on loopback, and to places that are never asked.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sendlake_sender::mx::HickoryResolver;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::testing::Zone;

struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, peer) = self.0.accept().await.unwrap();
            // a client that does not trust us leaves
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

type Got = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

async fn take(
    State(got): State<Got>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> (StatusCode, HeaderMap) {
    let kind = headers["content-type"].to_str().unwrap().to_owned();
    let status = match body.as_ref() {
        b"busy" => StatusCode::SERVICE_UNAVAILABLE,
        b"gone" => StatusCode::GONE,
        b"elsewhere" => StatusCode::TEMPORARY_REDIRECT,
        _ => StatusCode::CREATED,
    };
    got.lock().push((kind, body.to_vec()));
    let location = ("location", "https://192.168.1.1/");
    (status, HeaderMap::from_iter([(location.0.parse().unwrap(), location.1.parse().unwrap())]))
}

#[tokio::test]
async fn reports_go_to_verified_public_servers_and_nowhere_else() {
    let made = rcgen::generate_simple_self_signed(["reports.test".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = Got::default();
    let routes = Router::new().route("/v1/x", post(take)).with_state(got.clone());
    tokio::spawn(async move {
        axum::serve(Tls(listener, TlsAcceptor::from(Arc::new(config))), routes).await.unwrap();
    });
    let zone = Zone::start().await;
    zone.address("reports.test", "127.0.0.1");
    zone.address("other.test", "127.0.0.1");
    zone.fail("broken.test");
    let resolver = HickoryResolver::from_servers(&[zone.addr]).unwrap();
    let root = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let poster = Poster {
        outside: Outside { resolver: resolver.clone(), allow_private: true },
        roots: vec![root.clone()],
    };
    let url = |host: &str| Url::parse(&format!("https://{host}:{port}/v1/x")).unwrap();

    poster.post(&url("reports.test"), b"gzip".to_vec()).await.unwrap();
    assert_eq!(*got.lock(), [("application/tlsrpt+gzip".to_owned(), b"gzip".to_vec())]);
    let said = async |poster: &Poster, url: Url, body: &[u8]| {
        format!("{:?}", poster.post(&url, body.to_vec()).await)
    };
    assert!(said(&poster, url("reports.test"), b"busy").await.contains("Later(\"reports.test answers 503"));
    assert!(said(&poster, url("reports.test"), b"gone").await.contains("Never(\"reports.test answers 410"));
    assert!(
        said(&poster, url("reports.test"), b"elsewhere").await.contains("Never(\"reports.test answers 307")
    );
    assert_eq!(got.lock().len(), 4, "no redirect is followed");

    let other = said(&poster, url("other.test"), b"x").await;
    assert!(other.contains("Later(") && other.contains("certificate"), "{other}");
    let stranger =
        Poster { outside: Outside { resolver: resolver.clone(), allow_private: true }, roots: Vec::new() };
    let unknown = said(&stranger, url("reports.test"), b"x").await;
    assert!(unknown.contains("Later(") && unknown.contains("certificate"), "{unknown}");
    for (host, words) in [
        ("gone.test", "Later(\"the DNS knows no address"),
        ("broken.test", "Later(\"the DNS gave no address"),
    ] {
        let told = said(&poster, url(host), b"x").await;
        assert!(told.contains(words), "{told}");
    }
    let guarded = Poster { outside: Outside { resolver, allow_private: false }, roots: vec![root] };
    for host in ["reports.test", "127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254"] {
        let told = said(&guarded, url(host), b"x").await;
        assert!(told.contains("Never(") && told.contains("no public address"), "{host}: {told}");
    }
    assert_eq!(got.lock().len(), 4, "nobody else was asked");
}
