//! One batch into the table, however often it is tried and by however many at once.
//!
//! What makes it exact, one on top of the other:
//! 1. the MERGE adds no `event_id` that is there, whatever else fails;
//! 2. loads into one table wait for each other at a row of `SENDLAKE_LOCKS`, so that no MERGE runs beside another and misses
//!    its rows (Snowflake promises uniqueness of no key);
//! 3. the ledger's row is written in the same transaction: a batch that is there is not loaded again;
//! 4. the request has an id, which is noted before it is sent: one whose answer was lost, or whose sender died, is asked about
//!    under that id, and not run a second time.

use aws_lc_rs::digest::{SHA256, digest};
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::Snowflake;
use super::client::Job;
use super::statements::{LOAD_STATEMENTS, MERGE_STATEMENT};
use crate::target::{JobLog, Loaded, StagedBatch, TargetError};

pub(super) async fn load(
    target: &Snowflake,
    batch: &StagedBatch,
    log: &dyn JobLog,
) -> Result<Loaded, TargetError> {
    let Snowflake { client, names, upload, load_timeout_s } = target;
    if is_in_ledger(target, batch).await? {
        // The one that loaded it may have died before it cleared up.
        upload.remove(names, &batch.batch_id).await;
        return Ok(Loaded { rows: None, job_id: batch.job_id.clone() });
    }
    let doing = format!("loading batch {} into {}", batch.batch_id, names.table);
    let statements = names.load(batch);
    let job = |request_id, again| Job {
        request_id,
        again,
        statements: &statements,
        count: LOAD_STATEMENTS,
        tag: format!("sendlake {} {}", batch.connector, batch.batch_id),
        timeout_s: *load_timeout_s,
    };
    let before = batch.job_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
    let asked = match before {
        Some(request_id) => Some(client.job(&job(request_id, true), &doing).await),
        None => None,
    };
    let answer = match asked {
        Some(Ok(answer)) => Ok(answer),
        // Nobody knows how it ended.
        Some(Err(error @ TargetError::Away(_))) => return Err(error),
        // It did not end well, and would be answered for ever as it was then; what stood in its way may be mended.
        Some(Err(_)) | None => {
            upload.put(names, batch).await?;
            let request_id = request_id(batch, client.now());
            log.submitting(&request_id.to_string()).await?;
            client.job(&job(request_id, false), &doing).await
        }
    };
    let loaded = match answer {
        Ok(answer) => {
            let handle = answer.handles.get(MERGE_STATEMENT).cloned();
            Loaded { rows: merged_rows(target, handle, &doing).await, job_id: Some(answer.handle) }
        }
        // Another one may have loaded it meanwhile, and taken the file away from under this request.
        Err(error @ (TargetError::JobFailed(_) | TargetError::Refused(_))) => {
            match is_in_ledger(target, batch).await {
                Ok(true) => Loaded { rows: None, job_id: batch.job_id.clone() },
                _ => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    upload.remove(names, &batch.batch_id).await;
    tracing::debug!(batch = batch.batch_id, ?loaded, "loaded into Snowflake");
    Ok(loaded)
}

/// A name for a request that is sent for the first time: no other has it, also not one for the same batch.
fn request_id(batch: &StagedBatch, now: Timestamp) -> Uuid {
    let StagedBatch { connector, batch_id, attempt, .. } = batch;
    let text = format!("{connector}|{batch_id}|{attempt}|{}|{}", now.0, std::process::id());
    let mut bytes = [0; 16];
    for (byte, sum) in bytes.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()) {
        *byte = *sum;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

async fn is_in_ledger(target: &Snowflake, batch: &StagedBatch) -> Result<bool, TargetError> {
    let statement = target.names.in_ledger(&batch.batch_id);
    let doing = "asking SENDLAKE_BATCHES";
    Ok(!target.client.query(&statement, doing).await?.rows.is_empty())
}

/// A MERGE answers with one row: how many were added, updated, deleted, as far as it could have. The rows are there
/// already, so that not being told is no failure.
async fn merged_rows(target: &Snowflake, handle: Option<String>, doing: &str) -> Option<u64> {
    let rows = target.client.rows_of(&handle?, doing).await.ok()?;
    let counts = rows.first()?.iter().map(|count| count.as_ref()?.parse::<u64>().ok());
    counts.sum()
}
