//! A CRM in memory that speaks HubSpot's and Salesforce's shapes as strictly as they do: what it does not know it refuses.
//! The end-to-end tests use it too.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What the CRM does with a request instead of answering it well.
pub enum Fault {
    /// Answers so, and does nothing.
    Status(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// Does what is asked, and answers 502.
    AnswerLost,
}

pub struct Asked {
    pub method: String,
    pub path: String,
    pub body: Value,
}

pub struct Crm {
    pub at: SocketAddr,
    pub records: Mutex<BTreeMap<String, Map<String, Value>>>,
    pub asked: Mutex<Vec<Asked>>,
    pub faults: Mutex<VecDeque<Fault>>,
    /// Tokens that were given out, and the one set by the test.
    pub token: Mutex<String>,
}

/// Fields that a record may have; `score` is a number for Salesforce.
const FIELDS: [&str; 4] = ["score", "last_open", "name", "Email__c"];
/// A name that is refused for its one record.
pub const BAD_NAME: &str = "Robert'); DROP";

impl Crm {
    pub async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let crm = Arc::new(Self {
            at: listener.local_addr().unwrap(),
            records: Mutex::default(),
            asked: Mutex::default(),
            faults: Mutex::default(),
            token: Mutex::new("Bearer s3cret".to_owned()),
        });
        let app = Router::new().fallback(answer).with_state(crm.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        crm
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    pub fn fail(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    /// How many requests there were, of how many records each.
    pub fn sizes(&self) -> Vec<usize> {
        let asked = self.asked.lock().unwrap();
        let size = |asked: &Asked| {
            let list = asked.body.get("inputs").or_else(|| asked.body.get("records"));
            list.unwrap_or(&asked.body).as_array().map_or(1, Vec::len)
        };
        asked.iter().map(size).collect()
    }

    pub fn record(&self, key: &str) -> Option<Map<String, Value>> {
        self.records.lock().unwrap().get(key).cloned()
    }
}

fn said(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn answer(
    State(crm): State<Arc<Crm>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if uri.path() == "/services/oauth2/token" {
        let form = String::from_utf8(body.to_vec()).unwrap();
        let is_right = form.contains("grant_type=client_credentials&client_id=me&client_secret=pw%26+x");
        return if is_right {
            *crm.token.lock().unwrap() = "Bearer of-oauth".to_owned();
            said(200, json!({"access_token": "of-oauth", "token_type": "Bearer"}))
        } else {
            said(400, json!({"error": "invalid_client"}))
        };
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (path, method) = (uri.path().to_owned(), method.to_string());
    crm.asked.lock().unwrap().push(Asked { method: method.clone(), path: path.clone(), body: asked.clone() });
    let fault = crm.faults.lock().unwrap().pop_front();
    if let Some(Fault::Status(status, headers, body)) = &fault {
        let mut response = (StatusCode::from_u16(*status).unwrap(), *body).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        return response;
    }
    if headers.get("authorization").and_then(|value| value.to_str().ok())
        != Some(crm.token.lock().unwrap().as_str())
    {
        return said(
            401,
            json!({"message": "the token s3cret-no is expired", "category": "INVALID_AUTHENTICATION"}),
        );
    }
    let response = match (method.as_str(), path.as_str()) {
        ("POST", "/crm/v3/objects/contacts/batch/upsert") => hubspot(&crm, &asked),
        ("PATCH", "/services/data/v61.0/composite/sobjects/Contact/Email__c") => salesforce(&crm, &asked),
        (_, path) if path.starts_with("/people") => custom(&crm, &asked),
        _ => said(404, json!({"message": "no such object"})),
    };
    match fault {
        Some(Fault::AnswerLost) => said(502, json!({})),
        _ => response,
    }
}

fn only(object: &Value, members: &[&str]) -> Result<(), String> {
    let Some(object) = object.as_object() else { return Err("no object".to_owned()) };
    match object.keys().find(|name| !members.contains(&name.as_str())) {
        Some(name) => Err(format!("unknown member {name}")),
        None => Ok(()),
    }
}

fn hubspot(crm: &Crm, asked: &Value) -> Response {
    let refused = |message: String| {
        said(400, json!({"status": "error", "category": "VALIDATION_ERROR", "message": message}))
    };
    let inputs = asked["inputs"].as_array().cloned().unwrap_or_default();
    if let Err(message) = only(asked, &["inputs"]) {
        return refused(message);
    }
    if inputs.is_empty() || inputs.len() > 100 {
        return refused("1 to 100 inputs".to_owned());
    }
    for input in &inputs {
        let known = only(input, &["id", "idProperty", "objectWriteTraceId", "properties"])
            .and_then(|()| only(&input["properties"], &FIELDS));
        if let Err(message) = known {
            return refused(message);
        }
        let are_texts = input["properties"].as_object().unwrap().values().all(Value::is_string);
        if !are_texts || input["idProperty"] != "email" || !input["id"].is_string() {
            return refused("properties are texts".to_owned());
        }
    }
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for input in &inputs {
        let (id, trace) = (input["id"].as_str().unwrap(), &input["objectWriteTraceId"]);
        if !id.contains('@') || input["properties"]["name"] == BAD_NAME {
            errors.push(json!({
                "status": "error", "category": "VALIDATION_ERROR", "message": format!("{id} is not valid"),
                "context": {"objectWriteTraceId": [trace]},
            }));
            continue;
        }
        let mut records = crm.records.lock().unwrap();
        let record = records.entry(id.to_owned()).or_default();
        let is_new = record.is_empty();
        record.extend(input["properties"].as_object().unwrap().clone());
        results.push(json!({
            "id": "1", "new": is_new, "properties": {"email": id.to_lowercase()}, "objectWriteTraceId": trace,
            "createdAt": "2026-11-23T00:00:00Z", "updatedAt": "2026-11-23T00:00:00Z", "archived": false,
        }));
    }
    let count = errors.len();
    match count {
        0 => said(200, json!({"status": "COMPLETE", "results": results})),
        _ => {
            said(207, json!({"status": "COMPLETE", "results": results, "numErrors": count, "errors": errors}))
        }
    }
}

fn salesforce(crm: &Crm, asked: &Value) -> Response {
    let refused = |code: &str, message: String| said(400, json!([{"errorCode": code, "message": message}]));
    if let Err(message) = only(asked, &["allOrNone", "records"]) {
        return refused("JSON_PARSER_ERROR", message);
    }
    let records = asked["records"].as_array().cloned().unwrap_or_default();
    if records.is_empty() || records.len() > 200 || asked["allOrNone"] != false {
        return refused("INVALID_BATCH_SIZE", "1 to 200 records".to_owned());
    }
    let known: Vec<&str> = FIELDS.into_iter().chain(["attributes"]).collect();
    for record in &records {
        if let Err(message) = only(record, &known) {
            return refused("INVALID_FIELD", format!("No such column on sobject of type Contact: {message}"));
        }
        if record["attributes"] != json!({"type": "Contact"}) {
            return refused("INVALID_INPUT", "attributes".to_owned());
        }
        if !(record["score"].is_number() || record["score"].is_null()) {
            return refused("JSON_PARSER_ERROR", "Cannot deserialize score from a string".to_owned());
        }
    }
    let result = |record: &Value| {
        let key = record["Email__c"].as_str().unwrap();
        let code = match record["name"].as_str() {
            Some(BAD_NAME) => Some("STRING_TOO_LONG"),
            Some("locked") => Some("UNABLE_TO_LOCK_ROW"),
            _ => None,
        };
        if let Some(code) = code {
            return json!({"success": false, "errors": [{"statusCode": code, "message": format!("{key} cannot be"), "fields": ["name"]}]});
        }
        let mut fields = record.as_object().unwrap().clone();
        fields.remove("attributes");
        let is_new = crm.records.lock().unwrap().insert(key.to_owned(), fields).is_none();
        json!({"id": "003000000000001", "success": true, "errors": [], "created": is_new})
    };
    said(200, Value::Array(records.iter().map(result).collect()))
}

fn custom(crm: &Crm, asked: &Value) -> Response {
    let one = [asked.clone()];
    let records = asked.as_array().map_or(one.as_slice(), Vec::as_slice);
    if records.iter().any(|record| record["who"]["name"] == BAD_NAME) {
        return said(422, json!({"error": "a name is not valid"}));
    }
    for record in records {
        let key = record["who"]["email"].as_str().unwrap_or_default().to_owned();
        crm.records.lock().unwrap().insert(key, record.as_object().cloned().unwrap_or_default());
    }
    said(201, json!({}))
}
