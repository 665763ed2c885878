//! A list of every kind of address, and what is said of each.

use sendlake_control::domain::DomainOptions;
use sendlake_control::secret::MasterKey;
use sendlake_control::suppression::{NewSuppression, Reach, Reason};
use uuid::Uuid;

use super::*;
use crate::system;

const LIST: &str = "email,name\nAnn@acme.example,A\nnobody,N\nbob@gmail.con,B\nann@acme.example,A\nc.d@gmail.com,C\n\
    cd+x@gmail.com,C\ninfo@x.mailinator.com,I\nspy@trap.example,S\ngone@acme.example,G\n";

async fn store(dir: &tempfile::TempDir) -> Arc<ControlStore> {
    let ids = system::ids();
    let master = MasterKey::load_or_create(&dir.path().join("key"), ids.entropy.as_ref()).unwrap();
    let store = ControlStore::open(&dir.path().join("control.db"), master, ids.clone()).await.unwrap();
    for (tenant, domain) in [("acme", "acme.example"), ("bolt", "bolt.example")] {
        let tenant = TenantId::new(tenant).unwrap();
        store.create_tenant("cli", &tenant, "One").await.unwrap();
        let options = DomainOptions { bounce_domain: None, selector: None, warm: false };
        store.add_domain("cli", &tenant, domain, options).await.unwrap();
    }
    let new = NewSuppression {
        tenant_id: TenantId::new("acme").unwrap(),
        address: "gone@acme.example".into(),
        reach: Reach::Tenant,
        reason: Reason::HardBounce,
        since: ids.now(),
        expires_at: None,
        message_id: None,
        event_id: Uuid::nil(),
        note: None,
    };
    store.suppress("cli", &new).await.unwrap();
    Arc::new(store)
}

fn asked(tenant: Option<&str>, domain: Option<&str>) -> Asked {
    Asked {
        tenant: tenant.map(|tenant| TenantId::new(tenant).unwrap()),
        stream: Stream::Marketing,
        domain: domain.map(str::to_owned),
        format: None,
        traps: Traps::parse("trap.example").unwrap(),
    }
}

async fn read(control: Arc<ControlStore>, asked: Asked) -> Check {
    let (mut check, runtime) = (Check::new(control, asked), Handle::current());
    let reading = tokio::task::spawn_blocking(move || check.read(LIST.as_bytes(), &runtime).map(|()| check));
    reading.await.unwrap().unwrap()
}

#[tokio::test]
async fn every_address_has_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut check = read(store(&dir).await, asked(Some("acme"), None)).await;
    let limits = BTreeMap::new();
    // as if the lake had been asked, and had one delivery
    let first = number(check.control.address_hasher().hash("ann@acme.example"));
    check.known.get_mut(&first).unwrap().freshness = 0;
    let report = check.report(Some(&limits));
    assert!(!report.plan.is_empty());
    let mut rows = Vec::new();
    check
        .addresses(LIST.as_bytes(), &mut |row| {
            rows.push(row);
            true
        })
        .unwrap();
    let said: Vec<String> = rows.iter().map(|row| row.fields()[..8].join(",")).collect();
    assert_eq!(
        said,
        [
            "2,ann@acme.example,100,,,(others),0-30,keep",
            "3,nobody,0,malformed,,,,drop",
            "4,bob@gmail.con,5,likely_typo never,bob@gmail.com,(others),never,drop",
            "5,ann@acme.example,100,duplicate,,(others),0-30,drop",
            "6,c.d@gmail.com,75,never,,google,never,drip",
            "7,cd+x@gmail.com,75,never same_mailbox,,google,never,drip",
            "8,info@x.mailinator.com,0,disposable role never,,(others),never,drop",
            "9,spy@trap.example,0,known_trap never,,(others),never,drop",
            "10,gone@acme.example,0,suppressed never,,(others),never,drop",
        ]
    );
    assert!(rows[1].why.as_deref().unwrap().contains("name@example.com"), "{:?}", rows[1]);
    let mut told = 0;
    check
        .addresses(LIST.as_bytes(), &mut |_| {
            told += 1;
            told < 3
        })
        .unwrap();
    assert_eq!(told, 3, "it ends where nobody reads on");
}

#[tokio::test]
async fn without_a_tenant_there_is_no_plan() {
    let dir = tempfile::tempdir().unwrap();
    let mut check = read(store(&dir).await, asked(None, None)).await;
    check.gap(NO_TENANT.into());
    let report = check.report(None);
    assert!(report.plan.is_empty() && report.gaps[0].contains("--tenant"), "{report:?}");
    let mut said = Vec::new();
    check
        .addresses(LIST.as_bytes(), &mut |row| {
            said.push((row.recommendation, row.freshness));
            true
        })
        .unwrap();
    assert_eq!(said[..3], [("keep", None), ("drop", None), ("drop", None)]);
}

#[tokio::test]
async fn a_tenant_must_be_there_and_the_domain_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let allowed = async |tenant, domain| {
        let said = Check::new(store.clone(), asked(tenant, domain)).allowed().await;
        said.map_err(|error| error.to_string()).err().unwrap_or_default()
    };
    assert_eq!(allowed(None, None).await, "");
    assert_eq!(allowed(Some("acme"), Some("ACME.example")).await, "");
    assert!(allowed(Some("nobody"), None).await.starts_with("there is no tenant nobody"));
    for domain in ["bolt.example", "else.example"] {
        let said = allowed(Some("acme"), Some(domain)).await;
        assert!(said.starts_with(&format!("acme has no sending domain {domain}")), "{said}");
    }
}
