//! A name server on loopback for tests: answers by UDP what the test wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;

const A: u16 = 1;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

#[derive(Default)]
struct Records {
    known: BTreeMap<(String, u16), Vec<Vec<u8>>>,
    broken: BTreeSet<String>,
}

/// Names and their records. Names that it does not know do not exist.
#[derive(Clone)]
pub(crate) struct Zone {
    records: Arc<Mutex<Records>>,
    pub addr: SocketAddr,
}

impl Zone {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let zone = Self { records: Arc::default(), addr: socket.local_addr().unwrap() };
        tokio::spawn(serve(socket, zone.records.clone()));
        zone
    }

    pub fn address(&self, name: &str, ip: &str) {
        match ip.parse().unwrap() {
            IpAddr::V4(ip) => self.add(name, A, ip.octets().to_vec()),
            IpAddr::V6(ip) => self.add(name, AAAA, ip.octets().to_vec()),
        }
    }

    pub fn mx(&self, name: &str, exchange: &str) {
        let mut data = vec![0, 10];
        for label in exchange.split('.') {
            data.push(u8::try_from(label.len()).unwrap());
            data.extend(label.bytes());
        }
        data.push(0);
        self.add(name, MX, data);
    }

    /// A text, in strings of at most 255 octets.
    pub fn txt(&self, name: &str, text: &str) {
        let strings = text.as_bytes().chunks(255).flat_map(|part| {
            let mut string = vec![u8::try_from(part.len()).unwrap()];
            string.extend(part);
            string
        });
        self.add(name, TXT, strings.collect());
    }

    /// Takes every record of a name away.
    pub fn forget(&self, name: &str) {
        self.records.lock().known.retain(|(known, _), _| known != name);
    }

    /// Answers questions about a name with SERVFAIL.
    pub fn fail(&self, name: &str) {
        self.records.lock().broken.insert(name.to_owned());
    }

    fn add(&self, name: &str, kind: u16, data: Vec<u8>) {
        self.records.lock().known.entry((name.to_owned(), kind)).or_default().push(data);
    }
}

/// Header, the question again, answers that point back at its name.
async fn serve(socket: UdpSocket, records: Arc<Mutex<Records>>) {
    let mut query = [0; 2048];
    loop {
        let (_, from) = socket.recv_from(&mut query).await.unwrap();
        let (mut labels, mut at) = (Vec::new(), 12);
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
            at = end;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let name = labels.join(".");
        let (code, answers) = {
            let records = records.lock();
            let exists = records.known.keys().any(|(known, _)| *known == name);
            match records.known.get(&(name.clone(), kind)) {
                _ if records.broken.contains(&name) => (SERVFAIL, Vec::new()),
                Some(answers) => (0, answers.clone()),
                None if exists => (0, Vec::new()),
                None => (NXDOMAIN, Vec::new()),
            }
        };
        let mut reply = query[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(answers.len()).unwrap(), 0, 0, 0, 0]);
        reply.extend(&query[12..at + 5]);
        for data in answers {
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 60]);
            reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend(data);
        }
        socket.send_to(&reply, from).await.unwrap();
    }
}
