//! Providers' own figures: once, to their owner, and the last word counts.

use sendlake_ingest::calibration::Exporter;

use super::*;
use crate::node::FiguresWanted;

async fn take(it: &Fixture, exporter: Exporter, text: &str) -> (u64, u64, u64, u64) {
    let wanted = FiguresWanted { exporter, tenant_id: None, domain: None, utc_offset_s: 0 };
    let taken = it.node.hearing.take_figures(wanted, text.as_bytes().to_vec()).await.unwrap();
    (taken.read, taken.added, taken.repeated, taken.bad)
}

async fn asked(it: &Fixture, scope: &str, sql: &str) -> Vec<String> {
    use sendlake_query::{Scope, output};
    let scope = if scope == "*" { Scope::AllTenants } else { Scope::Tenant(tenant(scope)) };
    let output = it.node.engine.query(&scope, sql, it.node.engine.limits().query).await.unwrap();
    let text = output::to_bytes(&output, output::Format::Csv).unwrap();
    String::from_utf8(text).unwrap().lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_adds_once_belongs_to_its_domains_owner_and_a_correction_goes_before_it() {
    let it = Fixture::new().await;
    let day = it.node.ids.now().plus_secs(-3 * 86_400).to_chrono().format("%Y%m%d").to_string();
    let stats = |domain: &str, rate: &str| {
        format!(
            "{{\"name\": \"domains/{domain}/trafficStats/{day}\", \"userReportedSpamRatio\": {rate}, \"domainReputation\": \"LOW\"}}\n"
        )
    };
    let first = stats("news.acme.example", "0.001") + &stats("bolt.example", "0.002") + "{\"name\": 1}\n";
    assert_eq!(take(&it, Exporter::GooglePostmaster, &first).await, (3, 2, 0, 1));
    assert_eq!(take(&it, Exporter::GooglePostmaster, &first).await, (3, 0, 2, 1));
    let rates = "SELECT tenant_id || ' ' || identity || ' ' || CAST(their_spam_rate AS TEXT) || ' ' || CAST(lag_days AS TEXT) \
                 FROM provider_calibration ORDER BY 1";
    assert_eq!(asked(&it, "acme", rates).await, ["acme news.acme.example 0.001 2"]);
    assert_eq!(asked(&it, "*", rates).await.len(), 2);

    // the later of two in one file, and the later of two files
    let corrected = stats("news.acme.example", "0.005") + &stats("news.acme.example", "0.004");
    assert_eq!(take(&it, Exporter::GooglePostmaster, &corrected).await, (2, 2, 0, 0));
    assert_eq!(asked(&it, "acme", rates).await, ["acme news.acme.example 0.004 2"]);

    let at = it.node.ids.now().plus_secs(-2 * 86_400).to_chrono().format("%m/%d/%Y").to_string();
    let row = format!("192.0.2.1,{at} 1:00 AM,{at} 11:00 PM,200,200,150,RED,2.5%,,,7,,,\r\n");
    assert_eq!(take(&it, Exporter::Snds, &row).await, (1, 1, 0, 0));
    assert_eq!(take(&it, Exporter::Snds, &row).await, (1, 0, 1, 0));
    let snds = "SELECT tenant_id || ' ' || identity || ' ' || reputation || ' ' || CAST(trap_hits AS TEXT) \
                FROM provider_calibration WHERE provider = 'microsoft'";
    assert_eq!(asked(&it, "*", snds).await, ["platform 192.0.2.1 RED 7"]);
    assert!(asked(&it, "acme", snds).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_for_a_tenant_that_nobody_knows_are_refused() {
    let it = Fixture::new().await;
    let tenant_id = Some(tenant("nobody"));
    let wanted = FiguresWanted { exporter: Exporter::Snds, tenant_id, domain: None, utc_offset_s: 0 };
    let refused = it.node.hearing.take_figures(wanted, Vec::new()).await.unwrap_err();
    assert!(refused.to_string().contains("nobody"), "{refused}");
}
