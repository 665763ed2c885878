//! Records as people publish them, rightly and wrongly, against a name server of the test's own.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;

use super::*;
use crate::testing::Zone;

const KEY: &str = "TUlJQklqQU5CZ2txaGtpRzl3MEJBUUVGQUFPQ0FROEFNSUlCQ2dLQ0FRRUE";

struct Fixture {
    zone: Zone,
    resolver: Option<HickoryResolver>,
    domain: Domain,
    outbound: Outbound,
    bounce_domains: Vec<String>,
    report_addresses: Vec<String>,
    knows_mail_host: bool,
}

impl Fixture {
    /// A zone with everything that is printed.
    async fn good() -> Self {
        let domain = Domain {
            tenant_id: TenantId::new("acme").unwrap(),
            domain: "acme.example".into(),
            selector: "s1".into(),
            bounce_domain: "bounces.acme.example".into(),
            dkim_public_key: KEY.repeat(6),
            created_at: Timestamp(0),
            warm_at: None,
        };
        let outbound = Outbound {
            mail_host: "mail.acme.example".into(),
            source_ips: vec!["192.0.2.10".parse().unwrap()],
        };
        let zone = Zone::start().await;
        for record in domain.dns_records(&outbound) {
            match record.kind {
                "MX" => zone.mx(&record.name, record.value.trim_start_matches("10 ")),
                _ => zone.txt(&record.name, &record.value),
            }
        }
        zone.address("mail.acme.example", "192.0.2.10");
        Self {
            zone,
            resolver: None,
            bounce_domains: vec![domain.bounce_domain.clone(), "bounces.other.example".into()],
            domain,
            outbound,
            report_addresses: vec!["reports@desk.example".into()],
            knows_mail_host: true,
        }
    }

    /// The findings, each in a line: record, how it stands, and what to do.
    async fn told(&mut self) -> Vec<String> {
        // a resolver of its own each time: answers are remembered
        let resolver = self.resolver.insert(HickoryResolver::from_servers(&[self.zone.addr]).unwrap());
        let check = Check {
            resolver,
            outbound: &self.outbound,
            knows_mail_host: self.knows_mail_host,
            bounce_domains: &self.bounce_domains,
            report_addresses: &self.report_addresses,
            public_url: "https://mail.acme.example",
        };
        let line = |it: &Finding| {
            format!("{} {} {:?} {}", it.record, it.name, it.status, it.advice).trim_end().to_owned()
        };
        check.run(&self.domain).await.iter().map(line).collect()
    }

    /// Puts one text in the place of a name's records, and says what becomes of them.
    async fn with(&mut self, name: &str, texts: &[&str]) -> String {
        self.zone.forget(name);
        texts.iter().for_each(|text| self.zone.txt(name, text));
        let told = self.told().await;
        told.into_iter().find(|line| line.contains(&format!(" {name} "))).unwrap()
    }
}

#[tokio::test]
async fn what_is_printed_is_good_and_what_is_missing_is_told() {
    let mut it = Fixture::good().await;
    let told = it.told().await;
    assert_eq!(
        told,
        [
            "DKIM s1._domainkey.acme.example Ok",
            "SPF bounces.acme.example Ok",
            "MX bounces.acme.example Ok",
            "DMARC _dmarc.acme.example Ok",
            "TLSRPT _smtp._tls.bounces.acme.example Ok",
            "TLSRPT _smtp._tls.acme.example Ok",
        ]
    );
    it.zone = Zone::start().await;
    let told = it.told().await;
    assert!(told.len() == 6 && told.iter().all(|line| line.contains(" Missing publish at ")), "{told:#?}");
    assert!(told[2].ends_with("publish at bounces.acme.example: MX 10 mail.acme.example"), "{}", told[2]);
    let broken = "_smtp._tls.acme.example";
    it.zone.fail(broken);
    let told = it.told().await;
    assert!(told[5].contains("Unknown the DNS did not answer"), "{}", told[5]);
}

#[tokio::test]
async fn keys_that_verify_nothing_are_told_apart() {
    let mut it = Fixture::good().await;
    let (name, key) = ("s1._domainkey.acme.example", KEY.repeat(6));
    let spaced = format!("k=rsa; p={} {}; s=email;", &key[..100], &key[100..]);
    assert!(it.with(name, &[&spaced]).await.ends_with("Ok"));
    for (text, words) in [
        (format!("v=DKIM1; p={}", &key[..200]), "cut short"),
        ("v=DKIM1; p=".to_owned(), "revoked"),
        ("hello".to_owned(), "no DKIM key"),
        (format!("v=DKIM1; k=ed25519; p={key}"), "k= is not rsa"),
        (format!("v=DKIM1; s=tlsrpt; p={key}"), "leaves mail out"),
        (format!("v=DKIM1; t=s:y; p={key}"), "t=y"),
    ] {
        let told = it.with(name, &[&text]).await;
        assert!(told.contains("Differs") && told.contains(words), "{text}: {told}");
    }
    let told = it.with(name, &[&format!("p={key}"), "v=DKIM1; p="]).await;
    assert!(told.contains("several records"), "{told}");
}

#[tokio::test]
async fn spf_counts_by_what_it_lets_pass() {
    let mut it = Fixture::good().await;
    it.zone.txt("_spf.acme.example", "v=spf1 ip4:198.51.100.0/24 ip4:192.0.2.0/28 ?all");
    it.zone.txt("loop.acme.example", "v=spf1 include:loop.acme.example -all");
    it.zone.address("pool.acme.example", "192.0.2.11");
    let good = [
        "v=spf1 include:_spf.acme.example -all",
        "v=spf1 redirect=_spf.acme.example",
        "v=spf1 ip4:192.0.2.10/32 ~all",
        "v=spf1 a:mail.acme.example -all",
        "v=spf1 a:pool.acme.example/24 -all",
        "V=SPF1 mx -all",
    ];
    for text in good {
        it.zone.forget("bounces.acme.example");
        it.zone.mx("bounces.acme.example", "mail.acme.example");
        it.zone.txt("bounces.acme.example", text);
        let told = it.told().await.remove(1);
        assert!(told.ends_with("Ok"), "{text}: {told}");
    }
    for (text, words) in [
        ("v=spf1 ip4:192.0.2.11 -all", "mail from 192.0.2.10 does not pass"),
        ("v=spf1 -ip4:192.0.2.10 +all", "does not pass"),
        ("v=spf1 include:gone.acme.example -all", "has not one SPF record"),
        ("v=spf1 include:loop.acme.example -all", "more than 10 times"),
        ("v=spf1", "does not pass"),
    ] {
        let told = it.with("bounces.acme.example", &[text]).await;
        assert!(told.contains("Differs") && told.contains(words), "{text}: {told}");
    }
    let told = it.with("bounces.acme.example", &["v=spf1 +all", "v=spf1 -all"]).await;
    assert!(told.contains("several SPF records"), "{told}");
    it.outbound.source_ips.clear();
    let told = it.with("bounces.acme.example", &["v=spf1 a:mail.acme.example -all"]).await;
    assert!(told.ends_with("Ok"), "without addresses of ours, the host's count: {told}");
}

#[tokio::test]
async fn bounces_have_to_come_here() {
    let mut it = Fixture::good().await;
    let name = "bounces.acme.example";
    let spf = "v=spf1 ip4:192.0.2.10 -all";
    for (exchange, words) in
        [("mx.elsewhere.example", "go elsewhere"), ("alias.acme.example", "Ok"), ("mail.acme.example", "Ok")]
    {
        it.zone.forget(name);
        it.zone.txt(name, spf);
        it.zone.mx(name, exchange);
        it.zone.address("alias.acme.example", "192.0.2.10");
        it.zone.address("mx.elsewhere.example", "192.0.2.99");
        let told = it.told().await.remove(2);
        assert!(told.contains(words), "{exchange}: {told}");
    }
    it.zone.forget("mail.acme.example");
    let told = it.told().await.remove(2);
    assert!(told.contains("mail.acme.example has no address"), "{told}");
    it.knows_mail_host = false;
    assert!(it.told().await.remove(2).contains("Unknown nobody knows this installation's host"));
}

#[tokio::test]
async fn dmarc_counts_where_its_reports_reach_us_with_leave_where_it_is_needed() {
    let mut it = Fixture::good().await;
    let name = "_dmarc.acme.example";
    let keeps = "v=DMARC1; p=reject; rua=mailto:a@else.example,mailto:DMARC@bounces.acme.example!5m";
    assert!(it.with(name, &[keeps]).await.ends_with("Ok"));
    for (text, words) in [
        ("v=DMARC1; p=none; rua=mailto:a@else.example", "add mailto:dmarc@bounces.acme.example to its rua"),
        ("v=DMARC1; p=none", "add rua=mailto:dmarc@bounces.acme.example"),
        ("v=DMARC1; rua=mailto:dmarc@bounces.acme.example", "no p="),
    ] {
        let told = it.with(name, &[text]).await;
        assert!(told.contains("Differs") && told.contains(words), "{text}: {told}");
    }
    let told = it.with(name, &[keeps, keeps]).await;
    assert!(told.contains("several policies"), "{told}");

    it.with(name, &["v=DMARC1; p=none; rua=mailto:dmarc@bounces.other.example"]).await;
    let told = it.told().await;
    assert!(told[3].ends_with("Ok"), "{}", told[3]);
    let leave = "acme.example._report._dmarc.bounces.other.example";
    assert!(told[4].starts_with(&format!("DMARC leave {leave} Missing")), "{}", told[4]);
    assert!(it.with(leave, &["v=DMARC1;"]).await.ends_with("Ok"));
    it.with(name, &["v=DMARC1; p=none; rua=mailto:reports@desk.example"]).await;
    assert!(it.told().await[4].contains("acme.example._report._dmarc.desk.example Missing"));

    it.domain.domain = "news.acme.example".into();
    it.with(name, &[keeps]).await;
    let told = it.told().await;
    assert!(told.contains(&"DMARC _dmarc.acme.example Ok".to_owned()), "the policy above counts: {told:#?}");
}

#[tokio::test]
async fn tls_reports_may_come_by_mail_or_https() {
    let mut it = Fixture::good().await;
    let name = "_smtp._tls.acme.example";
    for text in [
        "v=TLSRPTv1; rua=mailto:x@else.example,mailto:tlsrpt@bounces.acme.example",
        "v=TLSRPTv1;rua=https://mail.acme.example/tlsrpt/v1/acme.example",
    ] {
        assert!(it.with(name, &[text]).await.ends_with("Ok"), "{text}");
    }
    for (text, words) in [
        (
            "v=TLSRPTv1; rua=https://else.example/tlsrpt/v1/acme.example",
            "add mailto:tlsrpt@bounces.acme.example",
        ),
        ("v=TLSRPTv1; rua=ftp://x.example", "not by ftp"),
        ("v=TLSRPTv1", "no rua"),
    ] {
        let told = it.with(name, &[text]).await;
        assert!(told.contains("Differs") && told.contains(words), "{text}: {told}");
    }
}
