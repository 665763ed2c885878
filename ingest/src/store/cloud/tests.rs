//! What counts when options, environment and profile files disagree.

use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// How the client that comes of it describes itself: settings, and which kind of credentials.
fn opened(url: &str, options: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<String, String> {
    let url = Url::parse(url).unwrap();
    match open(&url, &url, &map(options), &map(environment)) {
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
