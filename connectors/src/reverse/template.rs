//! Templates: JSON in which `{column}` stands for a row's value. Pure.

use serde_json::{Map, Value};

use super::Row;

/// Text with columns in it. `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Column(String),
}

/// JSON with columns in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    Fixed(Value),
    /// A string that is one column and nothing else: the value with its type.
    Column(String),
    Text(Text),
    Array(Vec<Template>),
    Object(Vec<(String, Template)>),
}

impl Text {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else {
                let column = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
                match column.filter(|(name, _)| !name.is_empty() && !name.contains('{')) {
                    Some((name, after)) => {
                        if !literal.is_empty() {
                            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                        }
                        pieces.push(Piece::Column(name.to_owned()));
                        rest = after;
                    }
                    None => {
                        return Err(format!(
                            "{text:?} has a brace without its other; write {{column}}, or {{{{ for a brace itself"
                        ));
                    }
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    pub fn columns(&self) -> Vec<&str> {
        let mut columns = Vec::new();
        for piece in &self.0 {
            if let Piece::Column(name) = piece {
                columns.push(name.as_str());
            }
        }
        columns
    }

    /// The text with what `value` says for each column.
    pub fn with(&self, mut value: impl FnMut(&str) -> String) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.clone(),
                Piece::Column(name) => value(name),
            })
            .collect()
    }

    /// Whether no column can change which host a URL names.
    pub fn begins_with_host(&self) -> bool {
        let Some(Piece::Literal(first)) = self.0.first() else { return false };
        first.split_once("://").is_some_and(|(_, rest)| rest.find('/').is_some_and(|at| at > 0))
    }
}

impl Template {
    pub fn parse(value: &Value) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => {
                let parsed = Text::parse(text)?;
                match parsed.0.as_slice() {
                    [Piece::Column(name)] => Self::Column(name.clone()),
                    _ => Self::Text(parsed),
                }
            }
            Value::Array(items) => Self::Array(items.iter().map(Self::parse).collect::<Result<_, String>>()?),
            Value::Object(members) => {
                let mut parsed = Vec::new();
                for (name, value) in members {
                    parsed.push((name.clone(), Self::parse(value)?));
                }
                Self::Object(parsed)
            }
            other => Self::Fixed(other.clone()),
        })
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// The columns that it needs.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Column(name) => vec![name],
            Self::Text(text) => text.columns(),
            Self::Array(items) => items.iter().flat_map(Self::columns).collect(),
            Self::Object(members) => members.iter().flat_map(|(_, value)| value.columns()).collect(),
        }
    }

    /// A row's values put in; a column that it has not is null.
    pub fn render(&self, row: &Row) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Column(name) => row.get(name).cloned().unwrap_or(Value::Null),
            Self::Text(text) => {
                Value::String(text.with(|name| row.get(name).map_or_else(String::new, as_text)))
            }
            Self::Array(items) => Value::Array(items.iter().map(|item| item.render(row)).collect()),
            Self::Object(members) => {
                let member = |(name, value): &(String, Template)| (name.clone(), value.render(row));
                Value::Object(members.iter().map(member).collect::<Map<_, _>>())
            }
        }
    }
}

/// A value as text: null is empty, a text is itself, all others are JSON.
pub fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
