//! Reading JSON bodies: one strict parse, then a walk that collects every fault instead of stopping at the first.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::{Faults, Kind, Pointer, Problem};
use crate::compose::fingerprint::sha256;

/// Reads one JSON value (RFC 8259). Objects that name a member twice are refused, because readers differ on
/// which one counts. Depth is bounded by the parser.
pub fn read(bytes: &[u8]) -> Result<Value, Problem> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Problem::new(
            Kind::InvalidUtf8,
            format!("octet {} of the body is not UTF-8; JSON must be sent as UTF-8", error.valid_up_to() + 1),
        ));
    }
    serde_json::from_slice::<Strict>(bytes).map(|Strict(value)| value).map_err(|error| {
        Problem::new(
            Kind::MalformedJson,
            format!("{error}; fix the body there and send it again").replace(" at line", ", at line"),
        )
    })
}

/// A value without repeated members.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StrictVisitor.deserialize(deserializer).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> DeserializeSeed<'de> for StrictVisitor {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(StrictVisitor)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the field {name:?} stands twice in one object")));
            }
            object.insert(name, members.next_value_seed(StrictVisitor)?);
        }
        Ok(Value::Object(object))
    }
}

/// Hash of a request to `endpoint`: equal for two bodies that differ only in white space and member order.
pub fn request_hash(endpoint: &str, value: &Value) -> [u8; 32] {
    sha256(&[endpoint.as_bytes(), b"\0", &value_hash(value)])
}

fn value_hash(value: &Value) -> [u8; 32] {
    match value {
        Value::Array(items) => {
            let hashes: Vec<_> = items.iter().map(value_hash).collect();
            sha256(&[b"[", hashes.as_flattened()])
        }
        Value::Object(members) => {
            let mut hashes: Vec<_> = members
                .iter()
                .map(|(name, value)| sha256(&[&sha256(&[name.as_bytes()]), &value_hash(value)]))
                .collect();
            hashes.sort_unstable();
            sha256(&[b"{", hashes.as_flattened()])
        }
        Value::String(text) => sha256(&[b"\"", text.as_bytes()]),
        scalar => sha256(&[b"=", scalar.to_string().as_bytes()]),
    }
}

/// A JSON object on its way to becoming a request. `null` counts as absent.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    members: &'a Map<String, Value>,
    at: Pointer,
}

impl<'a> Fields<'a> {
    /// `value` as an object whose members are all among `known`; anything else is a fault.
    pub fn of(value: &'a Value, at: Pointer, known: &[&str], faults: &mut Faults) -> Option<Self> {
        let Value::Object(members) = value else {
            faults.add(&at, "wrong_type", format!("expected an object, found {}", kind_of(value)));
            return None;
        };
        for name in members.keys().filter(|name| !known.contains(&name.as_str())) {
            let shown: String = name.chars().take(60).collect();
            faults.add(
                &at.field(name),
                "unknown_field",
                format!("there is no field {shown:?} here; known are {}", known.join(", ")),
            );
        }
        Some(Self { members, at })
    }

    pub fn pointer(&self) -> &Pointer {
        &self.at
    }

    pub fn at(&self, name: &str) -> Pointer {
        self.at.field(name)
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// The value of a member that must be there.
    pub fn required(&self, name: &str, faults: &mut Faults) -> Option<&'a Value> {
        let value = self.get(name);
        if value.is_none() {
            faults.add(&self.at(name), "missing", format!("{name} is required"));
        }
        value
    }

    pub fn text(&self, name: &str, faults: &mut Faults) -> Option<&'a str> {
        text(self.get(name)?, &self.at(name), faults)
    }

    pub fn boolean(&self, name: &str, faults: &mut Faults) -> Option<bool> {
        let value = self.get(name)?;
        if value.as_bool().is_none() {
            wrong_type(value, "true or false", &self.at(name), faults);
        }
        value.as_bool()
    }

    pub fn list(&self, name: &str, faults: &mut Faults) -> Option<&'a [Value]> {
        list(self.get(name)?, &self.at(name), faults)
    }
}

pub fn text<'a>(value: &'a Value, at: &Pointer, faults: &mut Faults) -> Option<&'a str> {
    if !value.is_string() {
        wrong_type(value, "a string", at, faults);
    }
    value.as_str()
}

pub fn list<'a>(value: &'a Value, at: &Pointer, faults: &mut Faults) -> Option<&'a [Value]> {
    if !value.is_array() {
        wrong_type(value, "a list", at, faults);
    }
    value.as_array().map(Vec::as_slice)
}

pub fn wrong_type(value: &Value, expected: &str, at: &Pointer, faults: &mut Faults) {
    faults.add(at, "wrong_type", format!("expected {expected}, found {}", kind_of(value)));
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_json_names_line_and_column() {
        let problem = read(b"{\n  \"to\": ,\n}").unwrap_err();
        assert_eq!(problem.code(), "malformed_json");
        assert!(problem.detail.contains("line 2 column 9"), "{}", problem.detail);
    }

    #[test]
    fn invalid_utf8_names_the_octet() {
        let problem = read(b"{\"a\":\"\xff\"}").unwrap_err();
        assert_eq!(problem.code(), "invalid_utf8");
        assert!(problem.detail.contains("octet 7"), "{}", problem.detail);
    }

    #[test]
    fn repeated_members_and_deep_nesting_are_refused() {
        assert!(read(br#"{"to":1,"to":2}"#).unwrap_err().detail.contains("\"to\" stands twice"));
        assert_eq!(read("[".repeat(100_000).as_bytes()).unwrap_err().code(), "malformed_json");
    }

    #[test]
    fn hash_ignores_layout_and_sees_content() {
        let hash = |text: &str| request_hash("m", &read(text.as_bytes()).unwrap());
        assert_eq!(hash(r#"{"a":1,"b":["x"]}"#), hash("{ \"b\" : [\"x\"], \"a\" : 1 }"));
        assert_ne!(hash(r#"{"a":1}"#), hash(r#"{"a":"1"}"#));
        assert_ne!(hash(r#"{"a":["b","c"]}"#), hash(r#"{"a":["c","b"]}"#));
    }
}
