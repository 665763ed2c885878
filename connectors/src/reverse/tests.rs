//! Runs against a strict CRM over real HTTP: what changed is posted, nothing is lost, one bad row holds up no other.

pub(crate) mod crm;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex as Lock};

use sendlake_control::ControlStore;
use sendlake_control::clock::{ManualClock, SeededEntropy, Timestamp};
use sendlake_control::export::ExportConnector;
use sendlake_control::id::Ids;
use sendlake_control::secret::MasterKey;
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use serde_json::json;
use zeroize::Zeroizing;

use self::crm::{BAD_NAME, Crm, Fault};
use super::run::Prepared;
use super::settings::{Oauth, Shape};
use super::template::Template;
use super::*;
use crate::guard::Guard;
use crate::run::{ExportError, Exporter};
use crate::secret::{SecretRef, SecretSource};

const NOON: Timestamp = Timestamp(1_769_860_800_000_000);

/// Rows that a test says, and how often they were asked for.
#[derive(Default)]
struct Table(Lock<Rows>);

#[async_trait]
impl RowSource for Table {
    async fn rows(&self, _: Option<&TenantId>, _: &str, rows_max: usize) -> Result<Rows, TargetError> {
        let mut rows = self.0.lock().unwrap().clone();
        rows.truncated = rows.rows.len() > rows_max;
        rows.rows.truncate(rows_max);
        Ok(rows)
    }
}

struct Secrets;

#[async_trait]
impl SecretSource for Secrets {
    async fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        let known =
            BTreeMap::from([("crm", "s3cret"), ("wrong", "s3cret-no"), ("id", "me"), ("pw", "pw& x")]);
        Ok(known.get(name).map(|text| Zeroizing::new((*text).to_owned())))
    }
}

struct Loopback(bool);

#[async_trait]
impl Guard for Loopback {
    fn allows(&self, _: IpAddr) -> bool {
        self.0
    }
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        Err(format!("{host} leads to no public address"))
    }
}

struct Bed {
    _dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    exporter: Exporter,
    crm: Arc<Crm>,
    table: Arc<Table>,
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(NOON));
        let ids = Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(3)) };
        let master = MasterKey::load_or_create(&dir.path().join("key"), ids.entropy.as_ref()).unwrap();
        let control = ControlStore::open(&dir.path().join("control.db"), master, ids.clone()).await.unwrap();
        let store = open_store(dir.path().join("lake").to_str().unwrap(), &BTreeMap::new()).unwrap();
        let exporter = Exporter {
            control: Arc::new(control),
            lake: Arc::new(EventsTable::open(&store).await.unwrap()),
            store,
            staging: dir.path().join("export"),
            holder: "one".into(),
            ids,
            prepared: Default::default(),
        };
        Self { _dir: dir, clock, exporter, crm: Crm::start().await, table: Arc::default() }
    }

    /// People with a score each.
    fn rows(&self, people: &[(&str, &str, i64)]) {
        let row = |(email, name, score): &(&str, &str, i64)| {
            let row = json!({"email": email, "name": name, "score": score, "last_open": null});
            row.as_object().unwrap().clone()
        };
        *self.table.0.lock().unwrap() = Rows {
            columns: ["email", "name", "score", "last_open"].map(str::to_owned).into(),
            rows: people.iter().map(row).collect(),
            truncated: false,
        };
    }

    fn many(&self, count: usize) {
        let emails: Vec<String> = (0..count).map(|n| format!("person{n}@x.example")).collect();
        let people: Vec<(&str, &str, i64)> = emails.iter().map(|email| (email.as_str(), "Ann", 1)).collect();
        self.rows(&people);
    }

    fn reverse(&self, shape: Shape, change: impl FnOnce(&mut ReverseSettings)) -> Reverse {
        let (object, id_property) = match shape {
            Shape::Hubspot => ("contacts", "email"),
            Shape::Salesforce => ("Contact", "Email__c"),
            Shape::Custom => ("", ""),
        };
        let mut settings = ReverseSettings {
            query: "SELECT 1".into(),
            key: "email".into(),
            shape,
            url: self.crm.url(),
            object: object.into(),
            id_property: id_property.into(),
            requests_per_s: 1_000,
            secret_headers: [("Authorization".to_owned(), SecretRef::Stored("crm".into()))].into(),
            allow_private_addresses: true,
            ..ReverseSettings::default()
        };
        change(&mut settings);
        settings.check("crm").unwrap();
        Reverse {
            name: "crm".into(),
            settings,
            source: self.table.clone(),
            secrets: Arc::new(Secrets),
            guard: Arc::new(Loopback(true)),
        }
    }

    async fn run(&self, reverse: &Reverse) -> Ran {
        let ran = reverse.run(&self.exporter).await.unwrap();
        let open = self.exporter.control.open_export_batches("reverse-crm").await.unwrap();
        assert!(open.is_empty(), "a run leaves no batch open: {open:?}");
        ran
    }

    async fn fails(&self, reverse: &Reverse) -> (&'static str, String) {
        let error = reverse.run(&self.exporter).await.unwrap_err();
        (error.kind(), error.to_string())
    }

    async fn state(&self) -> ExportConnector {
        self.exporter.control.export_connector("reverse-crm").await.unwrap()
    }
}

fn counts(ran: Ran) -> (u64, u64, u64) {
    (ran.sent, ran.refused, ran.left_alone)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_changed_are_posted() {
    for shape in [Shape::Hubspot, Shape::Salesforce] {
        let bed = Bed::new().await;
        let reverse = bed.reverse(shape, |_| {});
        bed.rows(&[("ann@x.example", "Ann", 5), ("bob@x.example", "Bob \"B\" \u{1f600}\n", -7)]);
        let Prepared { due, requests, first, .. } = reverse.prepare(&bed.exporter, 1).await.unwrap();
        assert_eq!((due, requests), (2, 1));
        assert!(bed.crm.asked.lock().unwrap().is_empty(), "a preview asks nothing");
        assert_eq!(counts(bed.run(&reverse).await), (2, 0, 0));
        assert_eq!(bed.crm.asked.lock().unwrap()[0].body, first[0].2, "what was previewed is posted");
        let bob = bed.crm.record("bob@x.example").unwrap();
        assert_eq!(bob["name"], "Bob \"B\" \u{1f600}\n");
        match shape {
            Shape::Hubspot => assert_eq!((&bob["score"], &bob["last_open"]), (&json!("-7"), &json!(""))),
            _ => assert_eq!((&bob["score"], &bob["last_open"]), (&json!(-7), &json!(null))),
        }
        assert_eq!(counts(bed.run(&reverse).await), (0, 0, 2), "nothing has changed");
        bed.rows(&[
            ("bob@x.example", "Bob \"B\" \u{1f600}\n", -7),
            ("ann@x.example", "Ann", 6),
            ("", "nobody", 1),
        ]);
        let ran = bed.run(&reverse).await;
        assert_eq!((counts(ran), ran.without_key), ((1, 0, 1), 1));
        assert_eq!(bed.crm.sizes(), [2, 1]);
        let batches = bed.exporter.control.export_batches(Some("reverse-crm"), 9).await.unwrap();
        let said: Vec<_> = batches
            .iter()
            .map(|b| {
                (b.source_table.as_str(), b.change.as_str(), b.state.as_str(), b.rows_staged, b.rows_loaded)
            })
            .collect();
        let wanted = |rows| ("reverse", "replace", "committed", Some(rows), Some(rows));
        assert_eq!(said, [wanted(1), wanted(2)]);
        // Back to what it was: the same rows are the same batch, another attempt.
        bed.rows(&[("ann@x.example", "Ann", 5)]);
        bed.run(&reverse).await;
        bed.rows(&[("ann@x.example", "Ann", 6)]);
        assert_eq!(bed.run(&reverse).await.sent, 1);
        let newest = bed.exporter.control.export_batches(Some("reverse-crm"), 1).await.unwrap();
        assert_eq!((newest[0].attempt, newest[0].state.as_str()), (2, "committed"));
        // Bob is not in the query any more: he is forgotten here, and stays there.
        assert_eq!(bed.exporter.control.reverse_rows("reverse-crm").await.unwrap().len(), 1);
        assert!(bed.crm.record("bob@x.example").is_some());
        // Another template is another row.
        let changed = bed.reverse(shape, |s| s.row = Some(json!({"name": "{name} ({score})"})));
        assert_eq!(bed.run(&changed).await.sent, 1);
        assert_eq!(bed.crm.record("ann@x.example").unwrap()["name"], "Ann (6)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_never_lost_whatever_fails_between() {
    let bed = Bed::new().await;
    let reverse = bed.reverse(Shape::Hubspot, |_| {});
    bed.many(250);
    bed.crm.fail(Fault::AnswerLost);
    assert_eq!(bed.fails(&reverse).await.0, "away");
    assert_eq!(bed.crm.records.lock().unwrap().len(), 100, "they arrived, and nobody knows");
    let open = bed.exporter.control.open_export_batches("reverse-crm").await.unwrap();
    assert_eq!((open.len(), open[0].state.as_str()), (1, "submitted"));
    assert_eq!(bed.exporter.control.reverse_rows("reverse-crm").await.unwrap().len(), 0);
    // The same rows again, then a limit after the first two requests.
    bed.crm.fail(Fault::Status(200, vec![], "<html>ok</html>"));
    let (kind, said) = bed.fails(&reverse).await;
    assert!(kind == "away" && said.contains("posted again"), "{said}");
    let asked: Vec<Value> = bed.crm.asked.lock().unwrap().iter().map(|asked| asked.body.clone()).collect();
    assert_eq!(asked[0], asked[1], "the same rows are the same request");
    let ran = bed.run(&reverse).await;
    assert_eq!((counts(ran), ran.requests), ((250, 0, 0), 3));
    assert_eq!(bed.crm.records.lock().unwrap().len(), 250);
    assert_eq!(bed.state().await.failures, 0);
    // What was sent before a failure stays sent.
    let all = bed.reverse(Shape::Hubspot, |s| s.row = Some(json!({"name": "{name}!"})));
    let stop_after_first = async {
        loop {
            if bed.crm.sizes().len() > 5 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    // The process dies somewhere in the first request.
    tokio::select! {
        ran = all.run(&bed.exporter) => { ran.unwrap(); }
        () = stop_after_first => {}
    }
    let known = bed.exporter.control.reverse_rows("reverse-crm").await.unwrap();
    assert_eq!(known.len(), 250);
    bed.run(&all).await;
    let names = bed.crm.records.lock().unwrap().values().filter(|record| record["name"] == "Ann!").count();
    assert_eq!(names, 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_is_kept_with_its_error_and_holds_up_no_other() {
    for shape in [Shape::Hubspot, Shape::Salesforce] {
        let bed = Bed::new().await;
        let reverse = bed.reverse(shape, |_| {});
        bed.rows(&[("ann@x.example", "Ann", 5), ("bad@x.example", BAD_NAME, 1), ("zoe@x.example", "Zoe", 2)]);
        assert_eq!(counts(bed.run(&reverse).await), (2, 1, 0));
        let sums = bed.exporter.control.reverse_sums("reverse-crm").await.unwrap();
        assert_eq!((sums.rows_sent, sums.rows_refused), (2, 1));
        let refusal = sums.refusal.unwrap();
        assert!(refusal.contains("{email}") && !refusal.contains("bad@x"), "{refusal}");
        assert!(
            shape == Shape::Hubspot || refusal.contains("cannot be"),
            "part of a word is no value: {refusal}"
        );
        assert_eq!(counts(bed.run(&reverse).await), (0, 0, 3), "not again at once");
        bed.clock.advance_millis(86_400_000);
        assert_eq!(counts(bed.run(&reverse).await), (0, 1, 2), "after a day");
        bed.rows(&[("bad@x.example", "Robert", 1)]);
        assert_eq!(counts(bed.run(&reverse).await), (1, 0, 0), "or when it is another");
        let sums = bed.exporter.control.reverse_sums("reverse-crm").await.unwrap();
        assert_eq!((sums.rows_sent, sums.rows_refused, sums.refusal), (1, 0, None));
    }
    // What may pass is tried at the next run.
    let bed = Bed::new().await;
    let reverse = bed.reverse(Shape::Salesforce, |_| {});
    bed.rows(&[("ann@x.example", "locked", 5)]);
    assert_eq!(counts(bed.run(&reverse).await), (0, 1, 0));
    assert_eq!(counts(bed.run(&reverse).await), (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_refused_as_a_whole_is_halved_down_to_the_row_to_blame() {
    let bed = Bed::new().await;
    let custom = |change: fn(&mut ReverseSettings)| {
        bed.reverse(Shape::Custom, |s| {
            s.url.push_str("/people");
            s.row = Some(json!({"who": {"email": "{email}", "name": "{name}"}, "score": "{score}", "tags": ["a{{b", 1, "{score}"]}));
            change(s);
        })
    };
    let mut people: Vec<(String, &str)> = (0..20).map(|n| (format!("p{n}@x.example"), "Ann")).collect();
    people[13].1 = BAD_NAME;
    let people: Vec<(&str, &str, i64)> =
        people.iter().map(|(email, name)| (email.as_str(), *name, 3)).collect();
    bed.rows(&people);
    let arrays = custom(|s| s.batch_rows = 16);
    assert_eq!(counts(bed.run(&arrays).await), (19, 1, 0));
    assert_eq!(bed.crm.records.lock().unwrap().len(), 19);
    let record = bed.crm.record("p0@x.example").unwrap();
    assert_eq!(
        Value::Object(record),
        json!({"who": {"email": "p0@x.example", "name": "Ann"}, "score": 3, "tags": ["a{b", 1, 3]})
    );
    // Each by its own address.
    bed.rows(&[("ann/../b@x.example", "Ann", 4)]);
    let single = custom(|s| {
        s.url.push_str("/{email}?by={name}");
        s.method = "PUT".to_owned();
    });
    assert_eq!(bed.run(&single).await.sent, 1);
    let last = bed.crm.asked.lock().unwrap().pop().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("PUT", "/people/ann%2F..%2Fb%40x.example"));
    // Where every row is refused it is not the rows.
    let wrong = bed.reverse(Shape::Hubspot, |s| s.row = Some(json!({"no_such": "{name}"})));
    bed.many(64);
    let (kind, said) = bed.fails(&wrong).await;
    assert!(kind == "refused" && said.contains("unknown member no_such"), "{said}");
    assert!(bed.crm.sizes().len() < 60, "{:?}", bed.crm.sizes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_has_its_kind_and_its_pause() {
    let bed = Bed::new().await;
    bed.rows(&[("ann@x.example", "Ann", 5)]);
    let hubspot = bed.reverse(Shape::Hubspot, |_| {});
    let daily = r#"{"status":"error","policyName":"DAILY","message":"You have reached your daily limit"}"#;
    for (fault, kind, pause_s) in [
        (Fault::Status(429, vec![("retry-after", "17")], ""), "quota", 17),
        (Fault::Status(429, vec![("retry-after", "Sat, 31 Jan 2026 12:01:00 GMT")], ""), "quota", 60),
        (Fault::Status(429, vec![], daily), "quota", 3_600),
        (Fault::Status(503, vec![("retry-after", "9")], ""), "quota", 9),
        (Fault::Status(403, vec![], "{}"), "credentials", 600),
        (Fault::Status(307, vec![("location", "http://127.0.0.1:1/")], ""), "refused", 600),
    ] {
        bed.crm.fail(fault);
        assert_eq!(bed.fails(&hubspot).await.0, kind);
        assert_eq!(bed.state().await.retry_at, Some(NOON.plus_secs(pause_s).0), "{kind} {pause_s}");
    }
    let salesforce = bed.reverse(Shape::Salesforce, |_| {});
    let limit = r#"[{"errorCode":"REQUEST_LIMIT_EXCEEDED","message":"TotalRequests Limit exceeded."}]"#;
    bed.crm.fail(Fault::Status(403, vec![], limit));
    assert_eq!(bed.fails(&salesforce).await.0, "quota");
    // A credential that is quoted back is not shown.
    let wrong = bed.reverse(Shape::Hubspot, |s| {
        s.secret_headers = [("Authorization".to_owned(), SecretRef::Stored("wrong".into()))].into();
    });
    let (kind, said) = bed.fails(&wrong).await;
    assert!(kind == "credentials" && said.contains("the token … is expired"), "{said}");
    assert!(bed.crm.records.lock().unwrap().is_empty());
    // A token by client credentials, for the run.
    let oauth = bed.reverse(Shape::Salesforce, |s| {
        s.secret_headers.clear();
        s.oauth = Some(Oauth {
            token_url: format!("{}/services/oauth2/token", s.url),
            client_id: SecretRef::Stored("id".into()),
            client_secret: SecretRef::Stored("pw".into()),
            scope: String::new(),
        });
    });
    assert_eq!(bed.run(&oauth).await.sent, 1);
    // No internal address is asked.
    let asked = bed.crm.sizes().len();
    bed.rows(&[("ann@x.example", "Ann", 6)]);
    let guarded = Reverse { guard: Arc::new(Loopback(false)), ..bed.reverse(Shape::Hubspot, |_| {}) };
    let (kind, said) = bed.fails(&guarded).await;
    assert!(kind == "refused" && said.contains("no public address"), "{said}");
    assert_eq!(bed.crm.sizes().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_fit_posts_nothing() {
    let bed = Bed::new().await;
    bed.rows(&[("ann@x.example", "Ann", 5), ("ann@x.example", "Anna", 5)]);
    let say = |error: (&'static str, String), what: &str| {
        assert!(error.0 == "refused" && error.1.contains(what), "{error:?}");
    };
    say(bed.fails(&bed.reverse(Shape::Hubspot, |_| {})).await, "group by it");
    say(bed.fails(&bed.reverse(Shape::Hubspot, |s| s.rows_max = 1)).await, "more than 1 rows");
    say(
        bed.fails(&bed.reverse(Shape::Hubspot, |s| s.key = "id".into())).await,
        "it gives email, name, score, last_open",
    );
    let wrong = bed.reverse(Shape::Hubspot, |s| s.row = Some(json!({"name": "{nom}"})));
    say(bed.fails(&wrong).await, "\"nom\"");
    say(bed.fails(&bed.reverse(Shape::Hubspot, |s| s.tenant = "nobody".into())).await, "no tenant nobody");
    assert!(bed.crm.asked.lock().unwrap().is_empty());
    // Two at once: one does it.
    bed.rows(&[("ann@x.example", "Ann", 5)]);
    let one = bed.reverse(Shape::Hubspot, |_| {});
    let (a, b) = tokio::join!(one.run(&bed.exporter), one.run(&bed.exporter));
    let busy = [&a, &b].into_iter().filter(|ran| matches!(ran, Err(ExportError::Busy { .. }))).count();
    assert_eq!((busy, bed.crm.sizes()), (1, vec![1]));
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let good = ReverseSettings {
        query: "SELECT 1".into(),
        key: "email".into(),
        shape: Shape::Hubspot,
        object: "contacts".into(),
        id_property: "email".into(),
        ..ReverseSettings::default()
    };
    good.check("crm").unwrap();
    let check = |change: &dyn Fn(&mut ReverseSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings.check("crm").unwrap_err().0
    };
    assert_eq!(good.check("CRM").unwrap_err().0, "");
    assert_eq!(check(&|s| s.schedule = "hourly".into()), "schedule");
    assert_eq!(check(&|s| s.query = " ".into()), "query");
    assert_eq!(check(&|s| s.key = String::new()), "key");
    assert_eq!(check(&|s| s.object = String::new()), "object");
    assert_eq!(check(&|s| s.object = "a/b".into()), "object");
    assert_eq!(check(&|s| s.batch_rows = 101), "batch_rows");
    assert_eq!(check(&|s| s.url = "http://crm.example".into()), "url");
    assert_eq!(check(&|s| s.url = "http://127.0.0.1".into()), "url");
    assert_eq!(check(&|s| s.url = "https://me:pw@crm.example".into()), "url");
    assert_eq!(check(&|s| s.method = "PUT".into()), "method");
    assert_eq!(check(&|s| s.headers = [("X Y".to_owned(), "1".to_owned())].into()), "headers");
    assert_eq!(check(&|s| s.headers = [("Authorization".to_owned(), "1".to_owned())].into()), "headers");
    assert_eq!(check(&|s| s.row = Some(json!({"a": "{b"}))), "row");
    assert_eq!(check(&|s| s.row = Some(json!("{b}"))), "row");
    let custom = |url: &'static str| {
        check(&move |s| {
            *s = ReverseSettings {
                shape: Shape::Custom,
                object: String::new(),
                id_property: String::new(),
                ..s.clone()
            };
            s.url = url.into();
        })
    };
    for url in ["", "{host}/x", "https://{host}/x", "https://crm.example{x}/", "ftp://crm.example/"] {
        assert_eq!(custom(url), "url", "{url}");
    }
    let text = "query = 'SELECT 1'\nkey = 'email'\nshape = 'salesforce'\nurl = 'https://my.example'\nobject = 'Contact'\nid_property = 'X__c'\nrow = { a = '{b}', n = [1, true] }\nsecret_headers = { Authorization = 'env:T' }\n";
    let read: ReverseSettings = toml::from_str(text).unwrap();
    read.check("crm").unwrap();
    assert_eq!(toml::from_str::<ReverseSettings>(&toml::to_string(&read).unwrap()).unwrap(), read);
}

#[test]
fn a_template_puts_values_in_with_their_types() {
    let row = json!({"n": 7, "t": "x", "none": null, "list": [1, "a"], "big": i64::MAX});
    let render = |template: Value| Template::parse(&template).unwrap().render(row.as_object().unwrap());
    assert_eq!(render(json!("{n}")), json!(7));
    assert_eq!(render(json!("{big}")), json!(i64::MAX));
    assert_eq!(render(json!("{none}")), json!(null));
    assert_eq!(render(json!("{list}")), json!([1, "a"]));
    assert_eq!(render(json!("<{n}|{t}|{none}|{list}>")), json!("<7|x||[1,\"a\"]>"));
    assert_eq!(
        render(json!({"{n}": ["{t}", "{{n}}", true, null]})),
        json!({"{n}": ["x", "{n}", true, null]})
    );
    for bad in ["{", "}", "{}", "a{b", "a}b", "{a{b}}"] {
        assert!(Template::parse(&json!(bad)).is_err(), "{bad}");
    }
}

#[test]
fn an_answer_that_names_a_record_otherwise_or_not_at_all_is_read_so() {
    use super::record::Records;
    use super::shape::{Answer, Reply, Verdict, read};
    let settings = |shape| ReverseSettings {
        key: "email".into(),
        shape,
        object: "contacts".into(),
        id_property: "email".into(),
        ..ReverseSettings::default()
    };
    let row = |email: &str| json!({"email": email, "name": "x"}).as_object().unwrap().clone();
    let rows = Rows {
        columns: vec!["email".into(), "name".into()],
        rows: vec![row("Ann@x.example"), row("bob@x.example")],
        truncated: false,
    };
    let said = |shape, status, body: Value| {
        let settings = settings(shape);
        let records = Records::new(&settings, &[7; 32]).unwrap().make(&rows).unwrap().records;
        let reply = Reply { status, retry_after_s: None, body: body.to_string().into_bytes() };
        match read(&settings, &records, &reply) {
            Ok(Answer::Each(verdicts)) => {
                let word = |verdict| match verdict {
                    Verdict::Taken => "taken",
                    Verdict::Refused { may_pass: true, .. } => "later",
                    Verdict::Refused { .. } => "refused",
                };
                verdicts.into_iter().map(word).collect::<Vec<_>>().join(" ")
            }
            Ok(Answer::Whole(said)) => said,
            Err(error) => error.kind().to_owned(),
        }
    };
    let hubspot = |status, body| said(Shape::Hubspot, status, body);
    let ann = json!({"id": "1", "properties": {"email": "ann@x.example"}});
    // By the id, in small letters as it is kept there.
    assert_eq!(
        hubspot(
            207,
            json!({"results": [ann], "errors": [{"message": "no", "context": {"ids": ["bob@x.example"]}}]})
        ),
        "taken refused"
    );
    assert_eq!(hubspot(207, json!({"results": [ann], "errors": [{"message": "something"}]})), "taken later");
    assert_eq!(hubspot(200, json!({"results": [{"id": "1"}, {"id": "2"}]})), "taken taken");
    assert_eq!(
        hubspot(200, json!({"results": [{"id": "1"}]})),
        "later later",
        "one of them, and nobody knows which"
    );
    assert_eq!(hubspot(200, json!([])), "away");
    assert_eq!(hubspot(400, json!({"message": "bad\nline"})), "it answers 400: bad line");
    assert_eq!(hubspot(404, json!({})), "refused");
    let salesforce = |status, body| said(Shape::Salesforce, status, body);
    let (well, ill) = (json!({"success": true}), json!({"success": false, "errors": []}));
    assert_eq!(salesforce(200, json!([well, ill])), "taken refused");
    assert_eq!(salesforce(200, json!([well])), "away", "not one for each");
    assert_eq!(salesforce(500, json!([])), "away");
    assert_eq!(said(Shape::Custom, 204, json!(null)), "taken taken");
}
