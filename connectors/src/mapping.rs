//! The columns that leave for a destination: which, of what kind, and what is masked in them. Derived from the event schema,
//! so that a column added there is added in every target.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use sendlake_ingest::event::EVENTS_SCHEMA;
use serde::{Deserialize, Serialize};

/// Columns that every export has: by them rows are told apart, found again and compared.
pub const KEY_COLUMNS: [&str; 8] = [
    "event_id", "event_type", "occurred_at", "recorded_at", "event_date", "tenant_id", "incarnation", "lsn",
];

/// Columns that hold JSON as text.
const JSON_COLUMNS: [&str; 2] = ["tags", "detail"];

/// What a column holds, in words that each destination has a type for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// UTF-8 of any length.
    Text,
    /// 32 bits, signed.
    Integer,
    /// 64 bits, signed.
    BigInt,
    Boolean,
    /// Microseconds, UTC.
    Timestamp,
    /// A UTC day.
    Date,
    /// JSON as UTF-8 text: an object, where it is not null.
    Json,
}

/// What is done to a value before it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mask {
    /// The first 128 bits of its HMAC-SHA-256 under the connector's own key, as 32 hexadecimal digits: the same value gives
    /// the same digits, in this connector alone.
    Hash,
    /// What comes after the last `@`, if there is one; else nothing.
    Domain,
    /// NULL.
    Null,
}

/// One column as it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub nullable: bool,
    pub mask: Option<Mask>,
}

/// The columns of one table, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The lake's table, `events`.
    pub table: String,
    pub columns: Vec<Column>,
    /// Names this list of columns, kinds and masks: 16 hexadecimal digits. Another list has another.
    pub version: String,
}

/// A list of columns that cannot be exported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    #[error("there is no column {0:?} in events; docs/events.md lists them")]
    Unknown(String),
    #[error("{0:?} cannot be left out: rows are told apart and compared by it")]
    KeyLeftOut(String),
    #[error("{0:?} cannot be masked: rows are told apart and compared by it")]
    KeyMasked(String),
    #[error("{name:?} holds no text, so {mask:?} has nothing to work on; use \"null\", or leave it out")]
    NoText { name: String, mask: Mask },
}

impl Mapping {
    /// The columns of `events`: those of `only` (all, where it is empty) but for those of `except`; key columns always.
    pub fn of_events(
        only: &[String],
        except: &[String],
        masks: &BTreeMap<String, Mask>,
    ) -> Result<Self, MappingError> {
        for name in only.iter().chain(except).chain(masks.keys()) {
            if EVENTS_SCHEMA.field_with_name(name).is_err() {
                return Err(MappingError::Unknown(name.clone()));
            }
        }
        let is_key = |name: &String| KEY_COLUMNS.contains(&name.as_str());
        if let Some(name) = except.iter().find(|name| is_key(name)) {
            return Err(MappingError::KeyLeftOut(name.clone()));
        }
        if let Some(name) = masks.keys().find(|name| is_key(name)) {
            return Err(MappingError::KeyMasked(name.clone()));
        }
        let mut columns = Vec::new();
        for field in EVENTS_SCHEMA.fields() {
            let name = field.name();
            let wanted = only.is_empty() || only.contains(name);
            if !is_key(name) && (!wanted || except.contains(name)) {
                continue;
            }
            let kind = kind_of(field);
            let mask = masks.get(name).copied();
            if let Some(mask) = mask
                && mask != Mask::Null
                && kind != Kind::Text
            {
                return Err(MappingError::NoText { name: name.clone(), mask });
            }
            columns.push(Column { name: name.clone(), kind, nullable: field.is_nullable(), mask });
        }
        Ok(Self::new("events", columns))
    }

    fn new(table: &str, columns: Vec<Column>) -> Self {
        let text: String = columns
            .iter()
            .map(|column| format!("{} {:?} {} {:?}\n", column.name, column.kind, column.nullable, column.mask))
            .collect();
        let sum = digest(&SHA256, format!("{table}\n{text}").as_bytes());
        let version = HEXLOWER.encode(sum.as_ref()).chars().take(16).collect();
        Self { table: table.to_owned(), columns, version }
    }

    /// The key columns alone: what a deletion is staged as.
    pub fn keys(&self) -> Self {
        let keys = self.columns.iter().filter(|column| KEY_COLUMNS.contains(&column.name.as_str()));
        Self::new(&self.table, keys.cloned().collect())
    }

    /// How staged files hold these columns: text and JSON as Utf8, instants as microseconds of UTC.
    pub fn arrow_schema(&self) -> SchemaRef {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|column| Field::new(&column.name, arrow_type(column.kind), column.nullable))
            .collect();
        Arc::new(Schema::new(fields))
    }

    /// The names of the columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }
}

fn kind_of(field: &Field) -> Kind {
    match field.data_type() {
        _ if JSON_COLUMNS.contains(&field.name().as_str()) => Kind::Json,
        DataType::Int32 => Kind::Integer,
        DataType::Int64 => Kind::BigInt,
        DataType::Boolean => Kind::Boolean,
        DataType::Timestamp(..) => Kind::Timestamp,
        DataType::Date32 => Kind::Date,
        DataType::Map(..) => Kind::Json,
        _ => Kind::Text,
    }
}

fn arrow_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text | Kind::Json => DataType::Utf8,
        Kind::Integer => DataType::Int32,
        Kind::BigInt => DataType::Int64,
        Kind::Boolean => DataType::Boolean,
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Date => DataType::Date32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_column_of_events_leaves_with_a_kind() {
        let all = Mapping::of_events(&[], &[], &BTreeMap::new()).unwrap();
        assert_eq!(all.columns.len(), EVENTS_SCHEMA.fields().len());
        let kind = |name: &str| all.columns.iter().find(|column| column.name == name).unwrap().kind;
        assert_eq!(
            (kind("tags"), kind("detail"), kind("lsn"), kind("event_date"), kind("spf_aligned")),
            (Kind::Json, Kind::Json, Kind::BigInt, Kind::Date, Kind::Boolean)
        );
        // A kind that nobody thought of would leave as text: each type of the schema is one that is meant.
        for field in EVENTS_SCHEMA.fields() {
            let meant = matches!(
                field.data_type(),
                DataType::Utf8 | DataType::Int32 | DataType::Int64 | DataType::Boolean | DataType::Date32
                    | DataType::Timestamp(TimeUnit::Microsecond, Some(_)) | DataType::Map(..)
            );
            assert!(meant, "{field:?}");
        }
    }

    #[test]
    fn keys_stay_and_another_list_has_another_version() {
        let all = Mapping::of_events(&[], &[], &BTreeMap::new()).unwrap();
        let few = Mapping::of_events(&names(&["stream"]), &[], &BTreeMap::new()).unwrap();
        assert_eq!(few.columns.len(), KEY_COLUMNS.len() + 1);
        assert_eq!(all.keys().columns.len(), KEY_COLUMNS.len());
        let masked =
            Mapping::of_events(&names(&["stream"]), &[], &[("stream".to_owned(), Mask::Null)].into()).unwrap();
        let versions = [&all.version, &few.version, &masked.version];
        assert!(versions.iter().all(|version| version.len() == 16));
        assert!(versions[0] != versions[1] && versions[1] != versions[2]);
    }

    #[test]
    fn what_cannot_be_exported_is_named() {
        let error = |only: &[&str], except: &[&str], mask: Option<(&str, Mask)>| {
            let masks = mask.map(|(name, mask)| (name.to_owned(), mask)).into_iter().collect();
            Mapping::of_events(&names(only), &names(except), &masks).unwrap_err()
        };
        assert_eq!(error(&["recipent"], &[], None), MappingError::Unknown("recipent".into()));
        assert_eq!(error(&[], &["lsn"], None), MappingError::KeyLeftOut("lsn".into()));
        let key = error(&[], &[], Some(("event_id", Mask::Hash)));
        assert_eq!(key, MappingError::KeyMasked("event_id".into()));
        let number = error(&[], &[], Some(("size_bytes", Mask::Hash)));
        assert!(matches!(number, MappingError::NoText { .. }), "{number}");
    }
}
