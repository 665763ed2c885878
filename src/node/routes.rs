//! What a node answers: the API with keys in front, the pages behind links in mail, and what commands on this host ask.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::*;
use crate::tlsrpt_routes::{self, PostedReports};
use crate::webhooks_out;
use crate::webhooks_out::routes::Endpoints;

/// Longest time for a request to the pages behind links, its body included: nobody needs a key to begin one.
const PAGE_MAX: Duration = Duration::from_secs(60);

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PAGE_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

impl Node {
    pub(crate) fn api(&self) -> Arc<Api> {
        let intake = SpoolIntake::new(
            self.spool.clone(),
            self.control.clone(),
            self.identities.clone(),
            self.sources.clone(),
            self.ids.clone(),
        );
        Arc::new(Api::new(
            Arc::new(intake),
            self.identities.clone(),
            Arc::new(LakeHistory(self.engine.clone())),
            self.ids.clone(),
            parts::api_limits(&self.config),
        ))
    }

    /// The HTTP surface: keys in front, problem documents throughout.
    pub(crate) fn public_routes(&self, api: Arc<Api>, roles: Roles) -> HttpRouter {
        let mut routes = HttpRouter::new();
        let mut description = sendlake_sender::api::openapi::openapi();
        if roles.sender {
            routes = routes.merge(api::message_routes(api));
            let (hearing, control) = (self.hearing.clone(), self.control.clone());
            routes = routes.merge(suppression_routes::routes(hearing, control.clone()));
            routes = routes.merge(list_routes::routes(control, self.engine.clone()));
            routes = routes.merge(webhooks_out::routes::routes(Endpoints {
                control: self.control.clone(),
                sender: self.webhook_sender.clone(),
                ids: self.ids.clone(),
            }));
            description.merge(<suppression_routes::ApiDoc as utoipa::OpenApi>::openapi());
            description.merge(<list_routes::ApiDoc as utoipa::OpenApi>::openapi());
            description.merge(<webhooks::ApiDoc as utoipa::OpenApi>::openapi());
            description.merge(<webhooks_out::routes::ApiDoc as utoipa::OpenApi>::openapi());
        }
        if roles.query {
            routes = routes.merge(crate::sql_routes::routes(self.engine.clone()));
            description.merge(<sendlake_query::http::ApiDoc as utoipa::OpenApi>::openapi());
        }
        let authenticator = Arc::new(ControlAuthenticator(self.control.clone()));
        let pages = if roles.query { sendlake_query::http::problem_pages() } else { HttpRouter::new() };
        let pages = if roles.sender {
            let reports = tlsrpt_routes::routes(self.posted_reports());
            pages.merge(self.pages_behind_links()).merge(webhooks::routes(self.webhooks())).merge(reports)
        } else {
            pages
        };
        api::serve_routes(routes, authenticator, &description).merge(pages)
    }

    fn webhooks(&self) -> Arc<Webhooks> {
        Arc::new(Webhooks {
            control: self.control.clone(),
            hearing: self.hearing.clone(),
            certificates: Certificates::new(Arc::new(Https::default()), public_roots()),
            ids: self.ids.clone(),
        })
    }

    fn posted_reports(&self) -> Arc<PostedReports> {
        let inbound = &self.config.inbound;
        Arc::new(PostedReports::new(
            self.hearing.reports.clone(),
            self.identities.clone(),
            parts::trusted_proxies(&self.config),
            inbound.message_bytes_max,
            inbound.messages_per_client_per_min,
        ))
    }

    /// What people reach by links in their mail, without a key.
    fn pages_behind_links(&self) -> HttpRouter {
        let tracking = Tracking {
            tokens: self.delivery_parts.tokens.clone(),
            identities: self.identities.clone(),
            visits: self.visits.clone(),
            public_host: parts::public_host(&self.config),
            trusted_proxies: parts::trusted_proxies(&self.config),
        };
        one_click::routes(self.hearing.clone())
            .merge(tracking::routes(Arc::new(tracking)))
            .layer(axum::middleware::from_fn(in_time))
    }

    /// What commands on this host may ask, without a key: whoever can open the data folder is its operator.
    pub fn local_routes(&self) -> HttpRouter {
        let feedback = feedback::routes(self.hearing.clone());
        let judging = judging::routes(self.publisher.clone(), self.identities.clone(), self.control.clone());
        let elsewhere = elsewhere::routes(self.hearing.clone(), self.lake.clone());
        let rebuilder = Rebuilder {
            control: self.control.clone(),
            engine: self.engine.clone(),
            suppressions: self.suppressions.clone(),
            keeping: self.keeping.clone(),
            wishes: self.hearing.wishes.clone(),
        };
        let safekeeping = safekeeping::routes(rebuilder, self.hearing.clone(), self.bursts.clone());
        let more = feedback
            .merge(judging)
            .merge(erasing::routes(self.eraser.clone()))
            .merge(elsewhere)
            .merge(safekeeping)
            .merge(super::tls_reports::routes(self.tls_reports.clone()));
        local::routes(self.api(), self.spool.clone(), self.control.clone(), more)
    }
}
