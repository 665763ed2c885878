//! Who may do what, under which keys; and the process's two inputs from outside, time and randomness.
//!
//! Everything else in the workspace may depend on this crate; it depends on none of the others.
//!
//! Given to every process
//! - [`clock`]: time and randomness
//! - [`id`]: names of tenants, ids of messages
//!
//! Kept in one small database
//! - [`store`]: opens it; [`error`] says why that or anything below failed
//! - [`tenant`]: whom the installation sends for
//! - [`key`]: API keys, their scopes, and who presents one
//! - [`domain`]: sending domains, their DKIM keys, and what to publish in the DNS
//! - [`feedback_loop`]: where complaints can be heard of
//! - [`suppression`]: whom not to write to
//! - [`tracking`]: whether opens and clicks are tracked by default, and under which names
//! - [`erasure`]: a person out of all that, but for the wish not to be written to
//! - [`webhook`]: where other senders push their events to
//! - [`export`]: what connectors have loaded and are to load; [`reverse`]: which rows of a query a CRM has; [`stored_secret`]: their credentials
//! - [`audit`]: what was changed, when and by whom
//! - `data_key`: each tenant's data keys, wrapped
//!
//! In memory
//! - [`secret`]: the master key and each tenant's data key, and what is sealed under them

pub mod audit;
pub mod clock;
mod data_key;
pub mod domain;
pub mod erasure;
pub mod error;
pub mod export;
pub mod feedback_loop;
pub mod id;
pub mod key;
pub mod reverse;
pub mod secret;
pub mod store;
pub mod stored_secret;
pub mod suppression;
pub mod tenant;
pub mod tracking;
pub mod webhook;

pub use error::ControlError;
pub use store::ControlStore;
