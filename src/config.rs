//! The configuration: what can be set, and its defaults. Reading and checking it lives in `load`.

mod load;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use sendlake_connectors::reverse::ReverseSettings;
use sendlake_connectors::settings::ExportSettings;
use serde::{Deserialize, Serialize};

pub use self::load::{ConfigError, load};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// Everything that can be set. Every key is also an environment variable: `SENDLAKE_HTTP__LISTEN` sets
    /// `listen` under `[http]`; its value is read as TOML, or else as plain text.
    Config {
        node: Node = Node::default(),
        storage: Storage = Storage::default(),
        http: Http = Http::default(),
        limits: Limits = Limits::default(),
        spool: Spool = Spool::default(),
        lake: Lake = Lake::default(),
        maintenance: Maintenance = Maintenance::default(),
        rollups: Rollups = Rollups::default(),
        sql: Sql = Sql::default(),
        rules: Rules = Rules::default(),
        delivery: Delivery = Delivery::default(),
        inbound: Inbound = Inbound::default(),
        tls_reports: TlsReports = TlsReports::default(),
        dkim: Dkim = Dkim::default(),
        policy: Policy = Policy::default(),
        streams: Streams = Streams::default(),
        /// Where mail leaves from.
        source: Vec<Source> = vec![Source::default()],
        /// Named groups of sources.
        pool: Vec<Pool> = ["transactional", "marketing", "cold"].map(Pool::named).to_vec(),
        /// Domains that do not go by MX: tests and smart hosts. The most specific match counts.
        route: Vec<Route> = Vec::new(),
        /// Where events are exported to, by the connector's name: docs/connectors.md.
        export: BTreeMap<String, ExportSettings> = BTreeMap::new(),
        /// Which queries' rows are posted to a CRM, by the connector's name: docs/connectors.md.
        reverse: BTreeMap<String, ReverseSettings> = BTreeMap::new(),
    }
}

section! {
    Node {
        /// Names this node in events.
        id: String = "node-1".into(),
    }
}

section! {
    Storage {
        /// The data folder: `spool/`, `reports/`, `control.db`, `master.key`, and `lake/` unless `lake_url` says otherwise.
        dir: PathBuf = "sendlake-data".into(),
        /// Where the lake lies: empty for `<dir>/lake`, else `s3://…`, `gs://…`, `az://…` or `file:///…`.
        lake_url: String = String::new(),
        /// Options of the object store (`aws_region`, `aws_endpoint`, …), over those of the environment.
        options: BTreeMap<String, String> = BTreeMap::new(),
        /// The master key's file: empty for `<dir>/master.key`. `SENDLAKE_MASTER_KEY` (base64) goes before it.
        master_key_file: PathBuf = PathBuf::new(),
    }
}

section! {
    Http {
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8025)),
        /// What recipients' unsubscribe links start with, and tracked links where a domain has no name of its own for them.
        public_url: String = "http://localhost:8025".into(),
        /// Addresses and networks of proxies whose `X-Forwarded-For` is believed.
        trusted_proxies: Vec<String> = vec!["127.0.0.0/8".into(), "::1/128".into()],
    }
}

section! {
    /// What one request may hold. Each has its own error.
    Limits {
        body_bytes: usize = 40 << 20,
        recipients: usize = 1_000,
        batch_messages: usize = 500,
        attachment_bytes: usize = 25 << 20,
        header_count: usize = 100,
        header_bytes: usize = 64 << 10,
        /// Messages (recipients) that one tenant may hand over per second, lastingly.
        rate_per_s: u32 = 5_000,
        /// And at once.
        rate_burst: u32 = 20_000,
        send_at_max_days: u32 = 30,
    }
}

section! {
    Spool {
        /// Below this much free space new mail is answered 503; queued mail still goes out.
        free_space_floor_bytes: u64 = 512 << 20,
        /// Above this many events waiting for the lake, in the spool's store and in files beside it, likewise.
        outbox_rows_max: u64 = 5_000_000,
        /// Memory for pages of the store.
        cache_bytes: usize = 256 << 20,
    }
}

section! {
    Lake {
        /// Longest wait before events are committed to the lake.
        commit_interval_ms: u64 = 10_000,
        /// Or as soon as this many wait.
        commit_rows_max: usize = 100_000,
        /// Above this many waiting events the oldest are moved to files, `spool/spill/`, in clear like the lake.
        spill_rows: u64 = 200_000,
    }
}

section! {
    /// Keeping the lake in shape, while it is written and read.
    Maintenance {
        /// Whether this node takes part. One node at a time does the work.
        enabled: bool = true,
        /// How often this node looks whether there is something to do.
        interval_s: u32 = 600,
        /// How large files should become; those of at least half of it are left alone.
        target_file_bytes: u64 = 128 << 20,
        /// Fewer small files than this of the current day are left alone.
        small_files_min: usize = 8,
        /// And those that are younger than this.
        settle_s: u32 = 60,
        /// Memory for sorting; what does not fit goes to `lake-sort/` in the data folder.
        memory_bytes: usize = 256 << 20,
        /// Days that events are kept; 0 for ever.
        retention_days: u32 = 0,
        /// How long a replaced file stays for those who still read it, and for backups.
        vacuum_grace_h: u32 = 24,
        /// How long old entries of a table's log stay.
        log_retention_h: u32 = 168,
        /// Readers of new events that retention does not wait for.
        ignored_readers: Vec<String> = Vec::new(),
    }
}

section! {
    Rollups {
        /// Seconds between two refreshes; 0 leaves it to other nodes, or to `sendlake lake rollup`.
        interval_s: u32 = 60,
    }
}

section! {
    /// Limits of one SQL query.
    Sql {
        time_ms_max: u64 = 30_000,
        memory_bytes_max: usize = 512 << 20,
        rows_max: usize = 100_000,
        concurrent_max: usize = 4,
        /// Memory for footers of the lake's files, kept from one query to the next.
        footer_cache_bytes: usize = 48 << 20,
    }
}

section! {
    /// How refusals are read.
    Rules {
        /// A file of bounce rules instead of those of this build; it may change them by naming their version as its `base`.
        file: PathBuf = PathBuf::new(),
    }
}

section! {
    Delivery {
        /// Most sessions open to one site (one set of MX hosts) at once.
        sessions_per_site_max: usize = 10,
        /// Most sessions open at once.
        sessions_max: usize = 500,
        messages_per_session_max: usize = 100,
        /// How long a session without work is kept for the next message.
        session_idle_ms: u64 = 3_000,
        /// TCP connect. RFC 5321, section 4.5.3.2 has the others; `timeout_scale` shortens them alike.
        connect_timeout_ms: u64 = 30_000,
        /// 1.0 for the RFC's timeouts (five minutes for most commands); tests use less.
        timeout_scale: f64 = 1.0,
        /// Waits before the second, third, … attempt; the last repeats.
        retry_intervals_s: Vec<u32> = vec![60, 300, 900, 1_800, 3_600, 7_200, 14_400],
        /// The same for the transactional stream.
        retry_intervals_transactional_s: Vec<u32> = vec![30, 60, 300, 900, 1_800, 3_600, 7_200],
        /// Share of an interval by which it is stretched or shrunk at random, 0 to 0.5.
        retry_jitter: f64 = 0.2,
        /// A message that is not delivered by then expires.
        lifetime_s: u32 = 3 * 86_400,
        lifetime_transactional_s: u32 = 86_400,
        /// How long a site that cannot be reached is left alone.
        site_backoff_s: u32 = 30,
        /// Deliver to private and loopback addresses that an MX points at. For test networks only.
        allow_private_addresses: bool = false,
        /// TCP port of MX hosts.
        smtp_port: u16 = 25,
        /// Name servers (`ip:port`); empty for the system's.
        dns_servers: Vec<SocketAddr> = Vec::new(),
    }
}

section! {
    /// SMTP for bounces and feedback reports.
    Inbound {
        /// Address and port, such as `0.0.0.0:25`; empty for none.
        listen: String = String::new(),
        /// What the server calls itself; empty for the first source's `ehlo`, or the host's name.
        hostname: String = String::new(),
        /// Addresses for reports besides `fbl@`, `abuse@` and `postmaster@` at every bounce domain.
        feedback_addresses: Vec<String> = Vec::new(),
        /// Name `fbl@` at the bounce domain as the address for complaints in the header of signed mail (RFC 9477).
        offer_cfbl: bool = true,
        /// A folder, or a Maildir, in which another server leaves mails; each is read and removed. Empty for none.
        drop_dir: PathBuf = PathBuf::new(),
        /// Addresses for DMARC and TLS reports besides `dmarc@` and `tlsrpt@` at every bounce domain.
        report_addresses: Vec<String> = Vec::new(),
        message_bytes_max: usize = 10 << 20,
        sessions_max: usize = 100,
        /// Mails of one client address (or IPv6 network of 64 bits) in a minute; the next ones are answered 451.
        messages_per_client_per_min: u32 = 3_000,
        /// Longest wait for a client's next octets.
        idle_timeout_s: u32 = 60,
        /// Longest conversation with a client; a mail in hand is finished.
        session_timeout_s: u32 = 600,
        /// Certificates for STARTTLS in PEM form, the server's own first; empty for one that it signs itself.
        tls_certificate_file: PathBuf = PathBuf::new(),
        /// The key of the first, in PEM form.
        tls_key_file: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Reports to other domains on the TLS of their MX hosts (RFC 8460).
    TlsReports {
        /// Who sends them: an address at a sending domain. Empty for no reports.
        from: String = String::new(),
        /// Who reports, in words; empty for the domain of `from`.
        organization: String = String::new(),
        /// Whom to ask about a report; empty for `from`.
        contact: String = String::new(),
    }
}

section! {
    /// Limits: the published table `quotas`.
    Policy {
        /// Obey the published limits. Suppressions are obeyed in any case.
        enforce: bool = true,
        /// How often limits are judged and published here; 0 for never: another process does.
        publish_interval_s: u32 = 60,
    }
}

section! {
    Dkim {
        /// Sign with the sending domain's key.
        sign: bool = true,
        /// A second signature for this domain, which must belong to the tenant `platform`; empty for none.
        platform_domain: String = String::new(),
    }
}

section! {
    /// Which pool each stream leaves through.
    Streams {
        transactional: String = "transactional".into(),
        marketing: String = "marketing".into(),
        cold: String = "cold".into(),
    }
}

section! {
    Source {
        name: String = "default".into(),
        /// Local address to send from; absent for the system's choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        bind: Option<IpAddr> = None,
        /// Name in EHLO: should resolve to this source's address, and back. Empty for the node's host name.
        ehlo: String = String::new(),
    }
}

section! {
    /// Streams never share a pool: their reputations would mix.
    Pool {
        name: String = String::new(),
        sources: Vec<String> = vec!["default".into()],
    }
}

impl Pool {
    fn named(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// TLS towards the hosts of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTls {
    /// When offered, whoever the certificate names.
    #[default]
    Opportunistic,
    /// Or not at all, with a certificate that verifies.
    Required,
    None,
}

section! {
    Route {
        /// Names the site in events; empty for `route-<n>`.
        name: String = String::new(),
        /// `example.com`, `*.example.com`, or `*` for all.
        domain: String = String::new(),
        /// `host:port`, tried in order.
        hosts: Vec<String> = Vec::new(),
        tls: RouteTls = RouteTls::Opportunistic,
        /// What events call this provider; empty for the route's name.
        provider: String = String::new(),
    }
}

impl Http {
    /// A network as it stands in `trusted_proxies`; an address stands for itself.
    pub fn network(text: &str) -> Option<IpNet> {
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }
}

impl Config {
    pub fn spool_dir(&self) -> PathBuf {
        self.storage.dir.join("spool")
    }

    pub fn control_path(&self) -> PathBuf {
        self.storage.dir.join("control.db")
    }

    pub fn quarantine_dir(&self) -> PathBuf {
        self.storage.dir.join("quarantine")
    }

    /// Where the list of suppressions is kept for a quick start: hashes, no addresses.
    pub fn suppressions_path(&self) -> PathBuf {
        self.storage.dir.join("suppressions.idx")
    }

    /// DMARC and TLS reports that wait for the lake, and those that cannot be read.
    pub fn reports_dir(&self) -> PathBuf {
        self.storage.dir.join("reports")
    }

    pub fn socket_path(&self) -> PathBuf {
        self.storage.dir.join("sendlake.sock")
    }

    pub fn master_key_path(&self) -> PathBuf {
        if self.storage.master_key_file.as_os_str().is_empty() {
            self.storage.dir.join("master.key")
        } else {
            self.storage.master_key_file.clone()
        }
    }

    /// Batches of exports that are not loaded yet.
    pub fn export_dir(&self) -> PathBuf {
        self.storage.dir.join("export")
    }

    /// Where maintenance of the lake sorts what does not fit into memory.
    pub fn sort_dir(&self) -> PathBuf {
        self.storage.dir.join("lake-sort")
    }

    /// The lake's place: a URL, or a path for the default.
    pub fn lake_place(&self) -> String {
        if self.storage.lake_url.is_empty() {
            self.storage.dir.join("lake").to_string_lossy().into_owned()
        } else {
            self.storage.lake_url.clone()
        }
    }
}

#[cfg(test)]
mod tests;
