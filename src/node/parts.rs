//! What the configuration's words mean to the parts of a node: sources, routes, sessions, schedules, limits.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use sendlake_control::id::Ids;
use sendlake_sender::api::limits::ApiLimits;
use sendlake_sender::delivery::{Connector, DeliverySettings};
use sendlake_sender::mx::{HickoryResolver, Router, RouterSettings};
use sendlake_sender::route::{RouteTable, StaticRoute, TlsPolicy};
use sendlake_sender::schedule::Schedule;
use sendlake_sender::session::{SessionSettings, Timeouts, Tls};
use sendlake_sender::source::{Pool, Source, Sources};
use sendlake_sender::stream::Stream;

use crate::config::{self, Config, Http, RouteTls};

pub(super) fn sources(config: &Config) -> anyhow::Result<Sources> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let sources = config.source.iter().map(|source| Source {
        name: source.name.clone(),
        bind: source.bind,
        ehlo: if source.ehlo.is_empty() { host.clone() } else { source.ehlo.clone() },
    });
    let pools =
        config.pool.iter().map(|pool| Pool { name: pool.name.clone(), sources: pool.sources.clone() });
    let streams = BTreeMap::from([
        (Stream::Transactional, config.streams.transactional.clone()),
        (Stream::Marketing, config.streams.marketing.clone()),
        (Stream::Cold, config.streams.cold.clone()),
    ]);
    Ok(Sources::new(sources.collect(), pools.collect(), &streams)?)
}

pub(super) fn router(config: &Config, sources: &Sources, ids: &Ids) -> anyhow::Result<Router> {
    let routes = config.route.iter().enumerate().map(|(index, route)| static_route(index, route));
    let routes = RouteTable::new(routes.collect::<Result<_, _>>()?)?;
    let own_names: HashSet<String> = sources.ehlo_names().map(str::to_owned).collect();
    let settings = RouterSettings {
        allow_private: config.delivery.allow_private_addresses,
        own_names,
        port: config.delivery.smtp_port,
        ..RouterSettings::default()
    };
    Ok(Router::new(routes, Arc::new(resolver(config)?), settings, ids.clock.clone(), ids.entropy.clone()))
}

/// The name servers that the configuration names, or the system's.
pub fn resolver(config: &Config) -> anyhow::Result<HickoryResolver> {
    let servers = &config.delivery.dns_servers;
    let resolver = if servers.is_empty() {
        HickoryResolver::from_system()?
    } else {
        HickoryResolver::from_servers(servers)?
    };
    Ok(resolver)
}

fn static_route(index: usize, route: &config::Route) -> anyhow::Result<StaticRoute> {
    let hosts = route.hosts.iter().map(|host| host.parse()).collect::<Result<_, _>>();
    Ok(StaticRoute {
        name: if route.name.is_empty() { format!("route-{index}") } else { route.name.clone() },
        domain: route.domain.clone(),
        hosts: hosts.with_context(|| format!("route.{index}.hosts"))?,
        tls: match route.tls {
            RouteTls::Opportunistic => TlsPolicy::Opportunistic,
            RouteTls::Required => TlsPolicy::Required,
            RouteTls::None => TlsPolicy::None,
        },
        provider: Some(route.provider.clone()).filter(|provider| !provider.is_empty()),
    })
}

pub(super) fn connector(config: &Config, ids: &Ids) -> anyhow::Result<Connector> {
    let delivery = &config.delivery;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0.001 to 10, checked at load"
    )]
    let percent = (delivery.timeout_scale * 100.0).ceil() as u32;
    let timeouts = Timeouts {
        connect: Duration::from_millis(delivery.connect_timeout_ms),
        ..Timeouts::default().scaled(percent)
    };
    let settings = SessionSettings {
        timeouts,
        messages_max: u32::try_from(delivery.messages_per_session_max).unwrap_or(u32::MAX),
        ..SessionSettings::default()
    };
    Ok(Connector { tls: Tls::with_public_roots(ids.clock.clone())?, settings })
}

pub(super) fn delivery_settings(config: &Config) -> DeliverySettings {
    let delivery = &config.delivery;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 0.5, checked at load")]
    let jitter_percent = (delivery.retry_jitter * 100.0) as u8;
    let schedule = |intervals_s: &[u32], lifetime_s| Schedule {
        intervals_s: intervals_s.to_vec(),
        jitter_percent,
        lifetime_s,
    };
    DeliverySettings {
        sessions_per_site_max: delivery.sessions_per_site_max,
        sessions_max: delivery.sessions_max,
        messages_per_session_max: delivery.messages_per_session_max,
        session_idle: Duration::from_millis(delivery.session_idle_ms),
        site_backoff_s: i64::from(delivery.site_backoff_s),
        schedule: schedule(&delivery.retry_intervals_s, delivery.lifetime_s),
        schedule_transactional: schedule(
            &delivery.retry_intervals_transactional_s,
            delivery.lifetime_transactional_s,
        ),
        public_url: config.http.public_url.clone(),
        feedback_sender: "sendlake".into(),
        sign: config.dkim.sign,
        offer_cfbl: config.inbound.offer_cfbl,
    }
}

/// The name under which this installation is reached.
pub fn public_host(config: &Config) -> String {
    let url = url::Url::parse(&config.http.public_url).ok();
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// Checked at load: each is an address or a network.
pub(super) fn trusted_proxies(config: &Config) -> Vec<IpNet> {
    config.http.trusted_proxies.iter().filter_map(|text| Http::network(text)).collect()
}

pub(super) fn api_limits(config: &Config) -> ApiLimits {
    let limits = &config.limits;
    ApiLimits {
        body_bytes: limits.body_bytes,
        recipients: limits.recipients,
        batch_messages: limits.batch_messages,
        attachment_bytes: limits.attachment_bytes,
        headers: limits.header_count,
        header_bytes: limits.header_bytes,
        send_at_days: limits.send_at_max_days,
        messages_per_s: limits.rate_per_s,
        messages_burst: limits.rate_burst,
        ..ApiLimits::default()
    }
}
