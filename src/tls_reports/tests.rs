//! Reports of a real node about a day of real SMTP sessions: through its own spool, signed, to a plain receiver and back to
//! its own listener.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sendlake_control::clock::Clock;
use sendlake_control::domain::{DomainOptions, Outbound};
use sendlake_control::id::TenantId;
use sendlake_ingest::domain_report::{DomainReport, Reading};
use sendlake_query::{Scope, output};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::daily::Known;
use super::*;
use crate::config::Config;
use crate::node::{Node, Roles, Running};
use crate::system;
use crate::testing::Zone;

const DAY: &str = "2026-03-02";

/// The system's clock, moved.
#[derive(Debug)]
struct Moved(Arc<dyn Clock>, AtomicI64);

impl Moved {
    fn to(&self, at: &str) {
        let at = Timestamp::parse(at).unwrap();
        self.1.store(at.0 - self.0.now().0, Ordering::Relaxed);
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.now().0 + self.1.load(Ordering::Relaxed))
    }
}

/// A receiver without STARTTLS, which keeps what it takes.
async fn plain_receiver(listener: TcpListener, taken: Arc<Mutex<Vec<Vec<u8>>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(plain_session(stream, taken.clone()));
    }
}

async fn plain_session(stream: TcpStream, taken: Arc<Mutex<Vec<Vec<u8>>>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 plain\r\n").await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        match line.get(..4).unwrap_or_default() {
            b"DATA" => {
                stream.write_all(b"354 go\r\n").await?;
                let mut mail = Vec::new();
                while !mail.ends_with(b"\r\n.\r\n") {
                    stream.read_until(b'\n', &mut mail).await?;
                }
                mail.truncate(mail.len() - 3);
                taken.lock().await.push(mail);
                stream.write_all(b"250 taken\r\n").await?;
            }
            b"QUIT" => return stream.write_all(b"221 bye\r\n").await,
            _ => stream.write_all(b"250 fine\r\n").await?,
        }
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    zone: Zone,
    clock: Arc<Moved>,
    running: Running,
    reports: Arc<TlsReports>,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
    zone_lines: String,
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

impl Fixture {
    /// A node at noon of [`DAY`]. Its own listener, with STARTTLS, is the MX of `bounces.bolt.example`; one without is that
    /// of `plain.example` and of `quiet.example`, which wants no reports.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        tokio::spawn(plain_receiver(listener, taken.clone()));

        let zone = Zone::start().await;
        zone.address("mx.bolt.example", "127.0.0.1");
        zone.address("mx.plain.example", "127.0.0.2");
        zone.mx("bounces.bolt.example", "mx.bolt.example");
        zone.mx("plain.example", "mx.plain.example");
        zone.mx("quiet.example", "mx.plain.example");
        zone.txt("_smtp._tls.bounces.bolt.example", "v=TLSRPTv1; rua=mailto:tlsrpt@bounces.bolt.example");
        zone.txt("_smtp._tls.plain.example", "v=TLSRPTv1; rua=mailto:reports@plain.example");

        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        config.spool.free_space_floor_bytes = 1 << 20;
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.inbound.listen = format!("127.0.0.1:{port}");
        config.delivery.smtp_port = port;
        config.delivery.dns_servers = vec![zone.addr];
        config.delivery.allow_private_addresses = true;
        config.policy.enforce = false;
        config.policy.publish_interval_s = 0;
        config.rollups.interval_s = 0;
        config.maintenance.enabled = false;
        config.source[0].ehlo = "mail.acme.example".into();
        config.tls_reports.from = "tlsrpt@acme.example".into();
        config.tls_reports.organization = "Acme, Inc.".into();
        let clock = Arc::new(Moved(system::ids().clock, AtomicI64::new(0)));
        clock.to(&format!("{DAY}T12:00:00Z"));
        let ids = Ids { clock: clock.clone(), entropy: system::ids().entropy };
        let node = Node::open(config, ids).await.unwrap();
        let mut zone_lines = String::new();
        for name in ["acme", "bolt"] {
            node.control.create_tenant("cli", &tenant(name), name).await.unwrap();
            let domain = format!("{name}.example");
            let added =
                node.control.add_domain("cli", &tenant(name), &domain, DomainOptions::default()).await;
            for record in added.unwrap().dns_records(&Outbound::default()) {
                zone_lines.push_str(&format!("{}\n", record.zone_line()));
            }
        }
        node.identities.refresh(&node.control).await.unwrap();
        let reports = node.tls_reports.clone().unwrap();
        let running = node.start(Roles { sender: true, query: false, export: false }).await.unwrap();
        Self { dir, zone, clock, running, reports, taken, zone_lines }
    }

    async fn send(&self, to: &str) {
        let octets = format!("From: ann@acme.example\r\nTo: {to}\r\nSubject: hello\r\n\r\nHello.\r\n");
        let now = self.reports.ids.now();
        let message = raw::prepare(octets.as_bytes(), now).unwrap();
        let submission = Submission {
            submission_id: self.reports.ids.uuid(),
            tenant_id: tenant("acme"),
            stream: Stream::Transactional,
            campaign_id: None,
            tags: BTreeMap::new(),
            header_from_domain: "acme.example".into(),
            recipients: vec![NewMessage {
                message_id: self.reports.ids.uuid(),
                recipient: Address::parse(to).unwrap(),
            }],
            accepted_at: now,
            not_before: now,
            content: message.content,
            subject_hash: None,
            content_fingerprint: None,
            idempotency: None,
        };
        self.reports.intake.accept(submission).await.unwrap();
    }

    async fn ask(&self, sql: &str) -> Vec<String> {
        let engine = &self.running.engine;
        let answer = engine.query(&Scope::AllTenants, sql, engine.limits().query).await.unwrap();
        let csv = String::from_utf8(output::to_bytes(&answer, output::Format::Csv).unwrap()).unwrap();
        csv.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }

    async fn until(&self, sql: &str, expected: &[&str]) {
        let mut found = Vec::new();
        for _ in 0..150 {
            found = self.ask(sql).await;
            if found == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let events = self
            .ask("SELECT event_type, recipient, reply_text, detail FROM events ORDER BY recorded_at")
            .await;
        panic!("{sql}\ngives {found:#?}\n{events:#?}");
    }

    async fn a_day_of_mail(&self) {
        for to in ["postmaster@bounces.bolt.example", "ann@plain.example", "bo@quiet.example"] {
            self.send(to).await;
        }
        let sessions = "SELECT recipient_domain || ' ' || mx_host || ' ' || mx_ip || ' ' || result || ' ' || sessions \
                        FROM tls_sessions ORDER BY 1";
        let expected = [
            "bounces.bolt.example mx.bolt.example 127.0.0.1 successful 1",
            "plain.example mx.plain.example 127.0.0.2 starttls-not-supported 1",
            "quiet.example mx.plain.example 127.0.0.2 starttls-not-supported 1",
        ];
        self.until(sessions, &expected).await;
    }

    async fn accepted(&self) -> Vec<String> {
        self.ask("SELECT recipient FROM events WHERE event_type = 'accepted' AND campaign_id = 'tls-report' ORDER BY 1").await
    }
}

fn stages(told: &[Told]) -> Vec<(&str, Stage)> {
    told.iter().map(|told| (told.domain.as_str(), told.stage)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_days_reports_go_out_once_and_come_back_as_rows() {
    let it = Fixture::new().await;
    it.a_day_of_mail().await;
    let reports = &it.reports;
    assert!(reports.of_day(DAY, None, true).await.unwrap_err().to_string().contains("not over"));
    let shown = reports.of_day(DAY, None, false).await.unwrap();
    let two = ["bounces.bolt.example", "plain.example"];
    assert_eq!(stages(&shown), two.map(|domain| (domain, Stage::Due)));
    let quiet = reports.of_day(DAY, Some("quiet.example"), false).await.unwrap();
    assert_eq!(stages(&quiet), [("quiet.example", Stage::NotWanted)]);
    assert!(
        reports
            .of_day(DAY, Some("else.example"), false)
            .await
            .unwrap_err()
            .to_string()
            .contains("no session")
    );

    it.clock.to("2026-03-03T00:10:00Z");
    reports.round(&mut Known::default()).await.unwrap();
    assert!(it.accepted().await.is_empty(), "not before the day's events are in");
    it.clock.to("2026-03-03T06:00:00Z");
    reports.round(&mut Known::default()).await.unwrap();
    let sent = ["reports@plain.example", "tlsrpt@bounces.bolt.example"];
    assert_eq!(it.accepted().await, sent);
    // as after a restart; and as after a crash between the spool's word and the note on it
    reports.round(&mut Known::default()).await.unwrap();
    let noted = reports.ledger.look(DAY, "plain.example").await.unwrap().unwrap();
    assert_eq!(noted.destinations.values().map(|it| it.state).collect::<Vec<_>>(), [State::Sent]);
    reports.ledger.note(&Entry { destinations: BTreeMap::new(), ..noted }).await.unwrap();
    let told = reports.of_day(DAY, None, true).await.unwrap();
    assert_eq!(stages(&told), two.map(|domain| (domain, Stage::Sent)));
    assert_eq!(it.accepted().await, sent, "each report once");

    // the way back: one through our own listener, with its figures
    it.until(
        "SELECT tenant_id || ' ' || policy_domain || ' ' || policy_type || ' ' || total_successful_sessions || ' ' || \
         total_failed_sessions || ' ' || org_name FROM tls_report_records WHERE report_type = 'summary'",
        &["\"bolt bounces.bolt.example no-policy-found 1 0 Acme, Inc.\""],
    )
    .await;
    it.until(
        "SELECT count(*) FROM events WHERE event_type = 'delivered' AND campaign_id = 'tls-report'",
        &["2"],
    )
    .await;
    let marked = "SELECT count(*) FROM tls_sessions WHERE event_date > DATE '2026-03-02'";
    assert_eq!(it.ask(marked).await, ["0"], "reports are not reported on");

    let mail = it.taken.lock().await.last().unwrap().clone();
    let reading = Reading::of(&mail);
    let [DomainReport::Tls(report)] = reading.reports.as_slice() else { panic!("{reading:?}") };
    let policy = &report.policies[0];
    assert_eq!(
        (policy.domain.as_str(), policy.successful_sessions, policy.failed_sessions),
        ("plain.example", 0, 1)
    );
    let failure = &policy.failures[0];
    assert_eq!(failure.result_type, "starttls-not-supported");
    assert_eq!(failure.receiving_ip.as_deref(), Some("127.0.0.2"));
    assert!(failure.sending_mta_ip.is_some() && failure.failed_sessions == 1, "{failure:?}");
    let text = String::from_utf8(mail.clone()).unwrap();
    for line in [
        "\r\nTLS-Report-Domain: plain.example\r\n",
        "\r\nTLS-Report-Submitter: acme.example\r\n",
        "multipart/report; report-type=\"tlsrpt\"",
        "filename=\"acme.example!plain.example!1772409600!1772495999!",
        "Content-Type: application/tlsrpt+gzip",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    peers_agree(&it, &mail);
    it.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_claimed_is_its_own_and_what_the_dns_hides_waits() {
    let it = Fixture::new().await;
    it.a_day_of_mail().await;
    it.clock.to("2026-03-03T06:00:00Z");
    let store = it.reports.ledger.store.clone();
    let other = Ledger { store, holder: "another spool".into(), node_id: "node-2".into() };
    other.claim(DAY, "plain.example", "id", it.reports.ids.now()).await.unwrap();
    it.zone.fail("_smtp._tls.bounces.bolt.example");
    let mut known = Known::default();
    it.reports.round(&mut known).await.unwrap();
    assert!(it.accepted().await.is_empty());
    let done: Vec<&str> = known.done.iter().map(String::as_str).collect();
    assert_eq!(done, ["plain.example", "quiet.example"], "the third is asked for again");
    let told = it.reports.of_day(DAY, None, true).await.unwrap();
    assert_eq!(
        stages(&told),
        [("bounces.bolt.example", Stage::Unknown), ("plain.example", Stage::Elsewhere)]
    );
    assert_eq!(told[1].detail, "node node-2 sends it");
    it.running.stop().await;
}

#[test]
fn a_try_that_may_succeed_later_waits_longer_each_time() {
    let now = Timestamp::from_secs(1_800_000_000);
    let mut progress = Progress::default();
    let mut waits = Vec::new();
    for _ in 0..9 {
        progress = after(progress, Err(NotPosted::Later("busy".into())), now);
        waits.push(progress.next_at.unwrap().millis_since(now) / 60_000);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 320, 320]);
    assert_eq!(after(progress.clone(), Ok(()), now).state, State::Sent);
    assert_eq!(after(progress, Err(NotPosted::Never("gone".into())), now).state, State::GivenUp);
}

/// parsedmarc reads the same figures, and dkimpy verifies the signature.
fn peers_agree(it: &Fixture, mail: &[u8]) {
    let python: PathBuf =
        std::env::var_os("SENDLAKE_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let there = Command::new(&python).args(["-c", "import parsedmarc, dkim"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        eprintln!(
            "not tested: a TLS report in parsedmarc and dkimpy; install tests/peers/requirements.txt and set SENDLAKE_TEST_PYTHON"
        );
        return;
    }
    let (zone, file) = (it.dir.path().join("zone"), it.dir.path().join("report.eml"));
    std::fs::write(&zone, &it.zone_lines).unwrap();
    std::fs::write(&file, mail).unwrap();
    let ask = |script: &str, args: &[&Path]| -> Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
        let answer = Command::new(&python).arg(script).args(args).output().unwrap();
        serde_json::from_slice(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    };
    let read = ask("read_reports.py", &[&file]);
    let read = &read[file.to_str().unwrap()];
    assert_eq!((&read["type"], &read["org_name"]), (&"tls".into(), &"Acme, Inc.".into()), "{read}");
    assert_eq!((&read["begin"], &read["end"]), (&1_772_409_600.into(), &1_772_495_999.into()));
    let policy = &read["policies"][0];
    assert_eq!((&policy["domain"], &policy["type"]), (&"plain.example".into(), &"no-policy-found".into()));
    assert_eq!((&policy["successful"], &policy["failed"]), (&0.into(), &1.into()), "{read}");
    let failure = &policy["failures"][0];
    assert_eq!((&failure["result_type"], &failure["failed"]), (&"starttls-not-supported".into(), &1.into()));
    assert_eq!(failure["receiving_mx_hostname"], "mx.plain.example");
    let signatures = ask("verify_dkim.py", &[&zone, &file]);
    let signature = &signatures[0][0];
    assert_eq!(
        (&signature["domain"], &signature["valid"]),
        (&"acme.example".into(), &true.into()),
        "{signatures}"
    );
}
