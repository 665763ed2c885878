//! Transactions against scripted servers.

mod opening;

use std::sync::Arc;

use sendlake_control::clock::{ManualClock, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a scripted server does next.
#[derive(Clone)]
enum Act {
    Say(&'static str),
    SayText(String),
    /// Reads until what came since the last such act ends in this.
    Hear(&'static str),
    /// Upgrades with this acceptor.
    Upgrade(TlsAcceptor),
    /// Never says anything again.
    Hang,
    /// Closes with a reset.
    Reset,
}
use Act::{Hang, Hear, Reset, Say, SayText, Upgrade};

trait Peer: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Peer for T {}

struct Server {
    addr: SocketAddr,
    heard: UnboundedReceiver<String>,
}

impl Server {
    /// Plays one script for each connection, in order, then listens no more.
    async fn new(scripts: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, heard) = unbounded_channel();
        tokio::spawn(async move {
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(play(stream, script, tell.clone()));
            }
        });
        Self { addr, heard }
    }

    async fn heard(&mut self) -> String {
        self.heard.recv().await.unwrap()
    }
}

async fn play(stream: TcpStream, script: Vec<Act>, tell: UnboundedSender<String>) {
    let mut plain = Some(stream);
    let mut secure: Option<tokio_rustls::server::TlsStream<TcpStream>> = None;
    for act in script {
        let peer: &mut dyn Peer = match (&mut plain, &mut secure) {
            (Some(plain), _) => plain,
            (None, Some(secure)) => secure,
            _ => unreachable!(),
        };
        match act {
            Say(text) => peer.write_all(text.as_bytes()).await.unwrap(),
            SayText(text) => drop(peer.write_all(text.as_bytes()).await),
            Hear(end) => {
                let mut all = Vec::new();
                while !all.ends_with(end.as_bytes()) {
                    let mut byte = [0];
                    if peer.read(&mut byte).await.unwrap_or(0) == 0 {
                        break;
                    }
                    all.push(byte[0]);
                }
                let _ = tell.send(String::from_utf8_lossy(&all).into_owned());
            }
            Upgrade(acceptor) => match acceptor.accept(plain.take().unwrap()).await {
                Ok(stream) => secure = Some(stream),
                Err(_) => return,
            },
            Hang => std::future::pending().await,
            Reset => {
                let stream = plain.take().unwrap();
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
        }
    }
    // Closing with unread input would reset the connection and could take the last reply with it.
    if let Some(mut plain) = plain {
        plain.shutdown().await.ok();
        let mut rest = Vec::new();
        plain.read_to_end(&mut rest).await.ok();
    }
}

const PIPELINING: &str = "250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 1000\r\n";
const PLAIN: &str = "250 mx.test\r\n";

/// Greeting and EHLO, then the rest.
fn script(ehlo: &'static str, rest: impl IntoIterator<Item = Act>) -> Vec<Act> {
    [Say("220 mx.test ESMTP\r\n"), Hear("\r\n"), Say(ehlo)].into_iter().chain(rest).collect()
}

fn source() -> Source {
    Source { name: "one".into(), bind: None, ehlo: "out.example.test".into() }
}

fn quick() -> SessionSettings {
    let timeouts = Timeouts {
        quit: Duration::from_millis(200),
        tls: Duration::from_secs(5),
        ..Timeouts::default().scaled(1)
    };
    SessionSettings {
        timeouts: Timeouts { connect: Duration::from_secs(5), ..timeouts },
        ..SessionSettings::default()
    }
}

/// Every reply is due within this.
fn hasty() -> SessionSettings {
    let mut settings = quick();
    let soon = Duration::from_millis(400);
    let t = &mut settings.timeouts;
    (t.greeting, t.ehlo, t.tls, t.mail, t.rcpt, t.data, t.block, t.dot) =
        (soon, soon, soon, soon, soon, soon, soon, soon);
    settings
}

fn clock() -> Arc<ManualClock> {
    // Within the dates of the certificates that rcgen makes (1975 to 4096).
    Arc::new(ManualClock::new(Timestamp::from_secs(1_800_000_000)))
}

fn tls() -> Tls {
    Tls::with_public_roots(clock()).unwrap()
}

async fn connect_with(
    server: &Server,
    policy: TlsPolicy,
    tls: &Tls,
    settings: &SessionSettings,
) -> Result<Session, Box<ConnectFailure>> {
    let target = Target { host: "localhost", addr: server.addr };
    Session::connect(target, &source(), policy, tls, settings).await
}

async fn connect(server: &Server) -> Result<Session, Box<ConnectFailure>> {
    connect_with(server, TlsPolicy::Opportunistic, &tls(), &quick()).await
}

const MESSAGE: &[&[u8]] = &[b"Subject: hi\r\n", b"\r\n", b".dot\r\n"];

async fn deliver(session: &mut Session) -> Attempt {
    deliver_to(session, "b@example.net").await
}

async fn deliver_to(session: &mut Session, to: &str) -> Attempt {
    session
        .deliver(&Transaction {
            reverse_path: "a@example.com",
            forward_path: &Address::parse(to).unwrap(),
            smtputf8: false,
            eightbit: false,
            message: MESSAGE,
        })
        .await
}

/// What a user would see of an attempt.
fn shown(attempt: &Attempt) -> String {
    let usable = if attempt.usable { "usable" } else { "closed" };
    match &attempt.outcome {
        Outcome::Replied(reply) => format!("{} {reply} ({usable})", attempt.command),
        Outcome::Local(reply) => format!("{} local {reply} ({usable})", attempt.command),
        Outcome::Failed(failure) => {
            let doubt = if failure.in_doubt { " in doubt" } else { "" };
            format!("{} {:?}{doubt} ({usable})", failure.command, failure.kind)
        }
    }
}

/// One delivery against a script that follows a pipelining EHLO.
async fn outcome(rest: impl IntoIterator<Item = Act>) -> String {
    let server = Server::new(vec![script(PIPELINING, rest)]).await;
    let mut session = connect_with(&server, TlsPolicy::None, &tls(), &hasty()).await.unwrap();
    shown(&deliver(&mut session).await)
}

const ENVELOPE_OK: &str = "250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n";

#[tokio::test]
async fn message_is_pipelined_to_a_server_that_can() {
    let rest = [
        Hear("DATA\r\n"),
        Say(ENVELOPE_OK),
        Hear("\r\n.\r\n"),
        Say("250 2.0.0 queued as 1\r\n"),
        Hear("QUIT\r\n"),
        Say("221 bye\r\n"),
    ];
    let mut server = Server::new(vec![script(PIPELINING, rest)]).await;
    let mut session = connect(&server).await.unwrap();
    let attempt = deliver(&mut session).await;
    assert_eq!(shown(&attempt), "DOT 250 2.0.0 queued as 1 (usable)");
    assert_eq!(attempt.verdict(), Verdict::Delivered);
    assert!(!attempt.reused);
    let facts = session.facts().clone();
    assert_eq!((facts.mx_ip, facts.source_ip), (Some(server.addr.ip()), Some("127.0.0.1".parse().unwrap())));
    assert_eq!((facts.tls_version, facts.tls_verified), (None, None));
    session.quit().await;
    assert_eq!(server.heard().await, "EHLO out.example.test\r\n");
    assert_eq!(
        server.heard().await,
        "MAIL FROM:<a@example.com> SIZE=21\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
    );
    assert_eq!(server.heard().await, "Subject: hi\r\n\r\n..dot\r\n.\r\n");
    assert_eq!(server.heard().await, "QUIT\r\n");
}

#[tokio::test]
async fn commands_go_one_at_a_time_where_pipelining_is_not_announced() {
    let rest = [
        Hear("\r\n"),
        Say("250 ok\r\n"),
        Hear("\r\n"),
        Say("250 ok\r\n"),
        Hear("\r\n"),
        Say("354 go\r\n"),
        Hear("\r\n.\r\n"),
        Say("250 done\r\n"),
    ];
    let mut server = Server::new(vec![script(PLAIN, rest)]).await;
    let mut session = connect(&server).await.unwrap();
    assert_eq!(shown(&deliver(&mut session).await), "DOT 250 done (usable)");
    server.heard().await;
    for line in ["MAIL FROM:<a@example.com>\r\n", "RCPT TO:<b@example.net>\r\n", "DATA\r\n"] {
        assert_eq!(server.heard().await, line);
    }
}

#[tokio::test]
async fn refusals_are_told_with_their_command() {
    for (replies, expected) in [
        ("550 5.7.1 no\r\n503 x\r\n503 x\r\n", "MAIL 550 5.7.1 no (usable)"),
        ("250 ok\r\n550 5.1.1 unknown\r\n554 no rcpt\r\n", "RCPT 550 5.1.1 unknown (usable)"),
        ("250 ok\r\n450 4.2.0 greylisted\r\n503 x\r\n", "RCPT 450 4.2.0 greylisted (usable)"),
        ("250 ok\r\n250 ok\r\n451 4.3.0 later\r\n", "DATA 451 4.3.0 later (usable)"),
        ("421 4.7.0 go away\r\n", "MAIL 421 4.7.0 go away (closed)"),
        ("250 ok\r\n421 4.7.0 slow\r\n", "RCPT 421 4.7.0 slow (closed)"),
        ("250 ok\r\n250 ok\r\n421 4.3.2 down\r\n", "DATA 421 4.3.2 down (closed)"),
        ("250 ok\r\n550 5.1.1 unknown\r\n421 bye\r\n", "RCPT 550 5.1.1 unknown (closed)"),
        ("250 ok\r\n550 5.1.1 unknown\r\n", "RCPT 550 5.1.1 unknown (closed)"),
        ("250 ok\r\n250 ok\r\n250 what\r\n", "DATA Unexpected (closed)"),
        ("354 what\r\n", "MAIL Unexpected (closed)"),
        ("250 ok\r\nHTTP/1.1 400\r\n", "RCPT Garbage (closed)"),
    ] {
        assert_eq!(outcome([Hear("DATA\r\n"), Say(replies)]).await, expected, "{replies:?}");
    }
}

#[tokio::test]
async fn reply_to_the_final_dot_decides() {
    for (last, expected) in [
        (Say("554 5.7.1 spam\r\n"), "DOT 554 5.7.1 spam (usable)"),
        (Say("452 4.2.2 full\r\n"), "DOT 452 4.2.2 full (usable)"),
        (Say("421 4.3.2 down\r\n"), "DOT 421 4.3.2 down (closed)"),
        (Say("354 more?\r\n"), "DOT Unexpected in doubt (closed)"),
        (Say("\x01\x02\x03\r\n"), "DOT Garbage in doubt (closed)"),
        (Hang, "DOT Timeout in doubt (closed)"),
        (Reset, "DOT Closed in doubt (closed)"),
    ] {
        let seen = outcome([Hear("DATA\r\n"), Say(ENVELOPE_OK), Hear("\r\n.\r\n"), last]).await;
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn data_let_through_for_nobody_is_ended_empty() {
    let rest = [
        Hear("DATA\r\n"),
        Say("250 ok\r\n550 5.1.1 unknown\r\n354 go\r\n"),
        Hear(".\r\n"),
        Say("554 nobody\r\n"),
        Hear("DATA\r\n"),
        Say("250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        Hear("\r\n.\r\n"),
        Say("250 done\r\n"),
    ];
    let mut server = Server::new(vec![script(PIPELINING, rest)]).await;
    let mut session = connect(&server).await.unwrap();
    assert_eq!(shown(&deliver(&mut session).await), "RCPT 550 5.1.1 unknown (usable)");
    let second = deliver(&mut session).await;
    assert_eq!(shown(&second), "DOT 250 done (usable)");
    assert!(second.reused);
    for _ in 0..2 {
        server.heard().await;
    }
    assert_eq!(server.heard().await, ".\r\n");
    assert!(server.heard().await.starts_with("RSET\r\nMAIL FROM"));
}

#[tokio::test]
async fn refused_transaction_is_reset_without_pipelining_too() {
    let rest = [
        Hear("\r\n"),
        Say("250 ok\r\n"),
        Hear("\r\n"),
        Say("550 5.1.1 unknown\r\n"),
        Hear("RSET\r\n"),
        Say("250 ok\r\n"),
        Hear("\r\n"),
        Say("451 later\r\n"),
    ];
    let server = Server::new(vec![script(PLAIN, rest)]).await;
    let mut session = connect(&server).await.unwrap();
    assert_eq!(shown(&deliver(&mut session).await), "RCPT 550 5.1.1 unknown (usable)");
    assert_eq!(shown(&deliver(&mut session).await), "MAIL 451 later (usable)");
}

#[tokio::test]
async fn connection_closed_while_idle_is_no_verdict_on_the_message() {
    for farewell in ["", "421 4.4.2 idle\r\n"] {
        let rest = [Hear("DATA\r\n"), Say(ENVELOPE_OK), Hear("\r\n.\r\n"), Say("250 ok\r\n"), Say(farewell)];
        let server = Server::new(vec![script(PIPELINING, rest)]).await;
        let mut session = connect(&server).await.unwrap();
        assert!(deliver(&mut session).await.usable);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = deliver(&mut session).await;
        assert!(second.wants_fresh_connection(), "{second:?}");
        assert_eq!(second.verdict(), Verdict::Transient);
    }
}

#[tokio::test]
async fn session_ends_after_its_share_of_messages() {
    let rest = [Hear("DATA\r\n"), Say(ENVELOPE_OK), Hear("\r\n.\r\n"), Say("250 ok\r\n")];
    let server = Server::new(vec![script(PIPELINING, rest)]).await;
    let settings = SessionSettings { messages_max: 1, ..quick() };
    let mut session = connect_with(&server, TlsPolicy::None, &tls(), &settings).await.unwrap();
    assert_eq!(shown(&deliver(&mut session).await), "DOT 250 ok (closed)");
}

#[tokio::test]
async fn what_the_server_cannot_take_is_settled_without_asking() {
    let server = Server::new(vec![script("250-mx\r\n250 SIZE 10\r\n", [Hang])]).await;
    let mut session = connect(&server).await.unwrap();
    assert!(
        shown(&deliver(&mut session).await).starts_with("MAIL local 552 5.3.4 The message has 21 octets")
    );
    let utf8 = deliver_to(&mut session, "用户@example.net").await;
    assert!(shown(&utf8).starts_with("MAIL local 550 5.6.7"), "{utf8:?}");
    assert_eq!(utf8.verdict(), Verdict::Permanent);
    let forward_path = Address::parse("b@example.net").unwrap();
    let transaction = Transaction {
        reverse_path: "a>\r\nRSET",
        forward_path: &forward_path,
        smtputf8: false,
        eightbit: false,
        message: MESSAGE,
    };
    assert!(shown(&session.deliver(&transaction).await).starts_with("MAIL local 553 5.1.7"));
    let headers = Transaction { reverse_path: "", smtputf8: true, ..transaction };
    assert!(shown(&session.deliver(&headers).await).starts_with("MAIL local 550 5.6.9"));
    let body = Transaction { reverse_path: "", eightbit: true, ..transaction };
    assert!(shown(&session.deliver(&body).await).starts_with("MAIL local 554 5.6.3"));
    assert_eq!(session.transactions(), 0);
}

#[tokio::test]
async fn extensions_are_used_where_announced() {
    let mut server = Server::new(vec![script(PIPELINING, [Hear("DATA\r\n"), Hang])]).await;
    let mut session = connect_with(&server, TlsPolicy::None, &tls(), &hasty()).await.unwrap();
    let transaction = Transaction {
        reverse_path: "",
        forward_path: &Address::parse("用户@example.net").unwrap(),
        smtputf8: false,
        eightbit: true,
        message: MESSAGE,
    };
    assert_eq!(shown(&session.deliver(&transaction).await), "MAIL Timeout (closed)");
    server.heard().await;
    assert_eq!(
        server.heard().await,
        "MAIL FROM:<> SIZE=21 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<用户@example.net>\r\nDATA\r\n"
    );
}

#[tokio::test]
async fn large_message_against_a_server_that_stops_reading_is_not_in_doubt() {
    let big = vec![b'x'; 8 << 20];
    let server = Server::new(vec![script(
        PLAIN,
        [
            Hear("\r\n"),
            Say("250 ok\r\n"),
            Hear("\r\n"),
            Say("250 ok\r\n"),
            Hear("\r\n"),
            Say("354 go\r\n"),
            Hang,
        ],
    )])
    .await;
    let mut session = connect_with(&server, TlsPolicy::None, &tls(), &hasty()).await.unwrap();
    let transaction = Transaction {
        reverse_path: "",
        forward_path: &Address::parse("b@example.net").unwrap(),
        smtputf8: false,
        eightbit: false,
        message: &[&big],
    };
    assert_eq!(shown(&session.deliver(&transaction).await), "DOT Timeout (closed)");
}
