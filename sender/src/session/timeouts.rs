//! How long each step may take (RFC 5321, section 4.5.3.2), and how much one connection carries.

use std::time::Duration;

/// The longest wait of each step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connection. The RFC has none; a host that is there answers in seconds.
    pub connect: Duration,
    pub greeting: Duration,
    pub ehlo: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    /// The 354 to DATA.
    pub data: Duration,
    /// Each block of the message.
    pub block: Duration,
    /// The reply to the final dot. Long, since a reply missed here means a repeated message.
    pub dot: Duration,
    /// QUIT, and a reply that may still come after a failed write.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            ehlo: minutes(5),
            tls: minutes(1),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            dot: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// All of them at `percent` of themselves. Below 100 is against the RFC, and fit for tests and demos.
    #[must_use]
    pub fn scaled(&self, percent: u32) -> Self {
        let scaled = |timeout: Duration| (timeout * percent / 100).max(Duration::from_millis(1));
        Self {
            connect: scaled(self.connect),
            greeting: scaled(self.greeting),
            ehlo: scaled(self.ehlo),
            tls: scaled(self.tls),
            mail: scaled(self.mail),
            rcpt: scaled(self.rcpt),
            data: scaled(self.data),
            block: scaled(self.block),
            dot: scaled(self.dot),
            quit: scaled(self.quit),
        }
    }
}

/// Settings of all sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    pub timeouts: Timeouts,
    /// Transactions on one connection, after which it is closed.
    pub messages_max: u32,
    /// Addresses that [`super::dial`] tries before it gives up.
    pub addresses_max: usize,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { timeouts: Timeouts::default(), messages_max: 100, addresses_max: 5 }
    }
}
