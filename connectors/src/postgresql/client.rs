//! Connections to the database, and rows as its binary COPY takes them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Int32Type, Int64Type, TimestampMicrosecondType};

use super::Settings;
use crate::mapping::{Column, Kind};
use crate::pgwire::{Address, Connection};
use crate::target::TargetError;

/// From 1970-01-01, where Arrow counts from, to 2000-01-01, where PostgreSQL does.
const DAYS_TO_2000: i32 = 10_957;
const MICROS_TO_2000: i64 = DAYS_TO_2000 as i64 * 86_400_000_000;

/// "Binary format" in the reference of COPY: signature, flags, length of an extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: &[u8] = &[0xff, 0xff];
/// Of `jsonb` as it is sent.
const JSONB_VERSION: u8 = 1;

pub async fn open(
    settings: &Settings,
    password: Option<&Zeroizing<String>>,
    within: Duration,
) -> Result<Connection, TargetError> {
    let connection = Connection::open(&Address {
        host: &settings.host,
        port: settings.port,
        database: &settings.database,
        user: &settings.user,
        password: password.map(|password| password.as_str()),
        sslmode: settings.sslmode,
        ca_file: settings.ca_file.as_deref(),
    })
    .await?;
    // The server gives up when we do. A commit is durable when it is answered, whatever the server's default.
    let setup = format!("SET statement_timeout = {}; SET synchronous_commit = on", within.as_millis());
    connection.run(&setup, Duration::from_secs(30)).await?;
    Ok(connection)
}

pub fn copy_header() -> Bytes {
    Bytes::from_static(COPY_HEADER)
}

pub fn copy_trailer() -> Bytes {
    Bytes::from_static(COPY_TRAILER)
}

/// Rows of `columns` and, as the last field, a note.
pub fn copy_rows(
    batch: &RecordBatch,
    columns: &[Column],
    notes: Option<&[Option<String>]>,
) -> Result<Bytes, TargetError> {
    let shape = |reason: String| TargetError::Local(format!("staged file: {reason}"));
    let fields = i16::try_from(columns.len() + 1).map_err(|error| shape(error.to_string()))?;
    let mut rows = BytesMut::with_capacity(batch.get_array_memory_size());
    for row in 0..batch.num_rows() {
        rows.put_i16(fields);
        for (column, array) in columns.iter().zip(batch.columns()) {
            if array.is_null(row) {
                rows.put_i32(-1);
            } else if !put_value(&mut rows, array.as_ref(), row, column.kind) {
                return Err(shape(format!("column {} is {}", column.name, array.data_type())));
            }
        }
        match notes.and_then(|notes| notes.get(row)).and_then(Option::as_deref) {
            Some(note) => put_bytes(&mut rows, &[], note.as_bytes()),
            None => rows.put_i32(-1),
        }
    }
    Ok(rows.freeze())
}

fn put_value(rows: &mut BytesMut, array: &dyn Array, row: usize, kind: Kind) -> bool {
    let put = match kind {
        Kind::Text => {
            array.as_string_opt::<i32>().map(|texts| put_bytes(rows, &[], texts.value(row).as_bytes()))
        }
        Kind::Json => {
            let texts = array.as_string_opt::<i32>();
            texts.map(|texts| put_bytes(rows, &[JSONB_VERSION], texts.value(row).as_bytes()))
        }
        Kind::Integer => array.as_primitive_opt::<Int32Type>().map(|numbers| {
            rows.put_i32(4);
            rows.put_i32(numbers.value(row));
        }),
        Kind::BigInt => array.as_primitive_opt::<Int64Type>().map(|numbers| {
            rows.put_i32(8);
            rows.put_i64(numbers.value(row));
        }),
        Kind::Boolean => array.as_boolean_opt().map(|values| {
            rows.put_i32(1);
            rows.put_u8(u8::from(values.value(row)));
        }),
        Kind::Timestamp => array.as_primitive_opt::<TimestampMicrosecondType>().map(|instants| {
            rows.put_i32(8);
            rows.put_i64(instants.value(row).saturating_sub(MICROS_TO_2000));
        }),
        Kind::Date => array.as_primitive_opt::<Date32Type>().map(|days| {
            rows.put_i32(4);
            rows.put_i32(days.value(row).saturating_sub(DAYS_TO_2000));
        }),
    };
    put.is_some()
}

fn put_bytes(rows: &mut BytesMut, before: &[u8], bytes: &[u8]) {
    // Arrow's own offsets are 32 bits: a value is never longer.
    rows.put_i32(i32::try_from(before.len() + bytes.len()).unwrap_or(i32::MAX));
    rows.put_slice(before);
    rows.put_slice(bytes);
}
