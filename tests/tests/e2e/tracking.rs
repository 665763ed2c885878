//! Opens and clicks: what leaves is read by Python's parsers and verified by dkimpy, what comes back is asked by its HTTP
//! client and by a browser; and a wish to leave that comes while a message waits.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Peer, Python, SmtpSink, Taken, free_port, missing, program};
use sendlake_tests::until;
use serde_json::{Value, json};

use crate::message_with;

const CHROME: &str =
    "User-Agent:Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36";
const GMAIL: &str =
    "User-Agent:Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";

/// A server that recipients reach at its own address.
fn home(sink: &SmtpSink, home: Home, port: u16) -> Home {
    home.route("sink.test", sink.addr)
        .set("http.listen", format!("\"127.0.0.1:{port}\""))
        .set("http.public_url", format!("\"http://127.0.0.1:{port}\""))
}

/// A mail's tags, and its links and pictures in their order.
fn read(python: &Python, files: &[&Path]) -> Vec<Value> {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    python.ask("read_html.py", &files).as_array().unwrap().clone()
}

fn attributes(page: &Value, tag: &str, name: &str) -> Vec<String> {
    let tags = page["tags"].as_array().unwrap().iter();
    tags.filter(|entry| entry[0] == tag)
        .filter_map(|entry| entry[1][name].as_str().map(str::to_owned))
        .collect()
}

/// The tags without what tracking changes.
fn skeleton(page: &Value) -> Vec<Value> {
    let is_pixel = |entry: &Value| entry[0] == "img" && entry[1]["width"] == "1";
    let tags = page["tags"].as_array().unwrap().iter().filter(|entry| !is_pixel(entry)).cloned();
    tags.map(|mut entry| {
        if entry[0] == "a" {
            let attributes = entry[1].as_object_mut().unwrap();
            attributes.remove("href");
            attributes.remove("data-sendlake-track");
        }
        entry
    })
    .collect()
}

fn visit(python: &Python, method: &str, url: &str, headers: &[&str]) -> Value {
    python.ask("visit.py", &[&[method, url], headers].concat())
}

async fn events(home: &Home, kind: &str, count: usize) -> Vec<Value> {
    let sql = format!("SELECT * FROM events WHERE event_type = '{kind}' ORDER BY occurred_at, event_id");
    until(&format!("{count} events {kind}"), Duration::from_secs(10), async || {
        Some(home.sql(&sql)).filter(|rows| rows.len() >= count)
    })
    .await
}

fn dns(home: &Home, domain: &str) -> PathBuf {
    let file = home.path().join("zone");
    std::fs::write(&file, home.ok(&["domain", "dns", domain])).unwrap();
    file
}

const HTML: &str = "<html><head><title>Spring</title></head><body class=\"x\"><p>Grüße &amp; 100 % = <b>alles</b></p>\
    <a href=\"https://shop.example/sale?a=1&amp;b=2#top\" id=sale>Sale</a> <a href=\"mailto:help@acme.example\">Help</a>\
    <a href=\"https://shop.example/quiet\" data-sendlake-track=\"off\">Quiet</a><a href=\"#top\">Top</a>\
    <img src=\"https://shop.example/logo.png\" alt=\"Acme\"></body></html>";

async fn sent(
    http: &sendlake_tests::http::Http,
    key: &str,
    sink: &SmtpSink,
    to: &str,
    tracking: Value,
) -> (String, Taken) {
    let mut changes = json!({"html": HTML, "stream": "marketing", "campaign_id": "spring"});
    if !tracking.is_null() {
        changes["tracking"] = tracking;
    }
    let id = http.send(key, &message_with(to, changes)).await.remove(0);
    http.outcome(key, &id, "delivered").await;
    (id, sink.taken_by(to))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracked_mail_differs_in_links_and_a_pixel_and_its_signature_holds() {
    let Some(python) = Python::with(&["aiosmtpd", "dkim"]) else { return };
    let (base, port) = (Home::new(), free_port());
    let sink = SmtpSink::start(&python, base.path());
    let home = home(&sink, base, port);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;

    let (_, quiet) = sent(&server.http, &key, &sink, "quiet@sink.test", Value::Null).await;
    let both = json!({"opens": true, "clicks": true});
    let (id, ann) = sent(&server.http, &key, &sink, "ann@sink.test", both.clone()).await;
    home.ok(&["tenant", "tracking", "acme", "--opens", "on"]);
    let said = home.ok(&["tenant", "tracking", "acme"]);
    assert!(said.contains("opens on, clicks off"), "{said}");
    let (_, by_default) = sent(&server.http, &key, &sink, "bob@sink.test", Value::Null).await;
    let (_, not_even_so) = sent(&server.http, &key, &sink, "eve@sink.test", json!({"opens": false})).await;

    let original = home.path().join("original.html");
    std::fs::write(&original, HTML).unwrap();
    let files = [&original, &quiet.file, &ann.file, &by_default.file, &not_even_so.file];
    let pages = read(&python, &files.map(PathBuf::as_path));
    for page in &pages {
        assert_eq!(skeleton(page), skeleton(&pages[0]));
        assert_eq!(page["data"].as_str().unwrap().trim_end(), pages[0]["data"].as_str().unwrap());
    }
    assert_eq!(pages[1]["tags"], pages[0]["tags"], "off is the default, and changes nothing");
    assert_eq!(pages[4]["tags"], pages[0]["tags"], "a message may say no");
    assert_eq!(pages[2]["plain"], pages[1]["plain"], "the plain text is left alone");
    let base_url = format!("http://127.0.0.1:{port}");
    let links = attributes(&pages[2], "a", "href");
    assert!(links[0].starts_with(&format!("{base_url}/c/")), "{links:?}");
    assert_eq!(links[1..], ["mailto:help@acme.example", "https://shop.example/quiet", "#top"]);
    assert!(!String::from_utf8_lossy(&ann.octets()).contains("data-sendlake-track"));
    let pictures = attributes(&pages[2], "img", "src");
    assert!(pictures.len() == 2 && pictures[1].starts_with(&format!("{base_url}/o/")), "{pictures:?}");
    assert_eq!(attributes(&pages[3], "a", "href"), attributes(&pages[0], "a", "href"));
    assert_eq!(attributes(&pages[3], "img", "src").len(), 2);

    let zone = dns(&home, "acme.example");
    let files = [&quiet, &ann, &by_default].map(|taken| taken.file.display().to_string());
    let mut args = vec![zone.to_str().unwrap()];
    args.extend(files.iter().map(String::as_str));
    for signatures in python.ask("verify_dkim.py", &args).as_array().unwrap() {
        assert_eq!(signatures[0]["valid"], true, "{signatures}");
    }
    let signed = ann.header("DKIM-Signature").unwrap().to_lowercase().replace(' ', "");
    assert!(signed.contains("list-unsubscribe"), "{signed}");

    let delivered = home
        .sql(&format!("SELECT detail FROM events WHERE message_id = '{id}' AND event_type = 'delivered'"));
    assert_eq!(delivered[0]["detail"], "{\"tracking\":{\"clicks\":true,\"opens\":true}}");

    // what comes back
    let opened = visit(&python, "GET", &pictures[1], &[GMAIL, "X-Forwarded-For:203.0.113.77"]);
    assert_eq!((&opened["status"], &opened["start"]), (&json!(200), &json!("GIF89a")), "{opened}");
    assert!(opened["headers"]["cache-control"].as_str().unwrap().contains("no-store"), "{opened}");
    assert_eq!(opened["headers"]["content-type"], "image/gif");
    let conditional = visit(&python, "GET", &pictures[1], &["If-None-Match:*", "Range:bytes=0-3", GMAIL]);
    assert_eq!(conditional["status"], 200, "every look is a request: {conditional}");
    let head = visit(&python, "HEAD", &links[0], &[CHROME]);
    assert_eq!((&head["status"], &head["bytes"]), (&json!(302), &json!(0)), "{head}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let clicked = visit(&python, "GET", &links[0], &[CHROME]);
    assert_eq!(clicked["status"], 302, "{clicked}");
    assert_eq!(clicked["headers"]["location"], "https://shop.example/sale?a=1&b=2#top");

    let opens = events(&home, "opened", 2).await;
    for (field, value) in [
        ("message_id", json!(id)),
        ("recipient", json!("ann@sink.test")),
        ("campaign_id", json!("spring")),
        ("stream", json!("marketing")),
        ("provider", json!("sink.test")),
        ("header_from_domain", json!("acme.example")),
        ("open_source", json!("proxied")),
        ("client_ip_prefix", json!("203.0.113.0/24")),
    ] {
        assert_eq!(opens[0][field], value, "{field}: {}", opens[0]);
    }
    assert!(opens[0]["delivered_at"].is_string() && opens[0]["seq"].is_null(), "{}", opens[0]);
    let clicks = events(&home, "clicked", 2).await;
    let sources: Vec<_> = clicks.iter().map(|click| click["open_source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["scanner", "direct"]);
    assert_eq!(clicks[1]["url"], "https://shop.example/sale?a=1&b=2#top");
    let seen = home.sql("SELECT * FROM engagement WHERE campaign_id = 'spring'");
    assert_eq!(seen.len(), 1, "{seen:?}");
    for (column, value) in [
        ("delivered", 4),
        ("delivered_with_opens", 2),
        ("delivered_with_clicks", 1),
        ("opened_by_people", 1),
        ("clicked_by_people", 1),
        ("clicked_by_machines", 0),
    ] {
        assert_eq!(seen[0][column], value, "{column}: {}", seen[0]);
    }
    assert_eq!((&seen[0]["open_rate"], &seen[0]["click_rate"]), (&json!(0.5), &json!(1.0)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_not_made_here_leads_nowhere() {
    let Some(python) = Python::with(&["aiosmtpd"]) else { return };
    let (base, port) = (Home::new(), free_port());
    let sink = SmtpSink::start(&python, base.path());
    let home = home(&sink, base, port);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.tenant("bolt", "bolt.example");
    server.http.ready(&key, "acme.example").await;
    let said = home.ok(&["domain", "tracking", "acme.example", "links.acme.example"]);
    assert!(said.contains("links.acme.example. IN CNAME 127.0.0.1."), "{said}");
    home.ok(&["domain", "tracking", "bolt.example", "links.bolt.example"]);
    let records = home.ok(&["domain", "dns", "acme.example"]);
    assert!(records.contains("links.acme.example. IN CNAME"), "{records}");
    for (args, words) in [
        (["domain", "tracking", "acme.example", "links.other.example"], "below its sending domain"),
        (["domain", "tracking", "nobody.example", "links.nobody.example"], "nobody.example"),
    ] {
        let said = home.run(&args);
        assert!(said.code > 2 && said.err.contains(words), "{args:?}: {said:?}");
    }
    let (_, ann) =
        sent(&server.http, &key, &sink, "ann@sink.test", json!({"opens": true, "clicks": true})).await;
    let page = read(&python, &[&ann.file]).remove(0);
    let link = attributes(&page, "a", "href").remove(0);
    let pixel = attributes(&page, "img", "src").remove(1);
    assert!(link.starts_with(&format!("http://127.0.0.1:{port}/c/")), "not verified, not used: {link}");

    let changed = |url: &str, at: usize| {
        let mut url = url.to_owned().into_bytes();
        let at = url.len() - at;
        url[at] = if url[at] == b'a' { b'b' } else { b'a' };
        String::from_utf8(url).unwrap()
    };
    let sealed = link.rsplit('/').next().unwrap();
    let other_place = pixel.replace("/o/", "/c/");
    for url in [
        changed(&link, 1),
        changed(&link, sealed.len() / 2),
        changed(&link, sealed.len() + 10),
        link[..link.len() - sealed.len()].to_owned(),
        format!("{}?url=https://evil.example/", changed(&link, 4)),
        other_place,
        link.replace("/c/", "/o/"),
        link.replace("/c/", "/u/"),
    ] {
        let answer = visit(&python, "GET", &url, &[CHROME]);
        assert_eq!(answer["status"], 404, "{url}: {answer}");
        assert!(answer["headers"].get("location").is_none(), "{url}: {answer}");
    }
    let extra = visit(&python, "GET", &format!("{link}?url=https://evil.example/"), &[CHROME]);
    assert_eq!(extra["headers"]["location"], "https://shop.example/sale?a=1&b=2#top", "{extra}");
    assert_eq!(visit(&python, "POST", &link, &[CHROME])["status"], 405);
    for (host, status) in
        [("links.acme.example", 302), ("links.bolt.example", 404), ("Links.Bolt.example:443", 404)]
    {
        let answer = visit(&python, "GET", &link, &[&format!("Host:{host}"), CHROME]);
        assert_eq!(answer["status"], status, "{host}: {answer}");
    }
    let german = visit(&python, "GET", &changed(&link, 1), &["Accept-Language:de"]);
    assert!(german["headers"]["content-type"].as_str().unwrap().starts_with("text/html"), "{german}");
    for _ in 0..60 {
        visit(&python, "GET", &pixel, &[GMAIL]);
    }
    server.stop().await;
    assert_eq!(home.events_by_type()["opened"], 20, "one mail does not flood the lake");
    assert_eq!(home.events_by_type()["clicked"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_opens_and_clicks_and_leaves_in_its_own_language() {
    let Some(python) = Python::with(&["aiosmtpd"]) else { return };
    let Some(chromium) = program("chromium") else {
        return missing("chromium", "install Debian's package chromium");
    };
    let (base, port) = (Home::new(), free_port());
    let sink = SmtpSink::start(&python, base.path());
    let home = home(&sink, base, port);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let shop = home.path().join("shop");
    std::fs::create_dir(&shop).unwrap();
    std::fs::write(shop.join("index.html"), "<h1>The shop</h1>").unwrap();
    let shop_port = free_port();
    let mut serve = python.command();
    serve.args(["-m", "http.server", "--bind", "127.0.0.1", &shop_port.to_string()]).current_dir(&shop);
    let _shop = Peer::start(serve.stdout(Stdio::null()).stderr(Stdio::null()));
    let html = format!("<body><a href=\"http://127.0.0.1:{shop_port}/index.html\">go</a></body>");
    let changes = json!({
        "html": html, "stream": "marketing", "tracking": {"opens": true, "clicks": true},
    });
    let id = server.http.send(&key, &message_with("ann@sink.test", changes)).await.remove(0);
    server.http.outcome(&key, &id, "delivered").await;
    let ann = sink.taken_by("ann@sink.test");
    let page = read(&python, &[&ann.file]).remove(0);
    let (link, pixel) = (attributes(&page, "a", "href").remove(0), attributes(&page, "img", "src").remove(0));

    let browse = |url: &str, language: &str| {
        let output = Command::new(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            .arg(format!("--user-data-dir={}", home.path().join("browser").display()))
            .arg(format!("--accept-lang={language}"))
            .arg("--user-agent=Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36")
            .arg(url)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mail = home.path().join("mail.html");
    std::fs::write(&mail, format!("<body>mail<img src=\"{pixel}\"></body>")).unwrap();
    browse(&format!("file://{}", mail.display()), "en");
    assert_eq!(events(&home, "opened", 1).await[0]["open_source"], "direct");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let dom = browse(&link, "en");
    assert!(dom.contains("The shop"), "the browser is where the link leads: {dom}");
    let click = events(&home, "clicked", 1).await.remove(0);
    assert_eq!(click["message_id"], json!(id));
    let leave = ann.header("List-Unsubscribe").unwrap();
    let leave = leave.split(['<', '>']).nth(1).unwrap().to_owned();
    let dom = browse(&leave, "de-AT");
    assert!(dom.contains("lang=\"de\"") && dom.contains("Abmelden?") && dom.contains("<button"), "{dom}");
    assert!(!home.events_by_type().contains_key("unsubscribed"), "to look is not to leave");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_gets_nothing_that_was_still_waiting() {
    let Some(python) = Python::with(&["aiosmtpd"]) else { return };
    let (base, port) = (Home::new(), free_port());
    let sink = SmtpSink::start(&python, base.path());
    let home = home(&sink, base, port).set("delivery.retry_intervals_s", "[3]");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let (_, ann) = sent(&server.http, &key, &sink, "ann@sink.test", Value::Null).await;
    let leave = ann.header("List-Unsubscribe").unwrap();
    let leave = leave.split(['<', '>']).nth(1).unwrap().to_owned();
    let leave = leave.strip_prefix(&format!("http://127.0.0.1:{port}")).unwrap();

    let later = "SELECT to_char(now() + INTERVAL '5 seconds', '%Y-%m-%dT%H:%M:%SZ') AS later";
    let later = home.sql(later);
    let waiting = json!({"stream": "marketing", "send_at": later[0]["later"]});
    let waiting = server.http.send(&key, &message_with("ann@sink.test", waiting)).await.remove(0);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let left = server.http.post(leave, "", &form, "List-Unsubscribe=Page").await;
    assert_eq!(left.status, 200, "{}", left.text());
    let deferred = message_with("r450.ann@sink.test", json!({"stream": "marketing"}));
    let deferred = server.http.send(&key, &deferred).await.remove(0);
    until("a deferral", Duration::from_secs(10), async || {
        home.events_by_type().contains_key("deferred").then_some(())
    })
    .await;
    let history = server.http.outcome(&key, &waiting, "suppressed").await;
    let kinds = crate::events(&history, "event_type");
    assert!(!kinds.iter().any(|kind| *kind == "delivered" || *kind == "deferred"), "{history}");
    assert_eq!(sink.taken().iter().filter(|taken| taken.to == "ann@sink.test").count(), 1);
    home.ok(&["suppression", "add", "--tenant", "acme", "r450.ann@sink.test"]);
    server.http.outcome(&key, &deferred, "suppressed").await;
    server.stop().await;
    let how = home.sql("SELECT detail FROM events WHERE event_type = 'unsubscribed'");
    assert_eq!(how[0]["detail"], "{\"by\":\"link\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracking_domain_is_used_once_the_dns_leads_from_it_to_here() {
    let Some(python) = Python::with(&["aiosmtpd"]) else { return };
    let (base, port) = (Home::new(), free_port());
    let sink = SmtpSink::start(&python, base.path());
    let mut names = python
        .script("names.py")
        .args(["mail.acme.example=127.0.0.1", "links.acme.example=127.0.0.1", "away.acme.example=192.0.2.1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(names.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let home = home(&sink, base, port)
        .set("http.public_url", format!("\"http://mail.acme.example:{port}\""))
        .set("delivery.dns_servers", format!("[\"{}\"]", line.trim()));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let refused = home.run(&["domain", "check", "acme.example"]);
    assert!(refused.code == 4 && refused.err.contains("6 are missing"), "{refused:?}");
    let tracking = || {
        let said = home.run(&["domain", "check", "acme.example", "--format", "json"]);
        let rows: Value = serde_json::from_str(&said.out).unwrap();
        let rows = rows.as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["record"] == "tracking").unwrap();
        (said.code, row["status"].as_str().unwrap().to_owned())
    };
    for (name, status) in [("gone.acme.example", "missing"), ("away.acme.example", "differs")] {
        home.ok(&["domain", "tracking", "acme.example", name]);
        assert_eq!(tracking(), (4, status.to_owned()), "{name}");
    }
    home.ok(&["domain", "tracking", "acme.example", "links.acme.example"]);
    assert_eq!(tracking(), (4, "ok".to_owned()), "the other records are missing");
    let both = json!({"opens": true, "clicks": true});
    let (_, ann) = sent(&server.http, &key, &sink, "ann@sink.test", both).await;
    let link = attributes(&read(&python, &[&ann.file])[0], "a", "href").remove(0);
    let own = format!("http://links.acme.example:{port}/c/");
    assert!(link.starts_with(&own), "{link}");
    let here = link.replace("links.acme.example", "127.0.0.1");
    let host = format!("Host:links.acme.example:{port}");
    assert_eq!(visit(&python, "GET", &here, &[&host, CHROME])["status"], 302);
    home.ok(&["domain", "tracking", "acme.example"]);
    assert_eq!(
        visit(&python, "GET", &here, &[&host, CHROME])["status"],
        302,
        "mail that left goes on working"
    );
    server.stop().await;
    names.kill().unwrap();
    names.wait().unwrap();
}
