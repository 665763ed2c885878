//! What a server has to do at once: mail goes out, questions are asked, feedback comes in.

use std::time::{Duration, Instant};

use sendlake::demo::receivers::Receiver;
use sendlake_tests::http::Http;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::message_with;

/// Messages a second at the most: what leaks, leaks for each of them, and the other tests want the cores too.
pub const MESSAGES_PER_S: u64 = 25;

/// One after the other, one a second.
const QUESTIONS: [&str; 6] = [
    "SELECT event_type, count(*) AS n FROM events GROUP BY event_type",
    "SELECT provider, sum(events) AS n FROM rollup_hourly GROUP BY provider",
    "SELECT * FROM events ORDER BY recorded_at DESC LIMIT 50",
    "SELECT event_type, sum(events) AS n FROM rollup_1m GROUP BY event_type",
    "SELECT count(DISTINCT recipient_domain) AS n FROM events WHERE event_type = 'delivered'",
    "SELECT * FROM quotas",
];

pub struct Load {
    pub http: Http,
    pub key: String,
    /// The port for reports.
    pub inbound: u16,
    pub started: Instant,
    pub length: Duration,
}

#[derive(Debug, Default)]
pub struct Done {
    pub posted: u64,
    pub delivered: u64,
    pub questions: u64,
    pub reports: u64,
}

impl Load {
    pub async fn run(self, sink: Receiver) -> Done {
        let (posted, questions, reports) = tokio::join!(self.post(), self.ask(), self.report(&sink));
        Done { posted, delivered: sink.stats().accepted, questions, reports }
    }

    /// In the first half everything comes twice as fast: what only has to fill is full then.
    async fn pause(&self, pause: Duration) {
        let hurries = self.started.elapsed() < self.length / 2;
        tokio::time::sleep(if hurries { pause / 2 } else { pause }).await;
    }

    fn goes_on(&self) -> bool {
        self.started.elapsed() < self.length
    }

    async fn post(&self) -> u64 {
        let mut posted = 0;
        while self.goes_on() {
            self.pause(Duration::from_millis(1_000 / MESSAGES_PER_S)).await;
            let tags = json!({"campaign_id": format!("c{}", posted % 7), "tags": {"n": posted.to_string()}});
            let mail = message_with(&format!("bob{posted}@sink.test"), tags);
            let id = self.http.send(&self.key, &mail).await.remove(0);
            posted += 1;
            if posted % 50 == 0 {
                assert_eq!(self.http.history(&self.key, &id).await["message_id"], id.as_str());
            }
        }
        posted
    }

    async fn ask(&self) -> u64 {
        let mut asked = 0;
        for sql in QUESTIONS.iter().cycle() {
            self.pause(Duration::from_secs(1)).await;
            if !self.goes_on() {
                break;
            }
            let answer = self.http.sql(&self.key, sql).await;
            assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
            asked += 1;
        }
        asked
    }

    /// A full mailbox every other second, and rarely a complaint: often enough to be heard, not to stop the mail.
    async fn report(&self, sink: &Receiver) -> u64 {
        let mut reports = 0;
        while self.goes_on() {
            self.pause(Duration::from_secs(2)).await;
            let Some(taken) = sink.recorded().pop() else { continue };
            let (to, report) = if reports % 32 == 31 {
                ("fbl@bounces.acme.example".to_owned(), complaint(&taken.reverse_path))
            } else {
                (taken.reverse_path.clone(), full_mailbox(&taken.reverse_path, &taken.forward_path))
            };
            // "Not now" is an answer: another one comes in a moment.
            reports += u64::from(self.hand_over(&to, &report).await.unwrap());
        }
        reports
    }

    /// As another server does. False when the report was not taken for now.
    async fn hand_over(&self, to: &str, mail: &str) -> std::io::Result<bool> {
        let (replies, mut commands) = TcpStream::connect(("127.0.0.1", self.inbound)).await?.into_split();
        let mut replies = BufReader::new(replies).lines();
        let dialogue = [
            (String::new(), "220"),
            ("EHLO mx.sink.test\r\n".to_owned(), "250"),
            ("MAIL FROM:<>\r\n".to_owned(), "250"),
            (format!("RCPT TO:<{to}>\r\n"), "250"),
            ("DATA\r\n".to_owned(), "354"),
            (format!("{}\r\n.\r\n", mail.replace('\n', "\r\n")), "250"),
            ("QUIT\r\n".to_owned(), "221"),
        ];
        for (command, expected) in dialogue {
            commands.write_all(command.as_bytes()).await?;
            loop {
                let reply = replies.next_line().await?.unwrap_or_default();
                if reply.starts_with("45") {
                    return Ok(false);
                }
                assert!(reply.starts_with(expected), "{to}: {command:?} was answered {reply:?}");
                if reply.as_bytes().get(3) != Some(&b'-') {
                    break;
                }
            }
        }
        Ok(true)
    }
}

fn full_mailbox(to: &str, recipient: &str) -> String {
    format!(
        "From: Mail Delivery System <mailer-daemon@sink.test>\nTo: <{to}>\nSubject: Undelivered Mail Returned to Sender\n\
         MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"b0\"\n\n\
         --b0\nContent-Type: text/plain\n\nSorry.\n\n--b0\nContent-Type: message/delivery-status\n\n\
         Reporting-MTA: dns; mx.sink.test\n\nFinal-Recipient: rfc822; {recipient}\nAction: failed\nStatus: 5.2.2\n\
         Remote-MTA: dns; store.sink.test\nDiagnostic-Code: smtp; 552 5.2.2 Mailbox full\n\n--b0--\n"
    )
}

fn complaint(return_path: &str) -> String {
    format!(
        "From: Feedback <fbl@provider.test>\nTo: fbl@bounces.acme.example\nSubject: FW: Hello\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"b1\"\n\n\
         --b1\nContent-Type: text/plain\n\nAn abuse report.\n\n--b1\nContent-Type: message/feedback-report\n\n\
         Feedback-Type: abuse\nUser-Agent: Feedback/2.0\nVersion: 1\nOriginal-Mail-From: <{return_path}>\n\
         Source-IP: 192.0.2.1\n\n--b1\nContent-Type: text/rfc822-headers\n\nSubject: Hello\n\n--b1--\n"
    )
}
