//! Asking DNS, through hickory.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{Answer, LookupFailure, MxRecord, Resolver};

/// The system's resolver settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("DNS cannot be set up from {from}: {reason}")]
pub struct ResolverError {
    from: String,
    reason: String,
}

/// The real DNS.
#[derive(Clone)]
pub struct HickoryResolver(TokioResolver);

impl HickoryResolver {
    /// The name servers of this host (`/etc/resolv.conf`).
    pub fn from_system() -> Result<Self, ResolverError> {
        let failed =
            |err: NetError| ResolverError { from: "the system's settings".into(), reason: err.to_string() };
        let builder = TokioResolver::builder_tokio().map_err(failed)?;
        Ok(Self(builder.build().map_err(failed)?))
    }

    /// These name servers and no others.
    pub fn from_servers(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        let name_servers = servers
            .iter()
            .map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            })
            .collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), name_servers);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .build()
            .map_err(|err| ResolverError { from: format!("{servers:?}"), reason: err.to_string() })?;
        Ok(Self(resolver))
    }

    /// The texts of a name's TXT records, the strings of each put together (RFC 7208, section 3.3). Octets that are no UTF-8
    /// are replaced.
    pub async fn txt(&self, name: &str) -> Result<Vec<String>, LookupFailure> {
        let lookup = self.lookup(name, RecordType::TXT).await?;
        let texts: Vec<String> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
                _ => None,
            })
            .collect();
        if texts.is_empty() { Err(LookupFailure::NoRecords) } else { Ok(texts) }
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, LookupFailure> {
        // Fully qualified: the search list of this host is no part of a mail domain.
        let name = Name::from_ascii(format!("{name}.")).map_err(|_| LookupFailure::NoSuchName)?;
        self.0.lookup(name, kind).await.map_err(|err| failure(&err))
    }

    async fn addresses_of(&self, host: &str, kind: RecordType) -> Result<Answer<Vec<IpAddr>>, LookupFailure> {
        let lookup = self.lookup(host, kind).await?;
        let value: Vec<IpAddr> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            })
            .collect();
        if value.is_empty() {
            return Err(LookupFailure::NoRecords);
        }
        Ok(Answer { value, ttl_s: ttl_s(&lookup) })
    }
}

fn ttl_s(lookup: &Lookup) -> u32 {
    lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0)
}

fn failure(err: &NetError) -> LookupFailure {
    match err {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => LookupFailure::NoSuchName,
            ResponseCode::NoError => LookupFailure::NoRecords,
            code => LookupFailure::Temporary(format!("the name server answered {code}")),
        },
        other => LookupFailure::Temporary(other.to_string()),
    }
}

#[async_trait]
impl Resolver for HickoryResolver {
    async fn mx(&self, domain: &str) -> Result<Answer<Vec<MxRecord>>, LookupFailure> {
        let lookup = self.lookup(domain, RecordType::MX).await?;
        let value: Vec<MxRecord> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some(MxRecord {
                    preference: mx.preference,
                    exchange: mx.exchange.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
                }),
                _ => None,
            })
            .collect();
        if value.is_empty() {
            return Err(LookupFailure::NoRecords);
        }
        Ok(Answer { value, ttl_s: ttl_s(&lookup) })
    }

    async fn addresses(&self, host: &str) -> Result<Answer<Vec<IpAddr>>, LookupFailure> {
        let (v4, v6) =
            futures::join!(self.addresses_of(host, RecordType::A), self.addresses_of(host, RecordType::AAAA));
        match (v4, v6) {
            // IPv4 first: IPv6 needs a reverse name and a record of reputation that many hosts lack.
            (Ok(v4), Ok(v6)) => Ok(Answer {
                value: v4.value.into_iter().chain(v6.value).collect(),
                ttl_s: v4.ttl_s.min(v6.ttl_s),
            }),
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
            // One temporary failure leaves it open whether there is an address.
            (Err(LookupFailure::Temporary(why)), Err(_)) | (Err(_), Err(LookupFailure::Temporary(why))) => {
                Err(LookupFailure::Temporary(why))
            }
            (Err(why), Err(_)) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    const MX: u16 = 15;
    const A: u16 = 1;
    const TXT: u16 = 16;
    const SERVFAIL: u8 = 2;
    const NXDOMAIN: u8 = 3;

    /// The answer to one question: response code, and the data of records of the type asked for.
    fn zone(name: &str, kind: u16) -> (u8, Vec<Vec<u8>>) {
        let mx = |preference: u8, exchange: &[u8]| [&[0, preference], exchange].concat();
        match (name, kind) {
            ("two.test", MX) => (0, vec![mx(20, b"\x03MX2\x04test\0"), mx(10, b"\x03mx1\x04test\0")]),
            ("null.test", MX) => (0, vec![mx(0, b"\0")]),
            ("plain.test", TXT) => (0, vec![b"\x07v=one; \x05p=two".to_vec(), b"\x05other".to_vec()]),
            ("mx1.test", A) => (0, vec![vec![192, 0, 2, 1], vec![192, 0, 2, 2]]),
            ("plain.test" | "mx1.test", _) => (0, Vec::new()),
            ("broken.test", _) => (SERVFAIL, Vec::new()),
            _ => (NXDOMAIN, Vec::new()),
        }
    }

    /// A name server, by hand: header, the question again, answers that point back at its name.
    async fn serve(socket: UdpSocket) {
        let mut query = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut query).await.unwrap();
            let (mut labels, mut at) = (Vec::new(), 12);
            while query[at] != 0 {
                let end = at + 1 + usize::from(query[at]);
                labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
                at = end;
            }
            let question_end = at + 5;
            assert!(question_end <= length);
            let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
            let (code, answers) = zone(&labels.join("."), kind);
            let mut reply = query[..2].to_vec();
            reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(answers.len()).unwrap(), 0, 0, 0, 0]);
            reply.extend(&query[12..question_end]);
            for data in answers {
                let length = u16::try_from(data.len()).unwrap();
                reply.extend([0xc0, 12]);
                reply.extend(kind.to_be_bytes());
                reply.extend([0, 1, 0, 0, 1, 44]);
                reply.extend(length.to_be_bytes());
                reply.extend(data);
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn answers_of_a_name_server_are_told_apart() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = HickoryResolver::from_servers(&[socket.local_addr().unwrap()]).unwrap();
        tokio::spawn(serve(socket));
        let record = |preference, exchange: &str| MxRecord { preference, exchange: exchange.into() };
        let mut two = resolver.mx("two.test").await.unwrap();
        two.value.sort_by_key(|record| record.preference);
        assert_eq!(two.value, [record(10, "mx1.test"), record(20, "mx2.test")]);
        assert_eq!(two.ttl_s, 300);
        assert_eq!(resolver.mx("null.test").await.unwrap().value, [record(0, "")]);
        assert_eq!(resolver.mx("plain.test").await, Err(LookupFailure::NoRecords));
        assert_eq!(resolver.mx("absent.test").await, Err(LookupFailure::NoSuchName));
        assert!(matches!(resolver.mx("broken.test").await, Err(LookupFailure::Temporary(_))));
        let mut texts = resolver.txt("plain.test").await.unwrap();
        texts.sort();
        assert_eq!(texts, ["other", "v=one; p=two"]);
        assert_eq!(resolver.txt("mx1.test").await, Err(LookupFailure::NoRecords));
        assert_eq!(resolver.addresses("mx1.test").await.unwrap().value.len(), 2);
        assert_eq!(resolver.addresses("plain.test").await, Err(LookupFailure::NoRecords));
        assert_eq!(resolver.addresses("absent.test").await, Err(LookupFailure::NoSuchName));
        assert!(matches!(resolver.addresses("broken.test").await, Err(LookupFailure::Temporary(_))));
    }
}
