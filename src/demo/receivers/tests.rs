//! The receivers, driven by a client that speaks raw SMTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sendlake_control::clock::{ManualClock, Timestamp};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

mod providers;

const SEED: u64 = 7;
const MESSAGE: &str =
    "From: a@sender.example\r\nMessage-ID: <m1@sender.example>\r\nSubject: hi\r\n\r\nhello\r\n";

struct Client<S> {
    stream: BufReader<S>,
}

async fn connect(receiver: &Receiver) -> Client<TcpStream> {
    Client { stream: BufReader::new(TcpStream::connect(receiver.addr()).await.unwrap()) }
}

/// Connected, greeted, EHLO said.
async fn greeted(receiver: &Receiver) -> Client<TcpStream> {
    let mut client = connect(receiver).await;
    assert!(client.reply().await.starts_with("220 "));
    assert!(client.say("EHLO client.example").await.starts_with("250-"));
    client
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// One reply, its lines joined by `\n`; empty when the connection is closed.
    async fn reply(&mut self) -> String {
        let read = async {
            let mut reply = String::new();
            loop {
                let mut line = String::new();
                if self.stream.read_line(&mut line).await.unwrap() == 0 {
                    return reply;
                }
                assert!(line.ends_with("\r\n"), "{line:?}");
                let is_last = line.as_bytes().get(3) != Some(&b'-');
                reply.push_str(line.trim_end());
                if is_last {
                    return reply;
                }
                reply.push('\n');
            }
        };
        timeout(Duration::from_secs(10), read).await.expect("a reply within 10 s")
    }

    async fn say(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    async fn is_closed(&mut self) -> bool {
        self.reply().await.is_empty()
    }

    /// One transaction, a command at a time: the reply that decided it.
    async fn deliver(&mut self, to: &str) -> String {
        let mail = self.say("MAIL FROM:<bounce@sender.example>").await;
        if !mail.starts_with("250") {
            return mail;
        }
        let rcpt = self.say(&format!("RCPT TO:<{to}>")).await;
        if !rcpt.starts_with("250") {
            if !rcpt.starts_with("421") {
                assert!(self.say("RSET").await.starts_with("250"));
            }
            return rcpt;
        }
        assert!(self.say("DATA").await.starts_with("354"));
        self.say(&format!("{MESSAGE}.")).await
    }
}

#[tokio::test]
async fn a_client_that_pipelines_unasked_is_turned_away() {
    let receiver = Receiver::start(Profile::gateway(), SEED).unwrap();
    let mut client = connect(&receiver).await;
    client.reply().await;
    let hello = client.say("EHLO client.example").await;
    assert!(!hello.contains("PIPELINING"), "{hello}");
    client.send(b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<b@corp.example>\r\n").await;
    assert_eq!(client.reply().await, "554 SMTP synchronization error");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn announces_what_each_provider_announces() {
    for (profile, present, absent) in [
        (Profile::gmail(), "SIZE 157286400|8BITMIME|PIPELINING|SMTPUTF8|ENHANCEDSTATUSCODES", "CHUNKING"),
        (Profile::microsoft(), "SIZE 49283072|8BITMIME|PIPELINING|SMTPUTF8", "CHUNKING"),
        (Profile::yahoo(), "SIZE 41943040|8BITMIME|PIPELINING", "SMTPUTF8"),
        (Profile::gateway(), "SIZE 10240000|8BITMIME", "PIPELINING"),
        (Profile::accept_all(), "PIPELINING|SMTPUTF8", "STARTTLS"),
    ] {
        let receiver = Receiver::start(profile, SEED).unwrap();
        let mut client = connect(&receiver).await;
        client.reply().await;
        let hello = client.say("eHlO client.example").await;
        for keyword in present.split('|') {
            assert!(hello.contains(keyword), "{keyword}: {hello}");
        }
        assert!(!hello.contains(absent), "{absent}: {hello}");
    }
}

#[tokio::test]
async fn pipelined_transactions_are_answered_in_order() {
    let receiver = Receiver::start(Profile::accept_all(), SEED).unwrap();
    let mut client = greeted(&receiver).await;
    client
        .send(
            b"MAIL FROM:<> SIZE=20 BODY=8BITMIME\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n",
        )
        .await;
    let codes = [client.reply().await, client.reply().await, client.reply().await, client.reply().await];
    assert_eq!(codes.map(|reply| reply[..3].to_owned()), ["250", "250", "250", "354"]);
    client.send(b"x\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n").await;
    for code in ["250", "250", "250", "221"] {
        assert_eq!(client.reply().await[..3], *code);
    }
    assert!(client.is_closed().await);
    let stats = receiver.stats();
    assert_eq!((stats.connections, stats.commands, stats.messages, stats.accepted), (1, 8, 1, 2));
    assert!(stats.deferred.is_empty() && stats.rejected.is_empty() && stats.protocol_errors.is_empty());
}

#[tokio::test]
async fn commands_out_of_order_and_malformed_are_refused() {
    let receiver = Receiver::start(Profile::accept_all(), SEED).unwrap();
    let mut client = connect(&receiver).await;
    client.reply().await;
    let long = "x".repeat(10_000);
    for (command, code) in [
        ("MAIL FROM:<a@x.example>", "503"),
        ("HELO client.example", "250"),
        ("RCPT TO:<a@x.example>", "503"),
        ("DATA", "503"),
        ("MAIL FROM:<a@x.example> SIZE=10", "555"),
        ("EHLO client.example", "250"),
        ("MAIL FROM:<a@x.example> SIZE=999999999", "552"),
        ("MAIL FROM:<a@x.example> RET=FULL", "555"),
        ("MAIL FROM:a@x.example", "501"),
        ("MAIL FROM:<ü@x.example>", "553"),
        ("mail from:<a@x.example>", "250"),
        ("MAIL FROM:<a@x.example>", "503"),
        ("DATA", "503"),
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<no-domain>", "501"),
        ("Rcpt To:<Postmaster>", "250"),
        ("RSET", "250"),
        ("DATA", "503"),
        ("VRFY someone", "252"),
        ("STARTTLS", "502"),
        ("EXPN list", "502"),
        ("", "500"),
        ("GET / HTTP/1.1", "500"),
        (long.as_str(), "500"),
        ("NOOP", "250"),
        ("\u{0}\u{1}binary", "500"),
    ] {
        let reply = client.say(command).await;
        assert!(reply.starts_with(code), "{command:.60}: {reply}");
    }
    let mut last = String::new();
    for _ in 0..20 {
        client.send(b"NONSENSE\r\n").await;
        last = client.reply().await;
        if last.starts_with("421") {
            break;
        }
    }
    assert_eq!(last, "421 4.7.0 Too many errors");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn messages_arrive_unstuffed_and_are_recorded() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000)));
    let receiver = Receiver::start(Profile::accept_all().record(Keep::Data, clock), SEED).unwrap();
    let mut client = greeted(&receiver).await;
    for (sent, kept) in [
        (".\r\n", ""),
        ("..first\r\n.\r\n", ".first\r\n"),
        ("a\r\n..\r\n...b\r\n.\r\n", "a\r\n.\r\n..b\r\n"),
        // A bare line feed before a dot ends nothing (SMTP smuggling).
        ("a\n.\r\nMAIL FROM:<x@y.example>\r\n.\r\n", "a\n.\r\nMAIL FROM:<x@y.example>\r\n"),
        ("Message-ID: <m1@s.example>\r\n\r\nx\r\n.\r\n", "Message-ID: <m1@s.example>\r\n\r\nx\r\n"),
    ] {
        client.say("MAIL FROM:<v.token@s.example>").await;
        client.say("RCPT TO:<to@x.example>").await;
        assert!(client.say("DATA").await.starts_with("354"));
        // An octet at a time: the end is found wherever the reads are cut.
        for octet in sent.as_bytes() {
            client.send(&[*octet]).await;
        }
        assert!(client.reply().await.starts_with("250"), "{sent:?}");
        let recorded = receiver.recorded().pop().unwrap();
        assert_eq!(String::from_utf8(recorded.data.unwrap()).unwrap(), kept);
    }
    let recorded = receiver.recorded();
    assert_eq!(recorded.len(), 5);
    let last = recorded.last().unwrap();
    assert_eq!(last.reverse_path, "v.token@s.example");
    assert_eq!(last.forward_path, "to@x.example");
    assert_eq!(last.message_id.as_deref(), Some("m1@s.example"));
    assert_eq!(last.at, Timestamp::from_secs(1_000));
}

#[tokio::test]
async fn a_message_over_the_size_limit_is_refused_and_the_session_goes_on() {
    let receiver = Receiver::start(Profile { size_bytes_max: 1_000, ..Profile::accept_all() }, SEED).unwrap();
    let mut client = greeted(&receiver).await;
    client.say("MAIL FROM:<a@s.example>").await;
    client.say("RCPT TO:<b@x.example>").await;
    client.say("DATA").await;
    for _ in 0..50 {
        client.send("0123456789\r\n".repeat(100).as_bytes()).await;
    }
    client.send(b".\r\n").await;
    assert!(client.reply().await.starts_with("552 5.3.4"));
    assert!(client.deliver("b@x.example").await.starts_with("250"));
}

#[tokio::test]
async fn starttls_is_offered_with_a_certificate_and_starts_afresh() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let receiver = Receiver::start(Profile::accept_all().with_tls(Arc::new(server)), SEED).unwrap();

    let mut client = connect(&receiver).await;
    client.reply().await;
    assert!(client.say("EHLO client.example").await.contains("STARTTLS"));
    assert!(client.say("STARTTLS").await.starts_with("220"));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, client.stream.into_inner()).await.unwrap();
    let mut client = Client { stream: BufReader::new(stream) };
    assert!(client.say("MAIL FROM:<a@s.example>").await.starts_with("503"), "the EHLO no longer counts");
    assert!(!client.say("EHLO client.example").await.contains("STARTTLS"));
    assert!(client.deliver("b@x.example").await.starts_with("250"));

    let mut client = greeted(&receiver).await;
    client.send(b"STARTTLS\r\nMAIL FROM:<evil@s.example>\r\n").await;
    assert!(client.reply().await.starts_with("454"), "nothing may be pipelined after STARTTLS");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn scripted_misbehaviour_costs_one_session() {
    let receiver =
        Receiver::start(Profile::accept_all().hang_after(Step::Rcpt).faults_first(1), SEED).unwrap();
    let mut client = greeted(&receiver).await;
    client.say("MAIL FROM:<a@s.example>").await;
    client.send(b"RCPT TO:<b@x.example>\r\n").await;
    assert!(timeout(Duration::from_millis(200), client.stream.read_u8()).await.is_err(), "hangs");
    assert!(greeted(&receiver).await.deliver("b@x.example").await.starts_with("250"), "the next works");

    let receiver = Receiver::start(Profile::accept_all().reset_at(Step::DataEnd), SEED).unwrap();
    let mut client = greeted(&receiver).await;
    client.say("MAIL FROM:<a@s.example>").await;
    client.say("RCPT TO:<b@x.example>").await;
    client.say("DATA").await;
    client.send(b"x\r\n.\r\n").await;
    let error = client.stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(receiver.stats().messages, 0);

    let receiver = Receiver::start(Profile::accept_all().long_line_at(Step::Hello, 100_000), SEED).unwrap();
    let mut client = connect(&receiver).await;
    client.reply().await;
    assert_eq!(client.say("EHLO client.example").await.len(), 100_000);

    let receiver = Receiver::start(Profile::accept_all().garbage_at(Step::Connect), SEED).unwrap();
    let mut line = Vec::new();
    connect(&receiver).await.stream.read_until(b'\n', &mut line).await.unwrap();
    assert!(std::str::from_utf8(&line).is_err());

    let receiver = Receiver::start(Profile::accept_all().close_after_n_messages(2), SEED).unwrap();
    let mut client = greeted(&receiver).await;
    for _ in 0..2 {
        assert!(client.deliver("b@x.example").await.starts_with("250"));
    }
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn shutdown_closes_the_port_and_its_connections() {
    let receiver = Receiver::start(Profile::accept_all(), SEED).unwrap();
    let addr = receiver.addr();
    let mut client = greeted(&receiver).await;
    receiver.shutdown().await;
    assert!(client.is_closed().await);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_takes_thousands_of_messages_a_second() {
    const MESSAGES: u64 = 5_000;
    let receiver = Receiver::start(Profile::accept_all(), SEED).unwrap();
    let mut client = greeted(&receiver).await;
    let envelope = b"MAIL FROM:<v@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n";
    let message = format!("{}\r\n.\r\n", "0123456789".repeat(100));
    let started_at = Instant::now();
    for _ in 0..MESSAGES {
        client.send(envelope).await;
        for code in ["250", "250", "354"] {
            assert_eq!(client.reply().await[..3], *code);
        }
        client.send(message.as_bytes()).await;
        assert!(client.reply().await.starts_with("250"));
    }
    let elapsed = started_at.elapsed();
    assert_eq!(receiver.stats().messages, MESSAGES);
    assert!(elapsed < Duration::from_secs(5), "{MESSAGES} messages took {elapsed:?}");
}
