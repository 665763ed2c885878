//! From a destination to a session: its hosts in order, each address in turn, in clear where TLS fails and may.

use crate::mx::Destination;
use crate::route::TlsPolicy;
use crate::session::{
    AttemptFailure, ConnectFacts, ConnectFailure, FailureKind, Session, SessionSettings, SmtpCommand, Target,
    Tls,
};
use crate::source::Source;

/// Connects to the first host of a destination that takes us. When none does, the failure told is the first
/// that came with a reply, else the last: what a host said is worth more than that another was silent.
pub async fn dial(
    destination: &Destination,
    source: &Source,
    tls: &Tls,
    settings: &SessionSettings,
) -> Result<Session, Box<ConnectFailure>> {
    let mut told: Option<Box<ConnectFailure>> = None;
    let mut reachable = Vec::with_capacity(settings.addresses_max);
    for host in &destination.hosts {
        let addrs =
            host.addrs.iter().filter(|addr| source.bind.is_none_or(|bind| bind.is_ipv4() == addr.is_ipv4()));
        reachable.extend(addrs.map(|addr| Target { host: &host.name, addr: *addr }));
    }
    for target in reachable.into_iter().take(settings.addresses_max) {
        let mut result = Session::connect(target, source, destination.tls, tls, settings).await;
        if let Err(failed) = &result
            && failed.failure.kind == FailureKind::Tls
            && destination.tls == TlsPolicy::Opportunistic
        {
            let failure = (failed.facts.tls_failure, failed.facts.tls_failure_reason.clone());
            result = Session::connect(target, source, TlsPolicy::None, tls, settings).await;
            // one session that failed, and not two: what comes now stands in its place
            let facts = match &mut result {
                Ok(session) => &mut session.facts,
                Err(failed) => &mut failed.facts,
            };
            (facts.tls_failure, facts.tls_failure_reason) = failure;
        }
        match result {
            Ok(session) => return Ok(session),
            Err(failed) if told.as_ref().is_none_or(|told| told.failure.reply.is_none()) => {
                told = Some(failed);
            }
            Err(_) => {}
        }
    }
    Err(told.unwrap_or_else(|| {
        let first = destination.hosts.first();
        let detail = format!(
            "none of the {} hosts of {} has an address that the source {:?} can reach: give it an address of \
             the other family as well",
            destination.hosts.len(),
            destination.site,
            source.name
        );
        Box::new(ConnectFailure {
            failure: AttemptFailure::new(SmtpCommand::Connect, FailureKind::Source, detail),
            facts: ConnectFacts {
                mx_host: first.map(|host| host.name.clone()).unwrap_or_default(),
                ..ConnectFacts::default()
            },
        })
    }))
}
