//! How sessions come about, or do not.

use std::sync::Arc;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{RootCertStore, ServerConfig};

use super::*;
use crate::mx::{Destination, MxHost};
use crate::site::SiteName;

#[tokio::test]
async fn server_without_ehlo_gets_helo() {
    let rest = [Hear("HELO out.example.test\r\n"), Say("250 hello\r\n")];
    let server = Server::new(vec![script("502 5.5.1 what?\r\n", rest)]).await;
    let session = connect(&server).await.unwrap();
    assert_eq!(*session.capabilities(), Capabilities::default());
}

#[tokio::test]
async fn hosts_that_never_become_a_session() {
    for (acts, expected, status) in [
        (vec![Say("554 5.7.1 blocked, see https://example.test\r\n")], "CONNECT Rejected", (5, 7, 1)),
        (vec![Say("421 4.7.0 too many connections\r\n")], "CONNECT Rejected", (4, 7, 0)),
        (vec![Say("HTTP/1.1 400 Bad Request\r\n\r\n")], "CONNECT Garbage", (4, 5, 0)),
        (vec![SayText("220 ".to_owned() + &"x".repeat(100_000))], "CONNECT Garbage", (4, 5, 0)),
        (vec![SayText("220-x\r\n".repeat(10_000))], "CONNECT Garbage", (4, 5, 0)),
        (vec![Hang], "CONNECT Timeout", (4, 4, 1)),
        (vec![], "CONNECT Closed", (4, 4, 2)),
        (vec![Reset], "CONNECT Closed", (4, 4, 2)),
        (script("421 4.3.2 bye\r\n", []), "EHLO Rejected", (4, 3, 2)),
        (script("550 no\r\n", [Hear("\r\n"), Say("550 5.7.1 no\r\n")]), "EHLO Rejected", (5, 7, 1)),
        (script("", [Hang]), "EHLO Timeout", (4, 4, 2)),
        (script("250-mx\r\n550 x\r\n", []), "EHLO Garbage", (4, 5, 0)),
    ] {
        let server = Server::new(vec![acts]).await;
        let failed = connect_with(&server, TlsPolicy::Opportunistic, &tls(), &hasty()).await.unwrap_err();
        let failure = &failed.failure;
        assert_eq!(format!("{} {:?}", failure.command, failure.kind), expected, "{failure}");
        assert_eq!(failure.enhanced(), status, "{failure}");
        assert_eq!(failed.facts.mx_ip, Some(server.addr.ip()));
        assert!(!failure.in_doubt);
    }
}

#[tokio::test]
async fn nobody_there_and_source_not_ours() {
    let server = Server::new(vec![]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let failed = connect(&server).await.unwrap_err();
    assert_eq!(failed.failure.kind, FailureKind::Refused, "{failed}");
    let foreign = Source { bind: Some("192.0.2.77".parse().unwrap()), ..source() };
    let target = Target { host: "localhost", addr: server.addr };
    let failed = Session::connect(target, &foreign, TlsPolicy::None, &tls(), &quick()).await.unwrap_err();
    assert_eq!(failed.failure.kind, FailureKind::Source);
    assert!(failed.to_string().contains("\"one\""), "{failed}");
}

const STARTTLS: &str = "250-mx.test\r\n250 STARTTLS\r\n";

/// An acceptor with a certificate for `localhost`, and roots that trust it.
fn self_signed() -> (TlsAcceptor, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), roots)
}

fn encrypted(acceptor: TlsAcceptor) -> Vec<Act> {
    script(
        STARTTLS,
        [
            Hear("STARTTLS\r\n"),
            Say("220 go\r\n"),
            Upgrade(acceptor),
            Hear("EHLO out.example.test\r\n"),
            Say(PIPELINING),
            Hear("DATA\r\n"),
            Say(ENVELOPE_OK),
            Hear("\r\n.\r\n"),
            Say("250 2.0.0 safe\r\n"),
            Hang,
        ],
    )
}

#[tokio::test]
async fn opportunistic_tls_takes_any_certificate_and_says_so() {
    let (acceptor, _) = self_signed();
    let server = Server::new(vec![encrypted(acceptor)]).await;
    let mut session = connect(&server).await.unwrap();
    assert_eq!(session.facts().tls_version.as_deref(), Some("TLSv1.3"));
    assert!(session.facts().tls_cipher.as_deref().unwrap().starts_with("TLS_"), "{:?}", session.facts());
    assert_eq!(session.facts().tls_verified, Some(false));
    assert!(session.capabilities().pipelining && !session.capabilities().starttls);
    assert_eq!(shown(&deliver(&mut session).await), "DOT 250 2.0.0 safe (usable)");
}

#[tokio::test]
async fn valid_certificates_are_verified_and_required_tls_insists() {
    let (acceptor, roots) = self_signed();
    let trusting = Tls::new(roots, clock()).unwrap();
    for policy in [TlsPolicy::Opportunistic, TlsPolicy::Required] {
        let server = Server::new(vec![encrypted(acceptor.clone())]).await;
        let session = connect_with(&server, policy, &trusting, &quick()).await.unwrap();
        assert_eq!(session.facts().tls_verified, Some(true), "{policy:?}");
    }
    let server = Server::new(vec![encrypted(acceptor)]).await;
    let failed = connect_with(&server, TlsPolicy::Required, &tls(), &quick()).await.unwrap_err();
    assert_eq!((failed.failure.command, failed.failure.kind), (SmtpCommand::StartTls, FailureKind::Tls));
    assert_eq!(failed.facts.tls_failure, Some(TlsFailure::CertificateNotTrusted), "{failed}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_told_as_such() {
    let (acceptor, roots) = self_signed();
    let server = Server::new(vec![encrypted(acceptor)]).await;
    let trusting = Tls::new(roots, clock()).unwrap();
    let target = Target { host: "mx.elsewhere.test", addr: server.addr };
    let failed =
        Session::connect(target, &source(), TlsPolicy::Required, &trusting, &quick()).await.unwrap_err();
    assert_eq!(failed.facts.tls_failure, Some(TlsFailure::CertificateHostMismatch), "{failed}");
}

#[tokio::test]
async fn starttls_that_is_not_to_be_had() {
    let refused = || script(STARTTLS, [Hear("STARTTLS\r\n"), Say("454 4.7.0 no TLS now\r\n"), Hang]);
    let server = Server::new(vec![refused()]).await;
    let session = connect(&server).await.unwrap();
    let facts = session.facts();
    assert_eq!((&facts.tls_version, facts.tls_failure), (&None, Some(TlsFailure::StarttlsNotSupported)));
    assert_eq!(facts.tls_failure_reason.as_deref(), Some("454 4.7.0 no TLS now"));
    for acts in [refused(), script(PLAIN, [Hang])] {
        let server = Server::new(vec![acts]).await;
        let failed = connect_with(&server, TlsPolicy::Required, &tls(), &quick()).await.unwrap_err();
        assert_eq!(failed.failure.kind, FailureKind::TlsUnavailable, "{failed}");
        assert_eq!(failed.facts.tls_failure, Some(TlsFailure::StarttlsNotSupported));
    }
    let injected = script(STARTTLS, [Hear("STARTTLS\r\n"), Say("220 go\r\n250 trust me\r\n"), Hang]);
    let server = Server::new(vec![injected]).await;
    assert_eq!(connect(&server).await.unwrap_err().failure.kind, FailureKind::Tls);
}

fn destination(hosts: &[(&str, SocketAddr)], tls: TlsPolicy) -> Destination {
    Destination {
        site: SiteName::of_hosts(hosts.iter().map(|(name, _)| *name)),
        provider: "test".into(),
        hosts: hosts.iter().map(|(name, addr)| MxHost { name: (*name).into(), addrs: vec![*addr] }).collect(),
        tls,
    }
}

#[tokio::test]
async fn sessions_run_on_any_thread() {
    let rest = [Hear("\r\n"), Say("550 5.7.1 no\r\n"), Hear("QUIT\r\n")];
    let server = Server::new(vec![script(PLAIN, rest)]).await;
    let to = destination(&[("localhost", server.addr)], TlsPolicy::Opportunistic);
    let work = async move {
        let mut session = dial(&to, &source(), &tls(), &quick()).await.unwrap();
        let attempt = deliver(&mut session).await;
        session.quit().await;
        attempt
    };
    assert_eq!(shown(&tokio::spawn(work).await.unwrap()), "MAIL 550 5.7.1 no (usable)");
}

#[tokio::test]
async fn failed_handshake_falls_back_to_clear_when_it_may() {
    let broken = || script(STARTTLS, [Hear("STARTTLS\r\n"), Say("220 go\r\n"), Say("not TLS at all\r\n")]);
    let server = Server::new(vec![broken(), script(STARTTLS, [Hang])]).await;
    let to = destination(&[("localhost", server.addr)], TlsPolicy::Opportunistic);
    let session = dial(&to, &source(), &tls(), &quick()).await.unwrap();
    let facts = session.facts();
    // the second connection sees STARTTLS, and does not ask: the first one's failure is what is told
    assert_eq!((&facts.tls_version, facts.tls_failure), (&None, Some(TlsFailure::ValidationFailure)));
    assert!(facts.tls_failure_reason.is_some(), "{facts:?}");
    let server = Server::new(vec![broken()]).await;
    let to = destination(&[("localhost", server.addr)], TlsPolicy::Required);
    assert_eq!(dial(&to, &source(), &tls(), &quick()).await.unwrap_err().failure.kind, FailureKind::Tls);
}

#[tokio::test]
async fn next_host_is_tried_and_the_first_reply_is_told() {
    let dead = Server::new(vec![]).await;
    let blocking = || vec![Say("554 5.7.1 blocked\r\n")];
    let first = Server::new(vec![blocking(), blocking()]).await;
    let good = Server::new(vec![script(PLAIN, [Hang])]).await;
    let hosts = [("a.test", dead.addr), ("b.test", first.addr), ("c.test", good.addr)];
    let to = destination(&hosts, TlsPolicy::None);
    let session = dial(&to, &source(), &tls(), &quick()).await.unwrap();
    assert_eq!(session.facts().mx_host, "c.test");
    let to = destination(&[hosts[0], hosts[1], hosts[0]], TlsPolicy::None);
    let failed = dial(&to, &source(), &tls(), &quick()).await.unwrap_err();
    assert_eq!((failed.facts.mx_host.as_str(), failed.failure.kind), ("b.test", FailureKind::Rejected));
    let v6_only = Source { bind: Some("::1".parse().unwrap()), ..source() };
    let failed = dial(&to, &v6_only, &tls(), &quick()).await.unwrap_err();
    assert_eq!(failed.failure.kind, FailureKind::Source);
}
