//! The shared profile files of AWS (`~/.aws/config`, `~/.aws/credentials`), read as the vendor's own tools read them.
//! `object_store` knows the environment and the machine's roles, but not these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use sendlake_control::clock::{Clock, Timestamp};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long the answer of a `credential_process` is used that does not say when it ends. Sessions of AWS last a
/// quarter of an hour at least.
const PROCESS_ASKED_EVERY: Duration = Duration::from_secs(300);
/// So long before its end an answer is asked for anew; a quarter of its time for one that lasts less than four minutes.
const ASKED_BEFORE_END: Duration = Duration::from_secs(60);

/// What keeps a profile from being used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("cannot read {}: {source}; mend it, or name another in {variable}", path.display())]
    Unreadable { path: PathBuf, variable: &'static str, source: std::io::Error },
    #[error(
        "there is no profile {name:?} in {} or {}; AWS_PROFILE names it: add it with `aws configure --profile {name}`, \
         or unset AWS_PROFILE",
        config.display(), credentials.display()
    )]
    Missing { name: String, config: PathBuf, credentials: PathBuf },
    #[error("the AWS profile {name:?} has {has} but no {lacks}; add it, or remove both")]
    Half { name: String, has: &'static str, lacks: &'static str },
    #[error(
        "the AWS profile {name:?} gets its credentials by {by}, which sendlake does not do itself; add to it \
         `credential_process = aws configure export-credentials --profile NAME --format process`, naming a profile that \
         the AWS command line can use"
    )]
    Unsupported { name: String, by: &'static str },
}

/// One profile: what it says of place and credentials.
#[derive(Debug, Default)]
pub(super) struct Profile {
    name: String,
    values: BTreeMap<String, String>,
}

/// Where a profile's credentials come from.
#[derive(Debug)]
pub(super) enum Source {
    Fixed(AwsCredential),
    Process(Arc<ProcessCredentials>),
    /// A file with a token that is exchanged for a session of the role.
    WebIdentity {
        token_file: String,
        role_arn: String,
        session_name: Option<String>,
    },
}

impl Profile {
    /// Reads the profile that `variable` (the environment) names, or `default`; empty when there are no files.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProfileError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
        let file = |name: &str, usual: &str| {
            variable(name).map_or_else(|| home.join(".aws").join(usual), PathBuf::from)
        };
        let config = file("AWS_CONFIG_FILE", "config");
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
        let name = named.clone().unwrap_or_else(|| "default".to_owned());

        let in_config = sections(&config, "AWS_CONFIG_FILE")?;
        let in_credentials = sections(&credentials, "AWS_SHARED_CREDENTIALS_FILE")?;
        let section = if name == "default" && in_config.contains_key("default") {
            name.clone()
        } else {
            format!("profile {name}")
        };
        let found = [in_config.get(&section), in_credentials.get(&name)];
        if named.is_some() && found.iter().all(Option::is_none) {
            return Err(ProfileError::Missing { name, config, credentials });
        }
        // Of a key in both files the credentials file's value counts.
        let mut values: BTreeMap<String, String> =
            found.into_iter().flatten().flat_map(Clone::clone).collect();
        if let Some(services) = values.get("services").and_then(|of| in_config.get(&format!("services {of}")))
            && let Some(endpoint) = services.get("s3.endpoint_url")
        {
            values.insert("endpoint_url".to_owned(), endpoint.clone());
        }
        Ok(Self { name, values })
    }

    pub(super) fn region(&self) -> Option<&str> {
        self.get("region")
    }

    /// The service's address, when it is not Amazon's own.
    pub(super) fn endpoint_url(&self) -> Option<&str> {
        self.get("endpoint_url")
    }

    /// The credentials, in the vendor's order; `None` when the profile names none. `clock` tells how long those last
    /// that end at a given time.
    pub(super) fn source(&self, clock: Option<&Arc<dyn Clock>>) -> Result<Option<Source>, ProfileError> {
        let name = || self.name.clone();
        if let Some(role_arn) = self.get("role_arn") {
            return match self.get("web_identity_token_file") {
                Some(token_file) => Ok(Some(Source::WebIdentity {
                    token_file: token_file.to_owned(),
                    role_arn: role_arn.to_owned(),
                    session_name: self.get("role_session_name").map(str::to_owned),
                })),
                None => {
                    Err(ProfileError::Unsupported { name: name(), by: "another profile's role (role_arn)" })
                }
            };
        }
        match (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            (Some(key_id), Some(secret_key)) => {
                return Ok(Some(Source::Fixed(AwsCredential {
                    key_id: key_id.to_owned(),
                    secret_key: secret_key.to_owned(),
                    token: self.get("aws_session_token").map(str::to_owned),
                })));
            }
            (Some(_), None) => {
                let (has, lacks) = ("aws_access_key_id", "aws_secret_access_key");
                return Err(ProfileError::Half { name: name(), has, lacks });
            }
            (None, Some(_)) => {
                let (has, lacks) = ("aws_secret_access_key", "aws_access_key_id");
                return Err(ProfileError::Half { name: name(), has, lacks });
            }
            (None, None) => {}
        }
        if let Some(command) = self.get("credential_process") {
            let process = ProcessCredentials::new(command, &self.name, clock.cloned());
            return Ok(Some(Source::Process(Arc::new(process))));
        }
        if self.values.keys().any(|key| key.starts_with("sso_")) {
            return Err(ProfileError::Unsupported { name: name(), by: "single sign-on (sso_session)" });
        }
        Ok(None)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// The sections of an INI file, as AWS writes it: `key = value`, `#` or `;` at the start of a line for comments, and
/// indented lines that belong to the key above (kept as `above.key`). A missing file has none.
fn sections(path: &Path, variable: &'static str) -> Result<Sections, ProfileError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Sections::new()),
        Err(source) => return Err(ProfileError::Unreadable { path: path.to_owned(), variable, source }),
    };
    let mut sections = Sections::new();
    let (mut section, mut above) = (None, String::new());
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "");
            sections.entry(name.clone()).or_default();
            section = Some(name);
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else { continue };
        let mut key = key.trim().to_ascii_lowercase();
        if line.starts_with([' ', '\t']) {
            key = format!("{above}.{key}");
        } else {
            above.clone_from(&key);
        }
        if let Some(values) = section.as_ref().and_then(|section| sections.get_mut(section)) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            values.insert(key, value.to_owned());
        }
    }
    Ok(sections)
}

/// Credentials from a command's standard output, asked anew before they end.
#[derive(Debug)]
pub(super) struct ProcessCredentials {
    command: String,
    profile: String,
    clock: Option<Arc<dyn Clock>>,
    last: Mutex<Option<Asked>>,
}

#[derive(Debug)]
struct Asked {
    credential: Arc<AwsCredential>,
    /// From here on a new one is asked for.
    stale_at: Instant,
    /// From here on it is of no use; `None` when it did not say.
    over_at: Option<Instant>,
}

impl ProcessCredentials {
    fn new(command: &str, profile: &str, clock: Option<Arc<dyn Clock>>) -> Self {
        Self { command: command.to_owned(), profile: profile.to_owned(), clock, last: Mutex::new(None) }
    }

    /// Runs the command. What it writes to standard error is not repeated: it may hold secrets.
    async fn ask(&self) -> Result<Asked, String> {
        let output = tokio::process::Command::new("sh")
            .args(["-c", &self.command])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("cannot be started: {error}"))?;
        if !output.status.success() {
            return Err(format!("ended with {}", output.status));
        }
        let said: ProcessAnswer = serde_json::from_slice(&output.stdout)
            .map_err(|_| "did not print the JSON that is asked of it".to_owned())?;
        if said.version != 1 {
            return Err(format!("printed Version {}, and only 1 is known", said.version));
        }
        let lasts = self.lasts(said.expiration.as_deref())?;
        let now = Instant::now();
        Ok(Asked {
            credential: Arc::new(AwsCredential {
                key_id: said.access_key_id,
                secret_key: said.secret_access_key,
                token: said.session_token,
            }),
            stale_at: now + used_for(lasts),
            over_at: lasts.map(|lasts| now + lasts),
        })
    }

    /// How long an answer lasts that ends at `expiration`; `None` when it does not say.
    fn lasts(&self, expiration: Option<&str>) -> Result<Option<Duration>, String> {
        let (Some(text), Some(clock)) = (expiration, &self.clock) else { return Ok(None) };
        let at = Timestamp::parse(text).ok_or("printed an Expiration that is no time of ISO 8601")?;
        // A century will do: an instant cannot be moved as far as a date can be written.
        let left_ms = u64::try_from(at.millis_since(clock.now())).unwrap_or(0).min(CENTURY_MS);
        if left_ms == 0 {
            return Err(format!("printed credentials that ended at {at} (is this host's clock right?)"));
        }
        Ok(Some(Duration::from_millis(left_ms)))
    }
}

/// How long an answer is used that lasts so long.
fn used_for(lasts: Option<Duration>) -> Duration {
    lasts.map_or(PROCESS_ASKED_EVERY, |lasts| lasts.saturating_sub(ASKED_BEFORE_END.min(lasts / 4)))
}

const CENTURY_MS: u64 = 100 * 365 * 86_400_000;

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessAnswer {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

#[async_trait]
impl CredentialProvider for ProcessCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().await;
        if let Some(asked) = last.as_ref()
            && Instant::now() < asked.stale_at
        {
            return Ok(Arc::clone(&asked.credential));
        }
        let failed = |said| object_store::Error::Generic {
            store: "S3",
            source: format!(
                "the credential_process of the AWS profile {:?} {said}; run it by hand to see what it lacks",
                self.profile
            )
            .into(),
        };
        match self.ask().await {
            Ok(asked) => Ok(Arc::clone(&last.insert(asked).credential)),
            Err(said) => match last.as_ref() {
                // Asked early: what there is serves a little longer.
                Some(asked) if asked.over_at.is_some_and(|over_at| Instant::now() < over_at) => {
                    let error = failed(said);
                    tracing::warn!(%error, "the lake's credentials end soon, and new ones could not be had");
                    Ok(Arc::clone(&asked.credential))
                }
                _ => Err(failed(said)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
