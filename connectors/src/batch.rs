//! A batch: an immutable slice of the lake's log, named by what it holds. The same slice has the same id on every machine and
//! in every try, so whoever sees an id twice knows that it is the same rows.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What becomes of a batch's rows in the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Rows whose `event_id` is not there are added; others stay.
    Add,
    /// Rows take the place of those with their `event_id`; what is not there is added. After an erasure has removed an
    /// address from rows of others.
    Replace,
    /// Rows with these `event_id` go. The staged file has the key columns alone.
    Delete,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Add, Self::Replace, Self::Delete]
            .into_iter()
            .find(|change| change.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no kind of batch"))
    }
}

/// Events of one spool by their place in its log: those above `after_lsn`, up to `through_lsn`; of all days or of some.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// `events`.
    pub table: String,
    pub incarnation: Uuid,
    pub after_lsn: u64,
    pub through_lsn: u64,
    /// First and last `event_date`, `2026-01-31`, both within; `None` for all days.
    pub days: Option<(String, String)>,
}

impl Slice {
    /// The id of part `part` of this slice under a mapping: 32 hexadecimal digits.
    pub fn batch_id(&self, part: u32, change: Change, mapping_version: &str) -> String {
        let Slice { table, incarnation, after_lsn, through_lsn, days } = self;
        let (first, last) = days.as_ref().map_or(("", ""), |(first, last)| (first, last));
        let change = change.as_str();
        let text = format!(
            "1|{table}|{incarnation}|{after_lsn}|{through_lsn}|{first}|{last}|{part}|{change}|{mapping_version}"
        );
        HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref()).chars().take(32).collect()
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}-{}", self.table, self.incarnation, self.after_lsn, self.through_lsn)?;
        match &self.days {
            Some((first, last)) => write!(f, " of {first} to {last}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_one_id_and_every_other_slice_another() {
        let slice = Slice {
            table: "events".into(),
            incarnation: Uuid::from_u128(1),
            after_lsn: 10,
            through_lsn: 20,
            days: None,
        };
        let id = slice.batch_id(0, Change::Add, "m");
        // Ledgers of released versions hold such ids: this one must never change.
        assert_eq!(id, slice.clone().batch_id(0, Change::Add, "m"));
        assert_eq!(id.len(), 32);
        let days = Some(("2026-01-01".to_owned(), "2026-01-02".to_owned()));
        let others = [
            slice.batch_id(1, Change::Add, "m"),
            slice.batch_id(0, Change::Delete, "m"),
            slice.batch_id(0, Change::Add, "n"),
            Slice { through_lsn: 21, ..slice.clone() }.batch_id(0, Change::Add, "m"),
            Slice { after_lsn: 1, ..slice.clone() }.batch_id(0, Change::Add, "m"),
            Slice { days, ..slice.clone() }.batch_id(0, Change::Add, "m"),
        ];
        let mut all: Vec<_> = others.into_iter().chain([id]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 7);
    }
}
