//! Values that a destination cannot hold: cut or replaced before the load, and noted in a column of their row, so that one
//! such value neither stops every load nor is lost in silence. The lake keeps the whole value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::mapping::{Column, Kind};

/// The column that says what was done to a row's values, null where nothing was.
pub const NOTE_COLUMN: &str = "load_note";

/// How much of a JSON value that is too long is kept, in bytes; an eighth of what fits, if that is less, as escapes make
/// it longer again.
const JSON_START_BYTES: usize = 1_024;

/// What a destination can hold. NUL it never can.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Bytes of UTF-8, by column; columns that are not here hold any length.
    pub bytes: BTreeMap<String, usize>,
    /// Whether JSON is parsed by the destination, so that a text which is none would stop the load.
    pub parses_json: bool,
}

/// The rows with values that fit, and a note for each row that was changed.
pub struct Fitted {
    pub batch: RecordBatch,
    pub notes: Vec<Option<String>>,
}

impl Fitted {
    /// The rows with [`NOTE_COLUMN`] as the last column.
    pub fn with_notes(self) -> Result<RecordBatch, arrow::error::ArrowError> {
        let notes: ArrayRef = Arc::new(self.notes.into_iter().collect::<arrow::array::StringArray>());
        let mut fields = self.batch.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(NOTE_COLUMN, DataType::Utf8, true)));
        let mut columns = self.batch.columns().to_vec();
        columns.push(notes);
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }
}

/// Makes the values of `batch`, whose columns are `columns`, fit. `None` when all fit as they are, which is nearly always.
pub fn fit(
    batch: &RecordBatch,
    columns: &[Column],
    limits: &Limits,
) -> Result<Option<Fitted>, arrow::error::ArrowError> {
    let mut notes: Vec<Option<String>> = Vec::new();
    let mut fitted = batch.columns().to_vec();
    for (array, column) in fitted.iter_mut().zip(columns) {
        let most = limits.bytes.get(&column.name).copied().unwrap_or(usize::MAX);
        let one = |value| match column.kind {
            Kind::Text => fit_text(value, most),
            Kind::Json => fit_json(value, most, limits.parses_json),
            _ => None,
        };
        if !matches!(column.kind, Kind::Text | Kind::Json) {
            continue;
        }
        let Some(texts) = array.as_string_opt::<i32>() else { continue };
        if !texts.iter().flatten().any(|value| one(value).is_some()) {
            continue;
        }
        notes.resize(batch.num_rows(), None);
        let mut builder = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
        for (value, note) in texts.iter().zip(&mut notes) {
            match (value, value.and_then(one)) {
                (_, Some((fits, said))) => {
                    builder.append_value(fits);
                    let note = note.get_or_insert_default();
                    let separator = if note.is_empty() { "" } else { "; " };
                    let _ = write!(note, "{separator}{}: {said}", column.name);
                }
                (Some(value), None) => builder.append_value(value),
                (None, None) => builder.append_null(),
            }
        }
        *array = Arc::new(builder.finish());
    }
    if notes.is_empty() {
        return Ok(None);
    }
    Ok(Some(Fitted { batch: RecordBatch::try_new(batch.schema(), fitted)?, notes }))
}

fn fit_text(value: &str, most: usize) -> Option<(Cow<'_, str>, String)> {
    let nul = value.contains('\0');
    if !nul && value.len() <= most {
        return None;
    }
    let mut said = Vec::new();
    let mut fits = Cow::Borrowed(value);
    if nul {
        said.push("NUL replaced by U+FFFD".to_owned());
        fits = Cow::Owned(value.replace('\0', "\u{FFFD}"));
    }
    if fits.len() > most {
        let kept = start(&fits, most).to_owned();
        said.push(format!("the first {} of {} bytes", kept.len(), value.len()));
        fits = Cow::Owned(kept);
    }
    Some((fits, said.join(", ")))
}

fn fit_json(value: &str, most: usize, parsed: bool) -> Option<(Cow<'_, str>, String)> {
    if parsed && !is_json(value) {
        let text = value.replace('\0', "\u{FFFD}");
        let kept = start(&text, JSON_START_BYTES.min(most / 8));
        let wrapped = json!({"sendlake_not_json": {"bytes": value.len(), "start": kept}});
        return Some((wrapped.to_string().into(), "no JSON, so it stands in an object as text".to_owned()));
    }
    let without_nul = without_nul(value);
    let length = without_nul.as_deref().unwrap_or(value).len();
    if length > most {
        let kept = start(value, JSON_START_BYTES.min(most / 8));
        let wrapped = json!({"sendlake_cut": {"bytes": value.len(), "start": kept}}).to_string();
        let said = format!("the first {} of {} bytes, as text in an object", kept.len(), value.len());
        return Some((wrapped.into(), said));
    }
    without_nul.map(|fits| (fits.into(), "NUL replaced by U+FFFD".to_owned()))
}

/// Whether a strict parser takes it: escapes of half a surrogate pair are no JSON for PostgreSQL.
fn is_json(value: &str) -> bool {
    if value.contains("\\u") {
        serde_json::from_str::<Value>(value).is_ok()
    } else {
        serde_json::from_str::<IgnoredAny>(value).is_ok()
    }
}

/// The same JSON with its escapes of NUL replaced, if it has any; all else to the byte as it was.
fn without_nul(value: &str) -> Option<String> {
    if !value.contains("\\u0000") {
        return None;
    }
    let mut replaced = String::with_capacity(value.len());
    let (mut left, mut any) = (value, false);
    while let Some(at) = left.find('\\') {
        let (before, escape) = left.split_at(at);
        replaced.push_str(before);
        let (escape, rest) = match escape.strip_prefix("\\u0000") {
            Some(rest) => {
                any = true;
                ("\\ufffd", rest)
            }
            None => escape.split_at_checked(2).unwrap_or((escape, "")),
        };
        replaced.push_str(escape);
        left = rest;
    }
    replaced.push_str(left);
    any.then_some(replaced)
}

/// As much of the beginning as fits into `most` bytes, in whole characters.
fn start(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;

    fn fitted(
        kind: Kind,
        most: usize,
        values: &[Option<&str>],
    ) -> Option<Vec<(Option<String>, Option<String>)>> {
        let column = Column { name: "c".to_owned(), kind, nullable: true, mask: None };
        let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8, true)]));
        let array: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        let batch = RecordBatch::try_new(schema, vec![array]).unwrap();
        let limits = Limits { bytes: [("c".to_owned(), most)].into(), parses_json: true };
        let fitted = fit(&batch, &[column], &limits).unwrap()?;
        let texts = fitted.batch.column(0).as_string::<i32>().iter().map(|text| text.map(str::to_owned));
        Some(texts.zip(fitted.notes).collect())
    }

    #[test]
    fn what_fits_is_left_alone() {
        assert!(fitted(Kind::Text, 4, &[Some("four"), None, Some("")]).is_none());
        assert!(fitted(Kind::Json, 100, &[Some(r#"{"a":"\\u0000 \n"}"#), None]).is_none());
    }

    #[test]
    fn long_text_is_cut_between_characters_and_noted() {
        let rows = fitted(Kind::Text, 5, &[Some("ab😀cd"), Some("ok"), None, Some("a\0b")]).unwrap();
        assert_eq!(rows[0], (Some("ab".into()), Some("c: the first 2 of 8 bytes".into())));
        assert_eq!(rows[1], (Some("ok".into()), None));
        assert_eq!(rows[2], (None, None));
        assert_eq!(rows[3], (Some("a\u{FFFD}b".into()), Some("c: NUL replaced by U+FFFD".into())));
    }

    #[test]
    fn json_stays_json() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(5_000));
        let values = [long.as_str(), r#"{"a\u0000":"\\\u0000","n":1e400}"#, "{oops", r#"{"a":"\ud800"}"#];
        let rows = fitted(Kind::Json, 2_000, &values.map(Some)).unwrap();
        for (value, note) in &rows {
            let value = value.as_deref().unwrap();
            assert!(value.len() <= 2_000 && note.is_some(), "{value}");
            assert!(
                value.contains("1e400") || serde_json::from_str::<Value>(value).unwrap().is_object(),
                "{value}"
            );
        }
        assert!(
            rows[1].1.as_deref().unwrap().contains("no JSON")
                || rows[1].0.as_deref().unwrap().contains("ufffd")
        );
    }
}
