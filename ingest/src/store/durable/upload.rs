//! An object written in parts: nothing is visible under its name until the last part is on the disk.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::{DurableLocal, Stage, blocking, failure, io_failure};

#[derive(Debug)]
pub(super) struct DurableUpload {
    store: DurableLocal,
    /// Gone once completed or aborted; its drop removes the staged file.
    stage: Option<Stage>,
    target: PathBuf,
    offset: u64,
}

impl DurableUpload {
    pub(super) fn new(store: DurableLocal, stage: Stage, target: PathBuf) -> Self {
        Self { store, stage: Some(stage), target, offset: 0 }
    }
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let Some(file) = self.stage.as_ref().map(|stage| Arc::clone(&stage.file)) else {
            return Box::pin(async { Err(failure("part after the end of an upload".to_owned())) });
        };
        let target = self.target.clone();
        let mut offset = self.offset;
        self.offset += data.content_length() as u64;
        Box::pin(blocking(move || {
            for chunk in &data {
                file.write_all_at(chunk, offset).map_err(|error| io_failure("write", &target, error))?;
                offset += chunk.len() as u64;
            }
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(stage) = self.stage.take() else {
            return Err(failure("second end of an upload".to_owned()));
        };
        let target = self.target.clone();
        let store = self.store.clone();
        blocking(move || {
            stage.publish(&target, false)?;
            store.seal(&target)
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.stage = None;
        Ok(())
    }
}
