//! JSON values out of a stream: one a line, one after another, in one array, or one file each; and what is asked of
//! them. A damaged value costs its line, not the rest of the file.

use std::io::{self, BufRead};

use chrono::NaiveDateTime;
use sendlake_control::clock::Timestamp;
use serde_json::Value;

/// Longest value that is read: a page of 10,000 events as SparkPost's API hands them out fits.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// One value, or what stands where one should, and the line it begins on (from 1).
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) line: u64,
    text: Result<Vec<u8>, String>,
}

impl Record {
    pub(crate) fn value(&self) -> Result<Value, String> {
        let text = self.text.as_ref().map_err(Clone::clone)?;
        serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))
    }
}

/// The objects of a stream, in order.
pub(crate) struct Records<R> {
    input: R,
    /// Line of the next byte.
    line: u64,
}

/// Where the reader stands within a value.
#[derive(Default)]
struct Place {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The last byte outside of strings that is no white space.
    before: u8,
}

impl<R: BufRead> Records<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, line: 1 }
    }

    /// The line that is read next, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next object; `None` at the end. Fails where the input cannot be read any further.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            let Some(byte) = self.peek()? else { return Ok(None) };
            match byte {
                b'{' => return self.object().map(Some),
                // between values, and around them where they stand in an array
                b' ' | b'\t' | b'\r' | b'\n' | b',' | b'[' | b']' | 0xEF | 0xBB | 0xBF => self.skip(byte),
                _ => {
                    let line = self.line;
                    let said = self.rest_of_line()?;
                    let text = Err(format!("not a JSON object: {}", shown(&said)));
                    return Ok(Some(Record { line, text }));
                }
            }
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.input.fill_buf()?.first().copied())
    }

    fn skip(&mut self, byte: u8) {
        self.input.consume(1);
        self.line += u64::from(byte == b'\n');
    }

    /// Reads from a `{` to the `}` that closes it. Stops at what cannot be within one value: a line end in a string,
    /// and a `{` where no value may begin, which is the next record after one that was cut off.
    fn object(&mut self) -> io::Result<Record> {
        let line = self.line;
        let mut text = Vec::new();
        let mut place = Place::default();
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Ok(Record { line, text: Err("the value is cut off by the end of the file".into()) });
            }
            let mut taken = 0;
            let mut ended = None;
            for &byte in chunk {
                if place.is_cut_off_by(byte) {
                    ended = Some(Err("the value is cut off".to_owned()));
                    break;
                }
                taken += 1;
                self.line += u64::from(byte == b'\n');
                if place.closes_with(byte) {
                    ended = Some(Ok(()));
                    break;
                }
            }
            text.extend_from_slice(chunk.get(..taken).unwrap_or_default());
            self.input.consume(taken);
            if text.len() > RECORD_BYTES_MAX {
                self.rest_of_line()?;
                let why = format!("the value is longer than {} MiB", RECORD_BYTES_MAX >> 20);
                return Ok(Record { line, text: Err(why) });
            }
            match ended {
                Some(Ok(())) => return Ok(Record { line, text: Ok(text) }),
                Some(Err(why)) => return Ok(Record { line, text: Err(why) }),
                None => {}
            }
        }
    }

    /// What is left of a line; only its start is kept.
    fn rest_of_line(&mut self) -> io::Result<Vec<u8>> {
        let mut kept = Vec::new();
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Ok(kept);
            }
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(chunk.len(), |end| end + 1);
            let room = 100_usize.saturating_sub(kept.len());
            kept.extend(chunk.iter().take(taken.min(room)));
            self.input.consume(taken);
            if end.is_some() {
                self.line += 1;
                return Ok(kept);
            }
        }
    }
}

impl Place {
    fn is_cut_off_by(&self, byte: u8) -> bool {
        match byte {
            b'\n' => self.in_string,
            b'{' => !self.in_string && self.depth > 0 && !matches!(self.before, b':' | b',' | b'['),
            _ => false,
        }
    }

    /// Takes note of a byte. True at the brace that closes the value.
    fn closes_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' => self.depth += 1,
            b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            self.before = byte;
        }
        byte == b'}' && self.depth == 0
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// The text at a JSON pointer (RFC 6901), unless it is empty.
pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// A text or a number as text.
pub(super) fn told(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        _ => None,
    }
}

/// A number, or a text that is one.
pub(super) fn number(value: &Value, pointer: &str) -> Option<i64> {
    match value.pointer(pointer)? {
        #[expect(clippy::cast_possible_truncation, reason = "a fraction of a whole number's unit is dropped")]
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The items of an array; a single value counts as one.
pub(super) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    match value.pointer(pointer) {
        Some(Value::Array(items)) => items,
        Some(Value::Null) | None => &[],
        Some(one) => std::slice::from_ref(one),
    }
}

/// An instant: RFC 3339, the same without an offset (UTC), or seconds or milliseconds since 1970.
pub(super) fn instant(value: &Value, pointer: &str) -> Option<Timestamp> {
    match value.pointer(pointer)? {
        Value::Number(number) => of_number(number.as_f64()?),
        Value::String(text) => instant_in(text),
        _ => None,
    }
}

pub(super) fn instant_in(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return of_number(number);
    }
    let without_offset = || {
        let at = NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), "%Y-%m-%dT%H:%M:%S%.f").ok()?;
        Some(Timestamp(at.and_utc().timestamp_micros()))
    };
    Timestamp::parse(text).or_else(without_offset)
}

/// Above this a number counts milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: f64 = 1e11;

#[expect(clippy::cast_possible_truncation, reason = "the range was looked at")]
fn of_number(number: f64) -> Option<Timestamp> {
    let seconds = if number >= MILLIS_FROM { number / 1e3 } else { number };
    (seconds.is_finite() && (0.0..MILLIS_FROM).contains(&seconds))
        .then(|| Timestamp((seconds * 1e6).round() as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(u64, Result<String, String>)> {
        // a small buffer, so that values lie across its ends
        let mut records = Records::new(io::BufReader::with_capacity(7, text.as_bytes()));
        let mut found = Vec::new();
        while let Some(record) = records.next().unwrap() {
            found.push((record.line, record.value().map(|value| value.to_string())));
        }
        found
    }

    #[test]
    fn values_are_found_whatever_separates_them() {
        let two = ["{\"a\":{\"b\":\"}{\\\"\"}}", "{\"c\":[1,{\"d\":2}]}"];
        for text in [
            format!("{}\n{}\n", two[0], two[1]),
            format!("{}{}", two[0], two[1]),
            format!("[{},{}]", two[0], two[1]),
            format!("\u{feff}[\n  {},\r\n  {}\n]\n", two[0], two[1]),
            format!("[{}]\n[{}]", two[0], two[1]),
        ] {
            let values: Vec<String> = read(&text).into_iter().map(|(_, value)| value.unwrap()).collect();
            assert_eq!(values, two, "{text}");
        }
        assert_eq!(read("{\n \"a\":\n [\n{\"b\":1}\n,\n{}]\n}\n").len(), 1);
    }

    #[test]
    fn a_damaged_line_costs_itself_and_is_told_by_its_number() {
        let text =
            "{\"a\":1}\n{\"a\":\"cut\n{\"a\":2}\nwhat is this\n{\"a\":3\n{\"a\":4}\n{\"a\":}\n{\"a\":5";
        let found: Vec<(u64, bool)> =
            read(text).into_iter().map(|(line, value)| (line, value.is_ok())).collect();
        assert_eq!(
            found,
            [(1, true), (2, false), (3, true), (4, false), (5, false), (6, true), (7, false), (8, false)]
        );
    }

    #[test]
    fn a_value_that_never_ends_is_given_up_within_bounds() {
        let long = format!("{{\"a\":\"{}\"}}\n{{\"b\":1}}", "x".repeat(RECORD_BYTES_MAX + 1));
        let found = read_large(&long);
        assert_eq!(found, [false, true]);
    }

    fn read_large(text: &str) -> Vec<bool> {
        let mut records = Records::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(record) = records.next().unwrap() {
            found.push(record.value().is_ok());
        }
        found
    }

    #[test]
    fn instants_come_in_many_forms() {
        let at = Some(Timestamp::from_millis(1_700_000_000_500));
        for text in [
            "2023-11-14T22:13:20.500Z",
            "2023-11-14T22:13:20.5",
            "2023-11-14T23:13:20.5+01:00",
            "1700000000.5",
            "1700000000500",
        ] {
            assert_eq!(instant_in(text), at, "{text}");
        }
        for text in ["", "yesterday", "-1", "NaN", "inf", "1e300", "2023-13-14T00:00:00Z"] {
            assert_eq!(instant_in(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut records = Records::new(bytes.as_slice());
            let mut count = 0;
            while let Some(record) = records.next().unwrap() {
                let _ = record.value();
                count += 1;
                prop_assert!(count <= 400);
            }
        }
    }
}
