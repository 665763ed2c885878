//! Golden cases of the views: `tests-data/*.case` holds events, queries and the tables that they give.
//! `UPDATE_GOLDEN=1 cargo test -p sendlake-query` rewrites the tables.

use std::path::{Path, PathBuf};

use chrono::DateTime;
use sendlake_control::clock::Timestamp;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_control::id::TenantId;
use sendlake_ingest::domain_tables::Kind;

use crate::scope::Scope;
use crate::source::DomainRow;
use crate::testing::{
    StillSurroundings, engine_within, events, limits, reports, shown_as_of, snapshot, tenant,
};

/// A case is a line of text, any number of `-- domain <tenant> <domain> [warm]`, of `-- loop <tenant> <provider> <domain|ip>
/// <identity> <since>`, of `-- dmarc <JSON>`, `-- tls <JSON>` and `-- figures <JSON>` (rows of reports), and one `-- as_of <instant> …` where a
/// view reads those, `-- events` and JSON lines, then any number of `-- query <tenant or *>`, SQL,
/// `-- expect`, table. Every query has to give the same with its events in the lake, hot, and in both.
async fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests-data").join(format!("{name}.case"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, body) = text.split_once("-- events\n").expect("-- events");
    let (surroundings, as_of) = surroundings(head);
    let mut parts = body.split("-- query ");
    let lines = parts.next().expect("events");
    let rows = events(lines);
    let mut rewritten = format!("{head}-- events\n{lines}");
    for part in parts {
        let (scope_name, rest) = part.split_once('\n').expect("a tenant or * after -- query");
        let (sql, expected) = rest.split_once("-- expect\n").expect("-- expect");
        let scope = if scope_name == "*" { Scope::AllTenants } else { tenant(scope_name) };
        let mut tables = Vec::new();
        for hot_from in [rows.len(), rows.len() / 2, 0] {
            let (cold, hot) = rows.split_at(hot_from);
            let engine = engine_within(snapshot(cold, hot), surroundings.clone(), limits());
            tables.push(shown_as_of(&engine, &scope, sql, &as_of).await);
        }
        assert!(tables.iter().all(|table| *table == tables[0]), "{name}: hot and cold differ: {tables:#?}");
        let table = &tables[0];
        if std::env::var_os("UPDATE_GOLDEN").is_none() {
            assert_eq!(table.trim(), expected.trim(), "{}: {sql}\ngives:\n{table}", path.display());
        }
        rewritten.push_str(&format!("-- query {scope_name}\n{sql}-- expect\n{table}\n"));
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, rewritten.trim_end().to_owned() + "\n").unwrap();
    }
}

/// What the head of a case says of domains, reports and instants.
pub(crate) fn surroundings(head: &str) -> (StillSurroundings, Vec<Timestamp>) {
    let instant = |text: &str| {
        let at = DateTime::parse_from_rfc3339(text).unwrap_or_else(|_| panic!("{text}"));
        Timestamp(at.timestamp_micros())
    };
    let mut surroundings = StillSurroundings::default();
    let marks = [(Kind::Dmarc, "-- dmarc "), (Kind::Tls, "-- tls "), (Kind::Figures, "-- figures ")];
    for (kind, mark) in marks {
        let lines: Vec<String> =
            head.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect();
        surroundings.reports.push((kind, reports(kind, &lines)));
    }
    let mut as_of = Vec::new();
    for line in head.lines() {
        if let Some(instants) = line.strip_prefix("-- as_of ") {
            as_of.extend(instants.split_whitespace().map(instant));
        }
        if let Some(words) = line.strip_prefix("-- loop ") {
            let [tenant, provider, kind, identity, since] = words.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            surroundings.loops.push(FeedbackLoop {
                tenant_id: TenantId::new(tenant).unwrap(),
                provider: provider.into(),
                identity_kind: kind.into(),
                identity: identity.into(),
                since: instant(since),
            });
        }
        if let Some(words) = line.strip_prefix("-- domain ") {
            let words = words.split_whitespace().collect::<Vec<_>>();
            surroundings.domains.push(DomainRow {
                tenant_id: TenantId::new(words[0]).unwrap(),
                domain: words[1].to_owned(),
                created_at: Timestamp(0),
                warm_at: (words.get(2) == Some(&"warm")).then_some(Timestamp(0)),
            });
        }
    }
    (surroundings, as_of)
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(#[tokio::test] async fn $name() { check(stringify!($name)).await; })*

        #[test]
        fn every_case_file_runs() {
            let named = [$(stringify!($name)),*];
            let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests-data");
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                assert!(named.contains(&name.as_str()), "{name}.case is not listed");
            }
        }
    };
}

cases![
    empty_lake,
    one_event,
    deferred_then_delivered,
    bounced,
    classify_reply,
    in_doubt_then_delivered,
    several_recipients,
    late_event,
    month_boundary,
    two_tenants,
    never_attempted,
    judged_empty_lake,
    judged_one_event,
    judged_month_boundary,
    late_feedback,
    weekly_sender,
    one_off_campaign,
    slow_ramp,
    two_tenants_judged,
    incident,
    review_decided,
    cold_counts,
    feedback_loops,
    engagement,
    warmup_stages,
    bounce_bursts,
    recipient_freshness,
    sent_elsewhere,
    rollups,
    dmarc_reports,
    dmarc_ready,
    tls_reports,
    tls_sessions,
    alerts,
    provider_calibration,
    complaints_taken_back,
];
