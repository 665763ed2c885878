//! One run: the query's rows, those of them that are due, request by request, each in the ledger before it is made and after.
//!
//! A row is known as sent only when an answer has named it. A stop anywhere leaves rows that are due: they are posted
//! again, as the same upserts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use sendlake_control::export::ExportBatch;
use sendlake_control::id::TenantId;
use sendlake_control::reverse::{ReverseOutcome, ReverseRow};
use serde_json::Value;
use tokio::time::Instant;

use super::post::Poster;
use super::record::{Made, Record, Records, batch_id, is_due};
use super::settings::ReverseSettings;
use super::shape::{self, Answer, Verdict};
use super::{RowSource, ledger_name};
use crate::guard::Guard;
use crate::run::{ExportError, Exporter};
use crate::secret::SecretSource;
use crate::target::TargetError;

/// A row that was refused is tried again as it is after a day; what may pass, at the next run.
const REFUSED_AGAIN_S: i64 = 86_400;
/// So many rows, each refused alone, and none taken: it is not the rows.
const REFUSED_ALONE_MAX: u32 = 10;

/// One configured destination of a query's rows, with what it needs.
pub struct Reverse {
    pub name: String,
    pub settings: ReverseSettings,
    pub source: Arc<dyn RowSource>,
    pub secrets: Arc<dyn SecretSource>,
    pub guard: Arc<dyn Guard>,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Of the query.
    pub rows: u64,
    pub sent: u64,
    pub refused: u64,
    /// The destination has them as they are, or has refused them a short while ago.
    pub left_alone: u64,
    pub without_key: u64,
    pub requests: u64,
}

/// What a run would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    pub rows: u64,
    pub due: u64,
    pub without_key: u64,
    pub requests: u64,
    /// The first ones: method, address, body.
    pub first: Vec<(String, String, Value)>,
}

impl Reverse {
    /// Posts what is new or has changed, and takes note of how it went. Of several processes that try, one does it.
    pub async fn run(&self, exporter: &Exporter) -> Result<Ran, ExportError> {
        let ledger = ledger_name(&self.name);
        let ran = exporter.under_lease(&ledger, self.work(exporter)).await;
        exporter.take_note(&ledger, ran).await
    }

    /// What a run would post now, without posting anything.
    pub async fn prepare(&self, exporter: &Exporter, requests_max: usize) -> Result<Prepared, ExportError> {
        let (made, known) = self.rows(exporter).await?;
        let rows = count(&made.records) + made.without_key;
        let due = due(made.records, &known, exporter);
        let chunks = due.chunks(self.settings.batch_rows());
        let first = chunks.clone().take(requests_max).map(|records| {
            let request = shape::request(&self.settings, records);
            (request.method.to_string(), request.url, request.body)
        });
        Ok(Prepared {
            rows,
            due: count(&due),
            without_key: made.without_key,
            requests: u64::try_from(chunks.len()).unwrap_or(u64::MAX),
            first: first.collect(),
        })
    }

    async fn rows(&self, exporter: &Exporter) -> Result<(Made, Vec<ReverseRow>), ExportError> {
        let settings = &self.settings;
        settings.check(&self.name).map_err(|(key, problem)| {
            TargetError::Refused(format!("reverse.{}.{key}: {problem}", self.name))
        })?;
        let tenant = match settings.tenant.as_str() {
            "" => None,
            text => {
                let tenant = TenantId::new(text).map_err(|error| TargetError::Refused(error.to_string()))?;
                if exporter.control.tenant(&tenant).await?.is_none() {
                    let said = format!("there is no tenant {tenant}; `sendlake tenant ls` lists them");
                    return Err(TargetError::Refused(said).into());
                }
                Some(tenant)
            }
        };
        let rows = self.source.rows(tenant.as_ref(), &settings.query, settings.rows_max).await?;
        let key = exporter.control.keyring().derive(&format!("reverse rows/{}", self.name));
        let records = Records::new(settings, &key).map_err(TargetError::Refused)?;
        let made = records.make(&rows).map_err(TargetError::Refused)?;
        let known = exporter.control.reverse_rows(&ledger_name(&self.name)).await?;
        Ok((made, known))
    }

    async fn work(&self, exporter: &Exporter) -> Result<Ran, ExportError> {
        let ledger = ledger_name(&self.name);
        let (made, known) = self.rows(exporter).await?;
        let mut ran = Ran {
            rows: count(&made.records) + made.without_key,
            without_key: made.without_key,
            ..Ran::default()
        };
        let present: HashSet<String> = made.records.iter().map(|record| record.key_hash.clone()).collect();
        let due = due(made.records, &known, exporter);
        ran.left_alone = ran.rows - ran.without_key - count(&due);
        if !due.is_empty() {
            let poster = Poster::open(&self.settings, self.guard.as_ref(), self.secrets.as_ref()).await?;
            let mut posting = Posting {
                reverse: self,
                exporter,
                ledger: &ledger,
                poster,
                mapping_version: version(&self.settings),
                next: Instant::now(),
                refused_alone: 0,
            };
            for records in due.chunks(self.settings.batch_rows()) {
                posting.post(records, &mut ran).await?;
            }
        }
        let gone = known.iter().map(|row| row.key_hash.as_str()).filter(|key| !present.contains(*key));
        exporter.control.reverse_ended(&ledger, &gone.collect::<Vec<_>>()).await?;
        tracing::info!(
            connector = self.name,
            rows = ran.rows,
            sent = ran.sent,
            refused = ran.refused,
            without_key = ran.without_key,
            "posted a query's rows"
        );
        Ok(ran)
    }
}

fn due(mut records: Vec<Record>, known: &[ReverseRow], exporter: &Exporter) -> Vec<Record> {
    let known: HashMap<&str, &ReverseRow> = known.iter().map(|row| (row.key_hash.as_str(), row)).collect();
    let now = exporter.ids.now();
    records.retain(|record| is_due(record, &known, now));
    // The query's order may be another each time; the same rows are to be the same requests.
    records.sort_by(|a, b| a.key_hash.cmp(&b.key_hash));
    records
}

/// Requests of one run, one after another.
struct Posting<'a> {
    reverse: &'a Reverse,
    exporter: &'a Exporter,
    ledger: &'a str,
    poster: Poster,
    mapping_version: String,
    /// When the next request may be made.
    next: Instant,
    refused_alone: u32,
}

impl Posting<'_> {
    /// Some rows in one request; in halves, where it is refused as a whole, down to the row that is to blame.
    async fn post(&mut self, records: &[Record], ran: &mut Ran) -> Result<(), ExportError> {
        let mut parts = vec![records];
        while let Some(records) = parts.pop() {
            let batch_id = batch_id(self.ledger, records);
            let outcomes = match self.ask(&batch_id, records, ran).await? {
                Answer::Each(verdicts) => self.outcomes(records, verdicts),
                Answer::Whole(_) if records.len() > 1 => {
                    let (first, second) = records.split_at(records.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Answer::Whole(said) => {
                    let verdicts =
                        records.iter().map(|_| Verdict::Refused { said: said.clone(), may_pass: false });
                    let outcomes = self.outcomes(records, verdicts.collect());
                    self.refused_alone += 1;
                    if self.refused_alone >= REFUSED_ALONE_MAX && ran.sent == 0 {
                        let said = outcomes
                            .iter()
                            .find_map(|outcome| outcome.refusal.as_ref())
                            .map(|(said, _)| said.as_str());
                        let said = format!(
                            "{} rows were each refused alone, and none was taken; the last: {}. See `row`, `object` and `id_property`",
                            self.refused_alone,
                            said.unwrap_or_default()
                        );
                        return Err(TargetError::Refused(said).into());
                    }
                    outcomes
                }
            };
            self.exporter.control.reverse_committed(self.ledger, &batch_id, &outcomes).await?;
            let refused = outcomes.iter().filter(|outcome| outcome.refusal.is_some()).count();
            ran.refused += u64::try_from(refused).unwrap_or(u64::MAX);
            ran.sent += u64::try_from(outcomes.len() - refused).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        batch_id: &str,
        records: &[Record],
        ran: &mut Ran,
    ) -> Result<Answer, ExportError> {
        let (settings, control) = (&self.reverse.settings, &self.exporter.control);
        let request = shape::request(settings, records);
        let bytes = request.body.to_string().len();
        let batch = ExportBatch {
            connector: self.ledger.to_owned(),
            batch_id: batch_id.to_owned(),
            mapping_version: self.mapping_version.clone(),
            rows_staged: i64::try_from(records.len()).ok(),
            bytes_staged: i64::try_from(bytes).ok(),
            ..ExportBatch::default()
        };
        control.plan_reverse(&batch).await?;
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + Duration::from_secs(1) / settings.requests_per_s.max(1);
        control.reverse_submitting(self.ledger, batch_id).await?;
        ran.requests += 1;
        let redacted = |error: TargetError| self.redacted(records, error);
        let reply = self.poster.post(&request, self.exporter.ids.now()).await.map_err(redacted)?;
        Ok(shape::read(settings, records, &reply).map_err(redacted)?)
    }

    fn outcomes(&self, records: &[Record], verdicts: Vec<Verdict>) -> Vec<ReverseOutcome> {
        let now = self.exporter.ids.now();
        let outcome = |(record, verdict): (&Record, Verdict)| ReverseOutcome {
            key_hash: record.key_hash.clone(),
            row_hash: record.row_hash.clone(),
            refusal: match verdict {
                Verdict::Taken => None,
                Verdict::Refused { said, may_pass } => {
                    let retry_at = if may_pass { now } else { now.plus_secs(REFUSED_AGAIN_S) };
                    Some((record.redact(&self.poster.redact(&said)), retry_at))
                }
            },
        };
        records.iter().zip(verdicts).map(outcome).collect()
    }

    /// What is shown to operators, and logged, holds no row's values.
    fn redacted(&self, records: &[Record], error: TargetError) -> TargetError {
        let clean = |said: String| {
            records.iter().fold(self.poster.redact(&said), |said, record| record.redact(&said))
        };
        match error {
            TargetError::Away(said) => TargetError::Away(clean(said)),
            TargetError::Credentials(said) => TargetError::Credentials(clean(said)),
            TargetError::Quota { said, retry_after_s } => {
                TargetError::Quota { said: clean(said), retry_after_s }
            }
            TargetError::Refused(said) => TargetError::Refused(clean(said)),
            other => other,
        }
    }
}

/// Names what is posted for a row, apart from the row.
fn version(settings: &ReverseSettings) -> String {
    let ReverseSettings { query, key, shape, url, object, id_property, row, method, .. } = settings;
    let text =
        serde_json::json!([query, key, shape.as_str(), url, object, id_property, row, method]).to_string();
    HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref()).chars().take(16).collect()
}

fn count(records: &[Record]) -> u64 {
    u64::try_from(records.len()).unwrap_or(u64::MAX)
}
