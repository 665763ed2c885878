//! What an erasure does to rows: which go, and what is replaced in those that stay.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, MapArray, RecordBatch, StringArray, StructArray, make_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use futures::FutureExt;
use futures::future::BoxFuture;
use sendlake_control::id::TenantId;

use super::forms::AddressForms;
use super::keys::ErasedKeys;
use crate::maintain::MaintainError;
use crate::maintain::rewrite::Edit;

/// Whose rows are erased.
#[derive(Clone, Debug)]
pub enum Whose {
    /// One recipient's, of one tenant or of all.
    Recipient { forms: AddressForms, tenant: Option<TenantId> },
    /// All rows of a tenant.
    Tenant(TenantId),
}

/// An erasure as an edit of rows. Counts what it changes.
pub(super) struct EraseEdit {
    whose: Whose,
    /// Messages whose events go, whatever stands in them.
    messages: HashSet<String>,
    pub redacted: AtomicU64,
    pub dropped: AtomicU64,
    /// Where it is kept which rows these are, if anybody has to know.
    keys: Option<ErasedKeys>,
}

impl EraseEdit {
    pub fn new(whose: Whose, messages: HashSet<String>, keys: Option<ErasedKeys>) -> Self {
        Self { whose, messages, redacted: AtomicU64::new(0), dropped: AtomicU64::new(0), keys }
    }
}

impl Edit for EraseEdit {
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let go = self.whose.goes(&rows, &self.messages)?;
        let stay: BooleanArray = go.iter().map(|goes| Some(!goes)).collect();
        let all = rows.clone();
        let kept = if go.iter().any(|goes| *goes) { filter_record_batch(&rows, &stay)? } else { rows };
        self.dropped.fetch_add(stay.false_count() as u64, Ordering::Relaxed);
        if let Some(keys) = &self.keys {
            keys.add(&all, &BooleanArray::from(go), "delete")?;
        }
        let Some((clean, touched)) = self.whose.redact(&kept)? else { return Ok(kept) };
        let touched = BooleanArray::from(touched);
        self.redacted.fetch_add(touched.true_count() as u64, Ordering::Relaxed);
        if let Some(keys) = &self.keys {
            keys.add(&clean, &touched, "replace")?;
        }
        Ok(clean)
    }

    fn before_commit(&self) -> BoxFuture<'_, Result<(), MaintainError>> {
        async {
            match &self.keys {
                Some(keys) => Ok(keys.keep().await?),
                None => Ok(()),
            }
        }
        .boxed()
    }
}

impl Whose {
    /// For each row whether it goes: it is to the recipient, or of one of their messages.
    pub(super) fn goes(
        &self,
        rows: &RecordBatch,
        messages: &HashSet<String>,
    ) -> Result<Vec<bool>, ArrowError> {
        let tenants = text(rows, "tenant_id")?;
        match self {
            Self::Tenant(tenant) => {
                let tenants =
                    tenants.ok_or_else(|| ArrowError::SchemaError("rows have no tenant_id".into()))?;
                Ok((0..rows.num_rows()).map(|row| tenants.value(row) == tenant.as_str()).collect())
            }
            Self::Recipient { forms, tenant } => {
                let (recipients, ids) = (text(rows, "recipient")?, text(rows, "message_id")?);
                let goes = |row: usize| {
                    let is_theirs = tenant_is(tenant.as_ref(), tenants.as_ref(), row);
                    let of = |column: &Option<StringArray>, wanted: &dyn Fn(&str) -> bool| {
                        column
                            .as_ref()
                            .is_some_and(|column| column.is_valid(row) && wanted(column.value(row)))
                    };
                    is_theirs
                        && (of(&recipients, &|it| forms.is(it)) || of(&ids, &|it| messages.contains(it)))
                };
                Ok((0..rows.num_rows()).map(goes).collect())
            }
        }
    }

    /// Rows with the address replaced in every text column but `recipient`, which is another person's in rows that
    /// stay; and which rows changed. `None` when none did.
    pub(super) fn redact(&self, rows: &RecordBatch) -> Result<Option<(RecordBatch, Vec<bool>)>, ArrowError> {
        let Self::Recipient { forms, tenant } = self else { return Ok(None) };
        let tenants = text(rows, "tenant_id")?;
        let mut touched = vec![false; rows.num_rows()];
        let mut columns = rows.columns().to_vec();
        for (field, column) in rows.schema().fields().iter().zip(&mut columns) {
            if field.name() == "recipient" || !may_hold(forms, column) {
                continue;
            }
            let theirs = |row: usize| tenant_is(tenant.as_ref(), tenants.as_ref(), row);
            if let Some(clean) = redact_array(forms, column, &theirs, &mut touched)? {
                *column = clean;
            }
        }
        if !touched.contains(&true) {
            return Ok(None);
        }
        Ok(Some((RecordBatch::try_new(rows.schema(), columns)?, touched)))
    }
}

fn tenant_is(wanted: Option<&TenantId>, tenants: Option<&StringArray>, row: usize) -> bool {
    wanted.is_none_or(|wanted| tenants.is_none_or(|tenants| tenants.value(row) == wanted.as_str()))
}

/// A column of plain text; `None` where the rows have none of that name.
pub(super) fn text(rows: &RecordBatch, name: &str) -> Result<Option<StringArray>, ArrowError> {
    let Some(column) = rows.column_by_name(name) else { return Ok(None) };
    Ok(Some(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()))
}

/// Whether any text below this column may hold the address: one search over the whole buffer.
pub(super) fn may_hold(forms: &AddressForms, column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Utf8 => forms.may_be_in(column.as_string::<i32>().value_data()),
        DataType::LargeUtf8 => forms.may_be_in(column.as_string::<i64>().value_data()),
        DataType::Utf8View | DataType::Dictionary(..) => {
            cast(column, &DataType::Utf8).is_ok_and(|plain| may_hold(forms, &plain))
        }
        DataType::Binary => forms.may_be_in(column.as_binary::<i32>().value_data()),
        DataType::Map(..) => column.as_map().entries().columns().iter().any(|child| may_hold(forms, child)),
        DataType::Struct(_) => column.as_struct().columns().iter().any(|child| may_hold(forms, child)),
        DataType::List(_) => may_hold(forms, column.as_list::<i32>().values()),
        _ => false,
    }
}

/// Whether the address is in any value of a column.
pub(crate) fn holds(forms: &AddressForms, column: &ArrayRef) -> bool {
    if !may_hold(forms, column) {
        return false;
    }
    match column.data_type() {
        DataType::Map(..) => column.as_map().entries().columns().iter().any(|child| holds(forms, child)),
        DataType::Struct(_) => column.as_struct().columns().iter().any(|child| holds(forms, child)),
        DataType::List(_) => holds(forms, column.as_list::<i32>().values()),
        DataType::Binary => column.as_binary::<i32>().iter().flatten().any(|value| forms.is_in(value)),
        _ => cast(column, &DataType::Utf8).is_ok_and(|plain| {
            plain.as_string::<i32>().iter().flatten().any(|value| forms.is_in(value.as_bytes()))
        }),
    }
}

/// The column with the address replaced in the rows that `theirs` names, which are marked in `touched`.
fn redact_array(
    forms: &AddressForms,
    column: &ArrayRef,
    theirs: &dyn Fn(usize) -> bool,
    touched: &mut [bool],
) -> Result<Option<ArrayRef>, ArrowError> {
    match column.data_type() {
        DataType::Map(field, ordered) => {
            let map = column.as_map();
            let offsets = map.offsets();
            let row_of = |value: usize| {
                let after =
                    offsets.partition_point(|offset| usize::try_from(*offset).is_ok_and(|it| it <= value));
                after.saturating_sub(1)
            };
            let mut entries = map.entries().columns().to_vec();
            let mut changed = false;
            for child in &mut entries {
                let mut inner = vec![false; child.len()];
                let theirs = |value: usize| theirs(row_of(value));
                if let Some(clean) = redact_array(forms, child, &theirs, &mut inner)? {
                    *child = clean;
                    changed = true;
                    for value in
                        inner.iter().enumerate().filter(|(_, touched)| **touched).map(|(value, _)| value)
                    {
                        if let Some(row) = touched.get_mut(row_of(value)) {
                            *row = true;
                        }
                    }
                }
            }
            if !changed {
                return Ok(None);
            }
            let DataType::Struct(fields) = field.data_type() else { return Ok(None) };
            let entries = StructArray::try_new(fields.clone(), entries, map.entries().nulls().cloned())?;
            let clean =
                MapArray::try_new(field.clone(), offsets.clone(), entries, map.nulls().cloned(), *ordered)?;
            Ok(Some(Arc::new(clean)))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            let plain = cast(column, &DataType::Utf8)?;
            let plain = plain.as_string::<i32>();
            let mut changed = false;
            let clean: StringArray = plain
                .iter()
                .enumerate()
                .map(|(row, value)| {
                    let clean = value.filter(|_| theirs(row)).and_then(|value| forms.redact(value));
                    if clean.is_some() {
                        changed = true;
                        touched.iter_mut().skip(row).take(1).for_each(|touched| *touched = true);
                    }
                    clean.map_or_else(|| value.map(str::to_owned), Some)
                })
                .collect();
            if !changed {
                return Ok(None);
            }
            let clean: ArrayRef = Arc::new(clean);
            Ok(Some(cast(&make_array(clean.to_data()), column.data_type())?))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::event::to_batch;
    use crate::testing::events;

    fn edit(tenant: Option<&str>) -> EraseEdit {
        let forms = AddressForms::new("PERSON4@secret.example").unwrap();
        let tenant = tenant.map(|name| TenantId::new(name).unwrap());
        EraseEdit::new(Whose::Recipient { forms, tenant }, HashSet::from(["message-0838".to_owned()]), None)
    }

    /// Six events to six people, whose texts all name person 4.
    fn rows() -> RecordBatch {
        let mut rows = events(Uuid::from_u128(1), 1..=6);
        for row in &mut rows {
            row.event.reply_text =
                Some("250 for Person4@secret.example, not xperson4@secret.example".to_owned());
            row.event
                .tags
                .insert("list-person4=secret.example".to_owned(), "to person4%40secret.example".to_owned());
        }
        to_batch(&rows).unwrap()
    }

    #[test]
    fn rows_to_them_and_of_their_messages_go_and_their_address_goes_from_the_rest() {
        // message-0838 is that of event 2
        let edit = edit(None);
        let left = edit.apply(rows()).unwrap();
        let lsns: Vec<i64> = left
            .column_by_name("lsn")
            .unwrap()
            .as_primitive::<arrow::datatypes::Int64Type>()
            .values()
            .to_vec();
        assert_eq!(lsns, [1, 3, 5, 6]);
        assert_eq!((edit.dropped.into_inner(), edit.redacted.into_inner()), (2, 4));
        let printed = arrow::util::pretty::pretty_format_batches(&[left]).unwrap().to_string();
        assert!(printed.contains("250 for [erased], not xperson4@secret.example"), "{printed}");
        assert!(printed.contains("list-[erased]: to [erased]"), "{printed}");
        assert!(printed.contains("person5@secret.example"), "{printed}");
    }

    #[test]
    fn one_tenants_erasure_leaves_other_tenants_rows_alone() {
        // every third row is zebra's
        let edit = edit(Some("zebra"));
        let before = rows();
        let left = edit.apply(before.clone()).unwrap();
        assert_eq!(left.num_rows(), 6);
        assert_eq!(edit.redacted.into_inner(), 2);
        assert_eq!(left.slice(0, 2), before.slice(0, 2));
        assert_ne!(left.slice(2, 1), before.slice(2, 1));
    }
}
