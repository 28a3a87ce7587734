//! The server's behaviour, over real sockets.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clickmill_collector::server::{
    MAX_BATCH_EVENTS, MAX_BODY_BYTES, MAX_EVENT_BYTES, Server, WriteKeys,
};
use clickmill_collector::sink::{RecordKind, Sink, SinkBatch, SinkError};
use clickmill_collector::spool::{SpoolOptions, read_all};
use clickmill_collector::{BatchLimits, Collector, CollectorBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

const DEADLINE: Duration = Duration::from_secs(30);

struct Running {
    url: String,
    address: std::net::SocketAddr,
    collector: Collector,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    client: reqwest::Client,
}

async fn start(keys: WriteKeys) -> Running {
    start_with(keys, |builder| builder).await
}

async fn start_with(
    keys: WriteKeys,
    change: impl FnOnce(CollectorBuilder) -> CollectorBuilder,
) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let builder = change(Collector::builder(folder.path().join("spool")));
    let collector = builder.start().await.expect("starts");
    let address = "127.0.0.1:0".parse().expect("address");
    let server = Server::bind(collector.clone(), address, keys).await.expect("binds");
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running {
        url: format!("http://{address}"),
        address,
        collector,
        folder,
        stop: Some(stop),
        client: reqwest::Client::new(),
    }
}

impl Running {
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let sent = self.client.post(format!("{}{path}", self.url)).body(body).send().await;
        answer(sent.expect("answers")).await
    }

    /// What the spool holds, as JSON, without heartbeats. The server goes on.
    fn stored(&self) -> Vec<Value> {
        read_all(self.folder.path().join("spool"))
            .expect("reads")
            .records
            .iter()
            .filter(|record| record.kind != RecordKind::Heartbeat)
            .map(|record| serde_json::from_slice(&record.line).expect("json"))
            .collect()
    }

    fn ids(&self) -> Vec<String> {
        self.stored()
            .iter()
            .map(|event| event["event_id"].as_str().unwrap_or("reject").to_owned())
            .collect()
    }
}

async fn answer(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["access-control-expose-headers"], "Retry-After");
    let body: Value = response.json().await.expect("a JSON body");
    if status >= 400 && body.get("ok").is_none() {
        assert!(body["code"].is_string() && body["message"].is_string(), "{body}");
    }
    (status, body)
}

fn success() -> (u16, Value) {
    (200, json!({"success": true}))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

#[tokio::test]
async fn every_route_takes_its_call_with_and_without_v1() {
    let server = start(WriteKeys::any()).await;
    let mut expected = Vec::new();
    for prefix in ["", "/v1"] {
        for (route, name) in [
            ("track", "custom"),
            ("t", "custom"),
            ("page", "page_view"),
            ("p", "page_view"),
            ("screen", "screen_view"),
            ("s", "screen_view"),
            ("identify", "identify"),
            ("i", "identify"),
            ("group", "group"),
            ("g", "group"),
            ("alias", "alias"),
            ("a", "alias"),
        ] {
            let body = json!({"event": "e", "messageId": route}).to_string();
            assert_eq!(server.post(&format!("{prefix}/{route}"), body).await, success());
            expected.push(name);
        }
        for route in ["batch", "b"] {
            let body = json!({"batch": [{"type": "page"}]}).to_string();
            assert_eq!(server.post(&format!("{prefix}/{route}"), body).await, success());
            expected.push("page_view");
        }
        assert_eq!(server.post(&format!("{prefix}/m"), "{\"series\":[]}").await, success());
    }
    let stored = server.stored();
    let names: Vec<&str> = stored.iter().map(|e| e["event_name"].as_str().expect("name")).collect();
    assert_eq!(names, expected);
    let seqs: Vec<i64> = stored.iter().map(|e| e["wal_seq"].as_i64().expect("seq")).collect();
    assert_eq!(seqs, (1..=28).collect::<Vec<_>>());
    assert!(stored.iter().all(|e| e["app_id"] == "default"));
}

#[tokio::test]
async fn write_keys_come_by_basic_bearer_or_body_and_say_the_app() {
    let keys = WriteKeys::any().with("k1", "shop-de").with("k2", "shop-fr");
    let server = start(keys).await;
    let url = format!("{}/v1/track", server.url);
    let event = |id: &str| json!({"event": "e", "messageId": id}).to_string();
    let send = |request: reqwest::RequestBuilder| async {
        answer(request.send().await.expect("answers")).await
    };
    let post = || server.client.post(&url);
    assert_eq!(send(post().basic_auth("k1", Some("")).body(event("basic"))).await, success());
    assert_eq!(send(post().bearer_auth("k2").body(event("bearer"))).await, success());
    let in_body = json!({"event": "e", "messageId": "body", "writeKey": "k2"}).to_string();
    assert_eq!(send(post().bearer_auth("oauth-token").body(in_body)).await, success());
    // "azE=" is base64 of "k1", without the colon.
    let no_colon = post().header("Authorization", "Basic azE=").body(event("no colon"));
    assert_eq!(send(no_colon).await, success());
    for refused in [
        post().body(event("none")),
        post().basic_auth("k3", Some("")).body(event("wrong")),
        post().header("Authorization", "Basic \u{1}%").body(event("garbage")),
    ] {
        // A header that HTTP does not allow never leaves the client.
        let Ok(response) = refused.send().await else { continue };
        let (status, body) = answer(response).await;
        assert_eq!((status, &body["code"]), (401, &json!("invalid_write_key")));
    }
    // Without a key nothing is kept of what does not decode, either.
    assert_eq!(server.post("/v1/track", "{").await.0, 400);
    let apps: Vec<Value> = server.stored().iter().map(|e| e["app_id"].clone()).collect();
    assert_eq!(apps, ["shop-de", "shop-fr", "shop-fr", "shop-de"]);
    assert!(!format!("{:?}", server.stored()).contains("writeKey"));
}

#[tokio::test]
async fn without_a_write_key_only_loopback_is_bound() {
    let folder = tempfile::tempdir().expect("folder");
    let collector = Collector::builder(folder.path()).start().await.expect("starts");
    let everywhere = "0.0.0.0:0".parse().expect("address");
    let refused = Server::bind(collector.clone(), everywhere, WriteKeys::any()).await;
    let text = refused.expect_err("refused").to_string();
    assert!(text.contains("--write-key") && text.contains("127.0.0.1"), "{text}");
    let keys = WriteKeys::any().with("k", "a");
    Server::bind(collector, everywhere, keys).await.expect("binds");
}

#[tokio::test]
async fn gzip_is_read_labelled_or_not_and_json_whatever_its_type() {
    let server = start(WriteKeys::any()).await;
    let url = format!("{}/v1/track", server.url);
    let body = |id: &str| json!({"event": "e", "messageId": id}).to_string().into_bytes();
    for (headers, body) in [
        (vec![("content-encoding", "gzip")], gzip(&body("labelled"))),
        (vec![("content-type", "application/x-www-form-urlencoded")], gzip(&body("sniffed"))),
        (vec![("content-encoding", "gzip")], body("label only")),
        (vec![("content-type", "text/plain")], body("text")),
        (vec![("content-type", "application/json; charset=utf-8")], body("json")),
        (vec![], body("none")),
    ] {
        let mut request = server.client.post(&url).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        assert_eq!(answer(request.send().await.expect("answers")).await, success());
    }
    assert_eq!(server.ids(), ["labelled", "sniffed", "label only", "text", "json", "none"]);
}

#[tokio::test]
async fn the_good_rest_of_a_batch_goes_on_and_the_bad_part_is_kept() {
    let server = start(WriteKeys::any()).await;
    let large = "x".repeat(MAX_EVENT_BYTES);
    let body = json!({"batch": [
        {"type": "track", "event": "e", "messageId": "good-1"},
        {"type": "track", "messageId": "nameless"},
        {"type": "dance"},
        7,
        {"type": "track", "event": "e", "messageId": "large", "properties": {"x": large}},
        {"type": "page", "messageId": "good-2"},
    ]})
    .to_string();
    assert_eq!(server.post("/v1/batch", body).await, success());
    let stored = server.stored();
    let reasons: Vec<&str> =
        stored.iter().map(|r| r["reason"].as_str().unwrap_or("event")).collect();
    assert_eq!(
        reasons,
        ["event", "missing_field", "unknown_type", "malformed", "too_large", "event"]
    );
    // "eyJ0eXBlIjoiZGFuY2UifQ==" is base64 of {"type":"dance"}.
    assert_eq!(stored[2]["bytes_base64"], "eyJ0eXBlIjoiZGFuY2UifQ==");
    assert_eq!(stored[2]["origin"], "/v1/batch");
    assert_eq!(stored[5]["wal_seq"], 6);
}

#[tokio::test]
async fn malformed_requests_get_a_400_and_become_rejects() {
    let server = start(WriteKeys::any()).await;
    let mut torn = gzip(b"{\"event\":\"e\"}");
    torn.truncate(15);
    let many = json!({"batch": vec![json!({"type": "page"}); MAX_BATCH_EVENTS + 1]}).to_string();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "malformed"),
        (b"{".to_vec(), "malformed"),
        (b"[1,2]".to_vec(), "malformed"),
        (b"\xff\xfe{}".to_vec(), "malformed"),
        (b"{\"batch\":[{\"type\":\"page\"},".to_vec(), "malformed"),
        (b"event=e&userId=u".to_vec(), "malformed"),
        (torn, "malformed"),
        (b"{\"batch\":7}".to_vec(), "invalid_field"),
        (b"{}".to_vec(), "missing_field"),
        (many.into_bytes(), "too_large"),
        (vec![b' '; MAX_BODY_BYTES + 1], "too_large"),
        (gzip(&vec![b' '; MAX_BODY_BYTES + 1]), "too_large"),
    ];
    for (body, code) in &cases {
        let (status, answer) = server.post("/v1/batch", body.clone()).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(*code)), "{answer}");
    }
    let stored = server.stored();
    let reasons: Vec<&str> = stored.iter().map(|r| r["reason"].as_str().expect("reason")).collect();
    assert_eq!(reasons, cases.iter().map(|(_, code)| *code).collect::<Vec<_>>());
    let exactly = json!({"batch": vec![json!({"type": "page"}); MAX_BATCH_EVENTS]}).to_string();
    assert_eq!(server.post("/v1/batch", exactly).await, success());
    let mut fits = b"{\"batch\":[]}".to_vec();
    fits.resize(MAX_BODY_BYTES, b' ');
    assert_eq!(server.post("/v1/batch", fits).await, success());
    assert_eq!(server.post("/v1/nothing", "{}").await.0, 404);
    let get = server.client.get(format!("{}/v1/track", server.url)).send().await.expect("answers");
    assert_eq!(answer(get).await.0, 405);
}

#[tokio::test]
async fn no_address_is_stored_in_events_or_in_rejects() {
    let server = start(WriteKeys::any()).await;
    let event = json!({"event": "e", "ip": "192.0.2.7", "context": {"ip": "192.0.2.7"},
        "properties": {"ip": "192.0.2.7"}, "traits": {"ip": "2001:db8::7"}});
    let request = server
        .client
        .post(format!("{}/v1/track", server.url))
        .header("X-Forwarded-For", "192.0.2.7")
        .body(event.to_string());
    assert_eq!(answer(request.send().await.expect("answers")).await, success());
    let torn = "{\"context\":{\"ip\":\"192.0.2.7\"},";
    assert_eq!(server.post("/v1/track", torn).await.0, 400);
    let stored = server.stored();
    // Base64 of {"context":{"ip":null},
    assert_eq!(stored[1]["bytes_base64"], "eyJjb250ZXh0Ijp7ImlwIjpudWxsfSw=");
    let text = format!("{stored:?}");
    assert!(!text.contains("192.0.2") && !text.contains("2001:db8") && !text.contains("127.0.0.1"));
}

#[tokio::test]
async fn browsers_get_the_headers_that_they_ask_for() {
    let server = start(WriteKeys::any()).await;
    let url = format!("{}/v1/t", server.url);
    let preflight = server
        .client
        .request(reqwest::Method::OPTIONS, &url)
        .header("Origin", "https://shop.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,x-retry-count,rsa-x")
        .send()
        .await
        .expect("answers");
    assert_eq!(preflight.status(), 200);
    let headers = preflight.headers();
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(headers["access-control-allow-credentials"], "true");
    assert_eq!(headers["access-control-allow-headers"], "authorization,x-retry-count,rsa-x");
    assert!(headers["access-control-allow-methods"].to_str().expect("text").contains("POST"));
    let sent = server
        .client
        .post(&url)
        .header("Origin", "https://shop.example")
        .body("{\"event\":\"e\"}")
        .send()
        .await
        .expect("answers");
    assert_eq!(sent.headers()["access-control-allow-origin"], "https://shop.example");
    assert_eq!(answer(sent).await, success());
    let bad = server.client.post(&url).header("Origin", "https://x").body("{").send().await;
    assert_eq!(bad.expect("answers").headers()["access-control-allow-origin"], "https://x");
}

#[tokio::test]
async fn settings_let_the_browser_sdk_start() {
    let server = start(WriteKeys::any().with("k1", "shop")).await;
    for prefix in ["", "/v1"] {
        let url = format!("{}{prefix}/projects/k1/settings", server.url);
        let (status, body) = answer(server.client.get(url).send().await.expect("answers")).await;
        assert_eq!(status, 200);
        assert_eq!(
            body["integrations"]["Segment.io"],
            json!({"apiKey": "k1", "apiHost": format!("{}/v1", server.address), "protocol": "http"})
        );
    }
    let other = format!("{}/v1/projects/k2/settings", server.url);
    assert_eq!(answer(server.client.get(other).send().await.expect("answers")).await.0, 401);
}

#[tokio::test]
async fn a_full_spool_is_503_with_retry_after_and_health_says_so() {
    let server = start_with(WriteKeys::any(), |builder| {
        builder.spool(SpoolOptions { max_bytes: 4_000, ..SpoolOptions::default() })
    })
    .await;
    let noise: String = (0..900).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let mut taken = 0;
    let response = loop {
        let body = json!({"event": "e", "properties": {"x": noise[..1_000]}}).to_string();
        let sent = server.client.post(format!("{}/v1/track", server.url)).body(body).send().await;
        let response = sent.expect("answers");
        if response.status() != 200 {
            break response;
        }
        taken += 1;
        assert!(taken < 50);
    };
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "30");
    assert_eq!(answer(response).await.1["code"], "spool_full");
    assert_eq!(server.stored().len(), taken);
    let health = server.client.get(format!("{}/health", server.url)).send().await;
    let (_, body) = answer(health.expect("answers")).await;
    assert_eq!(body["backlog"], taken);
    assert!(body["spool_bytes"].as_u64().expect("number") <= 4_000);
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_hold_up_others() {
    let server = start(WriteKeys::any()).await;
    let mut slow = tokio::net::TcpStream::connect(server.address).await.expect("connects");
    slow.write_all(b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
        .await
        .expect("writes");
    assert_eq!(server.post("/v1/track", "{\"event\":\"e\"}").await, success());
    drop(slow);
    // Bytes that are no HTTP get an answer or a closed connection, not a crash.
    let mut garbage = tokio::net::TcpStream::connect(server.address).await.expect("connects");
    garbage.write_all(b"\x16\x03\x01\x00\xff garbage\r\n\r\n").await.expect("writes");
    let mut sink = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, garbage.read_to_end(&mut sink)).await;
    assert_eq!(server.post("/v1/track", "{\"event\":\"e\"}").await, success());
}

/// Keeps what it gets; refuses while `refusing`.
#[derive(Default)]
struct MemorySink {
    records: Mutex<Vec<(i64, RecordKind)>>,
    refusing: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl Sink for MemorySink {
    async fn resume_after(&self, _: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        use std::sync::atomic::Ordering;
        if self
            .refusing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
        {
            return Err(SinkError::retryable("not now"));
        }
        let mut records = self.records.lock().expect("lock");
        records.extend(batch.records.iter().map(|record| (record.wal_seq, record.kind)));
        Ok(())
    }
}

#[tokio::test]
async fn what_was_answered_with_200_reaches_the_sink_in_order_through_its_refusals() {
    let sink = Arc::new(MemorySink::default());
    sink.refusing.store(3, std::sync::atomic::Ordering::SeqCst);
    let limits =
        BatchLimits { max_events: 7, max_wait: Duration::from_millis(5), ..BatchLimits::default() };
    let to = Arc::clone(&sink);
    let mut server = start_with(WriteKeys::any(), |builder| builder.sink(to).batches(limits)).await;
    for n in 0..50 {
        let body = if n % 10 == 9 { "{".to_owned() } else { json!({"event": "e"}).to_string() };
        server.post("/v1/track", body).await;
    }
    let _ = server.stop.take().expect("runs").send(());
    let drained = server.collector.shutdown(DEADLINE).await;
    assert_eq!(drained.left, 0);
    let records = sink.records.lock().expect("lock").clone();
    let counted: Vec<i64> =
        records.iter().filter(|(_, kind)| *kind != RecordKind::Heartbeat).map(|r| r.0).collect();
    assert_eq!(counted, (1..=50).collect::<Vec<_>>());
    assert_eq!(records.iter().filter(|(_, kind)| *kind == RecordKind::Reject).count(), 5);
    assert_eq!(records.last(), Some(&(50, RecordKind::Heartbeat)));
    // A second collector on the folder sends none of it again.
    let sink = Arc::new(MemorySink::default());
    let spool = server.folder.path().join("spool");
    drop(server.collector);
    let again = loop {
        match Collector::builder(&spool).sink(Arc::clone(&sink) as Arc<dyn Sink>).start().await {
            Ok(collector) => break collector,
            // The server's last connection may still hold the first one.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    again.shutdown(DEADLINE).await;
    let records = sink.records.lock().expect("lock").clone();
    assert!(records.iter().all(|(_, kind)| *kind == RecordKind::Heartbeat), "{records:?}");
}
