//! Which addresses may be asked on somebody else's word: the question, whose answer the binary brings along.

use std::net::IpAddr;

use async_trait::async_trait;

/// Keeps requests away from internal networks.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Whether an address may be asked: none of an internal network.
    fn allows(&self, ip: IpAddr) -> bool;

    /// The addresses of a name that may be asked, at least one; or why there is none.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String>;
}
