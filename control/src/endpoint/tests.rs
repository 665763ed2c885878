//! What an operator, a server and a thief of the database notice about endpoints.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::progress::{EndpointPosition, Progress, Undelivered, UndeliveredState};
use super::replay::{ReplaySelection, ReplayState};
use super::*;
use crate::store::tests::{acme, open_temporary};

fn settings() -> EndpointSettings {
    EndpointSettings {
        url: "https://hooks.acme.example/in/not-in-the-files-7f3a".into(),
        filter: EventFilter { event_types: vec!["bounced".into()], ..EventFilter::default() },
        ..EndpointSettings::default()
    }
}

async fn made(store: &ControlStore) -> Endpoint {
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let made = store.add_endpoint("cli", &acme(), &settings()).await.unwrap();
    store.require_endpoint(None, &made.endpoint_id).await.unwrap()
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_new_one_until_its_time_is_over() {
    let (_dir, store) = open_temporary().await;
    let endpoint = made(&store).await;
    assert_eq!(endpoint.settings, settings());
    let old = endpoint.secrets[0].text();
    let new = store.rotate_endpoint_secret("cli", &endpoint, 60).await.unwrap();
    let rotated = store.require_endpoint(Some(&acme()), &endpoint.endpoint_id).await.unwrap();
    let texts: Vec<_> = rotated.secrets.iter().map(|secret| secret.text().to_string()).collect();
    assert_eq!(texts, [new.to_string(), old.to_string()]);
    assert!(new.starts_with(SECRET_PREFIX) && rotated.revision > endpoint.revision);
    let now = store.ids.now();
    assert!(rotated.secrets.iter().all(|secret| secret.is_active(now)));
    assert!(
        !rotated.secrets[1].is_active(now.plus_secs(60)) && rotated.secrets[0].is_active(now.plus_secs(60))
    );
    for _ in 0..9 {
        store.rotate_endpoint_secret("cli", &rotated, 60).await.unwrap();
    }
    assert_eq!(store.endpoints(None).await.unwrap()[0].secrets.len(), SECRETS_MAX);
}

#[tokio::test]
async fn neither_address_nor_secret_is_in_the_files() {
    let (dir, store) = open_temporary().await;
    let endpoint = made(&store).await;
    let secret = endpoint.secrets[0].text().trim_start_matches(SECRET_PREFIX).to_owned();
    assert!(!format!("{endpoint:?}").contains(&secret));
    store.close().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for hidden in [secret.as_bytes(), b"not-in-the-files-7f3a"] {
            assert!(!bytes.windows(hidden.len()).any(|window| window == hidden));
        }
    }
}

#[tokio::test]
async fn another_tenants_endpoint_is_not_there_and_a_removed_one_is_gone() {
    let (_dir, store) = open_temporary().await;
    let endpoint = made(&store).await;
    let bolt = TenantId::new("bolt").unwrap();
    store.create_tenant("cli", &bolt, "Bolt").await.unwrap();
    assert!(store.endpoint(Some(&bolt), &endpoint.endpoint_id).await.unwrap().is_none());
    assert!(store.endpoints(Some(&bolt)).await.unwrap().is_empty());
    store.remove_endpoint("cli", &endpoint).await.unwrap();
    assert!(store.endpoints(None).await.unwrap().is_empty());
    let error = store.require_endpoint(None, &endpoint.endpoint_id).await.unwrap_err();
    assert!(error.is_missing(), "{error}");
    assert!(store.change_endpoint("cli", &endpoint, &settings()).await.unwrap_err().is_missing());
}

fn parked(lsn: u64) -> Undelivered {
    Undelivered {
        incarnation: Uuid::nil(),
        lsn,
        event_id: Uuid::from_u128(lsn.into()),
        event_type: "bounced".into(),
        message_id: Some("m".into()),
        state: UndeliveredState::Parked,
        attempts: 1,
        first_attempt_at: Some(Timestamp(1)),
        next_attempt_at: Some(Timestamp(2)),
        last_error: Some("answers 500".into()),
    }
}

#[tokio::test]
async fn progress_is_kept_and_what_is_settled_goes() {
    let (_dir, store) = open_temporary().await;
    let endpoint = made(&store).await;
    let id = endpoint.endpoint_id.clone();
    let position = |lsn| EndpointPosition {
        incarnation: Uuid::nil().to_string(),
        cursor_lsn: lsn,
        circuit_open: true,
        failing_since: Some(5),
        ..EndpointPosition::default()
    };
    let progress =
        |lsn, undelivered| Progress { endpoint_id: id.clone(), position: position(lsn), undelivered };
    let two = BTreeMap::from([(3, Some(parked(3))), (9, Some(parked(9)))]);
    store.save_progress(&[progress(9, two)]).await.unwrap();
    let failed = Undelivered { state: UndeliveredState::Failed, ..parked(9) };
    let then = BTreeMap::from([(3, None), (9, Some(failed.clone()))]);
    store.save_progress(&[progress(12, then)]).await.unwrap();
    assert_eq!(store.endpoint_positions(&id).await.unwrap(), [position(12)]);
    assert_eq!(store.count_undelivered(&id).await.unwrap(), (0, 1));
    let listed = store.undelivered(&id, UndeliveredState::Failed, None, None, 10).await.unwrap();
    assert_eq!(listed, [failed]);
    let after =
        store.undelivered(&id, UndeliveredState::Failed, None, Some((Uuid::nil(), 9)), 10).await.unwrap();
    assert!(after.is_empty());
    store.settle_failed(&id, Uuid::from_u128(9)).await.unwrap();
    assert_eq!(store.count_undelivered(&id).await.unwrap(), (0, 0));
    // resumed: a new account of failures
    let by_server = Some("it failed for days");
    store.set_endpoint_state("server", &endpoint, EndpointState::Disabled, by_server).await.unwrap();
    let untold = store.untold_endpoints().await.unwrap();
    assert!(untold.len() == 1 && untold[0].is_disabled && untold[0].state_reason.as_deref() == by_server);
    store.endpoint_told(&id, true).await.unwrap();
    assert!(store.untold_endpoints().await.unwrap().is_empty());
    store.set_endpoint_state("cli", &endpoint, EndpointState::Active, None).await.unwrap();
    assert!(!store.untold_endpoints().await.unwrap()[0].is_disabled);
    let positions = store.endpoint_positions(&id).await.unwrap();
    assert!(!positions[0].circuit_open && positions[0].failing_since.is_none());
    // nothing is kept of an endpoint that is gone
    store.remove_endpoint("cli", &endpoint).await.unwrap();
    store.save_progress(&[progress(20, BTreeMap::from([(20, Some(parked(20)))]))]).await.unwrap();
    assert!(store.endpoint_positions(&id).await.unwrap().is_empty());
    assert_eq!(store.count_undelivered(&id).await.unwrap(), (0, 0));
}

#[tokio::test]
async fn a_replay_belongs_to_one_runner_until_it_ends() {
    let (_dir, store) = open_temporary().await;
    let endpoint = made(&store).await;
    let selection = ReplaySelection { failed: true, ..ReplaySelection::default() };
    let asked = store.add_replay("cli", &endpoint, &selection).await.unwrap();
    assert_eq!(asked.selection.to, Some(store.ids.now()));
    let mut taken = store.claim_replay("one", 60).await.unwrap().unwrap();
    assert!(store.claim_replay("two", 60).await.unwrap().is_none(), "it is taken");
    taken.position = Some("{}".into());
    taken.delivered = 7;
    assert!(store.save_replay("one", &taken, 60).await.unwrap());
    assert!(!store.save_replay("two", &taken, 60).await.unwrap());
    store.release_replays("one").await.unwrap();
    let again = store.claim_replay("two", 60).await.unwrap().unwrap();
    assert_eq!((again.delivered, again.position.as_deref()), (7, Some("{}")));
    assert!(store.cancel_replay("cli", &endpoint, &asked.replay_id).await.unwrap());
    assert!(!store.save_replay("two", &again, 60).await.unwrap(), "it was cancelled");
    assert_eq!(store.replays(&endpoint.endpoint_id, 5).await.unwrap()[0].state, ReplayState::Cancelled);
    for _ in 0..5 {
        store.add_replay("cli", &endpoint, &selection).await.unwrap();
    }
    store.add_replay("cli", &endpoint, &selection).await.unwrap_err();
}
