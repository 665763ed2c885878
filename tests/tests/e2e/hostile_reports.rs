//! Reports made to do harm: each is answered in time, within memory, leaves its reason and an event, and suppresses nobody.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sendlake::config::Config;
use sendlake::{node, stores, system};
use sendlake_control::id::uuid_v7;
use sendlake_sender::token::Purpose;
use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, SmtpSink, free_port};
use sendlake_tests::until;
use serde_json::{Value, json};

use crate::message_with;

/// For one report, in an unoptimised build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the server's memory may grow by through all of them.
const GROWTH_KIB_MAX: u64 = 400 << 10;
const BIG_BYTES: usize = 200 << 20;

/// A conversation with the inbound listener, command by command.
struct Smtp {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Smtp {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut it = Self { replies: BufReader::new(stream.try_clone().unwrap()), stream };
        assert_eq!(it.reply().0, 220);
        assert_eq!(it.says("EHLO peer.test").0, 250);
        it
    }

    fn reply(&mut self) -> (u16, String) {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            self.replies.read_line(&mut line).unwrap();
            text.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return (line.get(..3).unwrap_or_default().parse().unwrap_or(0), text);
            }
        }
    }

    fn says(&mut self, command: &str) -> (u16, String) {
        self.stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        self.reply()
    }

    /// Hands over a mail. Returns the first refusal, or the answer to the final dot.
    fn sends(&mut self, to: &str, mail: &[u8]) -> (u16, String) {
        for command in ["MAIL FROM:<>".to_owned(), format!("RCPT TO:<{to}>"), "DATA".to_owned()] {
            let answer = self.says(&command);
            if answer.0 >= 400 {
                return answer;
            }
        }
        self.stream.write_all(mail).unwrap();
        self.says(if mail.ends_with(b"\r\n") { "." } else { "\r\n." })
    }
}

fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

fn attached(to: &str, kind: &str, name: &str, base64: &str) -> Vec<u8> {
    crlf(&format!(
        "From: dmarc@receiver.test\nTo: {to}\nSubject: Report domain: acme.example\nMIME-Version: 1.0\n\
         Content-Type: {kind}; name={name}\nContent-Transfer-Encoding: base64\n\n{base64}\n"
    ))
}

/// A DSN of one failure below so many levels of multipart.
fn nested_dsn(to: &str, levels: usize) -> Vec<u8> {
    let mut mail =
        format!("From: <mailer-daemon@sink.test>\nTo: <{to}>\nSubject: failure\nMIME-Version: 1.0\n");
    for level in 0..levels {
        write!(mail, "Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n").unwrap();
    }
    mail.push_str("Content-Type: text/plain\n\nSomething failed, deep down.\n");
    crlf(&mail)
}

/// Mails within one another, as forwarding makes them.
fn nested_mails(to: &str, levels: usize) -> Vec<u8> {
    let mut mail = format!("From: <mailer-daemon@sink.test>\nTo: <{to}>\nMIME-Version: 1.0\n");
    for _ in 0..levels {
        mail.push_str("Content-Type: message/rfc822\n\nFrom: a@b.test\nMIME-Version: 1.0\n");
    }
    mail.push_str("\nend\n");
    crlf(&mail)
}

fn complaint(to: &str, mail_from: Option<&str>) -> Vec<u8> {
    let path = mail_from.map(|path| format!("Original-Mail-From: <{path}>\n")).unwrap_or_default();
    let original = if mail_from.is_some() {
        "--b1\nContent-Type: text/rfc822-headers\n\nFrom: ann@acme.example\nSubject: Hello\n\n"
    } else {
        ""
    };
    crlf(&format!(
        "From: Feedback <fbl@provider.test>\nTo: {to}\nSubject: FW\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=b1\n\n\
         --b1\nContent-Type: text/plain\n\nAn abuse report.\n\n--b1\nContent-Type: message/feedback-report\n\n\
         Feedback-Type: abuse\nUser-Agent: Feedback/2.0\nVersion: 1\n{path}Source-IP: 192.0.2.1\n\n{original}--b1--\n"
    ))
}

fn xml_bomb() -> String {
    let mut entities = "<!ENTITY a0 \"lol\">".to_owned();
    for level in 1..12 {
        let text = format!("&a{};", level - 1).repeat(10);
        write!(entities, "<!ENTITY a{level} \"{text}\">").unwrap();
    }
    format!(
        "<?xml version=\"1.0\"?><!DOCTYPE feedback [{entities}]><feedback><report_metadata><org_name>&a11;</org_name></report_metadata></feedback>"
    )
}

fn forged_dmarc(to: &str) -> Vec<u8> {
    crlf(&format!(
        "From: dmarc@receiver.test\nTo: {to}\nMIME-Version: 1.0\nContent-Type: application/xml\n\n\
         <?xml version=\"1.0\"?>\n<feedback><report_metadata><org_name>Forger</org_name><report_id>f1</report_id>\n\
         <date_range><begin>1767225600</begin><end>1767311999</end></date_range></report_metadata>\n\
         <policy_published><domain>bolt.example</domain><p>none</p></policy_published><record><row>\n\
         <source_ip>192.0.2.1</source_ip><count>700</count></row><identifiers><header_from>bolt.example</header_from>\n\
         </identifiers></record></feedback>\n"
    ))
}

/// What Python packs: a gzip file of 100 MB of blanks, and zip files in zip files, in base64.
fn bombs(python: &Python) -> [String; 2] {
    let code = "import base64, gzip, io, zipfile\n\
        print(base64.encodebytes(gzip.compress(b'<feedback>' + b' ' * 100_000_000)).decode().replace('\\n', ''))\n\
        data = gzip.compress(b' ' * 10_000_000)\n\
        for level in range(6):\n    out = io.BytesIO()\n    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:\n\
        \x20       for n in range(4): z.writestr(f'{n}.zip', data)\n    data = out.getvalue()\n\
        print(base64.encodebytes(data).decode().replace('\\n', ''))\n";
    let output = python.command().args(["-c", code]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| {
        let lines: Vec<&str> =
            line.as_bytes().chunks(76).map(|part| std::str::from_utf8(part).unwrap()).collect();
        lines.join("\n")
    });
    [lines.next().unwrap(), lines.next().unwrap()]
}

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Case {
    name: &'static str,
    to: String,
    mail: Vec<u8>,
    /// The answer by SMTP, and the outcome of `sendlake ingest`.
    code: u16,
    outcome: &'static str,
    /// Part of the reason, and whose quarantine event it is; none where another event or table has it.
    quarantined: Option<(&'static str, &'static str)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_reports_are_bounded_told_and_suppress_nobody() {
    let Some(python) = Python::with(&["aiosmtpd", "smtplib"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let port = free_port();
    let home = home.route("sink.test", sink.addr).set("inbound.listen", format!("\"127.0.0.1:{port}\""));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.tenant("bolt", "bolt.example");
    server.http.ready(&key, "acme.example").await;
    let mail = message_with("ann@sink.test", json!({"stream": "marketing"}));
    let id = server.http.send(&key, &mail).await.remove(0);
    server.http.outcome(&key, &id, "delivered").await;
    let ann = sink.taken_by("ann@sink.test").from;
    let expired = expired_return_path(&home).await;

    let [gzip, zips] = bombs(&python);
    let dmarc = "dmarc@bounces.acme.example".to_owned();
    let fbl = |tenant: &str| format!("fbl@bounces.{tenant}.example");
    let xml = attached(&dmarc, "application/xml", "r.xml", "x");
    let xml =
        String::from_utf8(xml).unwrap().replace("base64\r\n\r\nx", &format!("8bit\r\n\r\n{}", xml_bomb()));
    let case = |name, to: &str, mail, code, outcome, quarantined| {
        let to = to.to_owned();
        Case { name, to, mail, code, outcome, quarantined }
    };
    let cases = [
        case(
            "gzip bomb",
            &dmarc,
            attached(&dmarc, "application/gzip", "r.xml.gz", &gzip),
            250,
            "refused",
            Some(("acme", "domain_report")),
        ),
        case(
            "zip of zips",
            &dmarc,
            attached(&dmarc, "application/zip", "r.zip", &zips),
            250,
            "refused",
            Some(("acme", "domain_report")),
        ),
        case("XML entities", &dmarc, xml.into_bytes(), 250, "refused", Some(("acme", "domain_report"))),
        case("50 parts deep", &ann, nested_dsn(&ann, 50), 250, "recorded", None),
        case("50 mails deep", &ann, nested_mails(&ann, 50), 250, "recorded", None),
        case("5000 mails deep", &ann, nested_mails(&ann, 5_000), 550, "refused", Some(("acme", "mail"))),
        case(
            "acme's message at bolt's address",
            &fbl("bolt"),
            complaint(&fbl("bolt"), Some(&ann)),
            550,
            "refused",
            Some(("bolt", "complaint")),
        ),
        case(
            "an expired token",
            &fbl("acme"),
            complaint(&fbl("acme"), Some(&expired)),
            250,
            "unattributed",
            None,
        ),
        case("no message", &fbl("acme"), complaint(&fbl("acme"), None), 250, "unattributed", None),
        case("bolt's domain at acme's address", &dmarc, forged_dmarc(&dmarc), 250, "recorded", None),
    ];
    let before_kib = peak_kib(server.pid());
    for case in &cases {
        let began = Instant::now();
        let (code, text) = Smtp::connect(port).sends(&case.to, &case.mail);
        assert_eq!(code, case.code, "{}: {text}", case.name);
        assert!(began.elapsed() < PATIENCE, "{}: {:?}", case.name, began.elapsed());
    }
    let (code, text) = Smtp::connect(port).sends(&expired, b"Subject: x\r\n\r\n");
    assert!(code == 550 && text.contains("5.1.6"), "{text}");

    // 200 MB: announced, and not announced
    let (code, text) = Smtp::connect(port).says(&format!("MAIL FROM:<> SIZE={BIG_BYTES}"));
    assert!(code == 552 && text.contains("5.3.4"), "{text}");
    let mut big = nested_dsn(&ann, 1);
    big.resize(BIG_BYTES, b'x');
    for line in big.chunks_mut(1_000).skip(1) {
        line[0] = b'\r';
        if let Some(second) = line.get_mut(1) {
            *second = b'\n';
        }
    }
    big.truncate(BIG_BYTES - BIG_BYTES % 1_000);
    let (code, text) = Smtp::connect(port).sends(&ann, &big);
    assert!(code == 552 && text.contains("5.3.4"), "{text}");

    let grown_kib = peak_kib(server.pid()).saturating_sub(before_kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB more than before");
    let told = |sql: &str| {
        let rows = home.sql(&format!(
            "SELECT tenant_id, detail FROM events WHERE event_type = 'report_quarantined' {sql}"
        ));
        rows.iter()
            .map(|row| {
                let detail: Value = serde_json::from_str(row["detail"].as_str().unwrap()).unwrap();
                (row["tenant_id"].as_str().unwrap().to_owned(), detail)
            })
            .collect::<Vec<_>>()
    };
    let events = told("");
    let mut wanted: Vec<(&str, &str)> = cases.iter().filter_map(|case| case.quarantined).collect();
    wanted.push(("acme", "mail"));
    let mut found: Vec<(&str, &str)> =
        events.iter().map(|(tenant, detail)| (tenant.as_str(), detail["kind"].as_str().unwrap())).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, wanted, "{events:#?}");
    for (_, detail) in &events {
        let reason = detail["reason"].as_str().unwrap();
        assert!(reason.len() > 10 && !reason.contains('@'), "{detail}");
        let Some(file) = detail["file"].as_str() else {
            assert!(reason.contains("message_bytes_max"), "only what is too large is not kept: {detail}");
            continue;
        };
        let file = home.data().join("quarantine").join(file);
        assert_eq!(std::fs::metadata(&file).unwrap().len(), detail["bytes"].as_u64().unwrap());
        assert!(
            std::fs::read_to_string(file.with_extension("txt"))
                .unwrap()
                .contains(reason.split(' ').next().unwrap())
        );
    }

    // the same from files
    for case in &cases {
        let file = home.path().join("report.eml");
        std::fs::write(&file, [format!("Delivered-To: {}\r\n", case.to).as_bytes(), &case.mail].concat())
            .unwrap();
        let began = Instant::now();
        let said = home.run(&["ingest", file.to_str().unwrap(), "--format", "json"]);
        assert!(began.elapsed() < PATIENCE, "{}: {:?}", case.name, began.elapsed());
        let rows: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}: {said:?}", case.name));
        let outcome = rows[0]["outcome"].as_str().unwrap();
        let expected =
            if case.outcome == "recorded" { ["recorded", "repeat", "ignored"] } else { [case.outcome; 3] };
        assert!(expected.contains(&outcome), "{}: {said:?}", case.name);
        assert_eq!(said.code == 0, outcome != "refused", "{}: {said:?}", case.name);
        if case.quarantined.is_some() {
            assert_eq!(rows[0]["event_type"], "report_quarantined", "{}: {said:?}", case.name);
        }
    }
    let file = home.path().join("big.eml");
    std::fs::write(&file, &big).unwrap();
    let began = Instant::now();
    let said = home.run(&["ingest", file.to_str().unwrap()]);
    assert!(said.code != 0 && said.err.contains("larger than 32 MiB"), "{said:?}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());

    until("the forged rows", Duration::from_secs(30), async || {
        (home.count("SELECT coalesce(sum(messages), 0) FROM dmarc_records") == 700).then_some(())
    })
    .await;
    let owners = home.sql("SELECT DISTINCT tenant_id FROM dmarc_records");
    assert_eq!(owners, [json!({"tenant_id": "platform"})], "not bolt's, and not acme's");
    let printed = home.ok(&["suppression", "ls", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), json!([]), "nobody is suppressed");
    assert_eq!(home.count("SELECT count(*) FROM events WHERE event_type LIKE 'suppression%'"), 0);
    assert_eq!(
        home.count("SELECT count(*) FROM events WHERE event_type = 'complained' AND message_id IS NOT NULL"),
        0
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(peak_kib(server.pid()).saturating_sub(before_kib) < GROWTH_KIB_MAX);
    server.stop().await;
}

/// The return path of a message of acme's that left 91 days ago, as this installation would have made it.
async fn expired_return_path(home: &Home) -> String {
    let mut config = Config::default();
    config.storage.dir = home.data().to_owned();
    let ids = system::ids();
    let control = stores::read_control(&config, &ids).await.unwrap();
    let message_id = uuid_v7(ids.now().plus_secs(-91 * 86_400), ids.entropy.as_ref());
    let token = node::token_keys(&control).issue(Purpose::ReturnPath, message_id);
    control.close().await;
    format!("{token}@bounces.acme.example")
}
