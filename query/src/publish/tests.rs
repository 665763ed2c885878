//! What a publication says, when it has to be said anew, and which of its rows are news.

use super::*;
use crate::source::DomainRow;
use crate::testing::{StillSurroundings, engine_within, events, limits, snapshot};

const NOW: Timestamp = Timestamp(1_772_445_600_000_000);

fn row(stream: &str, state: &str, limit: Option<i64>) -> QuotaRow {
    QuotaRow {
        tenant_id: "acme".into(),
        stream: stream.into(),
        identity_kind: "sending_domain".into(),
        identity: "acme.example".into(),
        provider: "*".into(),
        window_s: 86_400,
        limit_messages: limit,
        state: state.into(),
        reason: state.into(),
        inputs: r#"{"policy":"complaint_pacing","review":null}"#.into(),
        view_version: "quotas 1".into(),
        as_of: NOW,
        valid_until: NOW.plus_secs(900),
    }
}

#[tokio::test]
async fn an_empty_lake_publishes_a_row_for_every_domain_and_stream() {
    let domain = |name: &str, warm_at| DomainRow {
        tenant_id: sendlake_control::id::TenantId::new("acme").unwrap(),
        domain: name.into(),
        created_at: Timestamp(0),
        warm_at,
    };
    let surroundings = StillSurroundings {
        domains: vec![domain("acme.example", Some(Timestamp(0))), domain("new.example", None)],
        ..StillSurroundings::default()
    };
    let engine = engine_within(snapshot(&[], &events("")), surroundings, limits());
    let rows = evaluate(&engine, NOW).await.unwrap();
    let of = |domain: &str| rows.iter().filter(|row| row.identity == domain).count();
    assert_eq!((of("acme.example"), of("new.example")), (3, 18));
    assert!(rows.iter().all(|row| row.as_of == NOW && row.valid_until == NOW.plus_secs(900)));
    assert_eq!(changes(&[], &rows).len(), 15, "only the ceilings limit anything");
}

#[test]
fn time_and_inputs_alone_are_no_difference_but_a_reason_is() {
    let old = [row("marketing", "normal", None)];
    let mut new = old.clone();
    new[0].as_of = NOW.plus_secs(60);
    new[0].valid_until = NOW.plus_secs(960);
    new[0].inputs = "{}".into();
    assert!(!differ(&old, &new));
    assert!(!half_gone(&old, NOW.plus_secs(449)) && half_gone(&old, NOW.plus_secs(450)));
    assert!(
        !half_gone(&old, NOW.plus_secs(-30)) && half_gone(&old, NOW.plus_secs(-3_600)),
        "a clock set back"
    );
    new[0].reason = "other".into();
    assert!(differ(&old, &new));
    assert!(differ(&old, &[]));
}

#[test]
fn changes_are_those_of_state_or_limit() {
    let old = [row("marketing", "normal", None), row("cold", "paused", Some(0))];
    let new = [row("marketing", "throttled", Some(50)), row("transactional", "normal", None)];
    let found = changes(&old, &new);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], Change { old: Some(&old[0]), new: Some(&new[0]) });
    assert_eq!(found[1], Change { old: Some(&old[1]), new: None });
    assert!(opens_review(&new[0]));
    let mut open = new[0].clone();
    open.inputs = r#"{"policy":"complaint_pacing","review":"open"}"#.into();
    assert!(!opens_review(&open));
}
