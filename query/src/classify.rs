//! `classify_reply(provider, smtp_command, reply_code, enhanced_status, reply_text [, ruleset_version])`: what a
//! refusal means, as a struct, under the rules in force or those of a version. Pure; it never fails on a value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use sendlake_sql::rules::{Classified, Ruleset, Said};

const COLUMNS: [&str; 6] = ["category", "reason", "class", "action", "rule", "ruleset_version"];

/// The function, to be registered in each session.
pub(crate) fn classify_reply() -> ScalarUDF {
    ScalarUDF::new_from_impl(ClassifyReply { signature: Signature::variadic_any(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ClassifyReply {
    signature: Signature,
}

impl ScalarUDFImpl for ClassifyReply {
    fn name(&self) -> &str {
        "classify_reply"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        if matches!(arguments.len(), 5 | 6) {
            return Ok(DataType::Struct(fields()));
        }
        Err(DataFusionError::Plan(
            "classify_reply takes provider, smtp_command, reply_code, enhanced_status, reply_text, and a \
             ruleset_version if you want another than the one in force"
                .into(),
        ))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let rows = arguments.number_rows;
        let column = |index: usize, to: &DataType| -> Result<ArrayRef, DataFusionError> {
            match arguments.args.get(index) {
                Some(value) => Ok(cast(&value.clone().into_array(rows)?, to)?),
                None => Ok(arrow::array::new_null_array(to, rows)),
            }
        };
        let text = |index| column(index, &DataType::Utf8);
        let (provider, command, status, words, version) = (text(0)?, text(1)?, text(3)?, text(4)?, text(5)?);
        let code = column(2, &DataType::Int64)?;
        let codes = code.as_primitive::<Int64Type>();
        let at = |array: &ArrayRef, row: usize| {
            array.is_valid(row).then(|| array.as_string::<i32>().value(row).to_owned())
        };
        let mut built: [StringBuilder; 6] = std::array::from_fn(|_| StringBuilder::new());
        let mut valid = Vec::with_capacity(rows);
        for row in 0..rows {
            let (provider, command) = (at(&provider, row), at(&command, row));
            let (status, words) = (at(&status, row), at(&words, row));
            let code =
                codes.is_valid(row).then(|| codes.value(row)).and_then(|code| u16::try_from(code).ok());
            let rules = match at(&version, row) {
                Some(version) => Ruleset::by_version(&version),
                None => Some(Ruleset::current()),
            };
            // nothing was said, or by rules that this build does not have
            let silent = code.is_none() && status.is_none() && words.is_none();
            let found = rules.filter(|_| !silent).map(|rules| {
                rules.classify(&Said {
                    provider: provider.as_deref(),
                    smtp_command: command.as_deref(),
                    reply_code: code,
                    enhanced_status: status.as_deref(),
                    text: words.as_deref().unwrap_or_default(),
                })
            });
            valid.push(found.is_some());
            append(&mut built, found.as_ref());
        }
        let columns = built.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let found = StructArray::try_new(fields(), columns, Some(NullBuffer::from(valid)))?;
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

fn append(columns: &mut [StringBuilder; 6], found: Option<&Classified>) {
    let [category, reason, class, action, rule, version] = columns;
    category.append_option(found.map(|found| found.category.as_str()));
    reason.append_option(found.map(|found| found.reason.as_str()));
    class.append_option(found.map(|found| found.class.as_str()));
    action.append_option(found.map(|found| found.action.as_str()));
    rule.append_option(found.map(|found| found.rule.as_str()));
    version.append_option(found.map(|found| found.ruleset_version.as_str()));
}

fn fields() -> Fields {
    COLUMNS.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect()
}
