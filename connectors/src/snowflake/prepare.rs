//! The table as the mapping wants it: made when missing, columns added, nothing changed or dropped.

use std::collections::BTreeMap;

use super::Snowflake;
use super::statements::{Names, target_type};
use crate::mapping::{Column, Kind, Mapping};
use crate::target::TargetError;

/// A column as Snowflake describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    name: String,
    data_type: String,
    precision: Option<u32>,
    scale: Option<u32>,
    nullable: bool,
    has_default: bool,
}

pub(super) async fn prepare(target: &Snowflake, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
    let Snowflake { client, names, upload, .. } = target;
    let tables = found(target).await?;
    let mut done = Vec::new();
    for (name, create) in
        [("SENDLAKE_BATCHES", Names::create_ledger()), ("SENDLAKE_LOCKS", Names::create_locks())]
    {
        if !tables.contains_key(name) {
            client.query(&create, &format!("making table {name}")).await?;
            done.push(format!("made table {}.{name}", names.schema));
        }
    }
    match tables.get(&names.table) {
        None => {
            client.query(&names.create_table(mapping), &format!("making table {}", names.table)).await?;
            done.push(format!("made table {}.{}", names.schema, names.table));
        }
        Some(columns) => {
            for column in missing(names, mapping, columns)? {
                client.query(&names.add_column(column), &format!("adding column {}", column.name)).await?;
                done.push(format!(
                    "added column {} to {}.{}: it is empty in rows loaded before; fill it with `sendlake export backfill \
                     {} --from … --to … --replace`",
                    column.name.to_uppercase(),
                    names.schema,
                    names.table,
                    names.connector
                ));
            }
        }
    }
    client.query(&names.lock_row(), "writing to SENDLAKE_LOCKS").await?;
    done.extend(upload.prepare(names).await?);
    Ok(done)
}

/// The columns of our tables, in order; tables that are not there are left out.
async fn found(target: &Snowflake) -> Result<BTreeMap<String, Vec<Found>>, TargetError> {
    let answer = target.client.query(&target.names.columns(), "looking at the tables").await?;
    let mut tables: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for row in answer.rows {
        let text = |at: usize| row.get(at).cloned().flatten();
        let number = |at: usize| text(at).and_then(|number| number.parse().ok());
        let (Some(table), Some(name), Some(data_type)) = (text(0), text(1), text(2)) else {
            return Err(TargetError::Refused(format!(
                "INFORMATION_SCHEMA.COLUMNS describes a column as {row:?}"
            )));
        };
        tables.entry(table).or_default().push(Found {
            name,
            data_type,
            precision: number(3),
            scale: number(4),
            nullable: text(5).as_deref() == Some("YES"),
            has_default: text(6).is_some(),
        });
    }
    Ok(tables)
}

/// The columns that the table lacks; an error when one of its own stands in the way.
fn missing<'a>(names: &Names, mapping: &'a Mapping, found: &[Found]) -> Result<Vec<&'a Column>, TargetError> {
    let Names { schema, table, .. } = names;
    let mut missing = Vec::new();
    for column in &mapping.columns {
        let name = column.name.to_uppercase();
        match found.iter().find(|found| found.name == name) {
            None => missing.push(column),
            Some(found) if !fits(column.kind, found) => {
                return Err(TargetError::Schema(format!(
                    "{schema}.{table} has {name} as {}, and sendlake needs {}; rename or drop that column, or set `table` \
                     to another name, and run `sendlake export run {}`",
                    found.describe(),
                    target_type(column.kind),
                    names.connector
                )));
            }
            Some(_) => {}
        }
    }
    let known =
        |found: &&Found| mapping.columns.iter().any(|column| column.name.to_uppercase() == found.name);
    let own = found.iter().filter(|found| !known(found)).find(|found| !found.nullable && !found.has_default);
    if let Some(own) = own {
        return Err(TargetError::Schema(format!(
            "{schema}.{table} has a column {} ({}) of its own that is NOT NULL and has no default, so no row can be added; \
             `ALTER TABLE {schema}.{table} ALTER COLUMN {} DROP NOT NULL`",
            own.name, own.data_type, own.name
        )));
    }
    Ok(missing)
}

fn fits(kind: Kind, found: &Found) -> bool {
    let whole =
        |digits: u32| found.scale == Some(0) && found.precision.is_some_and(|precision| precision >= digits);
    match (kind, found.data_type.as_str()) {
        (Kind::Text, "TEXT")
        | (Kind::Boolean, "BOOLEAN")
        | (Kind::Date, "DATE")
        | (Kind::Json, "VARIANT") => true,
        (Kind::Timestamp, "TIMESTAMP_NTZ") => true,
        (Kind::Integer, "NUMBER") => whole(10),
        (Kind::BigInt, "NUMBER") => whole(19),
        _ => false,
    }
}

impl Found {
    fn describe(&self) -> String {
        match (self.precision, self.scale) {
            (Some(precision), Some(scale)) => format!("{}({precision}, {scale})", self.data_type),
            _ => self.data_type.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(precision: u32, scale: u32) -> Found {
        Found {
            data_type: "NUMBER".into(),
            precision: Some(precision),
            scale: Some(scale),
            ..Found::default()
        }
    }

    #[test]
    fn a_type_that_would_cut_values_does_not_fit() {
        let named = |name: &str| Found { data_type: name.into(), ..Found::default() };
        assert!(fits(Kind::BigInt, &number(38, 0)) && fits(Kind::BigInt, &number(19, 0)));
        assert!(!fits(Kind::BigInt, &number(10, 0)) && !fits(Kind::BigInt, &number(38, 2)));
        assert!(fits(Kind::Integer, &number(10, 0)) && !fits(Kind::Integer, &number(9, 0)));
        assert!(!fits(Kind::Timestamp, &named("TIMESTAMP_LTZ")) && !fits(Kind::Json, &named("TEXT")));
        assert!(!fits(Kind::Text, &number(38, 0)));
    }
}
