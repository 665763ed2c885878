//! Reads the configuration from a file and the environment, and checks that it makes sense. Every complaint
//! names the file and line, or the variable, and the key.

use std::path::{Path, PathBuf};

use sendlake_ingest::foreign::ELSEWHERE;
use sendlake_sender::address::Address;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::{Config, Http, Inbound};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: cannot be read: {reason}; give another file with --config, or none for the defaults")]
    Unreadable { path: PathBuf, reason: std::io::Error },
    #[error("{at}: {key}: {problem}")]
    Invalid { at: String, key: String, problem: String },
}

/// What a line of the environment starts with when it sets a key.
const PREFIX: &str = "SENDLAKE_";
const SEPARATOR: &str = "__";
/// Lists of tables, which a variable sets whole: `SENDLAKE_ROUTE='[{ domain = "*", hosts = ["relay:25"] }]'`.
const LISTS: [&str; 3] = ["SENDLAKE_SOURCE", "SENDLAKE_POOL", "SENDLAKE_ROUTE"];

/// The defaults, overlaid by `file` and then by those variables of `environment` that set a key.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?,
        None => String::new(),
    };
    let place = Place { name: file.map(|path| path.display().to_string()).unwrap_or_default(), text: &text };
    let mut table: toml::Table = place.parse()?;
    let mut config: Config = place.parse()?;
    let sets_a_key =
        |name: &str| name.starts_with(PREFIX) && (name.contains(SEPARATOR) || LISTS.contains(&name));
    let mut variables: Vec<_> = environment.filter(|(name, _)| sets_a_key(name)).collect();
    variables.sort();
    for (name, value) in &variables {
        config = overlay(&mut table, name, value)?;
    }
    check(&config).map_err(|(key, problem)| match variables.iter().find(|(name, _)| sets(name, &key)) {
        Some((name, _)) => ConfigError::Invalid { at: format!("environment variable {name}"), key, problem },
        None => place.invalid(&key, problem),
    })?;
    Ok(config)
}

/// Whether a variable sets the dotted key, or something that it lies in.
fn sets(variable: &str, key: &str) -> bool {
    let path = variable.strip_prefix(PREFIX).unwrap_or(variable).replace(SEPARATOR, ".").to_lowercase();
    key.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A configuration file's text, for finding lines in it.
struct Place<'a> {
    name: String,
    text: &'a str,
}

impl Place<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let failed = |key: String, error: &toml::de::Error| ConfigError::Invalid {
            at: self.at(error.span().map(|span| span.start)),
            key,
            problem: error.message().to_owned(),
        };
        let deserializer =
            toml::Deserializer::parse(self.text).map_err(|error| failed("TOML".into(), &error))?;
        serde_path_to_error::deserialize(deserializer)
            .map_err(|error| failed(error.path().to_string(), error.inner()))
    }

    fn at(&self, offset: Option<usize>) -> String {
        match offset.and_then(|offset| self.text.get(..offset)) {
            Some(before) => format!("{}:{}", self.name, before.matches('\n').count() + 1),
            None => self.name.clone(),
        }
    }

    /// A complaint about `key`, with its line when the file sets it.
    fn invalid(&self, key: &str, problem: String) -> ConfigError {
        let at = match DeTable::parse(self.text).ok().and_then(|table| offset(table.get_ref(), key)) {
            Some(offset) => self.at(Some(offset)),
            None => format!("{PREFIX}{}", key.to_uppercase().replace('.', SEPARATOR)),
        };
        ConfigError::Invalid { at, key: key.to_owned(), problem }
    }
}

/// Where the value of a dotted key (`pool.0.sources`) starts, or its nearest ancestor's.
fn offset(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        let next = match (value.get_ref(), part.parse::<usize>()) {
            (DeValue::Table(table), _) => table.get(part),
            (DeValue::Array(array), Ok(index)) => array.get(index),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => break,
        }
    }
    Some(value.span().start)
}

/// Sets the key that a variable names, as TOML where that is accepted, else as plain text.
fn overlay(table: &mut toml::Table, name: &str, text: &str) -> Result<Config, ConfigError> {
    let path: Vec<String> =
        name.strip_prefix(PREFIX).unwrap_or(name).split(SEPARATOR).map(str::to_lowercase).collect();
    let invalid = |problem: String| ConfigError::Invalid {
        at: format!("environment variable {name}"),
        key: path.join("."),
        problem,
    };
    let as_toml = toml::from_str::<toml::Table>(&format!("v = {text}")).ok().and_then(|mut t| t.remove("v"));
    let as_text = toml::Value::String(text.to_owned());
    let mut problem = String::new();
    for value in as_toml.into_iter().chain([as_text]) {
        let mut changed = table.clone();
        set(&mut changed, &path, value).map_err(invalid)?;
        match Config::deserialize_table(changed.clone()) {
            Ok(config) => {
                *table = changed;
                return Ok(config);
            }
            Err(error) if problem.is_empty() => problem = error.message().to_owned(),
            Err(_) => {}
        }
    }
    Err(invalid(problem))
}

fn set(table: &mut toml::Table, path: &[String], value: toml::Value) -> Result<(), String> {
    match path {
        [] => Err("names no key".into()),
        [key] => {
            table.insert(key.clone(), value);
            Ok(())
        }
        [section, rest @ ..] => {
            let inner =
                table.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match inner {
                toml::Value::Table(inner) => set(inner, rest, value),
                _ => Err(format!("{section} is no section; set it whole")),
            }
        }
    }
}

impl Config {
    fn deserialize_table(table: toml::Table) -> Result<Self, toml::de::Error> {
        table.try_into()
    }
}

/// What no type can say. Returns the key and the complaint.
fn check(config: &Config) -> Result<(), (String, String)> {
    let refuse = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
    if config.node.id.is_empty() || config.node.id.len() > 63 {
        return refuse("node.id", "use 1 to 63 characters");
    }
    if url::Url::parse(&config.http.public_url).map_or(true, |url| !matches!(url.scheme(), "http" | "https"))
    {
        return refuse("http.public_url", "must be an http or https URL");
    }
    if let Some(bad) = config.http.trusted_proxies.iter().position(|text| Http::network(text).is_none()) {
        return refuse(
            &format!("http.trusted_proxies.{bad}"),
            "must be an address or a network, such as 10.0.0.0/8 or ::1",
        );
    }
    if !(0.0..=0.5).contains(&config.delivery.retry_jitter) {
        return refuse("delivery.retry_jitter", "must lie between 0 and 0.5");
    }
    if !(0.001..=10.0).contains(&config.delivery.timeout_scale) {
        return refuse("delivery.timeout_scale", "must lie between 0.001 and 10");
    }
    for (key, intervals) in [
        ("delivery.retry_intervals_s", &config.delivery.retry_intervals_s),
        ("delivery.retry_intervals_transactional_s", &config.delivery.retry_intervals_transactional_s),
    ] {
        if intervals.is_empty() || intervals.contains(&0) {
            return refuse(key, "needs at least one interval, and none of 0");
        }
    }
    let inbound = &config.inbound;
    if !inbound.listen.is_empty() && inbound.listen.parse::<std::net::SocketAddr>().is_err() {
        return refuse("inbound.listen", "must be an address and a port, such as 0.0.0.0:25, or empty");
    }
    if let Some(bad) = inbound.report_addresses.iter().position(|address| !address.contains('@')) {
        return refuse(&format!("inbound.report_addresses.{bad}"), "is no mail address");
    }
    if let Some(bad) = inbound.feedback_addresses.iter().position(|address| !address.contains('@')) {
        return refuse(&format!("inbound.feedback_addresses.{bad}"), "is no mail address");
    }
    check_files(inbound)?;
    for (name, export) in &config.export {
        let key = |key: String| format!("export.{name}.{key}").trim_end_matches('.').to_owned();
        export.check(name).map_err(|(below, problem)| (key(below), problem))?;
    }
    for (name, reverse) in &config.reverse {
        let key = |key: &str| format!("reverse.{name}.{key}").trim_end_matches('.').to_owned();
        reverse.check(name).map_err(|(below, problem)| (key(below), problem))?;
    }
    let reports = &config.tls_reports;
    if !reports.from.is_empty()
        && let Err(error) = Address::parse(&reports.from)
    {
        return refuse("tls_reports.from", &format!("is no mail address: {error}"));
    }
    if [&reports.organization, &reports.contact].iter().any(|text| text.chars().any(char::is_control)) {
        return refuse("tls_reports", "organization and contact are one line each");
    }
    for (key, value) in [
        ("inbound.message_bytes_max", inbound.message_bytes_max),
        ("inbound.sessions_max", inbound.sessions_max),
        ("inbound.idle_timeout_s", inbound.idle_timeout_s as usize),
        ("inbound.session_timeout_s", inbound.session_timeout_s as usize),
        ("inbound.messages_per_client_per_min", inbound.messages_per_client_per_min as usize),
        ("delivery.sessions_per_site_max", config.delivery.sessions_per_site_max),
        ("delivery.sessions_max", config.delivery.sessions_max),
        ("delivery.messages_per_session_max", config.delivery.messages_per_session_max),
        ("limits.recipients", config.limits.recipients),
        ("limits.body_bytes", config.limits.body_bytes),
        ("sql.rows_max", config.sql.rows_max),
        ("sql.concurrent_max", config.sql.concurrent_max),
        ("lake.commit_rows_max", config.lake.commit_rows_max),
        ("lake.spill_rows", usize::try_from(config.lake.spill_rows).unwrap_or(usize::MAX)),
        ("maintenance.interval_s", config.maintenance.interval_s as usize),
    ] {
        if value == 0 {
            return refuse(key, "must be at least 1");
        }
    }
    if config.spool.cache_bytes < 1 << 20 {
        return refuse("spool.cache_bytes", "must be at least 1048576 (1 MiB)");
    }
    if config.maintenance.target_file_bytes < 1 << 20 {
        return refuse("maintenance.target_file_bytes", "must be at least 1048576 (1 MiB)");
    }
    if !(1..=168).contains(&config.maintenance.vacuum_grace_h) {
        return refuse(
            "maintenance.vacuum_grace_h",
            "must lie between 1 and 168: a commit may take minutes, and the log remembers removed files for a week",
        );
    }
    check_names(config)
}

/// A certificate has its key, and a folder for mail is there.
fn check_files(inbound: &Inbound) -> Result<(), (String, String)> {
    let is_set = |path: &Path| !path.as_os_str().is_empty();
    let (certificate, key) = (&inbound.tls_certificate_file, &inbound.tls_key_file);
    for (set, path, other) in [
        ("inbound.tls_certificate_file", certificate, "inbound.tls_key_file"),
        ("inbound.tls_key_file", key, "inbound.tls_certificate_file"),
    ] {
        if is_set(path) && is_set(certificate) != is_set(key) {
            return Err((set.to_owned(), format!("needs {other} beside it, or leave both out")));
        }
    }
    if is_set(&inbound.drop_dir) && !inbound.drop_dir.is_dir() {
        let text = format!("{} is no folder that is there; make it first", inbound.drop_dir.display());
        return Err(("inbound.drop_dir".to_owned(), text));
    }
    Ok(())
}

/// Sources, pools, streams and routes refer to each other by name.
fn check_names(config: &Config) -> Result<(), (String, String)> {
    let sources: Vec<&str> = config.source.iter().map(|source| source.name.as_str()).collect();
    let pools: Vec<&str> = config.pool.iter().map(|pool| pool.name.as_str()).collect();
    for (kind, names) in [("source", &sources), ("pool", &pools)] {
        for (index, name) in names.iter().enumerate() {
            if names.iter().take(index).any(|other| other == name) {
                return Err((format!("{kind}.{index}.name"), format!("there are two named {name:?}")));
            }
        }
    }
    for (index, pool) in config.pool.iter().enumerate() {
        if pool.name.starts_with(ELSEWHERE) {
            let text = format!("{ELSEWHERE}… names what another sender sent; give this pool another name");
            return Err((format!("pool.{index}.name"), text));
        }
        let key = format!("pool.{index}.sources");
        if pool.sources.is_empty() {
            return Err((key, "a pool needs at least one source".into()));
        }
        if let Some(unknown) = pool.sources.iter().find(|name| !sources.contains(&name.as_str())) {
            return Err((key, format!("no source is named {unknown:?}; there are {}", sources.join(", "))));
        }
    }
    let streams = [
        ("transactional", &config.streams.transactional),
        ("marketing", &config.streams.marketing),
        ("cold", &config.streams.cold),
    ];
    for (index, (stream, pool)) in streams.into_iter().enumerate() {
        if let Some((other, _)) = streams.iter().take(index).find(|(_, taken)| *taken == pool) {
            return Err((
                format!("streams.{stream}"),
                format!(
                    "shares the pool {pool:?} with {other}: their reputations would mix; give each its own"
                ),
            ));
        }
        if !pools.contains(&pool.as_str()) {
            return Err((
                format!("streams.{stream}"),
                format!("no pool is named {pool:?}; there are {}", pools.join(", ")),
            ));
        }
    }
    for (index, route) in config.route.iter().enumerate() {
        if route.domain.is_empty() {
            return Err((format!("route.{index}.domain"), "names no domain; use * for all".into()));
        }
        let well_formed = |host: &String| {
            host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
        };
        if route.hosts.is_empty() || !route.hosts.iter().all(well_formed) {
            return Err((format!("route.{index}.hosts"), "needs one or more of \"host:port\"".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sendlake.toml");
        std::fs::write(&path, text).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        load(Some(&path), environment)
            .map_err(|error| error.to_string().replace(&dir.path().display().to_string(), ""))
    }

    #[test]
    fn empty_file_is_the_defaults() {
        assert_eq!(with("", &[]).unwrap(), Config::default());
    }

    #[test]
    fn complaints_name_file_line_and_key() {
        for (text, complaint) in [
            ("[http]\n\nlisten = 7\n", "/sendlake.toml:3: http.listen: "),
            ("[http]\nlisen = \"x\"\n", "/sendlake.toml:2: http.lisen: unknown field `lisen`, expected"),
            ("[http\n", "/sendlake.toml:1: TOML: "),
            (
                "[streams]\ncold = \"ice\"\n",
                "/sendlake.toml:2: streams.cold: no pool is named \"ice\"; there are",
            ),
            (
                "[[pool]]\nname=\"a\"\nsources = [\"x\"]",
                "/sendlake.toml:3: pool.0.sources: no source is named",
            ),
            (
                "[[pool]]\nname=\"elsewhere:ses\"",
                "/sendlake.toml:2: pool.0.name: elsewhere:… names what another sender sent",
            ),
            (
                "[inbound]\ntls_certificate_file = \"/a.pem\"",
                "/sendlake.toml:2: inbound.tls_certificate_file: needs inbound.tls_key_file beside it",
            ),
            (
                "[inbound]\ntls_key_file = \"/a.pem\"",
                "/sendlake.toml:2: inbound.tls_key_file: needs inbound.tls_certificate_file beside it",
            ),
            (
                "[inbound]\nmessages_per_client_per_min = 0",
                "/sendlake.toml:2: inbound.messages_per_client_per_min: must be at least 1",
            ),
            (
                "[inbound]\ndrop_dir = \"/there/is/no/such\"",
                "/sendlake.toml:2: inbound.drop_dir: /there/is/no/such is no folder that is there",
            ),
            (
                "[[route]]\ndomain = \"a.test\"\nhosts = [\"h\"]",
                "/sendlake.toml:3: route.0.hosts: needs one or more",
            ),
        ] {
            let said = with(text, &[]).unwrap_err();
            assert!(said.starts_with(complaint), "{said}");
        }
    }

    #[test]
    fn environment_goes_over_the_file() {
        let config = with(
            "[http]\nlisten = \"127.0.0.1:1\"\n",
            &[
                ("SENDLAKE_HTTP__LISTEN", "127.0.0.1:2"),
                ("SENDLAKE_NODE__ID", "7"),
                ("SENDLAKE_DELIVERY__RETRY_INTERVALS_S", "[1, 2]"),
                ("SENDLAKE_STORAGE__OPTIONS__AWS_REGION", "eu-west-1"),
                ("SENDLAKE_ROUTE", "[{ domain = \"*\", hosts = [\"relay.test:25\"] }]"),
                ("SENDLAKE_DIR", "not a key"),
            ],
        )
        .unwrap();
        assert_eq!(config.route[0].hosts, ["relay.test:25"]);
        assert_eq!(config.http.listen.port(), 2);
        assert_eq!(config.node.id, "7");
        assert_eq!(config.delivery.retry_intervals_s, [1, 2]);
        assert_eq!(config.storage.options.get("aws_region").map(String::as_str), Some("eu-west-1"));
    }

    #[test]
    fn environment_is_checked_like_the_file() {
        let said = with("", &[("SENDLAKE_HTTP__LISEN", "x")]).unwrap_err();
        assert!(
            said.starts_with("environment variable SENDLAKE_HTTP__LISEN: http.lisen: unknown field"),
            "{said}"
        );
        let said = with("", &[("SENDLAKE_STREAMS__COLD", "ice")]).unwrap_err();
        assert!(
            said.starts_with("environment variable SENDLAKE_STREAMS__COLD: streams.cold: no pool"),
            "{said}"
        );
    }
}
