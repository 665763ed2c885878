//! The listener as clients see it, hostile ones too.

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Takes mail for `known@…`, fails for mail that says so.
#[derive(Default)]
struct Fake(Mutex<Vec<InboundMail>>, Mutex<Vec<String>>);

#[async_trait]
impl Postmaster for Fake {
    fn recipient(&self, address: &str) -> Result<(), Reply> {
        if address.starts_with("known@") || address == "postmaster" {
            return Ok(());
        }
        Err(Reply::new(550, "5.1.1 nobody\r\n250 2.0.0 here"))
    }

    async fn message(&self, mail: InboundMail) -> Reply {
        if mail.data.starts_with(b"later") {
            return Reply::new(451, "4.3.0 the store is not there");
        }
        self.0.lock().unwrap().push(mail);
        Reply::new(250, "2.0.0 taken")
    }

    async fn too_large(&self, recipients: &[String]) {
        self.1.lock().unwrap().extend_from_slice(recipients);
    }
}

struct Server {
    addr: SocketAddr,
    fake: Arc<Fake>,
    stop: CancellationToken,
}

impl Server {
    async fn start(settings: InboundSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (fake, stop) = (Arc::new(Fake::default()), CancellationToken::new());
        tokio::spawn(serve(listener, fake.clone(), settings, stop.clone()));
        Self { addr, fake, stop }
    }

    /// Says everything, and returns the codes of all that was answered.
    async fn talk(&self, said: &str) -> Vec<String> {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        heard.lines().filter(|line| line.get(3..4) == Some(" ")).map(|line| line[..3].to_owned()).collect()
    }
}

fn small() -> InboundSettings {
    InboundSettings {
        message_bytes_max: 100,
        recipients_max: 2,
        sessions_max: 2,
        idle: Duration::from_millis(300),
        ..InboundSettings::default()
    }
}

#[tokio::test]
async fn pipelined_mail_is_taken_whole() {
    let server = Server::start(small()).await;
    let said = "EHLO x\r\nMAIL FROM:<> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<known@a.test>\r\nRCPT TO:<postmaster>\r\n\
                DATA\r\n..hi\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<known@a.test>\r\nDATA\r\nlater\r\n.\r\nQUIT\r\n";
    let codes = server.talk(said).await;
    assert_eq!(codes, "220 250 250 250 250 354 250 250 250 354 451 221".split(' ').collect::<Vec<_>>());
    let taken = server.fake.0.lock().unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].reverse_path.as_str(), taken[0].data.as_slice()), ("", b".hi\r\n".as_slice()));
    assert_eq!(taken[0].recipients, ["known@a.test", "postmaster"]);
}

/// Says everything over TLS after STARTTLS, and returns all that was answered since.
async fn secured(server: &Server, said: &str) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"EHLO x\r\n").await.unwrap();
    until(&mut stream, "250 STARTTLS\r\n").await;
    stream.write_all(b"STARTTLS\r\n").await.unwrap();
    until(&mut stream, "220 2.0.0 ready to start TLS\r\n").await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()));
    let mut stream = connector.connect("mx.example".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(said.as_bytes()).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    heard
}

async fn until(stream: &mut TcpStream, end: &str) {
    let mut heard = String::new();
    while !heard.ends_with(end) {
        heard.push(char::from(stream.read_u8().await.unwrap()));
    }
}

/// A client that takes any certificate, as senders of reports do.
fn trusting() -> rustls::ClientConfig {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    #[derive(Debug)]
    struct Any(Arc<rustls::crypto::CryptoProvider>);
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                cert,
                signed,
                &self.0.signature_verification_algorithms,
            )
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                cert,
                signed,
                &self.0.signature_verification_algorithms,
            )
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth()
}

fn with_tls() -> InboundSettings {
    let certificate = tls::Certificate::self_signed("mx.example").unwrap();
    InboundSettings { tls: Some(certificate.acceptor().unwrap()), ..small() }
}

#[tokio::test]
async fn after_starttls_the_conversation_begins_anew_and_mail_is_taken() {
    let server = Server::start(with_tls()).await;
    let heard = secured(
        &server,
        "MAIL FROM:<>\r\nEHLO x\r\nSTARTTLS\r\nMAIL FROM:<>\r\nRCPT TO:<known@a.test>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n",
    )
    .await;
    assert!(heard.starts_with("503 5.5.1 EHLO or HELO first") && !heard.contains("STARTTLS\r\n"), "{heard}");
    assert!(heard.contains("503 5.5.1 TLS is on already") && heard.contains("250 2.0.0 taken"), "{heard}");
    assert_eq!(server.fake.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_comes_before_the_handshake_is_not_taken_for_what_comes_after_it() {
    let server = Server::start(with_tls()).await;
    let codes = server.talk("EHLO x\r\nSTARTTLS\r\nMAIL FROM:<a@b.test>\r\n").await;
    assert_eq!(codes.last().unwrap(), "554", "{codes:?}");
    assert_eq!(
        Server::start(small()).await.talk("EHLO x\r\nSTARTTLS\r\nQUIT\r\n").await[2..],
        ["502", "221"]
    );
}

#[tokio::test]
async fn a_client_that_sends_too_much_in_a_minute_is_told_to_wait() {
    let server = Server::start(InboundSettings { messages_per_client_max: 2, ..small() }).await;
    let codes = server.talk(&format!("EHLO x\r\n{}QUIT\r\n", "MAIL FROM:<>\r\nRSET\r\n".repeat(3))).await;
    assert_eq!(codes[2..], ["250", "250", "250", "250", "451", "250", "221"]);
}

#[tokio::test]
async fn commands_out_of_order_and_unknown_recipients_are_refused_one_by_one() {
    let server = Server::start(small()).await;
    let said = "MAIL FROM:<>\r\nEHLO x\r\nRCPT TO:<known@a.test>\r\nDATA\r\nMAIL FROM:<>\r\nRCPT TO:<who@a.test>\r\nDATA\r\n\
                RCPT TO:<known@a.test>\r\nRCPT TO:<known@b.test>\r\nRCPT TO:<known@c.test>\r\nAUTH PLAIN x\r\nQUIT\r\n";
    let codes = server.talk(said).await;
    assert_eq!(codes[..8], ["220", "503", "250", "503", "503", "250", "550", "554"]);
    assert_eq!(codes[8..11], ["250", "250", "452"]);
    assert_eq!(
        codes.last().unwrap(),
        "221",
        "the refused recipient's text did not become a reply: {codes:?}"
    );
}

#[tokio::test]
async fn smuggled_line_ends_and_oversized_mail_are_refused() {
    let server = Server::start(small()).await;
    let head = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<known@a.test>\r\nDATA\r\n";
    for body in ["a\n.\nMAIL FROM:<>\r\n", "a\r\n.\nMAIL FROM:<>\r\n", "a\r.\r\r\n.\r\n"] {
        let codes = server.talk(&format!("{head}{body}")).await;
        assert_eq!(codes.last().unwrap(), "550", "{body:?}");
    }
    assert_eq!(server.talk("NOOP\nQUIT\r\n").await, ["220", "550"]);
    let big = format!("{head}{}\r\n.\r\nQUIT\r\n", "x".repeat(101));
    assert_eq!(server.talk(&big).await[5..], ["552", "221"]);
    let announced = "EHLO x\r\nMAIL FROM:<> SIZE=101\r\nQUIT\r\n";
    assert_eq!(server.talk(announced).await, ["220", "250", "552", "221"]);
    let long = format!("NOOP {}\r\nQUIT\r\n", "x".repeat(9_000));
    assert_eq!(server.talk(&long).await, ["220", "500", "221"]);
    assert!(server.fake.0.lock().unwrap().is_empty());
    assert_eq!(*server.fake.1.lock().unwrap(), ["known@a.test"], "whose mail was too large is told");
}

#[tokio::test]
async fn the_slow_the_many_and_the_stubborn_are_sent_away() {
    let server = Server::start(small()).await;
    let first = TcpStream::connect(server.addr).await.unwrap();
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    let mut banner = [0; 16];
    second.read_exact(&mut banner).await.unwrap();
    assert_eq!(server.talk("").await, ["421"]);
    drop(first);
    let mut rest = String::new();
    second.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("421 4.4.2"), "{rest}");
    let codes = server.talk(&"BOGUS\r\n".repeat(30)).await;
    assert_eq!(codes.last().unwrap(), "421");
    server.stop.cancel();
}

#[tokio::test]
async fn a_client_that_trickles_does_not_hold_its_place() {
    let settings = || InboundSettings { idle: Duration::from_millis(200), ..small() };
    let trickled = async |settings: InboundSettings, begins: &str| {
        let server = Server::start(settings).await;
        let stream = TcpStream::connect(server.addr).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        to.write_all(begins.as_bytes()).await.unwrap();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if to.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut heard = Vec::new();
        tokio::select! {
            () = trickle => unreachable!(),
            read = tokio::time::timeout(Duration::from_secs(10), from.read_to_end(&mut heard)) => drop(read.unwrap()),
        }
        String::from_utf8(heard).unwrap()
    };
    let heard =
        trickled(InboundSettings { session: Duration::from_millis(600), ..settings() }, "EHLO x\r\nNOO")
            .await;
    assert!(heard.contains("421 4.4.2 this connection"), "{heard}");
    let data = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<known@a.test>\r\nDATA\r\n";
    let heard = trickled(settings(), data).await;
    assert!(heard.contains("421 4.4.2 waited too long"), "{heard}");
}
