//! Who is calling: bearer keys (RFC 6750), scopes, and the tenant that a request is for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sendlake_control::id::TenantId;

use super::ports::{Authenticator, Caller};
use super::problem::{Kind, Problem};

/// Names the tenant of a request made with a key of the whole installation.
pub const TENANT_HEADER: &str = "sendlake-tenant";

/// Middleware: lets a request through with its [`Caller`] among the extensions, or answers 401.
pub async fn authenticate(
    State(authenticator): State<Arc<dyn Authenticator>>,
    mut request: Request,
    next: Next,
) -> Response {
    match caller_of(authenticator.as_ref(), request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn caller_of(authenticator: &dyn Authenticator, headers: &HeaderMap) -> Result<Caller, Problem> {
    let Some(presented) = bearer(headers) else {
        let detail = "send one `Authorization: Bearer sl_…` header with an API key";
        return Err(Problem::new(Kind::Unauthenticated, detail).challenge("Bearer realm=\"sendlake\""));
    };
    match authenticator.authenticate(presented).await {
        Ok(Some(caller)) => Ok(caller),
        Ok(None) => {
            let detail = "this API key is unknown or revoked; `sendlake key ls` lists those that work";
            let challenge = "Bearer realm=\"sendlake\", error=\"invalid_token\"";
            Err(Problem::new(Kind::Unauthenticated, detail).challenge(challenge))
        }
        Err(error) => {
            tracing::error!(%error, "API keys cannot be checked");
            Err(Problem::new(Kind::StoreUnavailable, "API keys cannot be checked just now").retry_after(5))
        }
    }
}

/// The one bearer token of a request. The scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The caller, if its key has `scope`.
pub fn require<'e>(extensions: &'e Extensions, scope: &str) -> Result<&'e Caller, Problem> {
    let Some(caller) = extensions.get::<Caller>() else {
        return Err(Problem::new(Kind::Unauthenticated, "the request carries no API key")
            .challenge("Bearer realm=\"sendlake\""));
    };
    if caller.scopes.contains(scope) {
        if caller.suspended && scope == "send" {
            let detail = "an operator has suspended this tenant: it may read, but not send";
            return Err(Problem::new(Kind::TenantSuspended, detail));
        }
        return Ok(caller);
    }
    let detail = format!("key {} lacks the scope {scope:?}; make one that has it", caller.key_id);
    let challenge = format!("Bearer realm=\"sendlake\", error=\"insufficient_scope\", scope=\"{scope}\"");
    Err(Problem::new(Kind::MissingScope, detail).challenge(challenge))
}

/// The tenant that a request is for: the key's own, or the one in `Sendlake-Tenant`, or none.
pub fn tenant(caller: &Caller, headers: &HeaderMap) -> Result<Option<TenantId>, Problem> {
    let Some(named) = headers.get(TENANT_HEADER) else { return Ok(caller.tenant.clone()) };
    let named = String::from_utf8_lossy(named.as_bytes());
    let named =
        TenantId::new(&named).map_err(|error| Problem::new(Kind::InvalidTenant, error.to_string()))?;
    match &caller.tenant {
        Some(own) if *own != named => {
            let detail = format!("key {} acts for tenant {own}, not for {named}", caller.key_id);
            Err(Problem::new(Kind::TenantMismatch, detail))
        }
        _ => Ok(Some(named)),
    }
}

/// The tenant that a submission is for; there must be one.
pub fn require_tenant(caller: &Caller, headers: &HeaderMap) -> Result<TenantId, Problem> {
    tenant(caller, headers)?.ok_or_else(|| {
        let detail = format!(
            "key {} is for the whole installation: name the tenant in Sendlake-Tenant",
            caller.key_id
        );
        Problem::new(Kind::TenantRequired, detail)
    })
}
