//! Which of a user's filters may come near rows that are not theirs.
//!
//! A comparison of a plain column with a literal cannot fail and has no effect beyond true or false; a cast,
//! a function or arithmetic can fail on a foreign value and print it. So only the former are handed to the
//! source (where they spare it files and row groups); everything else waits above the tenant's own rows.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};
use sendlake_control::id::uuid_v7_time;
use uuid::Uuid;

/// The filter is a comparison of one plain column of `schema` with literals of that column's own type.
pub(crate) fn is_harmless(filter: &Expr, schema: &Schema) -> bool {
    rewrite(filter, |column, literal| {
        let expected = schema.field_with_name(column.name()).ok()?.data_type();
        (literal.data_type() == *expected && !expected.is_nested()).then(|| literal.clone())
    })
    .is_some()
}

/// The same filter for a source whose columns carry the same names with possibly other types, or `None` when
/// the source cannot apply it (the filter is applied again above, so nothing is lost).
pub(crate) fn for_source(filter: &Expr, source: &Schema) -> Option<Expr> {
    rewrite(filter, |column, literal| {
        let field = source.field_with_name(column.name()).ok()?;
        literal.cast_to(value_type(field.data_type())).ok()
    })
}

/// `column = value`, typed for the source.
pub(crate) fn equals(column: &str, value: &str, source: &Schema) -> Option<Expr> {
    let value = ScalarValue::Utf8(Some(value.to_owned()));
    let filter = Expr::Column(Column::from_name(column)).eq(Expr::Literal(value, None));
    for_source(&filter, source)
}

/// The first day (since the epoch) of which there can be rows when the filters name messages by id: the day before the
/// oldest of the ids that one filter names was made, as clocks of several nodes may differ. `None` when no filter
/// does, or an id does not tell its age.
pub(crate) fn first_day(filters: &[Expr]) -> Option<i32> {
    filters.iter().filter_map(first_day_of).max()
}

fn first_day_of(filter: &Expr) -> Option<i32> {
    let is_id = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name() == "message_id");
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_id(left) => day_before(right),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_id(right) => day_before(left),
        Expr::InList(InList { expr, list, negated: false }) if is_id(expr) => {
            let days = list.iter().map(day_before).collect::<Option<Vec<_>>>()?;
            days.into_iter().min()
        }
        _ => None,
    }
}

fn day_before(literal: &Expr) -> Option<i32> {
    let Expr::Literal(value, _) = literal else { return None };
    let id = Uuid::parse_str(value.try_as_str()??).ok()?;
    if id.get_version_num() != 7 {
        return None;
    }
    Some(uuid_v7_time(id)?.days().saturating_sub(1))
}

fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

/// Rebuilds the accepted forms with each literal mapped; `None` for every other form.
fn rewrite(filter: &Expr, literal: impl Fn(&Column, &ScalarValue) -> Option<ScalarValue>) -> Option<Expr> {
    let literal = |column: &Column, expr: &Expr| match expr {
        Expr::Literal(value, metadata) if !value.is_null() => {
            Some(Expr::Literal(literal(column, value)?, metadata.clone()))
        }
        _ => None,
    };
    let plain = |column: &Column| Box::new(Expr::Column(Column::from_name(column.name())));
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
            match (left.as_ref(), right.as_ref()) {
                (Expr::Column(column), value) => Some(Expr::BinaryExpr(BinaryExpr {
                    left: plain(column),
                    op: *op,
                    right: Box::new(literal(column, value)?),
                })),
                (value, Expr::Column(column)) => Some(Expr::BinaryExpr(BinaryExpr {
                    left: plain(column),
                    op: op.swap()?,
                    right: Box::new(literal(column, value)?),
                })),
                _ => None,
            }
        }
        Expr::InList(InList { expr, list, negated }) => {
            let Expr::Column(column) = expr.as_ref() else { return None };
            let list = list.iter().map(|value| literal(column, value)).collect::<Option<Vec<_>>>()?;
            Some(Expr::InList(InList { expr: plain(column), list, negated: *negated }))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let Expr::Column(column) = expr.as_ref() else { return None };
            Some(Expr::Between(Between {
                expr: plain(column),
                negated: *negated,
                low: Box::new(literal(column, low)?),
                high: Box::new(literal(column, high)?),
            }))
        }
        Expr::IsNull(expr) => match expr.as_ref() {
            Expr::Column(column) => Some(Expr::IsNull(plain(column))),
            _ => None,
        },
        Expr::IsNotNull(expr) => match expr.as_ref() {
            Expr::Column(column) => Some(Expr::IsNotNull(plain(column))),
            _ => None,
        },
        _ => None,
    }
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::logical_expr::{cast, col, lit};

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("recipient", DataType::Utf8, true),
            Field::new("reply_code", DataType::Int32, true),
        ])
    }

    #[test]
    fn plain_comparisons_are_harmless() {
        for filter in [
            col("recipient").eq(lit("a@example.com")),
            lit(421i32).lt_eq(col("reply_code")),
            col("reply_code").in_list(vec![lit(421i32), lit(450i32)], true),
            col("reply_code").between(lit(400i32), lit(499i32)),
            col("recipient").is_null(),
            col("recipient").is_not_null(),
        ] {
            assert!(is_harmless(&filter, &schema()), "{filter}");
        }
    }

    #[test]
    fn whatever_can_fail_on_a_value_is_not() {
        for filter in [
            cast(col("recipient"), DataType::Int32).eq(lit(1i32)),
            (lit(1i32) / col("reply_code")).gt(lit(0i32)),
            col("recipient").like(lit("a%")),
            col("recipient").eq(lit("a")).or(col("reply_code").eq(lit(1i32))),
            col("recipient").eq(col("recipient")),
            col("reply_code").eq(lit("421")),
            col("reply_code").eq(lit(421i64)),
            col("nothing").is_null().and(col("reply_code").eq(lit(1i32))),
            col("recipient").eq(lit(ScalarValue::Utf8(None))),
        ] {
            assert!(!is_harmless(&filter, &schema()), "{filter}");
        }
    }

    #[test]
    fn ids_of_messages_tell_their_first_day() {
        // made on days 20,063 and 20,073 since the epoch
        let (older, younger) =
            ("01939b3b-9c00-7000-8000-000000000000", "0193ceba-f800-7000-8000-000000000000");
        let id = || col("message_id");
        let one = |filter: Expr| first_day(&[filter]);
        assert_eq!(one(id().eq(lit(older))), Some(20_062));
        assert_eq!(one(lit(younger).eq(id())), Some(20_072));
        assert_eq!(
            one(id().in_list(vec![lit(younger), lit(older)], false)),
            Some(20_062),
            "either may be meant"
        );
        assert_eq!(first_day(&[id().eq(lit(older)), id().eq(lit(younger))]), Some(20_072), "both are");
        for filter in [
            id().not_eq(lit(older)),
            id().gt(lit(older)),
            id().in_list(vec![lit(older)], true),
            id().in_list(vec![lit(older), lit("m1")], false),
            id().eq(lit("m1")),
            id().eq(lit("6ba7b810-9dad-41d1-80b4-00c04fd430c8")),
            col("submission_id").eq(lit(older)),
        ] {
            assert_eq!(one(filter.clone()), None, "{filter}");
        }
    }

    #[test]
    fn literals_take_the_sources_types() {
        let source = Schema::new(vec![Field::new("recipient", DataType::Utf8View, true)]);
        let filter = for_source(&lit("a").lt(col("recipient")), &source).unwrap();
        assert_eq!(filter, col("recipient").gt(lit(ScalarValue::Utf8View(Some("a".into())))));
        assert_eq!(for_source(&col("reply_code").eq(lit(1i32)), &source), None);
    }
}
