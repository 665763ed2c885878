//! A staged file to BigQuery itself, in pieces that can be taken up again: "Upload data with resumable uploads".

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::sleep;

use super::client::{Client, retry_after_s};
use super::failure::Failure;
use crate::target::TargetError;

/// Of each piece but the last: a multiple of 256 KiB, as the protocol wants it. What is held in memory.
const PIECE_BYTES: u64 = 8 << 20;
const PIECE_TIMEOUT: Duration = Duration::from_secs(300);
/// Pieces that may fail one after the other, with growing pauses.
const FAILURES_MAX: u32 = 5;

/// What the server made of a piece.
enum Piece {
    /// It has the file up to here.
    Through(u64),
    /// It has all of it, and the job.
    Complete,
}

impl Client {
    /// Uploads the file and so submits the job; returns when a job of that name is there, whoever submitted it.
    pub async fn upload(&self, job_id: &str, configuration: Value, path: &Path) -> Result<(), TargetError> {
        let doing = format!("uploading for the job {job_id}");
        let local = |error: std::io::Error| TargetError::Local(format!("{}: {error}", path.display()));
        let mut file = File::open(path).await.map_err(local)?;
        let total = file.metadata().await.map_err(local)?.len();
        let Some(session) = self.open_session(job_id, configuration, total, &doing).await? else {
            return Ok(());
        };
        let mut at = 0;
        let mut failures = 0;
        while at < total {
            file.seek(SeekFrom::Start(at)).await.map_err(local)?;
            let length = PIECE_BYTES.min(total - at);
            let mut piece = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            (&mut file).take(length).read_to_end(&mut piece).await.map_err(local)?;
            if piece.len() as u64 != length {
                return Err(TargetError::Local(format!(
                    "{} became shorter while it was read",
                    path.display()
                )));
            }
            let range = format!("bytes {at}-{}/{total}", at + length - 1);
            let mut answer = self.put(&session, &range, piece).await?;
            // Whether the piece arrived is not known: the job is there when it was the last one and did.
            while let Err(failure) = &answer
                && failure.is_passing()
                && failures < FAILURES_MAX
            {
                sleep(Duration::from_millis(250 << failures)).await;
                failures += 1;
                if self.job(job_id).await?.is_some() {
                    return Ok(());
                }
                answer = self.put(&session, &format!("bytes */{total}"), Vec::new()).await?;
            }
            match answer {
                Ok(Piece::Complete) => return Ok(()),
                Ok(Piece::Through(next)) => {
                    if next > at {
                        failures = 0;
                    } else {
                        failures += 1;
                    }
                    at = next;
                }
                Err(failure) if failure.is_duplicate() => return Ok(()),
                // A session that is gone is begun anew by the next try, unless it ended in the job.
                Err(failure) if failure.is_missing() || failure.status == Some(410) => {
                    if self.job(job_id).await?.is_some() {
                        return Ok(());
                    }
                    return Err(TargetError::Away(format!(
                        "BigQuery, {doing}: the upload has to be begun anew"
                    )));
                }
                Err(failure) => return Err(failure.into_error(&doing)),
            }
            if failures > FAILURES_MAX {
                return Err(TargetError::Away(format!("BigQuery, {doing}: no piece arrives")));
            }
        }
        Err(TargetError::Away(format!("BigQuery, {doing}: the file is there, but no job")))
    }

    /// The address of a new session; `None` when the job is there already.
    async fn open_session(
        &self,
        job_id: &str,
        configuration: Value,
        total: u64,
        doing: &str,
    ) -> Result<Option<String>, TargetError> {
        let url =
            format!("{}/upload/bigquery/v2/projects/{}/jobs?uploadType=resumable", self.base, self.project);
        let body =
            json!({ "jobReference": self.job_reference(job_id).await?, "configuration": configuration });
        let request = self
            .http
            .request(Method::POST, url)
            .header("x-upload-content-type", "application/octet-stream")
            .header("x-upload-content-length", total)
            .json(&body);
        let answer = match self.sign(request).await?.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(Failure::unanswered(&error).into_error(doing)),
        };
        if !answer.status().is_success() {
            let failure = failure_of(answer).await;
            return if failure.is_duplicate() { Ok(None) } else { Err(failure.into_error(doing)) };
        }
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let location = location.map(str::to_owned);
        location
            .map(Some)
            .ok_or_else(|| TargetError::Away(format!("BigQuery, {doing}: no address to upload to")))
    }

    /// A piece, or with `bytes */total` the question how far the server is.
    async fn put(
        &self,
        session: &str,
        range: &str,
        piece: Vec<u8>,
    ) -> Result<Result<Piece, Failure>, TargetError> {
        let request =
            self.http.put(session).timeout(PIECE_TIMEOUT).header("content-range", range).body(piece);
        let answer = match self.sign(request).await?.send().await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(Failure::unanswered(&error))),
        };
        if answer.status().as_u16() == 308 {
            let through = answer.headers().get("range").and_then(|value| value.to_str().ok());
            let last = through
                .and_then(|range| range.strip_prefix("bytes=0-"))
                .and_then(|end| end.parse::<u64>().ok());
            return Ok(Ok(Piece::Through(last.map_or(0, |last| last + 1))));
        }
        if answer.status().is_success() {
            return Ok(Ok(Piece::Complete));
        }
        Ok(Err(failure_of(answer).await))
    }
}

async fn failure_of(answer: Response) -> Failure {
    let status = answer.status().as_u16();
    let retry_after_s = retry_after_s(&answer);
    match answer.bytes().await {
        Ok(body) => Failure::answered(status, retry_after_s, &body),
        Err(error) => Failure::unanswered(&error),
    }
}
