//! `sendlake domain check`: what the DNS says of a sending domain, record by record.

use sendlake_control::tracking::TrackingDomain;
use sendlake_sender::mx::{HickoryResolver, LookupFailure, Resolver as _};

use super::control::{actor, failure, open, outbound, tracking_domain_of};
use super::{CommandResult, Failure, Format, rows};
use crate::config::Config;
use crate::domain_check::{Check, Finding, Status};
use crate::node::{notify, public_host, resolver};

pub(crate) async fn run(config: &Config, name: &str, format: Format) -> CommandResult {
    let store = open(config).await?;
    let domain =
        store.domain(name).await.map_err(failure)?.ok_or_else(|| {
            Failure::Missing(format!("{name} is no sending domain; see `sendlake domain ls`"))
        })?;
    let tracking = tracking_domain_of(&store, &domain.domain).await?;
    let all = store.domains(None).await.map_err(failure)?;
    let bounce_domains: Vec<String> = all.into_iter().map(|domain| domain.bounce_domain).collect();
    let resolver = resolver(config)?;
    let (outbound, knows_mail_host) = outbound(config);
    let check = Check {
        resolver: &resolver,
        outbound: &outbound,
        knows_mail_host,
        bounce_domains: &bounce_domains,
        report_addresses: &config.inbound.report_addresses,
        public_url: &config.http.public_url,
    };
    let mut findings = check.run(&domain).await;
    if let Some(tracking) = tracking {
        let finding = leads_here(&resolver, &tracking, &public_host(config)).await;
        // no answer proves nothing: what was verified stays so
        if finding.status != Status::Unknown {
            let is_good = finding.status == Status::Ok;
            store.verify_tracking_domain(&actor(), &tracking, is_good).await.map_err(failure)?;
            notify(config).await;
        }
        findings.push(finding);
    }
    print(&findings, format)?;
    let of = |status: Status| findings.iter().filter(|finding| finding.status == status).count();
    let (missing, different, unknown) = (of(Status::Missing), of(Status::Differs), of(Status::Unknown));
    match (missing + different, unknown) {
        (0, 0) => Ok(()),
        (0, unknown) => Err(Failure::Unreachable(format!(
            "{}: nothing is known of {unknown} of {} records",
            domain.domain,
            findings.len()
        ))),
        _ => Err(Failure::Refused(format!(
            "{}: of {} records {missing} are missing, {different} differ, {unknown} are unknown",
            domain.domain,
            findings.len()
        ))),
    }
}

/// A table of how it stands, and below it what to do; expected and found values are too long for one.
fn print(findings: &[Finding], format: Format) -> anyhow::Result<()> {
    if format != Format::Table {
        let columns = ["record", "name", "status", "expected", "found", "advice"];
        return rows::print(findings, &columns, format);
    }
    rows::print(findings, &["record", "name", "status"], format)?;
    for finding in findings.iter().filter(|finding| finding.status != Status::Ok) {
        let mut text = format!("\n{} {}: {}\n", finding.record, finding.name, finding.advice);
        for found in &finding.found {
            text.push_str(&format!("  found:    {found}\n"));
        }
        if !finding.advice.contains(&finding.expected) {
            text.push_str(&format!("  expected: {}\n", finding.expected));
        }
        rows::emit(text.as_bytes());
    }
    Ok(())
}

/// Both names lead to the same host when an address of one is one of the other's.
async fn leads_here(resolver: &HickoryResolver, tracking: &TrackingDomain, host: &str) -> Finding {
    let record = tracking.dns_record(host);
    let finding = |status, found, advice: String| Finding {
        record: "tracking",
        name: tracking.tracking_domain.clone(),
        status,
        expected: record.zone_line(),
        found,
        advice,
    };
    let publish = format!("links of {} do not use it; publish: {}", tracking.domain, record.zone_line());
    let ours = match resolver.addresses(host).await {
        Ok(answer) => answer.value,
        Err(LookupFailure::Temporary(why)) => {
            return finding(Status::Unknown, Vec::new(), format!("the DNS did not answer for {host}: {why}"));
        }
        Err(_) => {
            let advice = format!("{host}, the host of http.public_url, has no address in the DNS");
            return finding(Status::Differs, Vec::new(), advice);
        }
    };
    match resolver.addresses(&tracking.tracking_domain).await {
        Ok(answer) => {
            let found = answer.value.iter().map(ToString::to_string).collect();
            if answer.value.iter().any(|ip| ours.contains(ip)) {
                return finding(Status::Ok, found, String::new());
            }
            finding(Status::Differs, found, format!("it does not lead to {host}; {publish}"))
        }
        Err(LookupFailure::Temporary(why)) => {
            finding(Status::Unknown, Vec::new(), format!("the DNS did not answer: {why}"))
        }
        Err(LookupFailure::NoSuchName | LookupFailure::NoRecords) => {
            finding(Status::Missing, Vec::new(), publish)
        }
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::domain::DomainOptions;
    use sendlake_control::id::TenantId;

    use super::*;
    use crate::testing::Zone;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_a_domain_whose_records_are_all_good_ends_well() {
        let (dir, zone) = (tempfile::tempdir().unwrap(), Zone::start().await);
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        config.http.public_url = "https://mail.acme.example".into();
        config.delivery.dns_servers = vec![zone.addr];
        config.source[0].ehlo = "mail.acme.example".into();
        let store = open(&config).await.unwrap();
        let acme = TenantId::new("acme").unwrap();
        store.create_tenant("cli", &acme, "Acme").await.unwrap();
        let domain = store.add_domain("cli", &acme, "acme.example", DomainOptions::default()).await.unwrap();
        let run = async |name: &str, format| run(&config, name, format).await;

        let unknown = run("else.example", Format::Table).await.unwrap_err();
        assert!(matches!(unknown, Failure::Missing(_)), "{unknown}");
        let nothing = run("acme.example", Format::Table).await.unwrap_err();
        assert!(matches!(&nothing, Failure::Refused(said) if said.contains("6 are missing")), "{nothing}");

        zone.address("mail.acme.example", "192.0.2.10");
        for record in domain.dns_records(&outbound(&config).0) {
            match record.kind {
                "MX" => zone.mx(&record.name, record.value.trim_start_matches("10 ")),
                _ => zone.txt(&record.name, &record.value),
            }
        }
        run("Acme.Example", Format::Json).await.unwrap();
        store.set_tracking_domain("cli", "acme.example", Some("links.acme.example")).await.unwrap();
        let without = run("acme.example", Format::Csv).await.unwrap_err();
        assert!(matches!(&without, Failure::Refused(said) if said.contains("1 are missing")), "{without}");
        zone.address("links.acme.example", "192.0.2.10");
        run("acme.example", Format::Table).await.unwrap();
        assert!(store.tracking_domains().await.unwrap()[0].verified_at.is_some(), "links use it from now on");

        zone.fail("links.acme.example");
        let silent = run("acme.example", Format::Table).await.unwrap_err();
        assert!(matches!(silent, Failure::Unreachable(_)), "{silent}");
        assert!(store.tracking_domains().await.unwrap()[0].verified_at.is_some(), "no answer proves nothing");
    }
}
