//! How one Rust type becomes one Arrow column.

use arrow::array::{
    ArrayBuilder, BooleanBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, TimeUnit};
use sendlake_control::clock::Timestamp;

pub(super) trait Column: Sized {
    type Builder: ArrayBuilder;

    fn data_type() -> DataType;
    /// For about so many rows.
    fn builder(rows: usize) -> Self::Builder;
    fn append(builder: &mut Self::Builder, value: Option<&Self>);
}

impl Column for String {
    type Builder = StringBuilder;

    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn builder(rows: usize) -> StringBuilder {
        // Room that is never written to costs nothing.
        StringBuilder::with_capacity(rows, rows.saturating_mul(16))
    }

    fn append(builder: &mut StringBuilder, value: Option<&Self>) {
        builder.append_option(value);
    }
}

impl Column for i32 {
    type Builder = Int32Builder;

    fn data_type() -> DataType {
        DataType::Int32
    }

    fn builder(rows: usize) -> Int32Builder {
        Int32Builder::with_capacity(rows)
    }

    fn append(builder: &mut Int32Builder, value: Option<&Self>) {
        builder.append_option(value.copied());
    }
}

impl Column for i64 {
    type Builder = Int64Builder;

    fn data_type() -> DataType {
        DataType::Int64
    }

    fn builder(rows: usize) -> Int64Builder {
        Int64Builder::with_capacity(rows)
    }

    fn append(builder: &mut Int64Builder, value: Option<&Self>) {
        builder.append_option(value.copied());
    }
}

impl Column for bool {
    type Builder = BooleanBuilder;

    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn builder(rows: usize) -> BooleanBuilder {
        BooleanBuilder::with_capacity(rows)
    }

    fn append(builder: &mut BooleanBuilder, value: Option<&Self>) {
        builder.append_option(value.copied());
    }
}

impl Column for Timestamp {
    type Builder = TimestampMicrosecondBuilder;

    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    fn builder(rows: usize) -> TimestampMicrosecondBuilder {
        TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC")
    }

    fn append(builder: &mut TimestampMicrosecondBuilder, value: Option<&Self>) {
        builder.append_option(value.map(|at| at.0));
    }
}
