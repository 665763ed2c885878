//! Providers' own figures as rows of `provider_figures`: one row each, so that what comes in several exports, or again with
//! a correction, stands side by side. Whoever reads takes the last that was recorded.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde::Serialize;

use super::rows::{NoRows, ReportRows, encoded, key};
use super::schema::Kind;
use crate::calibration::{About, Figures};

/// One row; the names are those of the columns.
#[derive(Serialize)]
struct Row<'a> {
    report_date: i32,
    tenant_id: &'a str,
    report_key: &'a str,
    record: i32,
    recorded_at: i64,
    report_type: &'static str,
    begin_at: i64,
    end_at: i64,
    provider: &'static str,
    identity_kind: &'static str,
    identity: &'a str,
    metric: &'static str,
    label: Option<&'a str>,
    value: Option<f64>,
    value_lower: Option<f64>,
    value_upper: Option<f64>,
    text: Option<&'a str>,
}

impl ReportRows {
    /// The rows of what one record says. The key is made of all that it says: the same again adds nothing, a correction
    /// does.
    pub fn of_figures(
        figures: &Figures,
        tenant: &TenantId,
        recorded_at: Timestamp,
    ) -> Result<ReportRows, NoRows> {
        let (identity_kind, identity) = match &figures.about {
            About::Domain(domain) => ("domain", domain.clone()),
            About::Ip(ip) => ("ip", ip.to_string()),
        };
        let said = serde_json::to_string(&figures.figures).unwrap_or_default();
        let span = format!("{} {}", figures.day, figures.end_at);
        let parts = [figures.exporter.as_str(), tenant.as_str(), &identity, &span, &said];
        let report_key = key(&parts, figures.begin_at);
        let rows: Vec<Row<'_>> = figures
            .figures
            .iter()
            .zip(0..)
            .map(|(figure, record)| Row {
                report_date: figures.day,
                tenant_id: tenant.as_str(),
                report_key: &report_key,
                record,
                recorded_at: recorded_at.0,
                report_type: figures.exporter.as_str(),
                begin_at: figures.begin_at.0,
                end_at: figures.end_at.0,
                provider: figures.exporter.provider(),
                identity_kind,
                identity: &identity,
                metric: figure.metric,
                label: figure.label.as_deref(),
                value: figure.value,
                value_lower: figure.value_lower,
                value_upper: figure.value_upper,
                text: figure.text.as_deref(),
            })
            .collect();
        let rows = encoded(Kind::Figures, &rows)?;
        Ok(ReportRows { kind: Kind::Figures, key: report_key, day: figures.day, rows })
    }
}
