//! A session as Snowflake's drivers have one, for the single statement that the SQL API does not take: PUT, which says where
//! in a stage of Snowflake's own a file goes and lends the credentials for it.
//!
//! The protocol is not documented; it is what the sources of the official Python connector show (`auth/_auth.py`,
//! `connection.py`, `file_transfer_agent.py`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::errors::Failure;
use crate::target::TargetError;

const ANSWER: Duration = Duration::from_secs(60);

/// Where a file goes, and what opens the door.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StageInfo {
    /// `S3`, `GCS`, `AZURE`; `LOCAL_FS` of stand-ins.
    pub location_type: String,
    /// Bucket or container, then the folder.
    pub location: String,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub storage_account: Option<String>,
    #[serde(default)]
    pub end_point: Option<String>,
    #[serde(default)]
    pub creds: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    pub presigned_url: Option<String>,
}

impl StageInfo {
    /// A credential by its name; empty where it is not lent.
    pub fn cred(&self, name: &str) -> String {
        let cred = self.creds.as_ref().and_then(|creds| creds.get(name)?.as_str());
        cred.unwrap_or_default().to_owned()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply {
    success: bool,
    code: Option<String>,
    message: Option<String>,
    data: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutReply {
    stage_info: StageInfo,
    #[serde(default)]
    encryption_material: Value,
}

/// Logs in, asks where `file` goes in the stage's folder, and logs out.
pub(super) async fn put(
    client: &Client,
    stage: &str,
    folder: &str,
    file: &str,
) -> Result<StageInfo, TargetError> {
    let token = login(client).await?;
    let sql = format!(
        "PUT 'file:///tmp/{file}' @{stage}/{folder}/ AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
    );
    let doing = format!("asking where to put {file} in stage {stage}");
    let body = json!({"sqlText": sql, "asyncExec": false, "sequenceId": 1});
    let answered = post(client, "queries/v1/query-request", &[], Some(&token), &body, &doing).await;
    // A session that nobody ends is ended by Snowflake after some hours.
    let ended = [("delete", "true".to_owned())];
    let _ = post(client, "session", &ended, Some(&token), &json!({}), &doing).await;
    let reply: PutReply = serde_json::from_value(answered?)
        .map_err(|error| TargetError::Refused(format!("{doing}: the answer is not one to PUT: {error}")))?;
    let key = |material: &Value| material.get("queryStageMasterKey").is_some_and(|key| !key.is_null());
    let encrypted = match &reply.encryption_material {
        Value::Array(all) => all.iter().any(key),
        one => key(one),
    };
    if encrypted {
        return Err(TargetError::Refused(format!(
            "{doing}: it wants files encrypted by whoever uploads them, which sendlake does not; make the stage with \
             ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE'), as `sendlake export ddl` prints it (Snowflake encrypts the files), or \
             use a bucket"
        )));
    }
    Ok(reply.stage_info)
}

async fn login(client: &Client) -> Result<String, TargetError> {
    let (account, user) = client.key.who();
    let body = json!({"data": {
        "CLIENT_APP_ID": "sendlake",
        "CLIENT_APP_VERSION": env!("CARGO_PKG_VERSION"),
        "ACCOUNT_NAME": account,
        "LOGIN_NAME": user,
        "AUTHENTICATOR": "SNOWFLAKE_JWT",
        "TOKEN": client.token()?,
        "CLIENT_ENVIRONMENT": {"APPLICATION": "sendlake"},
        "SESSION_PARAMETERS": {"TIMEZONE": "UTC", "QUERY_TAG": "sendlake"},
    }});
    let doing = "logging in to Snowflake";
    let data = post(client, "session/v1/login-request", &client.context(), None, &body, doing).await?;
    let token = data.get("token").and_then(Value::as_str);
    token.map(str::to_owned).ok_or_else(|| TargetError::Refused(format!("{doing}: the answer has no token")))
}

async fn post(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    token: Option<&str>,
    body: &Value,
    doing: &str,
) -> Result<Value, TargetError> {
    let mut request = client.http.post(client.url(path, query)?).json(body).timeout(ANSWER);
    request = request.header("Accept", "application/snowflake");
    if let Some(token) = token {
        request = request.header("Authorization", format!("Snowflake Token=\"{token}\""));
    }
    let response = request.send().await.map_err(|error| client.unreachable(doing, error))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|error| client.unreachable(doing, error))?;
    if !status.is_success() {
        return Err(Failure::read(&body).of_status(status.as_u16(), None, &client.who()));
    }
    let reply: Reply = serde_json::from_slice(&body).unwrap_or_default();
    if !reply.success {
        let failure = Failure {
            code: reply.code.unwrap_or_default(),
            message: reply.message.unwrap_or_default(),
            ..Failure::default()
        };
        return Err(failure.of_statement(doing));
    }
    Ok(reply.data.unwrap_or_default())
}
