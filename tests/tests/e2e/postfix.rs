//! Delivery to a real Postfix, which keeps what it takes in a Maildir.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, free_port, is_root, missing, program};
use sendlake_tests::until;
use serde_json::json;
use tempfile::TempDir;

use crate::{events, message, message_with};

/// A Postfix of our own, in a folder of its own. Stopped when dropped.
struct Postfix {
    program: PathBuf,
    dir: TempDir,
    port: u16,
}

impl Postfix {
    fn start() -> Option<Self> {
        let Some(program) = program("postfix").filter(|_| is_root()) else {
            missing("a Postfix that may be started", "apt-get install postfix, and run the tests as root");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("slpf").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, owner) in [("queue", "root"), ("data", "postfix"), ("mail", "nobody")] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            assert!(Command::new("chown").arg(owner).arg(&path).status().unwrap().success());
        }
        let certified = rcgen::generate_simple_self_signed(vec!["mx.postfix.test".to_owned()]).unwrap();
        let pem = format!("{}{}", certified.signing_key.serialize_pem(), certified.cert.pem());
        std::fs::write(dir.path().join("mx.pem"), pem).unwrap();
        let port = free_port();
        std::fs::write(dir.path().join("main.cf"), main_cf(dir.path())).unwrap();
        std::fs::write(dir.path().join("master.cf"), master_cf(port)).unwrap();
        let postfix = Self { program, dir, port };
        let started = postfix.tell("start");
        if !started {
            missing("a Postfix that starts here", "see its log with `postfix -c DIR start`");
        }
        started.then_some(postfix)
    }

    fn tell(&self, word: &str) -> bool {
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(self.dir.path())
            .arg(word)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// The messages in the Maildir.
    fn mail(&self) -> Vec<PathBuf> {
        let folder = self.dir.path().join("mail/all/new");
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.tell("stop");
    }
}

fn main_cf(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "compatibility_level = 3.6\nqueue_directory = {dir}/queue\ndata_directory = {dir}/data\n\
         maillog_file = {dir}/maillog\nmaillog_file_prefixes = {dir}\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
         myhostname = mx.postfix.test\nmydestination =\nalias_maps =\nalias_database =\n\
         smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {dir}/mx.pem\n\
         virtual_mailbox_domains = postfix.test\nvirtual_mailbox_base = {dir}/mail\n\
         virtual_mailbox_maps = static:all/\nvirtual_alias_maps =\nvirtual_minimum_uid = 1\n\
         virtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
         smtpd_recipient_restrictions = check_recipient_access inline:{{{{full@postfix.test=450 4.2.2 mailbox full}} \
         {{gone@postfix.test=550 5.1.1 no such user}}}}, reject_unauth_destination\n"
    )
}

fn master_cf(port: u16) -> String {
    let mut services = format!("127.0.0.1:{port} inet n - n - - smtpd\n");
    for (name, kind, private, unprivileged, wakeup, limit, command) in [
        ("pickup", "unix", "n", "-", "60", "1", "pickup"),
        ("cleanup", "unix", "n", "-", "-", "0", "cleanup"),
        ("qmgr", "unix", "n", "-", "300", "1", "qmgr"),
        ("tlsmgr", "unix", "-", "-", "1000?", "1", "tlsmgr"),
        ("rewrite", "unix", "-", "-", "-", "-", "trivial-rewrite"),
        ("bounce", "unix", "-", "-", "-", "0", "bounce"),
        ("defer", "unix", "-", "-", "-", "0", "bounce"),
        ("trace", "unix", "-", "-", "-", "0", "bounce"),
        ("proxymap", "unix", "-", "-", "-", "-", "proxymap"),
        ("error", "unix", "-", "-", "-", "-", "error"),
        ("retry", "unix", "-", "-", "-", "-", "error"),
        ("virtual", "unix", "-", "n", "-", "-", "virtual"),
        ("anvil", "unix", "-", "-", "-", "1", "anvil"),
        ("postlog", "unix-dgram", "n", "-", "-", "1", "postlogd"),
    ] {
        services.push_str(&format!("{name} {kind} {private} {unprivileged} n {wakeup} {limit} {command}\n"));
    }
    services
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_takes_signed_mail_and_its_refusals_are_understood() {
    let Some(postfix) = Postfix::start() else { return };
    let home = Home::new().route("postfix.test", format!("127.0.0.1:{}", postfix.port));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let mut taken = Vec::new();
    for number in 0..5 {
        let text = "A line.\n.\nA dot above. Ünïcödé.\n".repeat(number * 50 + 1);
        let mail = message_with(&format!("bob{number}@postfix.test"), json!({"text": text}));
        taken.extend(server.http.send(&key, &mail).await);
    }
    let gone = server.http.send(&key, &message("gone@postfix.test")).await.remove(0);
    let full = server.http.send(&key, &message("full@postfix.test")).await.remove(0);
    for id in &taken {
        let history = server.http.outcome(&key, id, "delivered").await;
        let delivered = &history["events"].as_array().unwrap().last().unwrap();
        assert!(delivered["reply_text"].as_str().unwrap().contains("queued as"), "{delivered}");
        assert_eq!(delivered["tls_version"], "TLSv1.3");
    }
    let history = server.http.outcome(&key, &gone, "bounced").await;
    assert_eq!(
        (&history["events"][1]["reply_code"], &history["events"][1]["enhanced_status"]),
        (&json!(550), &json!("5.1.1"))
    );
    let history = until("a second attempt", Duration::from_secs(20), async || {
        let history = server.http.history(&key, &full).await;
        (history["events"].as_array().unwrap().len() >= 3).then_some(history)
    })
    .await;
    assert_eq!(events(&history, "reply_code")[1..3], [450, 450]);
    server.stop().await;

    until("Postfix to file the mail", Duration::from_secs(20), async || {
        (postfix.mail().len() == 5).then_some(())
    })
    .await;
    let mail = postfix.mail();
    for path in &mail {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("@bounces.acme.example>"), "the return path: {text}");
        assert!(text.contains("mail.acme.example"), "the EHLO name: {text}");
    }
    let Some(python) = Python::with(&["dkim"]) else { return };
    let zone = home.path().join("zone");
    std::fs::write(&zone, home.ok(&["domain", "dns", "acme.example"])).unwrap();
    // what a Maildir keeps has line feeds alone: dkimpy wants what went over the wire
    let mut args = vec![zone.to_str().unwrap().to_owned()];
    for (number, path) in mail.iter().enumerate() {
        let wire = home.path().join(format!("{number}.eml"));
        std::fs::write(&wire, std::fs::read_to_string(path).unwrap().replace('\n', "\r\n")).unwrap();
        args.push(wire.to_str().unwrap().to_owned());
    }
    let verified = python.ask("verify_dkim.py", &args.iter().map(String::as_str).collect::<Vec<_>>());
    for signatures in verified.as_array().unwrap() {
        assert_eq!(
            (&signatures[0]["domain"], &signatures[0]["valid"]),
            (&json!("acme.example"), &json!(true)),
            "{verified}"
        );
    }
}
