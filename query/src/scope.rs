//! Whose rows a query may see.

use sendlake_control::id::TenantId;

/// Whose rows a query sees. There is no query without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every tenant's rows: for operators and for the installation's own jobs.
    AllTenants,
    /// One tenant's rows, and nothing that could tell of another's.
    Tenant(TenantId),
}

impl Scope {
    /// The tenant that the scope is bound to, if it is bound to one.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Scope::AllTenants => None,
            Scope::Tenant(tenant) => Some(tenant),
        }
    }
}
