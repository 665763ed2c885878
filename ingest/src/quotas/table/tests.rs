//! Publishing, reading, and two that publish at once.

use super::*;
use crate::store::open_store;
use crate::testing::{NOON, lake};

fn row(identity: &str, limit: Option<i64>) -> QuotaRow {
    QuotaRow {
        tenant_id: "acme".into(),
        stream: "marketing".into(),
        identity_kind: "sending_domain".into(),
        identity: identity.into(),
        provider: "*".into(),
        window_s: 86_400,
        limit_messages: limit,
        state: "warming".into(),
        reason: "stage 2 of 7".into(),
        inputs: "{}".into(),
        view_version: "1".into(),
        as_of: NOON,
        valid_until: NOON.plus_secs(600),
    }
}

#[tokio::test]
async fn rows_come_back_as_published_and_replace_each_other() {
    let dir = tempfile::tempdir().unwrap();
    assert!(QuotasTable::open_existing(&lake(&dir)).await.unwrap().is_none());
    let publisher = QuotasTable::open(&lake(&dir)).await.unwrap();
    let sender = QuotasTable::open_existing(&lake(&dir)).await.unwrap().unwrap();
    assert_eq!((sender.latest_version().await.unwrap(), sender.load().await.unwrap()), (None, None));

    let first = vec![row("a.example", Some(500)), row("b.example", None)];
    assert_eq!(publisher.publish(&first).await.unwrap(), 1);
    assert!(sender.is_newer_than(0).await.unwrap());
    assert_eq!(sender.latest_version().await.unwrap(), Some(1));
    assert_eq!(sender.load().await.unwrap(), Some(PublishedQuotas { version: 1, rows: first }));

    let second = vec![row("a.example", Some(1_000))];
    assert_eq!(publisher.publish(&second).await.unwrap(), 2);
    assert_eq!(sender.load().await.unwrap(), Some(PublishedQuotas { version: 2, rows: second }));
    assert!(!sender.is_newer_than(2).await.unwrap());

    assert_eq!(publisher.publish(&[]).await.unwrap(), 3);
    assert_eq!(sender.load().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_at_once_the_last_one_stands_whole() {
    let dir = tempfile::tempdir().unwrap();
    let publishers = (0..4).map(|n| {
        let store = lake(&dir);
        tokio::spawn(async move {
            let table = QuotasTable::open(&store).await.unwrap();
            let name = format!("d{n}.example");
            (table.publish(&[row(&name, Some(n)), row(&name, None)]).await.unwrap(), name)
        })
    });
    let mut published = Vec::new();
    for done in futures::future::join_all(publishers).await {
        published.push(done.unwrap());
    }
    published.sort();
    assert!(published.iter().map(|(version, _)| *version).eq(1..=4));
    let last = QuotasTable::open(&lake(&dir)).await.unwrap().load().await.unwrap().unwrap();
    assert_eq!((last.version, last.rows.len()), (4, 2));
    assert!(last.rows.iter().all(|row| row.identity == published[3].1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hundredth_version_is_a_checkpoint() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = QuotasTable::open(&store).await.unwrap();
    for n in 0..100 {
        table.publish(&[row("a.example", Some(n))]).await.unwrap();
    }
    let checkpoint = table.log_store.object_store(None).get(&"_delta_log/_last_checkpoint".into()).await;
    assert!(checkpoint.unwrap().bytes().await.unwrap().starts_with(b"{\"version\":99"));
    let again = QuotasTable::open(&store).await.unwrap().load().await.unwrap().unwrap();
    assert_eq!((again.version, again.rows[0].limit_messages), (100, Some(99)));
}

#[tokio::test]
async fn an_older_table_gets_the_column_that_it_lacks_and_its_files_keep_reading() {
    let dir = tempfile::tempdir().unwrap();
    let older: Vec<_> =
        QUOTAS_SCHEMA.fields().iter().filter(|field| field.name() != "limit_messages").cloned().collect();
    let schema: StructType = (&Schema::new(older)).try_into_kernel().unwrap();
    CreateBuilder::new()
        .with_log_store(log_store(&lake(&dir), QuotasTable::NAME).unwrap())
        .with_columns(schema.fields().cloned())
        .await
        .unwrap();
    assert!(QuotasTable::open_existing(&lake(&dir)).await.unwrap().unwrap().load().await.unwrap().is_none());
    let table = QuotasTable::open(&lake(&dir)).await.unwrap();
    let rows = vec![row("a.example", Some(500))];
    assert_eq!(table.publish(&rows).await.unwrap(), 2, "made, one column added, published");
    assert_eq!(table.load().await.unwrap().unwrap().rows, rows);

    let whole = to_batch(&rows).unwrap();
    let columns: Vec<usize> = (0..whole.num_columns())
        .filter(|index| whole.schema().field(*index).name() != "limit_messages")
        .collect();
    let read = from_batch(&whole.project(&columns).unwrap()).unwrap();
    assert_eq!(read, [row("a.example", None)], "a file of the older version");
}
