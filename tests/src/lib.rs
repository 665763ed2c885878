//! The harness of the end-to-end tests: a server as a child process on a folder of its own, the peers that it
//! talks to, and a client that asks it.
//!
//! - [`home`]: a data folder with its configuration, and the command line on it · [`server`]: a running `serve`
//! - [`full_disk`]: folders without space · [`power_cut`]: what a power cut leaves · [`random`]: choices of a seed
//! - [`http`]: the client · [`peers`]: real programs that tests need, or one line on what is missing · [`buckets`]: servers
//!   of object storage · [`warehouses`]: destinations of exports

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "test code: a failure here is the test's answer"
)]

pub mod buckets;
pub mod full_disk;
pub mod home;
pub mod http;
pub mod peers;
pub mod power_cut;
pub mod random;
pub mod server;
pub mod warehouses;

use std::time::{Duration, Instant};

/// Asks until there is an answer, or fails with what was waited for.
pub async fn until<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < within, "waited {within:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
