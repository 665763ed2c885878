//! How much one client may do at once and in a minute. A client is an IPv4 address, or an IPv6 network of 64 bits: its
//! owner has them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::InboundSettings;

const WINDOW: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(60) };
/// Above this many known clients those whose minute is over are forgotten.
const KNOWN_MAX: usize = 10_000;

/// The clients of a listener. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<IpAddr, Known>>>);

struct Known {
    sessions: usize,
    mails: u32,
    since: Instant,
}

impl Known {
    fn is_idle(&self) -> bool {
        self.sessions == 0 && self.since.elapsed() > WINDOW
    }
}

impl Clients {
    /// One more session of a client, unless it has too many open.
    pub fn enter(&self, address: IpAddr, settings: &InboundSettings) -> Option<Client> {
        let network = network(address);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, client| !client.is_idle());
        }
        let client =
            known.entry(network).or_insert_with(|| Known { sessions: 0, mails: 0, since: Instant::now() });
        if client.sessions >= settings.sessions_per_client_max {
            return None;
        }
        client.sessions += 1;
        let mails_max = settings.messages_per_client_max;
        Some(Client { clients: self.clone(), network, address: address.to_canonical(), mails_max })
    }
}

/// One session of a client; leaves when dropped.
pub(super) struct Client {
    clients: Clients,
    network: IpAddr,
    pub address: IpAddr,
    mails_max: u32,
}

impl Client {
    /// Counts a mail. False when the client has had its share of this minute.
    pub fn may_send(&self) -> bool {
        let mut known = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(client) = known.get_mut(&self.network) else { return true };
        if client.since.elapsed() > WINDOW {
            (client.mails, client.since) = (0, Instant::now());
        }
        let may = client.mails < self.mails_max;
        client.mails += u32::from(may);
        may
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut known = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get_mut(&self.network) {
            client.sessions -= 1;
            if client.is_idle() {
                known.remove(&self.network);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_share_of_sessions_and_of_mails_in_a_minute() {
        let settings = InboundSettings {
            sessions_per_client_max: 2,
            messages_per_client_max: 3,
            ..InboundSettings::default()
        };
        let clients = Clients::default();
        let enter = |address: &str| clients.enter(address.parse().unwrap(), &settings);
        let one = enter("2001:db8::1").unwrap();
        let other = enter("2001:db8::ffff:1").unwrap();
        assert!(enter("2001:db8::2").is_none() && enter("2001:db8:0:1::2").is_some());
        assert!(enter("::ffff:192.0.2.1").is_some_and(|client| client.address.is_ipv4()));
        assert!(one.may_send() && other.may_send() && one.may_send());
        assert!(!one.may_send() && !other.may_send());
        std::thread::sleep(2 * WINDOW);
        assert!(other.may_send());
        drop((one, other));
        let again = enter("2001:db8::1").unwrap();
        assert!(
            again.may_send() && again.may_send() && !again.may_send(),
            "who leaves and comes back has no new minute"
        );
    }
}
