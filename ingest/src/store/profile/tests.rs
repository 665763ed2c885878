//! Profiles as people write them.

use sendlake_control::clock::ManualClock;

use super::*;
use crate::testing::NOON;

struct Files(tempfile::TempDir);

impl Files {
    fn with(config: &str, credentials: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".aws")).unwrap();
        std::fs::write(dir.path().join(".aws/config"), config).unwrap();
        std::fs::write(dir.path().join(".aws/credentials"), credentials).unwrap();
        Self(dir)
    }

    fn profile(&self, variables: &[(&str, &str)]) -> Result<Profile, ProfileError> {
        Profile::read(|name| match name {
            "HOME" => Some(self.0.path().to_str().unwrap().to_owned()),
            _ => variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
        })
    }
}

fn keys(profile: &Profile) -> (String, String, Option<String>) {
    match profile.source(None).unwrap() {
        Some(Source::Fixed(credential)) => (credential.key_id, credential.secret_key, credential.token),
        other => panic!("{other:?}"),
    }
}

const CONFIG: &str = "
# where things are
[default]
region = eu-west-1
s3 =
    addressing_style = path
    region = not-this-one

[profile  mail]
region=eu-central-1  # Frankfurt
endpoint_url = https://s3.example.com
services = ours
[profile role]
role_arn = arn:aws:iam::1:role/r
source_profile = default
[profile pod]
role_arn = arn:aws:iam::1:role/r
web_identity_token_file = /var/run/token
[profile sso]
sso_session = corp
[services ours]
s3 =
  endpoint_url = https://objects.example.com
sqs =
  endpoint_url = https://queue.example.com
";

const CREDENTIALS: &str = "
[default]
aws_access_key_id = AKIA1
aws_secret_access_key = one/two+three=
[mail]
aws_access_key_id=AKIA2
aws_secret_access_key=s2
aws_session_token = t2
region = us-west-2
; half of one
[half]
aws_access_key_id = AKIA3
";

#[test]
fn default_profile_is_read_from_both_files() {
    let files = Files::with(CONFIG, CREDENTIALS);
    let profile = files.profile(&[]).unwrap();
    assert_eq!(profile.region(), Some("eu-west-1"));
    assert_eq!(profile.endpoint_url(), None);
    assert_eq!(keys(&profile), ("AKIA1".to_owned(), "one/two+three=".to_owned(), None));
}

#[test]
fn named_profile_counts_and_the_credentials_file_wins() {
    let files = Files::with(CONFIG, CREDENTIALS);
    for variable in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
        let profile = files.profile(&[(variable, "mail")]).unwrap();
        assert_eq!(profile.region(), Some("us-west-2"));
        assert_eq!(profile.endpoint_url(), Some("https://objects.example.com"));
        assert_eq!(keys(&profile), ("AKIA2".to_owned(), "s2".to_owned(), Some("t2".to_owned())));
    }
}

#[test]
fn files_may_lie_elsewhere_or_nowhere() {
    let files = Files::with("", "");
    let other = Files::with(CONFIG, CREDENTIALS);
    let at = |name: &str| other.0.path().join(".aws").join(name).to_str().unwrap().to_owned();
    let profile = files
        .profile(&[("AWS_CONFIG_FILE", &at("config")), ("AWS_SHARED_CREDENTIALS_FILE", &at("credentials"))])
        .unwrap();
    assert_eq!((profile.region(), keys(&profile).0.as_str()), (Some("eu-west-1"), "AKIA1"));
    let nothing = Profile::read(|_| None).unwrap();
    assert!(nothing.region().is_none() && nothing.source(None).unwrap().is_none());
}

#[test]
fn what_cannot_be_used_says_what_to_do() {
    let files = Files::with(CONFIG, CREDENTIALS);
    let missing = files.profile(&[("AWS_PROFILE", "nobody")]).unwrap_err().to_string();
    assert!(missing.contains("\"nobody\"") && missing.contains(".aws/config"), "{missing}");
    for (name, expected) in
        [("role", "credential_process"), ("sso", "credential_process"), ("half", "no aws_secret_access_key")]
    {
        let error = files.profile(&[("AWS_PROFILE", name)]).unwrap().source(None).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let pod = files.profile(&[("AWS_PROFILE", "pod")]).unwrap();
    assert!(
        matches!(pod.source(None).unwrap(), Some(Source::WebIdentity { token_file, .. }) if token_file == "/var/run/token")
    );
}

#[tokio::test]
async fn a_process_is_asked_once_for_many_requests() {
    let count = tempfile::NamedTempFile::new().unwrap();
    let answer = r#"{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","SessionToken":"t","Expiration":"2030-01-01T00:00:00Z"}"#;
    let command = format!("echo asked >> {}; echo '{answer}'", count.path().display());
    let files = Files::with(&format!("[default]\ncredential_process = {command}\n"), "");
    let Some(Source::Process(process)) = files.profile(&[]).unwrap().source(None).unwrap() else { panic!() };
    for _ in 0..3 {
        let credential = process.get_credential().await.unwrap();
        assert_eq!((credential.key_id.as_str(), credential.token.as_deref()), ("k", Some("t")));
    }
    assert_eq!(std::fs::read_to_string(count.path()).unwrap(), "asked\n");
}

#[tokio::test]
async fn a_process_that_fails_is_named_without_what_it_says() {
    for (command, expected) in
        [("echo secret >&2; exit 3", "exit status: 3"), ("echo secret", "did not print the JSON")]
    {
        let files = Files::with(&format!("[default]\ncredential_process = {command}\n"), "");
        let Some(Source::Process(process)) = files.profile(&[]).unwrap().source(None).unwrap() else {
            panic!()
        };
        let error = process.get_credential().await.unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("\"default\"") && !error.contains("secret"),
            "{error}"
        );
    }
}

/// A process that counts how often it was asked, and prints credentials that end at `expiration`.
fn ending(expiration: Timestamp, files: &Files) -> (ProcessCredentials, impl Fn() -> usize + use<>) {
    let asked = files.0.path().join("asked");
    let answer = files.0.path().join("answer");
    let json =
        format!(r#"{{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","Expiration":"{expiration}"}}"#);
    std::fs::write(&answer, json).unwrap();
    let command = format!("echo asked >> {}; cat {}", asked.display(), answer.display());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOON));
    let count = move || std::fs::read_to_string(&asked).unwrap_or_default().lines().count();
    (ProcessCredentials::new(&command, "default", Some(clock)), count)
}

#[test]
fn an_answer_is_used_until_shortly_before_it_ends() {
    let seconds = |lasts: Option<u64>| used_for(lasts.map(Duration::from_secs)).as_secs();
    assert_eq!([None, Some(3_600), Some(240), Some(120)].map(seconds), [300, 3_540, 180, 90]);
}

#[tokio::test]
async fn a_process_is_asked_again_before_its_answer_ends() {
    let files = Files::with("", "");
    // A session of two seconds is used for one and a half.
    let (process, asked) = ending(NOON.plus_secs(2), &files);
    for _ in 0..3 {
        process.get_credential().await.unwrap();
    }
    assert_eq!(asked(), 1);
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    // The process fails: what there is serves until its end, and no longer.
    let answer = files.0.path().join("answer");
    std::fs::rename(&answer, answer.with_extension("away")).unwrap();
    assert_eq!(process.get_credential().await.unwrap().key_id, "k");
    assert_eq!(asked(), 2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(process.get_credential().await.unwrap_err().to_string().contains("exit status: 1"));
    std::fs::rename(answer.with_extension("away"), &answer).unwrap();
    assert_eq!(process.get_credential().await.unwrap().key_id, "k");
    assert_eq!(asked(), 4);
}

#[tokio::test]
async fn an_answer_that_is_over_or_has_no_date_is_told() {
    let files = Files::with("", "");
    let (process, _) = ending(NOON.plus_secs(-1), &files);
    let error = process.get_credential().await.unwrap_err().to_string();
    assert!(error.contains("ended at 2026-01-31T11:59:59") && error.contains("clock"), "{error}");
    let answer = r#"{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","Expiration":"soon"}"#;
    std::fs::write(files.0.path().join("answer"), answer).unwrap();
    let error = process.get_credential().await.unwrap_err().to_string();
    assert!(error.contains("Expiration") && error.contains("run it by hand"), "{error}");
}
