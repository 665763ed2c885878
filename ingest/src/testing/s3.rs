//! An S3 server in memory that fails on demand: any answer may be an error, late, cut off or missing, each before or
//! after what was asked for took effect.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::store::LakeStore;

const BUCKET: &str = "/lake/";
const DATE: &str = "Sat, 31 Jan 2026 12:00:00 GMT";

/// What may go wrong with one request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Late,
    /// Beyond the client's patience.
    TooLate,
    HalfABody,
    Reset,
}

const FAULTS: [Fault; 8] = [
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(409),
    Fault::Status(412),
    Fault::Late,
    Fault::TooLate,
    Fault::HalfABody,
    Fault::Reset,
];

#[derive(Debug, Default)]
pub struct FaultyS3 {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    uploads: Mutex<HashMap<String, BTreeMap<u32, Vec<u8>>>>,
    random: Mutex<u64>,
    /// So many of a hundred requests go wrong.
    pub fault_percent: AtomicUsize,
    pub served: AtomicUsize,
    injected: Mutex<BTreeMap<String, usize>>,
    /// A customer's key: without the three headers that carry it nothing is written or read.
    pub customer_key: Mutex<Option<String>>,
    /// Requests that came with it, by kind.
    with_key: Mutex<BTreeMap<String, usize>>,
}

impl FaultyS3 {
    /// Serves on a port of its own as long as the runtime lives.
    pub async fn start(seed: u64) -> (Arc<Self>, SocketAddr) {
        let server = Arc::new(Self { random: Mutex::new(seed), ..Self::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = Arc::clone(&serving);
                tokio::spawn(async move { serving.talk(stream).await });
            }
        });
        (server, address)
    }

    /// A client that tries a few times, quickly.
    pub fn store(address: SocketAddr) -> LakeStore {
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(4),
            base: 2.0,
        };
        let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(5) };
        let client = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_millis(400));
        let root = AmazonS3Builder::new()
            .with_endpoint(format!("http://{address}"))
            .with_bucket_name("lake")
            .with_region("test")
            .with_skip_signature(true)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(client)
            .with_retry(retry)
            .build()
            .unwrap();
        LakeStore { root: Arc::new(root), url: Url::parse("s3://lake/prod/").unwrap() }
    }

    /// How often each fault was injected, before (`-`) and after (`+`) the effect.
    pub fn injected(&self) -> BTreeMap<String, usize> {
        self.injected.lock().unwrap().clone()
    }

    /// How many requests of each kind came with the customer's key.
    pub fn with_key(&self) -> BTreeMap<String, usize> {
        self.with_key.lock().unwrap().clone()
    }

    /// Whether a request may go on, as S3 has it: creating, writing and reading need the key; the end of an upload,
    /// removing and listing do not.
    fn may(&self, request: &Request) -> bool {
        let Some(key) = self.customer_key.lock().unwrap().clone() else { return true };
        let kind = match (request.method.as_str(), request.query.contains_key("uploadId")) {
            ("PUT", true) => "part",
            ("PUT", false) => "put",
            ("POST", false) => "upload",
            ("GET", _) if request.range.is_some() => "range",
            ("GET", _) => "get",
            ("HEAD", _) => "head",
            _ => return true,
        };
        let header = |name: &str| {
            let name = format!("x-amz-server-side-encryption-customer-{name}");
            request.headers.get(&name).map(String::as_str)
        };
        let digest = header("key-md5").is_some_and(|digest| digest.len() == 24);
        let may = header("algorithm") == Some("AES256") && header("key") == Some(key.as_str()) && digest;
        if may {
            *self.with_key.lock().unwrap().entry(kind.to_owned()).or_default() += 1;
        }
        may
    }

    /// SplitMix64.
    fn below(&self, bound: usize) -> usize {
        let mut state = self.random.lock().unwrap();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn fault(&self) -> Option<(Fault, bool)> {
        if self.below(100) >= self.fault_percent.load(Ordering::SeqCst) {
            return None;
        }
        let (fault, after) = (FAULTS[self.below(FAULTS.len())], self.below(2) == 1);
        let name = format!("{fault:?}{}", if after { '+' } else { '-' });
        *self.injected.lock().unwrap().entry(name).or_default() += 1;
        Some((fault, after))
    }

    async fn talk(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(request) = Request::read(&mut stream, &mut buffer).await {
            self.served.fetch_add(1, Ordering::SeqCst);
            let Some((fault, after)) = self.fault() else {
                if stream.write_all(&self.answer(&request).bytes(&request)).await.is_err() {
                    return;
                }
                continue;
            };
            let real = after.then(|| self.answer(&request));
            match fault {
                Fault::Status(status) => {
                    let answer = Answer::new(status, b"<Error><Code>Injected</Code></Error>".to_vec());
                    if stream.write_all(&answer.bytes(&request)).await.is_err() {
                        return;
                    }
                }
                Fault::Late | Fault::TooLate => {
                    let pause_ms = if matches!(fault, Fault::Late) { 20 } else { 600 };
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    let answer = real.unwrap_or_else(|| self.answer(&request));
                    if stream.write_all(&answer.bytes(&request)).await.is_err() {
                        return;
                    }
                }
                Fault::HalfABody => {
                    // What is read may be cut anywhere; what is written is cut before its effect is told.
                    let reads = matches!(request.method.as_str(), "GET" | "HEAD");
                    let whole =
                        if after || reads { self.answer(&request) } else { Answer::new(200, Vec::new()) };
                    let bytes = whole.bytes(&request);
                    let _ = stream.write_all(&bytes[..bytes.len() / 2]).await;
                    return;
                }
                Fault::Reset => return,
            }
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let Some(key) = request.path.strip_prefix(BUCKET) else { return self.answer_bucket(request) };
        if !self.may(request) {
            return Answer::new(400, b"<Error><Code>InvalidRequest</Code></Error>".to_vec());
        }
        let mut objects = self.objects.lock().unwrap();
        let mut uploads = self.uploads.lock().unwrap();
        let upload = request.query.get("uploadId");
        match (request.method.as_str(), upload) {
            ("GET" | "HEAD", _) => match objects.get(key) {
                None => Answer::new(404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
                Some(object) => Answer::of(object, request.range.as_deref()),
            },
            ("PUT", None) => {
                if request.only_if_absent && objects.contains_key(key) {
                    return Answer::new(412, b"<Error><Code>PreconditionFailed</Code></Error>".to_vec());
                }
                objects.insert(key.to_owned(), request.body.clone());
                Answer::new(200, Vec::new())
            }
            ("PUT", Some(upload)) => {
                let part = request.query["partNumber"].parse().unwrap();
                uploads.entry(upload.clone()).or_default().insert(part, request.body.clone());
                Answer::new(200, Vec::new())
            }
            ("POST", None) => {
                let id = format!("upload-{}", uploads.len() + objects.len() * 1_000);
                uploads.insert(id.clone(), BTreeMap::new());
                let xml = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                Answer::new(200, xml.into_bytes())
            }
            ("POST", Some(upload)) => {
                let Some(parts) = uploads.remove(upload) else {
                    return Answer::new(404, b"<Error><Code>NoSuchUpload</Code></Error>".to_vec());
                };
                objects.insert(key.to_owned(), parts.into_values().flatten().collect());
                let xml = "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
                Answer::new(200, xml.as_bytes().to_vec())
            }
            ("DELETE", None) => {
                objects.remove(key);
                Answer::new(204, Vec::new())
            }
            ("DELETE", Some(upload)) => {
                uploads.remove(upload);
                Answer::new(204, Vec::new())
            }
            _ => Answer::new(400, Vec::new()),
        }
    }

    /// `ListObjectsV2`, at most 100 at a time.
    fn answer_bucket(&self, request: &Request) -> Answer {
        let text = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        let (prefix, delimiter) = (text("prefix"), text("delimiter"));
        let after = text("continuation-token").max(text("start-after"));
        let objects = self.objects.lock().unwrap();
        let (mut xml, mut shown, mut last) = (String::new(), 0, String::new());
        let mut more = false;
        let mut folders = Vec::new();
        for (key, object) in objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after) {
            if shown == 100 {
                more = true;
                break;
            }
            last.clone_from(key);
            let rest = &key[prefix.len()..];
            if !delimiter.is_empty()
                && let Some(end) = rest.find(&delimiter)
            {
                let folder = format!("{prefix}{}", &rest[..=end]);
                if !folders.contains(&folder) {
                    xml += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
                    folders.push(folder);
                }
                continue;
            }
            shown += 1;
            xml += &format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-01-31T12:00:00.000Z</LastModified>\
                 <ETag>\"{}\"</ETag></Contents>",
                object.len(),
                etag(object)
            );
        }
        let token = if more {
            format!("<NextContinuationToken>{last}</NextContinuationToken>")
        } else {
            String::new()
        };
        let xml =
            format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{xml}</ListBucketResult>");
        Answer::new(200, xml.into_bytes())
    }
}

fn etag(object: &[u8]) -> String {
    let sum = object.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{sum:016x}")
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: "ETag: \"e\"\r\n".to_owned(), body }
    }

    fn of(object: &[u8], range: Option<&str>) -> Self {
        let headers = format!("ETag: \"{}\"\r\nLast-Modified: {DATE}\r\n", etag(object));
        let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
        else {
            return Self { status: 200, headers, body: object.to_vec() };
        };
        let (start, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(start), Ok(last)) => (start, (last + 1).min(object.len())),
            (Ok(start), Err(_)) => (start, object.len()),
            (Err(_), Ok(suffix)) => (object.len().saturating_sub(suffix), object.len()),
            _ => (0, object.len()),
        };
        if start >= end {
            return Self { status: 416, headers, body: Vec::new() };
        }
        let headers = format!("{headers}Content-Range: bytes {start}-{}/{}\r\n", end - 1, object.len());
        Self { status: 206, headers, body: object[start..end].to_vec() }
    }

    fn bytes(&self, request: &Request) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {} Said\r\nContent-Length: {}\r\n{}\r\n",
            self.status,
            self.body.len(),
            self.headers
        );
        let mut bytes = head.into_bytes();
        if request.method != "HEAD" && self.status != 204 {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

struct Request {
    method: String,
    path: String,
    query: HashMap<String, String>,
    range: Option<String>,
    only_if_absent: bool,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Self> {
        let head_end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?);
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        while buffer.len() < head_end + length {
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
        let body = buffer[head_end..head_end + length].to_vec();
        buffer.drain(..head_end + length);
        let url = Url::parse(&format!("http://host{target}")).unwrap();
        Some(Self {
            method,
            path: decoded(url.path()),
            query: url.query_pairs().into_owned().collect(),
            range: headers.get("range").cloned(),
            only_if_absent: headers.get("if-none-match").is_some_and(|value| value == "*"),
            headers,
            body,
        })
    }
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let hex = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
