//! The list as its users see it: idempotent, wide wins, wishes are lifted only with words, the log tells all.

use super::*;
use crate::store::ControlStore;
use crate::store::tests::{START, acme, open_temporary, reopen};

fn bolt() -> TenantId {
    TenantId::new("bolt").unwrap()
}

fn new(address: &str, reach: Reach, reason: Reason, event: u128) -> NewSuppression {
    NewSuppression {
        tenant_id: acme(),
        address: address.into(),
        reach,
        reason,
        since: START,
        expires_at: None,
        message_id: None,
        event_id: Uuid::from_u128(event),
        note: None,
    }
}

async fn store() -> (tempfile::TempDir, ControlStore) {
    let (dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    store.create_tenant("cli", &bolt(), "Bolt").await.unwrap();
    (dir, store)
}

async fn reaches(store: &ControlStore, address: &str) -> Vec<(String, Reach, Reason)> {
    let filter = SuppressionFilter { address: Some(address.into()), ..SuppressionFilter::default() };
    let found = store.suppressions(&filter).await.unwrap();
    found.into_iter().map(|row| (row.tenant_id.to_string(), row.reach, row.reason)).collect()
}

#[tokio::test]
async fn adding_is_idempotent_in_every_spelling_and_a_wider_reach_replaces_a_narrower_one() {
    let (_dir, store) = store().await;
    let narrow = new("Ann@Ex\u{e4}mple.test", Reach::Bulk, Reason::Manual, 1);
    assert_eq!(store.suppress("cli", &narrow).await.unwrap(), Suppress::Added);
    assert_eq!(store.suppress("cli", &narrow).await.unwrap(), Suppress::Known { by_this_event: true });
    let spelled = new(" ann@xn--exmple-cua.test", Reach::Tenant, Reason::Manual, 2);
    assert_eq!(store.suppress("cli", &spelled).await.unwrap(), Suppress::Added);
    assert_eq!(store.suppress("cli", &narrow).await.unwrap(), Suppress::Known { by_this_event: false });
    assert_eq!(
        reaches(&store, "ANN@exämple.test").await,
        [("acme".to_owned(), Reach::Tenant, Reason::Manual)]
    );
    assert_eq!(store.suppression_changes_after(0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn lifting_one_reason_leaves_the_others_in_force() {
    let (_dir, store) = store().await;
    let ann = "ann@a.test";
    store.suppress("feedback", &new(ann, Reach::Bulk, Reason::Unsubscribe, 1)).await.unwrap();
    store.suppress("feedback", &new(ann, Reach::Tenant, Reason::HardBounce, 2)).await.unwrap();
    let lift = store.unsuppress("cli", &acme(), ann, Some(Reason::HardBounce), None, Uuid::nil()).await;
    assert_eq!(lift.unwrap().len(), 1);
    assert_eq!(reaches(&store, ann).await, [("acme".to_owned(), Reach::Bulk, Reason::Unsubscribe)]);
}

#[tokio::test]
async fn a_wish_is_lifted_only_with_words_and_leaves_an_audit_entry_without_the_address() {
    let (_dir, store) = store().await;
    let ann = "ann@a.test";
    store.suppress("feedback", &new(ann, Reach::Bulk, Reason::Complaint, 1)).await.unwrap();
    let refused = store.unsuppress("cli", &acme(), ann, None, None, Uuid::nil()).await.unwrap_err();
    assert!(refused.to_string().contains("--note"), "{refused}");
    let why = Some("asked for it again on the phone");
    assert_eq!(store.unsuppress("cli", &acme(), ann, None, why, Uuid::nil()).await.unwrap().len(), 1);
    assert_eq!(store.unsuppress("cli", &acme(), ann, None, why, Uuid::nil()).await.unwrap(), []);
    let entry = &store.audit_log_of(&acme(), 1).await.unwrap()[0];
    assert_eq!(entry.action, "suppression_removed");
    assert!(!format!("{entry:?}").contains("ann@"), "{entry:?}");
    let changes = store.suppression_changes_after(1, 10).await.unwrap();
    assert_eq!(changes.iter().map(|change| (change.seq, change.added)).collect::<Vec<_>>(), [(2, false)]);
}

#[tokio::test]
async fn tenants_are_apart_and_global_belongs_to_the_platform() {
    let (dir, store) = store().await;
    let ann = "ann@a.test";
    store.suppress("cli", &new(ann, Reach::Bulk, Reason::Manual, 1)).await.unwrap();
    store.suppress("cli", &new(ann, Reach::Global, Reason::Legal, 2)).await.unwrap();
    let of_bolt = SuppressionFilter { tenant_id: Some(bolt()), ..SuppressionFilter::default() };
    assert_eq!(store.suppressions(&of_bolt).await.unwrap(), []);
    // a tenant's own lifting does not touch it
    let lifted = store.unsuppress("cli", &acme(), ann, None, Some("why"), Uuid::nil()).await.unwrap();
    assert_eq!(lifted.iter().map(|row| row.reach).collect::<Vec<_>>(), [Reach::Bulk]);
    assert_eq!(reaches(&store, ann).await, [("platform".to_owned(), Reach::Global, Reason::Legal)]);
    store.close().await;
    let store = reopen(&dir).await;
    let found = store.suppressions(&SuppressionFilter::default()).await.unwrap();
    assert_eq!(found[0].address.as_deref(), Some(ann));
}

#[tokio::test]
async fn the_log_is_never_changed_and_holds_no_address() {
    let (dir, store) = store().await;
    store.suppress("cli", &new("ann@a.test", Reach::Bulk, Reason::Manual, 1)).await.unwrap();
    for sql in ["UPDATE suppression_log SET actor = 'x'", "DELETE FROM suppression_log"] {
        let error = sqlx::query(sql).execute(&store.pool).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{error}");
    }
    store.close().await;
    let octets = std::fs::read(dir.path().join("control.db")).unwrap();
    assert!(!octets.windows(10).any(|window| window == b"ann@a.test"));
}

#[tokio::test]
async fn what_is_no_address_and_unknown_tenants_are_refused_in_words() {
    let (_dir, store) = store().await;
    let error = store.suppress("cli", &new("ann", Reach::Bulk, Reason::Manual, 1)).await.unwrap_err();
    assert!(error.to_string().contains("\"ann\""), "{error}");
    let nobody = TenantId::new("nobody").unwrap();
    let wish = NewSuppression { tenant_id: nobody, ..new("a@b.test", Reach::Bulk, Reason::Manual, 1) };
    assert!(store.suppress("cli", &wish).await.unwrap_err().is_missing());
}
