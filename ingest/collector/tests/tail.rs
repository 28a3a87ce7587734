//! The tail and the tracking plan, over real sockets.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use clickmill_collector::Collector;
use clickmill_collector::commerce::{ListEvent, Product, ProductEvent};
use clickmill_collector::plan::Plan;
use clickmill_collector::server::{
    ConnectionLimits, Edge, Options, Server, TAIL_PATH, TAIL_TOKEN_FILE, TailToken, WriteKeys,
};
use clickmill_collector::sink::RecordKind;
use clickmill_collector::spool::read_all;
use clickmill_collector::tail::MAX_READERS;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A bound against a hang, not an expectation.
const DEADLINE: Duration = Duration::from_secs(60);
const PLAN: &str = include_str!("../../../docs/tracking-plan.example.toml");

struct Running {
    url: String,
    collector: Collector,
    folder: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    client: reqwest::Client,
}

async fn start(plan: Option<Plan>, token: Option<TailToken>) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let builder = Collector::builder(folder.path()).app_id("shop");
    let collector = builder.start().await.expect("starts");
    collector.set_plan(plan);
    let address = "127.0.0.1:0".parse().expect("address");
    let server = Server::bind(collector.clone(), address, WriteKeys::any()).await.expect("binds");
    let server = server.with_options(Options { tail_token: token, ..Options::default() });
    let url = format!("http://{}", server.local_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        server.run(stopped).await;
    });
    let client = reqwest::Client::builder().timeout(DEADLINE).build().expect("a client");
    Running { url, collector, folder, stop, served, client }
}

impl Running {
    async fn send(&self, body: &str) -> u16 {
        let sent = self.client.post(format!("{}/v1/track", self.url)).body(body.to_owned()).send();
        sent.await.expect("answers").status().as_u16()
    }

    async fn ask(&self, query: &str, authorization: &str) -> reqwest::Response {
        let url = format!("{}{TAIL_PATH}{query}", self.url);
        let request = self.client.get(url).header("authorization", authorization);
        request.send().await.expect("answers")
    }

    /// A tail that has begun, and the beginning.
    async fn tail(&self, query: &str, token: &TailToken) -> (Lines, Value) {
        let answer = self.ask(query, &token.bearer()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let mut lines = Lines { answer, text: String::new() };
        let start = lines.next().await.expect("the beginning");
        (lines, start)
    }

    fn stored(&self) -> Vec<Value> {
        stored(&self.folder)
    }
}

/// The spool's events and rejects, without their lineage.
fn stored(folder: &tempfile::TempDir) -> Vec<Value> {
    let spool = read_all(folder.path()).expect("reads");
    let records = spool.records.iter().filter(|record| record.kind != RecordKind::Heartbeat);
    records
        .map(|record| {
            let mut line: Value = serde_json::from_slice(&record.line).expect("JSON");
            let object = line.as_object_mut().expect("an object");
            assert!(object.remove("collector_id").is_some());
            assert!(object.remove("wal_seq").is_some());
            line
        })
        .collect()
}

struct Lines {
    answer: reqwest::Response,
    text: String,
}

impl Lines {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.text = rest;
                if !line.is_empty() {
                    return Some(serde_json::from_str(&line).expect("JSON"));
                }
                continue;
            }
            let chunk = tokio::time::timeout(DEADLINE, self.answer.chunk()).await.expect("in time");
            let chunk = chunk.expect("reads")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}

#[tokio::test]
async fn a_tail_shows_what_is_stored_until_the_server_stops() {
    let token = TailToken::new("secret");
    let server = start(None, Some(token.clone())).await;
    let (mut all, begins) = server.tail("", &token).await;
    assert_eq!(begins["tail_start"]["collector_id"], server.collector.status().collector_id);
    assert_eq!(begins["tail_start"]["plan"], Value::Null);
    let (mut rejects, _) = server.tail("?rejects=true", &token).await;
    let (mut ann, _) = server.tail("?visitor=ann&event=search", &token).await;

    assert_eq!(server.send(r#"{"event":"Tea","anonymousId":"bob"}"#).await, 200);
    assert_eq!(server.send("no JSON").await, 400);
    let search = ListEvent::search("tea").anonymous_id("ann");
    server.collector.record_durable(search).await.expect("stored");
    server.collector.record(ProductEvent::view(Product::new("p"))).expect("taken");
    // What comes after it is on disk has it on disk, too.
    server.collector.record_durable(ListEvent::search("cups")).await.expect("stored");

    server.stop.send(()).expect("it runs");
    tokio::time::timeout(DEADLINE, server.served).await.expect("it ends").expect("in order");
    let mut shown = Vec::new();
    while let Some(line) = all.next().await {
        shown.push(line);
    }
    assert_eq!(shown.len(), 5);
    assert_eq!(shown, stored(&server.folder));
    let reject = rejects.next().await.expect("the reject");
    assert_eq!((&reject["reason"], rejects.next().await), (&json!("malformed"), None));
    let search = ann.next().await.expect("the search");
    assert_eq!((&search["search_query"], ann.next().await), (&json!("tea"), None));
}

#[tokio::test]
async fn nobody_reads_the_tail_without_its_token() {
    let server = start(None, None).await;
    for authorization in ["", "Bearer ", "Bearer secret"] {
        assert_eq!(server.ask("", authorization).await.status(), 404);
    }
    let server = start(None, Some(TailToken::new("secret"))).await;
    for wrong in ["", "Bearer ", "Bearer Secret", "Bearer secre", "Bearer secrets", "Basic secret"]
    {
        let answer = server.ask("", wrong).await;
        assert_eq!(answer.status(), 401, "{wrong}");
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!(body["code"], "invalid_tail_token");
    }
    // No token opens what has an empty one.
    let server = start(None, Some(TailToken::new(""))).await;
    assert_eq!(server.ask("", "Bearer ").await.status(), 401);
}

#[tokio::test]
async fn a_tail_outlasts_the_time_after_which_idle_connections_are_closed() {
    let folder = tempfile::tempdir().expect("folder");
    let collector = Collector::builder(folder.path()).start().await.expect("starts");
    let idle = Duration::from_millis(200);
    let connections = ConnectionLimits { idle, ..ConnectionLimits::default() };
    let edge = Edge { connections, ..Edge::default() };
    let address = "127.0.0.1:0".parse().expect("address");
    let server = Server::bind_edge(collector.clone(), address, WriteKeys::any(), edge).await;
    let token = TailToken::new("secret");
    let options = Options { tail_token: Some(token.clone()), ..Options::default() };
    let server = server.expect("binds").with_options(options);
    let address = server.local_addr();
    tokio::spawn(server.run(std::future::pending()));

    let url = format!("http://{address}{TAIL_PATH}");
    let request = reqwest::Client::new().get(url).header("authorization", token.bearer());
    let mut tail = Lines { answer: request.send().await.expect("answers"), text: String::new() };
    tail.next().await.expect("the beginning");
    // Opened later and never used: once it is closed, so would be an idle tail.
    let mut unused = tokio::net::TcpStream::connect(address).await.expect("connects");
    let mut byte = [0; 1];
    let closed = tokio::time::timeout(DEADLINE, unused.read(&mut byte)).await.expect("in time");
    assert_eq!(closed.expect("in order"), 0);
    collector.record_durable(ListEvent::search("tea")).await.expect("stored");
    assert_eq!(tail.next().await.expect("a line")["search_query"], "tea");
}

#[tokio::test]
async fn a_wrong_filter_is_named_and_readers_are_bounded() {
    let token = TailToken::new("secret");
    let server = start(None, Some(token.clone())).await;
    for wrong in ["?visitr=ann", "?rejects=7"] {
        assert_eq!(server.ask(wrong, &token.bearer()).await.status(), 400, "{wrong}");
    }
    let mut readers = Vec::new();
    for _ in 0..MAX_READERS {
        readers.push(server.tail("", &token).await);
    }
    assert_eq!(server.ask("", &token.bearer()).await.status(), 429);
}

#[test]
fn the_token_in_the_spool_is_new_at_each_start_and_the_owners_alone() {
    let folder = tempfile::tempdir().expect("folder");
    assert!(TailToken::read(folder.path()).is_err());
    let one = TailToken::create(folder.path()).expect("written");
    assert_eq!(TailToken::read(folder.path()).expect("there"), one);
    let two = TailToken::create(folder.path()).expect("written");
    assert_ne!(one, two);
    assert_eq!(TailToken::read(folder.path()).expect("there"), two);
    let file = std::fs::metadata(folder.path().join(TAIL_TOKEN_FILE)).expect("the file");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    assert!(!format!("{two:?}").contains(&two.bearer()[7..]));
}

#[tokio::test]
async fn the_plan_flags_events_of_every_way_in_and_drops_none() {
    let token = TailToken::new("secret");
    let plan = Plan::parse(PLAN).expect("the example is a plan");
    let server = start(Some(plan), Some(token.clone())).await;
    let (mut violations, begins) = server.tail("?violations=true", &token).await;
    assert_eq!(begins["tail_start"]["plan"], "2026-11");
    for (event, properties) in [
        ("Newsletter Subscribed", json!({"list": "weekly"})),
        ("Newsletter Subscribed", json!({"list": 7})),
        ("Tea Brewed", json!({})),
        ("Products Searched", json!({"query": "tea", "results": -1})),
    ] {
        let body = json!({"event": event, "properties": properties}).to_string();
        assert_eq!(server.send(&body).await, 200);
    }
    server.collector.record_durable(ListEvent::search("tea")).await.expect("stored");
    let good = ListEvent::search("tea").property("results", 3);
    server.collector.record_durable(good).await.expect("stored");

    let outcomes: Vec<_> = server.stored().iter().map(|e| e["validation"].clone()).collect();
    let expected = [
        "ok",
        "wrong_type:list",
        "unplanned_event",
        "out_of_range:results",
        "missing_property:results",
        "ok",
    ];
    assert_eq!(outcomes, expected);
    for expected in expected.iter().filter(|outcome| **outcome != "ok") {
        assert_eq!(violations.next().await.expect("a line")["validation"], *expected);
    }
    let count = |event: &str, violation: &str| {
        server.collector.metrics().plan_violations.with([event, violation]).get()
    };
    assert_eq!(count("Newsletter Subscribed", "wrong_type:list"), 1);
    // The client's own name is no label.
    assert_eq!(count("custom", "unplanned_event"), 1);
    assert_eq!(count("search", "out_of_range:results"), 1);
    assert_eq!(count("search", "missing_property:results"), 1);

    // Another plan, or none, holds from the next event on.
    server.collector.set_plan(None);
    server.collector.record_durable(ListEvent::search("tea")).await.expect("stored");
    assert_eq!(server.stored().last().expect("it")["validation"], Value::Null);
}
