//! Who sends to whom: tenants with their domains and campaigns, receivers with their hosts and words.

#![expect(
    clippy::indexing_slicing,
    reason = "places are taken below the lengths that the cast was made with"
)]

use std::fmt::Write as _;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;

use super::Random;
use super::life::Message;

/// Tenants; their shares fall off like 1/n.
const TENANTS: usize = 24;
const CAMPAIGNS_PER_TENANT: usize = 40;
/// Domains besides the large providers'.
const OTHER_DOMAINS: usize = 4_000;
const FIRST_NAMES: [&str; 16] = [
    "anna", "ben", "carla", "david", "elena", "felix", "grace", "hugo", "ines", "jonas", "karin", "luis",
    "maria", "nils", "olga", "paul",
];
const LAST_NAMES: [&str; 16] = [
    "adler", "bauer", "costa", "dubois", "eriksen", "fischer", "garcia", "hansen", "ito", "jansen",
    "kowalski", "lopez", "meyer", "novak", "okafor", "petit",
];

pub(super) struct Tenant {
    pub id: TenantId,
    pub domain: String,
    pub bounce_domain: String,
    pub campaigns: Vec<Campaign>,
}

pub(super) struct Campaign {
    pub id: String,
    pub stream: &'static str,
    pub fingerprint: String,
    pub subject_hash: String,
    pub list_id: Option<String>,
    pub template: String,
    size_bytes: i64,
}

/// Who runs mailboxes: a name, the hosts that take its mail, and the domains they take it for.
pub(super) struct Receiver {
    pub provider: Arc<str>,
    pub site: Arc<str>,
    pub hosts: Vec<(String, String)>,
    pub kind: Kind,
    domains: Vec<String>,
}

/// How a receiver words its replies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Google,
    Microsoft,
    Yahoo,
    Other,
}

pub(super) struct Cast {
    tenants: Vec<Tenant>,
    /// The large ones first.
    receivers: Vec<Receiver>,
}

impl Cast {
    pub(super) fn new(random: &mut Random) -> Self {
        let tenants = (0..TENANTS).filter_map(|number| tenant(number, random)).collect();
        let large = [
            (Kind::Google, "google", "l.google.com", "74.125.", &["gmail.com", "googlemail.com"][..]),
            (
                Kind::Microsoft,
                "microsoft",
                "mail.protection.outlook.com",
                "52.101.",
                &["outlook.com", "hotmail.com", "live.com"],
            ),
            (Kind::Yahoo, "yahoo", "am0.yahoodns.net", "67.195.", &["yahoo.com", "aol.com", "ymail.com"]),
            (Kind::Other, "apple", "mail.icloud.com", "17.57.", &["icloud.com", "me.com"]),
        ];
        let large = large.map(|(kind, provider, zone, network, domains)| {
            let host = |number: usize| {
                (
                    format!("mx{number:02}.{zone}"),
                    format!("{network}{}.{}", number * 7 % 250, number * 31 % 250),
                )
            };
            Receiver {
                provider: provider.into(),
                site: format!("{provider}-mx").into(),
                hosts: (1..=20).map(host).collect(),
                kind,
                domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            }
        });
        let others = (0..OTHER_DOMAINS).map(|number| {
            let domain = format!("{}{number}.example", LAST_NAMES[number % LAST_NAMES.len()]);
            Receiver {
                provider: domain.as_str().into(),
                site: format!("mx.{domain}").into(),
                hosts: vec![(
                    format!("mx.{domain}"),
                    format!("198.51.{}.{}", number / 250 % 250, number % 250),
                )],
                kind: Kind::Other,
                domains: vec![domain],
            }
        });
        Self { tenants, receivers: large.into_iter().chain(others).collect() }
    }

    pub(super) fn tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Places of all tenants, in the order of their names.
    pub(super) fn tenants_by_name(&self) -> Vec<usize> {
        let mut places: Vec<_> = (0..self.tenants.len()).collect();
        places.sort_by_key(|place| self.tenants.get(*place).map(|tenant| &tenant.id));
        places
    }

    /// How many of so many messages are a tenant's.
    pub(super) fn share(&self, tenant: usize, messages: usize) -> usize {
        let weight = |place: usize| 1.0 / (place + 1) as f64;
        let all: f64 = (0..self.tenants.len()).map(weight).sum();
        (messages as f64 * weight(tenant) / all) as usize
    }

    pub(super) fn tenant(&self, place: usize) -> &Tenant {
        &self.tenants[place % self.tenants.len()]
    }

    pub(super) fn receiver(&self, place: usize) -> &Receiver {
        &self.receivers[place % self.receivers.len()]
    }

    /// A message that is accepted now, of any tenant where none is given.
    pub(super) fn message(&self, tenant: Option<usize>, at: Timestamp, random: &mut Random) -> Message {
        let tenant = tenant.unwrap_or_else(|| random.skewed(self.tenants.len()));
        let campaign = random.skewed(CAMPAIGNS_PER_TENANT);
        let receiver = match random.below(100) {
            0..38 => 0,
            38..56 => 1,
            56..66 => 2,
            66..72 => 3,
            _ => 4 + random.skewed(OTHER_DOMAINS),
        };
        let domains = &self.receiver(receiver).domains;
        let domain = &domains[random.skewed(domains.len())];
        let (first, last) = (random.below(FIRST_NAMES.len()), random.below(LAST_NAMES.len()));
        let mut recipient = format!("{}.{}", FIRST_NAMES[first], LAST_NAMES[last]);
        let _ = write!(recipient, "{}@{domain}", random.below(100_000));
        let about = &self.tenant(tenant).campaigns[campaign];
        let size_bytes = about.size_bytes + i64::try_from(random.below(400)).unwrap_or(0);
        Message::new(tenant, campaign, receiver, Arc::from(recipient), size_bytes, at, random)
    }
}

fn tenant(number: usize, random: &mut Random) -> Option<Tenant> {
    let name = format!("{}-{}", LAST_NAMES[number * 5 % LAST_NAMES.len()], number);
    let domain = format!("mail.{name}.example");
    let campaigns = (0..CAMPAIGNS_PER_TENANT).map(|place| {
        let stream = match place % 10 {
            0..4 => "transactional",
            4..9 => "marketing",
            _ => "cold",
        };
        Campaign {
            id: format!("{stream}-2026-{place:03}"),
            stream,
            fingerprint: hash(random),
            subject_hash: hash(random),
            list_id: (stream == "marketing").then(|| format!("list-{}.{domain}", place % 7)),
            template: format!("tpl-{:03}", random.below(400)),
            size_bytes: 3_000 + i64::try_from(random.below(50_000)).unwrap_or(0),
        }
    });
    Some(Tenant {
        id: TenantId::new(&name).ok()?,
        bounce_domain: format!("bounce.{domain}"),
        campaigns: campaigns.collect(),
        domain,
    })
}

/// Hex, as long as a SHA-256.
fn hash(random: &mut Random) -> String {
    (0..4).fold(String::with_capacity(64), |mut text, _| {
        let _ = write!(text, "{:016x}", random.u64());
        text
    })
}
