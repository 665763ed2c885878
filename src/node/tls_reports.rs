//! `/local/tls-reports`: what is reported to other domains on the TLS of their MX hosts, over the local socket; and how the
//! part that does it is put together.

use std::sync::Arc;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use sendlake_control::ControlStore;
use sendlake_control::id::Ids;
use sendlake_ingest::outbox::Outbox;
use sendlake_query::QueryEngine;
use sendlake_sender::address::Address;
use sendlake_sender::source::Sources;
use sendlake_sender::spool::Spool;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::parts;
use crate::config::Config;
use crate::identities::ControlIdentities;
use crate::outside::Outside;
use crate::ports::SpoolIntake;
use crate::stores;
use crate::tls_reports::ledger::Ledger;
use crate::tls_reports::post::Poster;
use crate::tls_reports::{Reporter, TlsReports};

/// What `sendlake tls-report` asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskTlsReports {
    /// `2026-11-21`, UTC.
    pub day: String,
    #[serde(default)]
    pub domain: Option<String>,
    /// Send those that were not sent yet.
    #[serde(default)]
    pub send: bool,
}

/// What reports leave through.
pub(super) struct Parts<'a> {
    pub spool: &'a Arc<Spool>,
    pub control: &'a Arc<ControlStore>,
    pub identities: &'a Arc<ControlIdentities>,
    pub sources: &'a Arc<Sources>,
}

/// The part that reports; none unless somebody is named as the sender.
pub(super) fn reports(
    config: &Config,
    through: Parts<'_>,
    engine: &Arc<QueryEngine>,
    ids: &Ids,
) -> anyhow::Result<Option<Arc<TlsReports>>> {
    let wanted = &config.tls_reports;
    if wanted.from.is_empty() {
        return Ok(None);
    }
    let from = Address::parse(&wanted.from).context("tls_reports.from")?;
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let intake = SpoolIntake::new(
        through.spool.clone(),
        through.control.clone(),
        through.identities.clone(),
        through.sources.clone(),
        ids.clone(),
    );
    Ok(Some(Arc::new(TlsReports {
        reporter: Reporter {
            organization: or(&wanted.organization, from.domain()),
            contact: or(&wanted.contact, &from.to_string()),
            from,
        },
        engine: engine.clone(),
        intake: Arc::new(intake),
        identities: through.identities.clone(),
        ledger: Ledger {
            store: stores::open_place(config)?,
            holder: through.spool.incarnation().to_string(),
            node_id: config.node.id.clone(),
        },
        poster: Poster {
            outside: Outside {
                resolver: parts::resolver(config)?,
                allow_private: config.delivery.allow_private_addresses,
            },
            roots: Vec::new(),
        },
        ids: ids.clone(),
        sending: Mutex::default(),
    })))
}

pub(super) fn routes(reports: Option<Arc<TlsReports>>) -> Router {
    Router::new().route("/local/tls-reports", post(tell)).with_state(reports)
}

async fn tell(State(reports): State<Option<Arc<TlsReports>>>, Json(asked): Json<AskTlsReports>) -> Response {
    let refused = |detail: String| (StatusCode::CONFLICT, Json(json!({ "detail": detail }))).into_response();
    let Some(reports) = reports else {
        return refused(
            "TLS reports are off: name their sender, an address at a sending domain, in tls_reports.from"
                .to_owned(),
        );
    };
    match reports.of_day(&asked.day, asked.domain.as_deref(), asked.send).await {
        Ok(told) => Json(told).into_response(),
        Err(error) => refused(format!("{error:#}")),
    }
}
