//! What Delta's log says of a file: how many rows, and of each column that questions narrow by the least and the greatest
//! value and the count of nulls. Of other columns nothing, as their values may hold an address.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use sendlake_control::clock::Timestamp;
use serde_json::{Map, Value, json};

use crate::table::layout::SKIPPING;

/// The member `stats` of an `add`, as JSON.
pub(super) fn statistics(rows: &RecordBatch) -> Result<String, ArrowError> {
    let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
    for name in SKIPPING {
        let Some(column) = rows.column_by_name(name) else { continue };
        nulls.insert((*name).to_owned(), json!(column.null_count()));
        if let Some((low, high)) = range(column) {
            least.insert((*name).to_owned(), low);
            greatest.insert((*name).to_owned(), high);
        }
    }
    let all = json!({
        "numRecords": rows.num_rows(),
        "minValues": least,
        "maxValues": greatest,
        "nullCount": nulls,
    });
    Ok(all.to_string())
}

/// `None` when every value is null.
fn range(column: &ArrayRef) -> Option<(Value, Value)> {
    match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            Some((json!(min_string(texts)?), json!(max_string(texts)?)))
        }
        DataType::Int32 => {
            let numbers = column.as_primitive::<Int32Type>();
            Some((json!(min(numbers)?), json!(max(numbers)?)))
        }
        DataType::Int64 => {
            let numbers = column.as_primitive::<Int64Type>();
            Some((json!(min(numbers)?), json!(max(numbers)?)))
        }
        DataType::Timestamp(..) => {
            let instants = column.as_primitive::<TimestampMicrosecondType>();
            Some((instant(min(instants)?), instant(max(instants)?)))
        }
        _ => None,
    }
}

/// To the millisecond, cut off: so the protocol has it, and readers allow for it.
fn instant(micros: i64) -> Value {
    let text = Timestamp(micros).to_string();
    json!(text.get(..23).map_or(text.clone(), |millis| format!("{millis}Z")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::to_batch;
    use crate::testing::events;

    #[test]
    fn ranges_are_kept_of_what_questions_narrow_by_and_of_nothing_else() {
        let batch = to_batch(&events(uuid::Uuid::from_u128(1), 1..=9)).unwrap();
        let text = statistics(&batch).unwrap();
        let stats: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(stats["numRecords"], 9);
        assert_eq!((&stats["minValues"]["lsn"], &stats["maxValues"]["lsn"]), (&json!(1), &json!(9)));
        assert_eq!(stats["minValues"]["tenant_id"], "acme");
        assert_eq!(stats["maxValues"]["recorded_at"], "2026-01-31T12:00:00.132Z");
        assert_eq!(stats["nullCount"]["stream"], 9);
        assert!(stats["minValues"].get("stream").is_none(), "a column of nulls has no least value");
        assert!(!text.contains('@'), "{text}");
        let names = stats["nullCount"].as_object().unwrap().keys();
        assert!(names.into_iter().all(|name| SKIPPING.contains(&name.as_str())), "{text}");
    }
}
