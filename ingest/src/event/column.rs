//! How one Rust type becomes one Arrow column.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use sendlake_control::clock::Timestamp;

pub(super) trait Column: Sized {
    fn data_type() -> DataType;
    fn array<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef
    where
        Self: 'a;
}

impl Column for String {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn array<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.collect::<StringArray>())
    }
}

impl Column for i32 {
    fn data_type() -> DataType {
        DataType::Int32
    }

    fn array<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.map(Option::<&i32>::copied).collect::<Int32Array>())
    }
}

impl Column for i64 {
    fn data_type() -> DataType {
        DataType::Int64
    }

    fn array<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.map(Option::<&i64>::copied).collect::<Int64Array>())
    }
}

impl Column for bool {
    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn array<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.map(Option::<&bool>::copied).collect::<BooleanArray>())
    }
}

impl Column for Timestamp {
    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    fn array<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        let micros = values.map(|value| value.map(|at| at.0)).collect::<TimestampMicrosecondArray>();
        Arc::new(micros.with_timezone("UTC"))
    }
}
