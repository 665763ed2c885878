//! Routing against a DNS that each test writes itself.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use sendlake_control::clock::{ManualClock, SeededEntropy};

use super::*;
use crate::reply::ReplyClass;
use crate::route::HostPort;

type Names<T> = HashMap<&'static str, Result<T, LookupFailure>>;

/// DNS as a test writes it; names it does not know do not exist.
#[derive(Default)]
struct Zone {
    mx: Names<Vec<(u16, &'static str)>>,
    addresses: Names<Vec<&'static str>>,
    asked: Mutex<usize>,
}

#[async_trait]
impl Resolver for Zone {
    async fn mx(&self, domain: &str) -> Result<Answer<Vec<MxRecord>>, LookupFailure> {
        *self.asked.lock() += 1;
        let records = self.mx.get(domain).cloned().unwrap_or(Err(LookupFailure::NoSuchName))?;
        let value = records
            .into_iter()
            .map(|(preference, exchange)| MxRecord { preference, exchange: exchange.into() })
            .collect();
        Ok(Answer { value, ttl_s: 120 })
    }

    async fn addresses(&self, host: &str) -> Result<Answer<Vec<IpAddr>>, LookupFailure> {
        let texts = self.addresses.get(host).cloned().unwrap_or(Err(LookupFailure::NoSuchName))?;
        Ok(Answer { value: texts.iter().map(|ip| ip.parse().unwrap()).collect(), ttl_s: 600 })
    }
}

fn zone() -> Zone {
    Zone {
        mx: HashMap::from([
            ("two.test", Ok(vec![(20, "MX2.two.test."), (10, "mx1.two.test"), (20, "mx3.two.test")])),
            ("null.test", Ok(vec![(0, "")])),
            ("plain.test", Err(LookupFailure::NoRecords)),
            ("nothing.test", Err(LookupFailure::NoRecords)),
            ("broken.test", Err(LookupFailure::Temporary("SERVFAIL".into()))),
            ("inside.test", Ok(vec![(10, "local.test")])),
            ("dangling.test", Ok(vec![(10, "gone.test")])),
            ("halfway.test", Ok(vec![(10, "gone.test"), (20, "flaky.test")])),
            ("loop.test", Ok(vec![(10, "us.test"), (20, "mx1.two.test")])),
            ("backup.test", Ok(vec![(5, "mx1.two.test"), (10, "us.test"), (20, "mx2.two.test")])),
            ("hosted.test", Ok(vec![(1, "aspmx.l.google.com")])),
        ]),
        addresses: HashMap::from([
            ("mx1.two.test", Ok(vec!["192.0.2.1", "2001:db8::1"])),
            ("mx2.two.test", Ok(vec!["192.0.2.2", "10.0.0.1"])),
            ("mx3.two.test", Ok(vec!["192.0.2.3"])),
            ("plain.test", Ok(vec!["192.0.2.9"])),
            ("nothing.test", Err(LookupFailure::NoRecords)),
            ("local.test", Ok(vec!["127.0.0.1", "10.0.0.1"])),
            ("flaky.test", Err(LookupFailure::Temporary("timeout".into()))),
            ("aspmx.l.google.com", Ok(vec!["192.0.2.5"])),
        ]),
        asked: Mutex::default(),
    }
}

fn router_with(settings: RouterSettings, routes: Vec<StaticRoute>) -> (Router, Arc<Zone>, Arc<ManualClock>) {
    let zone = Arc::new(zone());
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000)));
    let routes = RouteTable::new(routes).unwrap();
    let entropy = Arc::new(SeededEntropy::new(1));
    (Router::new(routes, zone.clone(), settings, clock.clone(), entropy), zone, clock)
}

fn router() -> Router {
    let own_names = HashSet::from(["US.test.".to_owned()]);
    router_with(RouterSettings { own_names, ..RouterSettings::default() }, Vec::new()).0
}

fn names(destination: &Destination) -> Vec<&str> {
    destination.hosts.iter().map(|host| host.name.as_str()).collect()
}

#[tokio::test]
async fn best_preference_first_and_equals_take_turns() {
    let router = router();
    let mut seconds = HashSet::new();
    for _ in 0..50 {
        let destination = router.resolve("two.test").await.unwrap();
        assert_eq!(names(&destination)[0], "mx1.two.test");
        assert_eq!(destination.site.as_str(), "mx1.two.test,mx2.two.test,mx3.two.test");
        assert_eq!(destination.provider, "two.test");
        assert_eq!(destination.hosts[0].addrs[1].to_string(), "[2001:db8::1]:25");
        seconds.insert(names(&destination)[1].to_owned());
    }
    assert_eq!(seconds.len(), 2, "{seconds:?}");
}

#[tokio::test]
async fn private_addresses_are_left_out() {
    let destination = router().resolve("two.test").await.unwrap();
    let mx2 = destination.hosts.iter().find(|host| host.name == "mx2.two.test").unwrap();
    assert_eq!(mx2.addrs, ["192.0.2.2:25".parse().unwrap()]);
    let settings = RouterSettings { allow_private: true, port: 2525, ..RouterSettings::default() };
    let allowed = router_with(settings, Vec::new()).0.resolve("inside.test").await.unwrap();
    assert_eq!(allowed.hosts[0].addrs[0], "127.0.0.1:2525".parse().unwrap());
}

#[tokio::test]
async fn domain_without_mx_is_its_own_mail_host() {
    let destination = router().resolve("plain.test").await.unwrap();
    assert_eq!(names(&destination), ["plain.test"]);
}

#[tokio::test]
async fn lookups_run_on_any_thread() {
    let router = router();
    let found = tokio::spawn(async move { router.resolve("two.test").await }).await.unwrap();
    assert!(found.is_ok());
}

#[tokio::test]
async fn provider_is_told_by_the_best_mx() {
    assert_eq!(router().resolve("hosted.test").await.unwrap().provider, "google");
}

#[tokio::test]
async fn better_hosts_than_ourselves_are_tried_and_no_others() {
    assert_eq!(names(&router().resolve("backup.test").await.unwrap()), ["mx1.two.test"]);
}

#[tokio::test]
async fn dead_ends_say_why_and_whether_to_retry() {
    let router = router();
    for (domain, code, status, class) in [
        ("null.test", 556, "5.1.10", ReplyClass::Permanent),
        ("absent.test", 550, "5.1.2", ReplyClass::Permanent),
        ("nothing.test", 550, "5.1.2", ReplyClass::Permanent),
        ("dangling.test", 550, "5.4.4", ReplyClass::Permanent),
        ("inside.test", 550, "5.4.4", ReplyClass::Permanent),
        ("loop.test", 554, "5.4.6", ReplyClass::Permanent),
        ("broken.test", 451, "4.4.3", ReplyClass::Transient),
        ("halfway.test", 451, "4.4.3", ReplyClass::Transient),
    ] {
        let Unroutable { reply, domain: of } = router.resolve(domain).await.unwrap_err();
        assert_eq!((reply.code, reply.enhanced_status().unwrap().as_str()), (code, status), "{domain}");
        assert_eq!(reply.class(), class, "{domain}");
        assert!(reply.text.contains(domain) && of == domain, "{reply}");
    }
}

#[tokio::test]
async fn answers_are_remembered_for_their_ttl() {
    let (router, zone, clock) = router_with(RouterSettings::default(), Vec::new());
    for (advance_s, asked) in [(0, 1), (119, 1), (1, 2)] {
        clock.advance_millis(advance_s * 1000);
        router.resolve("two.test").await.unwrap();
        assert_eq!(*zone.asked.lock(), asked, "after {advance_s} s more");
    }
    for (advance_s, asked) in [(0, 3), (29, 3), (1, 4)] {
        clock.advance_millis(advance_s * 1000);
        router.resolve("broken.test").await.unwrap_err();
        assert_eq!(*zone.asked.lock(), asked, "after {advance_s} s more");
    }
}

#[tokio::test]
async fn routes_come_before_mx_and_keep_their_order() {
    let route = |name: &str, domain: &str, hosts: &[&str]| StaticRoute {
        name: name.into(),
        domain: domain.into(),
        hosts: hosts.iter().map(|host| host.parse::<HostPort>().unwrap()).collect(),
        tls: TlsPolicy::Required,
        provider: None,
    };
    let routes = vec![
        route("relay", "*.test", &["mx3.two.test:587", "127.0.0.1:2525"]),
        route("typo", "typo.test", &["mx9.two.test:25"]),
    ];
    let (router, zone, _) = router_with(RouterSettings::default(), routes);
    let destination = router.resolve("two.test").await.unwrap();
    assert_eq!(names(&destination), ["mx3.two.test", "127.0.0.1"]);
    assert_eq!(destination.hosts[1].addrs, ["127.0.0.1:2525".parse().unwrap()]);
    assert_eq!((destination.site.as_str(), destination.provider.as_str()), ("route:relay", "relay"));
    assert_eq!(destination.tls, TlsPolicy::Required);
    assert_eq!(*zone.asked.lock(), 0);
    let typo = router.resolve("typo.test").await.unwrap_err();
    assert_eq!(typo.reply.class(), ReplyClass::Transient);
    assert!(typo.reply.text.contains("\"typo\""), "{typo}");
}
