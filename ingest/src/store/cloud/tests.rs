//! What counts when options, environment and profile files disagree.

use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use uuid::Uuid;

use super::*;
use crate::store::{LakeStore, open_store};
use crate::table::EventsTable;
use crate::testing::s3::FaultyS3;
use crate::testing::{events, lsns};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// How the client that comes of it describes itself: settings, and which kind of credentials.
fn opened(url: &str, options: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<String, String> {
    let url = Url::parse(url).unwrap();
    match open(&url, &url, &map(options), &map(environment), None) {
        Ok(store) => Ok(format!("{store:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn profile_home() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(
        home.path().join(".aws/config"),
        "[default]\nregion = eu-profile-1\nendpoint_url = https://profile.example\naws_access_key_id = of-profile\n\
         aws_secret_access_key = s\n",
    )
    .unwrap();
    let path = home.path().to_str().unwrap().to_owned();
    (home, path)
}

#[test]
fn options_go_before_the_environment_and_that_before_the_profile() {
    let (_home, path) = profile_home();
    let all = [
        ("HOME", path.as_str()),
        ("AWS_ACCESS_KEY_ID", "of-environment"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_SESSION_TOKEN", "t"),
        ("AWS_REGION", "eu-environment-1"),
        ("AWS_ENDPOINT_URL", "https://environment.example"),
    ];
    let options =
        [("aws_access_key_id", "of-options"), ("aws_secret_access_key", "s"), ("region", "eu-options-1")];
    let of_profile = opened("s3://b", &[], &all[..1]).unwrap();
    for part in ["of-profile", "eu-profile-1", "https://profile.example"] {
        assert!(of_profile.contains(part), "{part}: {of_profile}");
    }
    let of_environment = opened("s3://b", &[], &all).unwrap();
    for part in ["of-environment", "eu-environment-1", "https://environment.example"] {
        assert!(of_environment.contains(part), "{part}: {of_environment}");
    }
    let of_options = opened("s3://b", &options, &all).unwrap();
    for part in ["of-options", "eu-options-1", "https://environment.example", "token: None"] {
        assert!(of_options.contains(part), "{part}: {of_options}");
    }
}

#[test]
fn a_role_of_the_machine_is_used_where_nothing_else_is_named() {
    let nobody = [("HOME", "/nonexistent")];
    assert!(opened("s3://b", &[], &nobody).unwrap().contains("InstanceCredentialProvider"));
    let pod = [("HOME", "/nonexistent"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:r")];
    assert!(opened("s3://b", &[], &pod).unwrap().contains("WebIdentity"));
    let azure = [("AZURE_STORAGE_ACCOUNT", "acme")];
    assert!(opened("az://box", &[], &azure).unwrap().contains("ImdsManagedIdentity"));
    let pod = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "acme"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/t"),
    ];
    assert!(opened("az://box", &[], &pod).unwrap().contains("WorkloadIdentity"));
    let command_line = [("azure_use_azure_cli", "true")];
    assert!(opened("az://box", &command_line, &azure).unwrap().contains("AzureCli"));
}

#[test]
fn an_azure_option_is_not_outvoted_by_a_key_of_the_environment() {
    let environment = [("AZURE_STORAGE_ACCOUNT", "acme"), ("AZURE_STORAGE_KEY", "a2V5")];
    assert!(opened("az://box", &[], &environment).unwrap().contains("AccessKey"));
    let sas = opened("az://box", &[("sas_token", "sv=2024&sig=abc")], &environment).unwrap();
    assert!(sas.contains("SASToken") && !sas.contains("AccessKey"), "{sas}");
}

#[test]
fn a_plain_http_endpoint_has_to_be_allowed() {
    let options = [("aws_endpoint", "http://127.0.0.1:9"), ("aws_skip_signature", "true")];
    let message = opened("s3://b", &options, &[]).unwrap_err();
    assert!(message.contains("aws_allow_http = \"true\""), "{message}");
    let allowed = [options.as_slice(), &[("aws_allow_http", "true")]].concat();
    assert!(opened("s3://b", &allowed, &[]).is_ok());
}

#[test]
fn a_profile_that_cannot_be_used_matters_only_when_it_is_needed() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/config"), "[default]\nsso_session = corp\n").unwrap();
    let environment = [("HOME", home.path().to_str().unwrap())];
    let message = opened("s3://b", &[], &environment).unwrap_err();
    assert!(message.contains("single sign-on") && message.contains("s3://b"), "{message}");
    let keys = [("aws_access_key_id", "k"), ("aws_secret_access_key", "s")];
    assert!(opened("s3://b", &keys, &environment).is_ok());
}

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A lake on the server, as a configuration with these options opens it.
fn lake_on(address: std::net::SocketAddr, options: &[(&str, &str)]) -> LakeStore {
    let endpoint = format!("http://{address}");
    let common = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_region", "test"),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", "k"),
        ("aws_secret_access_key", "s"),
    ];
    open_store("s3://lake/prod", &map(&[common.as_slice(), options].concat())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_ones_own_goes_with_every_write_and_read() {
    let (s3, address) = FaultyS3::start(1).await;
    *s3.customer_key.lock().unwrap() = Some(KEY.to_owned());
    let lake =
        lake_on(address, &[("aws_server_side_encryption", "sse-c"), ("aws_sse_customer_key_base64", KEY)]);
    lake.probe().await.unwrap();
    let spool = Uuid::from_u128(5);
    let table = EventsTable::open(&lake).await.unwrap();
    table.append(spool, events(spool, 1..=20)).await.unwrap();
    let again = EventsTable::open(&lake).await.unwrap();
    assert_eq!(lsns(&again.pin(None).await.unwrap().table, spool).await.len(), 20);

    // As large files are written and read: in parts.
    let path = Path::from("prod/large");
    let mut upload = lake.root.put_multipart(&path).await.unwrap();
    for part in [vec![1_u8; 6 << 20], vec![2; 100]] {
        upload.put_part(PutPayload::from(part)).await.unwrap();
    }
    upload.complete().await.unwrap();
    assert_eq!(lake.root.get_range(&path, 10..20).await.unwrap(), vec![1_u8; 10]);
    assert_eq!(lake.root.head(&path).await.unwrap().size, (6 << 20) + 100);
    let counted = s3.with_key();
    for kind in ["put", "upload", "part", "get", "range", "head"] {
        assert!(counted.contains_key(kind), "{kind}: {counted:?}");
    }

    // Without it nothing is to be had, which shows that the server does ask.
    let served = s3.served.load(Ordering::SeqCst);
    assert!(lake_on(address, &[]).root.get(&path).await.is_err());
    assert!(s3.served.load(Ordering::SeqCst) > served);
}
