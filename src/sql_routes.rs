//! Mounts `POST /v1/sql` behind the keys: whoever holds the scope `sql` asks, and sees its tenant's rows.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use sendlake_query::http::Caller;
use sendlake_query::{QueryEngine, Scope};
use sendlake_sender::api::{auth, ports};

pub fn routes(engine: Arc<QueryEngine>) -> Router {
    sendlake_query::http::router(engine).route_layer(middleware::from_fn(translate))
}

/// From the key's caller to the query's.
async fn translate(mut request: Request, next: Next) -> Response {
    if let Some(caller) = request.extensions().get::<ports::Caller>() {
        // a key of the whole installation may narrow itself to one tenant, as everywhere in the API
        let tenant = match auth::tenant(caller, request.headers()) {
            Ok(tenant) => tenant,
            Err(problem) => return problem.into_response(),
        };
        let caller = Caller {
            scope: tenant.map_or(Scope::AllTenants, Scope::Tenant),
            may_query: caller.scopes.contains("sql"),
        };
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}
