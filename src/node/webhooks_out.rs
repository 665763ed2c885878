//! The dispatcher of webhooks, wired.

use std::sync::Arc;

use sendlake_connectors::webhooks::dispatch::{DispatchParts, Dispatcher};
use sendlake_connectors::webhooks::send::Sender;
use sendlake_control::ControlStore;
use sendlake_control::id::Ids;
use sendlake_query::QueryEngine;
use sendlake_sender::spool::Spool;

use crate::config::Config;
use crate::webhooks_out::lake::EngineLake;
use crate::webhooks_out::{EventNotices, dispatch_settings};

/// What the dispatcher works with.
pub(super) struct Parts<'a> {
    pub spool: &'a Arc<Spool>,
    pub control: &'a Arc<ControlStore>,
    pub engine: &'a Arc<QueryEngine>,
    pub sender: &'a Arc<Sender>,
    pub ids: &'a Ids,
}

pub(super) fn dispatcher(config: &Config, with: Parts<'_>) -> Dispatcher {
    let notices =
        EventNotices { control: with.control.clone(), spool: with.spool.clone(), ids: with.ids.clone() };
    Dispatcher::new(DispatchParts {
        control: with.control.clone(),
        outbox: with.spool.clone(),
        lake: Arc::new(EngineLake(with.engine.clone())),
        sender: with.sender.clone(),
        notices: Arc::new(notices),
        ids: with.ids.clone(),
        settings: dispatch_settings(config),
    })
}
