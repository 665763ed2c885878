//! A look into one file: whether an erasure concerns it, and which messages it tells of.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::TryStreamExt;
use object_store::ObjectStore;

use super::edit::{Whose, text};
use super::{Erase, EraseError};
use crate::maintain::source::{self, Columns, DataFile};

const BATCH_ROWS: usize = 8_192;

/// What a file has to do with an erasure.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// It has rows that go or change.
    pub concerned: bool,
    /// Messages to the recipient.
    pub messages: HashSet<String>,
}

impl Erase {
    /// Reads every text column of a file.
    pub(super) async fn look(
        &self,
        store: &Arc<dyn ObjectStore>,
        file: &DataFile,
        schema: &SchemaRef,
        messages: Arc<HashSet<String>>,
    ) -> Result<Looked, EraseError> {
        let whose = self.whose.clone();
        let schema = columns(schema, |name, kind| match whose {
            Whose::Recipient { .. } => may_be_text(kind),
            Whose::Tenant(_) => name == "tenant_id",
        });
        self.read(store, file, schema, move |rows, looked| {
            let go = whose.goes(rows, &messages)?;
            if go.contains(&true) {
                looked.concerned = true;
                if let (Whose::Recipient { .. }, Some(ids)) = (&whose, text(rows, "message_id")?) {
                    let theirs = ids.iter().zip(&go).filter(|(_, goes)| **goes);
                    looked.messages.extend(theirs.filter_map(|(id, _)| id.map(str::to_owned)));
                }
            }
            looked.concerned |= whose.redact(rows)?.is_some();
            Ok(())
        })
        .await
    }

    /// Reads the message ids alone: for a file that has no address, and may have events of the messages.
    pub(super) async fn look_for_messages(
        &self,
        store: &Arc<dyn ObjectStore>,
        file: &DataFile,
        schema: &SchemaRef,
        messages: Arc<HashSet<String>>,
    ) -> Result<Looked, EraseError> {
        let whose = self.whose.clone();
        let schema = columns(schema, |name, _| name == "message_id" || name == "tenant_id");
        self.read(store, file, schema, move |rows, looked| {
            looked.concerned |= whose.goes(rows, &messages)?.contains(&true);
            Ok(())
        })
        .await
    }

    async fn read(
        &self,
        store: &Arc<dyn ObjectStore>,
        file: &DataFile,
        schema: SchemaRef,
        mut see: impl FnMut(&arrow::array::RecordBatch, &mut Looked) -> Result<(), ArrowError> + Send + 'static,
    ) -> Result<Looked, EraseError> {
        let unreadable = |reason: String| EraseError::Unreadable { file: file.path.clone(), reason };
        if schema.fields().is_empty() {
            return Ok(Looked::default());
        }
        let mut batches =
            source::read(Arc::clone(store), vec![file.clone()], schema, Columns::Some, BATCH_ROWS);
        let runtime = tokio::runtime::Handle::current();
        // Decoding takes long enough to hold up the runtime's own threads.
        let work = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                let mut looked = Looked::default();
                while let Some(rows) = batches.try_next().await.map_err(|fault| fault.reason)? {
                    see(&rows, &mut looked).map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(looked)
            })
        });
        work.await.map_err(|ended| unreadable(ended.to_string()))?.map_err(unreadable)
    }
}

fn columns(schema: &SchemaRef, wanted: impl Fn(&str, &DataType) -> bool) -> SchemaRef {
    let fields = schema.fields().iter().filter(|field| wanted(field.name(), field.data_type()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

fn may_be_text(kind: &DataType) -> bool {
    !kind.is_numeric() && !kind.is_temporal() && !matches!(kind, DataType::Boolean | DataType::Null)
}
