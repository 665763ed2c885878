//! What a tenant, its rival, a receiver and a thief of the database notice about sending domains.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};

use super::*;
use crate::store::tests::{acme, open_temporary, reopen};

fn bolt() -> TenantId {
    TenantId::new("bolt").unwrap()
}

async fn store_with_tenants() -> (tempfile::TempDir, ControlStore) {
    let (dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    store.create_tenant("cli", &bolt(), "Bolt").await.unwrap();
    (dir, store)
}

async fn add(store: &ControlStore, tenant: &TenantId, domain: &str) -> Result<Domain, ControlError> {
    store.add_domain("cli", tenant, domain, DomainOptions::default()).await
}

#[tokio::test]
async fn published_key_verifies_what_the_private_key_signs() {
    let (_dir, store) = store_with_tenants().await;
    let domain = add(&store, &acme(), "example.com").await.unwrap();
    let pkcs8 = store.signing_key("example.com").await.unwrap().unwrap();
    let pair = KeyPair::from_pkcs8(&pkcs8).unwrap();
    assert_eq!(pair.public_modulus_len(), 256);
    let mut signature = vec![0; 256];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"hello", &mut signature).unwrap();

    let records = domain.dns_records(&Outbound::default());
    let spki = STANDARD.decode(records[0].value.strip_prefix("v=DKIM1; k=rsa; p=").unwrap()).unwrap();
    // SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING }: SubjectPublicKeyInfo, not bare RSAPublicKey.
    assert_eq!(spki[..4], [0x30, 0x82, 0x01, 0x22]);
    assert!(spki[4..24].windows(9).any(|oid| oid == [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]));
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &spki).verify(b"hello", &signature).unwrap();
}

#[tokio::test]
async fn a_new_domain_is_listed_under_its_tenant_with_its_defaults() {
    let (_dir, store) = store_with_tenants().await;
    let made = add(&store, &acme(), "Bücher.Example.").await.unwrap();
    assert_eq!(made.domain, "xn--bcher-kva.example");
    assert_eq!(made.bounce_domain, "bounces.xn--bcher-kva.example");
    assert!(made.selector.starts_with("s20260131-"), "{}", made.selector);
    assert_eq!(store.domains(Some(&acme())).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(store.domains(Some(&bolt())).await.unwrap(), []);
    assert_eq!(store.domains(None).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(store.domain("BÜCHER.example").await.unwrap(), Some(made));
    assert_eq!(store.domain("not a domain").await.unwrap(), None);
    assert_eq!(store.signing_key("other.example").await.unwrap(), None);
}

#[tokio::test]
async fn a_warm_domain_says_since_when_and_keeps_it() {
    let (_dir, store) = store_with_tenants().await;
    let options = DomainOptions { warm: true, ..DomainOptions::default() };
    let warm = store.add_domain("cli", &acme(), "example.com", options).await.unwrap();
    assert_eq!(warm.warm_at, Some(warm.created_at));
    store.warm_domain("cli", "Example.com").await.unwrap();
    assert_eq!(store.domain("example.com").await.unwrap(), Some(warm));
    assert_eq!(add(&store, &acme(), "new.example").await.unwrap().warm_at, None);
    store.warm_domain("cli", "new.example").await.unwrap();
    assert!(store.domain("new.example").await.unwrap().unwrap().warm_at.is_some());
    assert!(store.warm_domain("cli", "nobody.example").await.unwrap_err().is_missing());
}

#[tokio::test]
async fn no_domain_nor_one_above_or_below_it_goes_to_a_second_tenant() {
    let (_dir, store) = store_with_tenants().await;
    add(&store, &acme(), "mail.example.com").await.unwrap();
    for taken in ["mail.example.com", "MAIL.example.com.", "example.com", "news.mail.example.com"] {
        let error = add(&store, &bolt(), taken).await.unwrap_err();
        assert!(matches!(error, ControlError::DomainTaken { .. }), "{taken}: {error}");
        assert!(!error.to_string().contains("acme"), "tenants do not learn of each other: {error}");
    }
    add(&store, &bolt(), "email.example.com").await.unwrap();
    add(&store, &acme(), "news.mail.example.com").await.unwrap();
    let again = add(&store, &acme(), "mail.example.com").await;
    assert!(matches!(again, Err(ControlError::DomainExists { .. })));
}

#[tokio::test]
async fn what_nobody_owns_is_refused() {
    let (_dir, store) = store_with_tenants().await;
    for bad in
        ["", "localhost", "co.uk", "com", "a b.com", "exa_mple.com", "192.0.2.1", "-a.example", "a..example"]
    {
        let error = add(&store, &acme(), bad).await.unwrap_err();
        assert!(matches!(error, ControlError::InvalidDomain { .. }), "{bad}: {error}");
    }
    let nobody = TenantId::new("nobody").unwrap();
    assert!(matches!(add(&store, &nobody, "a.example").await, Err(ControlError::NoSuchTenant { .. })));
    assert_eq!(store.domains(None).await.unwrap(), []);
}

#[tokio::test]
async fn bounce_domain_and_selector_are_checked() {
    let (_dir, store) = store_with_tenants().await;
    let with = |bounce_domain: Option<&str>, selector: Option<&str>| DomainOptions {
        bounce_domain: bounce_domain.map(str::to_owned),
        selector: selector.map(str::to_owned),
        warm: false,
    };
    for bounce in ["example.com", "bounces.example.net", "bouncesexample.com", "x"] {
        let error =
            store.add_domain("cli", &acme(), "example.com", with(Some(bounce), None)).await.unwrap_err();
        assert!(matches!(error, ControlError::InvalidDomain { .. }), "{bounce}: {error}");
    }
    for selector in ["", "-a", "a-", "a..b", "a_b", "a;b", &"a".repeat(64)] {
        let error =
            store.add_domain("cli", &acme(), "example.com", with(None, Some(selector))).await.unwrap_err();
        assert!(matches!(error, ControlError::InvalidSelector { .. }), "{selector}: {error}");
    }
    let options = with(Some("Return.Example.com"), Some("k1.mail"));
    let made = store.add_domain("cli", &acme(), "example.com", options).await.unwrap();
    assert_eq!((made.bounce_domain.as_str(), made.selector.as_str()), ("return.example.com", "k1.mail"));
}

#[tokio::test]
async fn records_to_publish() {
    let domain = Domain {
        tenant_id: acme(),
        domain: "example.com".into(),
        selector: "s1".into(),
        bounce_domain: "bounces.example.com".into(),
        dkim_public_key: "k".repeat(392),
        created_at: Timestamp(0),
        warm_at: None,
    };
    let outbound = Outbound {
        mail_host: "mx.lake.example.".into(),
        source_ips: ["192.0.2.7", "2001:db8::7", "127.0.0.1"].map(|ip| ip.parse().unwrap()).to_vec(),
    };
    let lines: Vec<String> = domain.dns_records(&outbound).iter().map(DnsRecord::zone_line).collect();
    assert_eq!(
        lines,
        [
            format!(
                "s1._domainkey.example.com. IN TXT \"v=DKIM1; k=rsa; p={}\" \"{}\"",
                "k".repeat(237),
                "k".repeat(155)
            ),
            "bounces.example.com. IN TXT \"v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 -all\"".to_owned(),
            "bounces.example.com. IN MX 10 mx.lake.example.".to_owned(),
            "_dmarc.example.com. IN TXT \"v=DMARC1; p=none; rua=mailto:dmarc@bounces.example.com; \
             ruf=mailto:dmarc@bounces.example.com\""
                .to_owned(),
            "_smtp._tls.bounces.example.com. IN TXT \"v=TLSRPTv1; rua=mailto:tlsrpt@bounces.example.com\""
                .to_owned(),
            "_smtp._tls.example.com. IN TXT \"v=TLSRPTv1; rua=mailto:tlsrpt@bounces.example.com\"".to_owned(),
        ]
    );
    let local = Outbound { source_ips: vec![], ..outbound };
    assert_eq!(domain.dns_records(&local)[1].value, "v=spf1 a:mx.lake.example -all");
}

#[tokio::test]
async fn private_key_is_not_in_the_files_and_cannot_be_moved_to_another_domain() {
    let (dir, store) = store_with_tenants().await;
    add(&store, &acme(), "a.example").await.unwrap();
    add(&store, &acme(), "b.example").await.unwrap();
    add(&store, &bolt(), "c.example").await.unwrap();
    let pkcs8 = store.signing_key("a.example").await.unwrap().unwrap();

    let swap = "UPDATE domains SET dkim_private_key = (SELECT dkim_private_key FROM domains WHERE domain = 'a.example') WHERE domain <> 'a.example'";
    sqlx::query(swap).execute(&store.pool).await.unwrap();
    assert!(matches!(
        store.signing_key("b.example").await,
        Err(ControlError::Secret(SecretError::Tampered { .. }))
    ));
    assert!(matches!(
        store.signing_key("c.example").await,
        Err(ControlError::Secret(SecretError::OtherTenant { .. }))
    ));

    store.close().await;
    // Deep in the private exponent and primes, past what it shares with the public key.
    let part = &pkcs8[400..432];
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(part.len()).any(|window| window == part));
    }
}

#[tokio::test]
async fn removed_domain_is_free_for_another_tenant_and_gets_another_key() {
    let (dir, store) = store_with_tenants().await;
    let first = add(&store, &acme(), "example.com").await.unwrap();
    store.remove_domain("cli:anna", "Example.COM").await.unwrap();
    assert_eq!(store.signing_key("example.com").await.unwrap(), None);
    let second = add(&store, &bolt(), "example.com").await.unwrap();
    assert_ne!(first.dkim_public_key, second.dkim_public_key);
    assert_ne!(first.selector, second.selector, "resolvers may remember the old record");
    let error = store.remove_domain("cli", "gone.example").await.unwrap_err().to_string();
    assert!(error.contains("gone.example") && error.contains("sendlake domain ls"), "{error}");

    let log = store.audit_log_of(&acme(), 1).await.unwrap();
    assert_eq!((log[0].actor.as_str(), log[0].action.as_str()), ("cli:anna", "domain_removed"));
    let other_process = reopen(&dir).await;
    assert!(other_process.signing_key("example.com").await.unwrap().is_some());
}

#[tokio::test]
async fn domain_of_a_tenant_that_another_process_made_can_be_signed_for() {
    let (dir, server) = open_temporary().await;
    let command_line = reopen(&dir).await;
    command_line.create_tenant("cli", &acme(), "Acme").await.unwrap();
    add(&command_line, &acme(), "example.com").await.unwrap();
    let key = server.signing_key("example.com").await.unwrap();
    assert_eq!(key, command_line.signing_key("example.com").await.unwrap());
    assert!(key.is_some());
}

#[tokio::test]
async fn the_installation_has_a_signing_domain_of_its_own() {
    let (_dir, store) = store_with_tenants().await;
    let platform = TenantId::platform();
    add(&store, &platform, "lake.example").await.unwrap();
    assert!(store.signing_key("lake.example").await.unwrap().is_some());
    assert_eq!(store.domains(Some(&platform)).await.unwrap().len(), 1);
}
