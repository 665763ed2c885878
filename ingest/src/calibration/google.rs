//! Google Postmaster Tools: `trafficStats` of API version 1, `domainStats:query` of version 2, and tables by day.
//!
//! Sources: developers.google.com/workspace/gmail/postmaster/reference/rest/v1/domains.trafficStats,
//! …/rest/v2/QueryDomainStatsResponse. The columns of what the dashboards let one download are not published: they are known
//! here by the words in their names.

use chrono::NaiveDate;
use serde_json::Value;

use super::{About, Export, Figure, Figures, Reading, day_span, rows, share, short};
use crate::foreign::json::Records;

/// What is said where a name of a metric is not understood.
const NAMES: &str = "name metrics after what they measure: SPAM_RATE, SPF_SUCCESS_RATE, DKIM_SUCCESS_RATE, \
                     DMARC_SUCCESS_RATE, TLS_INBOUND_RATE, TLS_OUTBOUND_RATE, DELIVERY_ERROR_RATE, FEEDBACK_LOOP_SPAM_RATE";

pub fn read(export: &Export, bytes: &[u8]) -> Reading {
    match bytes.trim_ascii_start().first() {
        Some(b'{' | b'[') => json(export, bytes),
        _ => table(export, bytes),
    }
}

fn json(export: &Export, bytes: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let mut records = Records::new(bytes);
    // reading from memory does not fail
    while let Ok(Some(record)) = records.next() {
        let value = match record.value() {
            Ok(value) => value,
            Err(why) => {
                reading.take(record.line, Err(why));
                continue;
            }
        };
        let lists = ["trafficStats", "domainStats"]
            .into_iter()
            .find_map(|name| value.get(name).and_then(Value::as_array).map(|list| (name, list)));
        let Some((name, list)) = lists else {
            // a page without anything
            if value.as_object().is_some_and(|page| page.is_empty()) {
                continue;
            }
            reading.take(record.line, stats(export, &value));
            continue;
        };
        for (number, one) in list.iter().enumerate() {
            let told = stats(export, one).map_err(|why| format!("/{name}/{number}: {why}"));
            reading.take(record.line, told);
        }
    }
    reading
}

fn stats(export: &Export, value: &Value) -> Result<Figures, String> {
    let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
    match name.split('/').collect::<Vec<_>>()[..] {
        ["domains", domain, "trafficStats", day] => {
            let day = NaiveDate::parse_from_str(day, "%Y%m%d")
                .map_err(|_| format!("{:?} does not end in a day such as 20261109", short(name)))?;
            figures(export, domain, day, traffic(value)?)
        }
        ["domains", domain, "domainStats", ..] => {
            let part = |name: &str| value.pointer(&format!("/date/{name}")).and_then(Value::as_i64);
            let (Some(year), Some(month), Some(day)) = (part("year"), part("month"), part("day")) else {
                return Err("it has no date: ask for the aggregationGranularity DAILY".into());
            };
            let day = i32::try_from(year)
                .ok()
                .zip(u32::try_from(month).ok().zip(u32::try_from(day).ok()))
                .and_then(|(year, (month, day))| NaiveDate::from_ymd_opt(year, month, day))
                .ok_or("its date is no day")?;
            figures(export, domain, day, vec![statistic(value)?])
        }
        _ => Err(format!(
            "its name {:?} is neither domains/<domain>/trafficStats/<day> nor domains/<domain>/domainStats/<id>",
            short(name)
        )),
    }
}

fn figures(export: &Export, domain: &str, day: NaiveDate, figures: Vec<Figure>) -> Result<Figures, String> {
    let domain = domain.trim().trim_end_matches('.').to_lowercase();
    let is_name = domain.contains('.')
        && domain.len() <= 253
        && domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if !is_name {
        return Err(format!("{:?} is no domain", short(&domain)));
    }
    if figures.is_empty() {
        return Err("it holds no figure".into());
    }
    let day = day.to_epoch_days();
    let (begin_at, end_at) = day_span(day, export.now)?;
    Ok(Figures { exporter: export.exporter, about: About::Domain(domain), day, begin_at, end_at, figures })
}

fn ratio(value: &Value, field: &str) -> Result<Option<f64>, String> {
    match value.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            share(&number.to_string()).map(Some).map_err(|why| format!("{field}: {why}"))
        }
        Some(_) => Err(format!("{field} is no number")),
    }
}

/// Version 1: everything of a day in one object. What the day was too small for is left out of it.
fn traffic(value: &Value) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    let (exact, lower, upper) = (
        ratio(value, "userReportedSpamRatio")?,
        ratio(value, "userReportedSpamRatioLowerBound")?,
        ratio(value, "userReportedSpamRatioUpperBound")?,
    );
    if exact.is_some() || lower.is_some() || upper.is_some() {
        figures.push(Figure {
            value: exact,
            value_lower: lower,
            value_upper: upper,
            metric: "spam_rate",
            ..Figure::default()
        });
    }
    for (field, metric) in [
        ("spfSuccessRatio", "spf_success"),
        ("dkimSuccessRatio", "dkim_success"),
        ("dmarcSuccessRatio", "dmarc_success"),
        ("inboundEncryptionRatio", "inbound_encryption"),
        ("outboundEncryptionRatio", "outbound_encryption"),
    ] {
        figures.extend(ratio(value, field)?.map(|ratio| Figure::number(metric, ratio)));
    }
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    if let Some(word) = text(value, "domainReputation").filter(|word| !word.ends_with("_UNSPECIFIED")) {
        figures.push(Figure::word("reputation", &word));
    }
    for one in list(value, "ipReputations") {
        let Some(category) = text(one, "reputation") else { continue };
        let count = one.get("ipCount").or_else(|| one.get("numIps"));
        let count =
            count.and_then(|count| count.as_str().and_then(|text| text.parse().ok()).or(count.as_f64()));
        let samples: Vec<&str> = list(one, "sampleIps").iter().filter_map(Value::as_str).take(20).collect();
        figures.push(Figure {
            value: count.filter(|count: &f64| count.is_finite()),
            text: Some(samples.join(" ")).filter(|text| !text.is_empty()).map(|text| short(&text)),
            ..Figure { metric: "ip_reputation", ..Figure::default() }.of(&category)
        });
    }
    for one in list(value, "spammyFeedbackLoops") {
        if let (Some(id), Some(rate)) = (text(one, "id"), ratio(one, "spamRatio")?) {
            figures.push(Figure::number("feedback_loop_spam_rate", rate).of(&id));
        }
    }
    for one in list(value, "deliveryErrors") {
        let class = text(one, "errorClass").unwrap_or_default();
        let kind = text(one, "errorType").unwrap_or_default();
        if let Some(share) = ratio(one, "errorRatio")? {
            figures.push(Figure::number("delivery_error", share).of(&format!("{class}/{kind}")));
        }
    }
    Ok(figures)
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Version 2: one figure each, under the name that whoever asked had given it.
fn statistic(value: &Value) -> Result<Figure, String> {
    let name = value.get("metric").and_then(Value::as_str).unwrap_or_default();
    let metric =
        metric_of(name).ok_or_else(|| format!("the metric {:?} is not understood: {NAMES}", short(name)))?;
    let told = value.get("value").and_then(Value::as_object);
    let number = told.and_then(|told| {
        ["doubleValue", "floatValue"].iter().find_map(|kind| told.get(*kind)).and_then(Value::as_f64)
    });
    let number = number.ok_or_else(|| format!("{:?} has neither doubleValue nor floatValue", short(name)))?;
    let figure = Figure::number(metric, share(&number.to_string())?);
    // which loop, or kind of error, only the name can tell
    let is_one_of_many = matches!(metric, "feedback_loop_spam_rate" | "delivery_error");
    Ok(if is_one_of_many { figure.of(name) } else { figure })
}

/// What a name measures, by the words in it.
fn metric_of(name: &str) -> Option<&'static str> {
    let words = name.to_lowercase();
    let has = |word: &str| words.contains(word);
    let is_encryption = has("tls") || has("encrypt");
    Some(match () {
        () if has("feedback") || has("fbl") => "feedback_loop_spam_rate",
        () if has("error") => "delivery_error",
        () if has("spf") => "spf_success",
        () if has("dkim") => "dkim_success",
        () if has("dmarc") => "dmarc_success",
        () if is_encryption && has("out") => "outbound_encryption",
        () if is_encryption => "inbound_encryption",
        () if has("spam") => "spam_rate",
        () => return None,
    })
}

/// A table with a column of days: one file for each of the dashboards.
fn table(export: &Export, bytes: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let mut header: Option<Vec<String>> = None;
    rows(bytes, &mut reading, |reading, line, row| {
        if let Some(columns) = &header {
            reading.take(line, row_figures(export, columns, row));
            return true;
        }
        let columns: Vec<String> = row.iter().map(str::to_lowercase).collect();
        let is_table = columns.iter().any(|column| is_day(column));
        if !is_table {
            reading.take(
                line,
                Err("it is neither JSON nor a table whose first line names a column Date".into()),
            );
        }
        header = Some(columns);
        is_table
    });
    reading
}

fn is_day(column: &str) -> bool {
    column == "date" || column == "day"
}

fn row_figures(export: &Export, columns: &[String], row: &csv::StringRecord) -> Result<Figures, String> {
    let cells = || columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
    let cell =
        |wanted: &dyn Fn(&str) -> bool| cells().find(|(column, _)| wanted(column)).map(|(_, cell)| cell);
    let day = cell(&is_day).ok_or("it has no day")?;
    let day = ["%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%m/%d/%Y", "%b %d, %Y"]
        .iter()
        .find_map(|form| NaiveDate::parse_from_str(day, form).ok())
        .ok_or_else(|| format!("{:?} is no day such as 2026-11-09", short(day)))?;
    let domain = cell(&|column| column == "domain").map(str::to_owned).or_else(|| export.domain.clone());
    let domain = domain.ok_or("the table has no column Domain: say whose it is with --domain")?;
    let mut told: Vec<Figure> = Vec::new();
    for (column, cell) in cells().filter(|(column, _)| !is_day(column) && column.as_str() != "domain") {
        if column.contains("reputation") {
            told.push(Figure::word("reputation", &cell.to_uppercase()));
        } else if let Some(metric) = metric_of(column) {
            let figure = Figure::number(metric, share(cell).map_err(|why| format!("{column}: {why}"))?);
            let is_one_of_many = matches!(metric, "feedback_loop_spam_rate" | "delivery_error");
            told.push(if is_one_of_many { figure.of(column) } else { figure });
        }
    }
    figures(export, &domain, day, told)
}
