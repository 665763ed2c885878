//! What tracked mail costs: reading a submission's HTML once, then each message's own body with its links and its hash;
//! beside a message of the same content that shares its body.

use std::time::{Duration, Instant};

use clap::Args;
use sendlake_control::clock::{SeededEntropy, Timestamp};
use sendlake_control::id::{TenantId, uuid_v7};
use sendlake_sender::compose::raw::prepare;
use sendlake_sender::dkim::BodyHash;
use sendlake_sender::link::{Facts, Sent, Whom};
use sendlake_sender::stream::Stream;
use sendlake_sender::submission::{Content, Tracking};
use sendlake_sender::token::{Purpose, TokenKeys};
use sendlake_sender::track::{Place, Template};

#[derive(Args, Debug)]
pub(crate) struct TrackingArgs {
    /// Octets of HTML in a message, more or less.
    #[arg(long, default_value_t = 50_000)]
    html_bytes: usize,
    /// Links in it.
    #[arg(long, default_value_t = 25)]
    links: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

#[expect(clippy::print_stdout, reason = "the measurement's answer")]
pub(crate) fn run(args: &TrackingArgs) -> anyhow::Result<()> {
    let time = Duration::from_secs(args.seconds);
    let tokens = TokenKeys::new(1, [7; 32]);
    println!("{} octets of HTML with {} links, one core", args.html_bytes, args.links);
    for (name, charset) in [("quoted-printable", "us-ascii"), ("base64", "utf-8")] {
        let content = content(args, name, charset)?;
        let Some(template) = Template::new(&content, &|_| false) else {
            anyhow::bail!("the message has nothing to track")
        };
        let megabytes = content.body.len() as f64 / 1e6;
        let read = rate(time, || drop(Template::new(&content, &|_| false)));
        let made = rate(time, || drop(message(&template, &tokens)));
        let hashed = rate(time, || drop(BodyHash::relaxed(&message(&template, &tokens))));
        let shared = rate(time, || drop(BodyHash::relaxed(&content.body)));
        println!(
            "{name}: read {read:.0}/s ({:.0} MB/s), once per submission; a message's own body {made:.0}/s ({:.0} MB/s), \
             with its hash {hashed:.0}/s; hash alone {shared:.0}/s; {} octets become {}",
            read * megabytes,
            made * megabytes,
            content.body.len(),
            message(&template, &tokens).len(),
        );
    }
    let id = uuid_v7(NOON, &SeededEntropy::new(1));
    let (token, facts) = (tokens.issue(Purpose::Tracking, id), click().seal(&tokens, id));
    let opened = rate(time, || drop(Facts::open(&tokens, Purpose::Tracking, &token, &facts)));
    println!("links opened: {opened:.0}/s");
    Ok(())
}

/// How often a second something can be done.
fn rate(time: Duration, mut work: impl FnMut()) -> f64 {
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < time {
        work();
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

fn message(template: &Template, tokens: &TokenKeys) -> Vec<u8> {
    let id = uuid_v7(NOON, &SeededEntropy::new(1));
    let token = tokens.issue(Purpose::Tracking, id);
    let rendered = template.render(|place| {
        let facts = match (place, click()) {
            (Place::Click(url), Facts::Click(whom, sent, _)) => Facts::Click(whom, sent, url.clone()),
            (_, facts) => facts,
        };
        format!("https://links.bench.example/c/{token}/{}", facts.seal(tokens, id))
    });
    rendered.body
}

#[expect(clippy::expect_used, reason = "a name that every version takes")]
fn click() -> Facts {
    let whom = Whom {
        tenant_id: TenantId::new("bench").expect("a tenant's name"),
        stream: Stream::Marketing,
        recipient: "somebody.with.a.name@customer.example".into(),
    };
    let sent = Sent {
        sent_at: NOON,
        campaign_id: Some("spring-2026".into()),
        provider: Some("google".into()),
        header_from_domain: Some("news.bench.example".into()),
    };
    Facts::Click(whom, sent, "https://shop.bench.example/sale?product=1234567&utm_source=mail".into())
}

fn content(args: &TrackingArgs, encoding: &str, charset: &str) -> anyhow::Result<Content> {
    let filler = "<p style=\"margin:0\">The quick brown fox jumps over the lazy dog.</p>\r\n";
    let between = args.html_bytes / (args.links + 1) / filler.len();
    let mut html = String::from("<html><body>\r\n");
    for link in 0..args.links {
        html.push_str(&filler.repeat(between));
        html.push_str(&format!("<a href=\"https://shop.bench.example/sale?product={link}\">Look</a>\r\n"));
    }
    html.push_str("</body></html>\r\n");
    let body = match encoding {
        "base64" => in_base64(html.as_bytes()),
        _ => html.replace('=', "=3D"),
    };
    let message = format!(
        "From: news@bench.example\r\nContent-Type: text/html; charset={charset}\r\n\
         Content-Transfer-Encoding: {encoding}\r\n\r\n{body}\r\n"
    );
    let prepared = prepare(message.as_bytes(), NOON);
    let mut content = prepared.map_err(|faults| anyhow::anyhow!("{faults:?}"))?.content;
    content.tracking = Tracking { opens: true, clicks: true };
    Ok(content)
}

fn in_base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(octets);
    let lines = text.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line).into_owned());
    lines.collect::<Vec<_>>().join("\r\n")
}
