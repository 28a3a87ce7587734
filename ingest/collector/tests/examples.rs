//! The examples, as processes: driven over HTTP, their spools read afterwards.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clickmill_collector::sink::RecordKind;
use clickmill_collector::spool::read_all;
use serde_json::{Value, json};

/// A bound against a hang, not an expectation.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running example; killed where a test gives up on it.
struct Example {
    process: Child,
    lines: mpsc::Receiver<String>,
    folder: tempfile::TempDir,
}

impl Example {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let process = Command::new(program(name))
            .arg("127.0.0.1:0")
            .arg(folder.path().join("spool"))
            .arg("127.0.0.1:0")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn();
        let mut process = process.expect("starts");
        let stderr = process.stderr.take().expect("its stderr");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines, folder }
    }

    /// The URL behind `what on ` among the first lines that it prints.
    fn url(&self, what: &str) -> String {
        let marker = format!("{what} on ");
        loop {
            let line = self.lines.recv_timeout(DEADLINE).expect("it says where it listens");
            if let Some((_, url)) = line.split_once(&marker) {
                return url.trim().to_owned();
            }
        }
    }

    /// Ends it by ctrl-C; the events in its spool.
    fn stop(mut self) -> Vec<Value> {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().expect("kill runs");
        assert!(sent.success());
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("its status") {
                break status;
            }
            assert!(Instant::now() < deadline, "it did not end");
            std::thread::sleep(Duration::from_millis(10)); // between two looks
        };
        assert!(status.success(), "{status}");
        events(&self.folder.path().join("spool"))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Nothing where it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where cargo puts examples: beside the folder of this test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let folder = test.parent().and_then(Path::parent).expect("cargo's folder");
    let program = folder.join("examples").join(name);
    assert!(program.exists(), "cargo test without --test builds {}", program.display());
    program
}

fn events(spool: &Path) -> Vec<Value> {
    let spool = read_all(spool).expect("reads");
    let events = spool.records.iter().filter(|record| record.kind == RecordKind::Event);
    events.map(|record| serde_json::from_slice(&record.line).expect("JSON")).collect()
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    client.timeout(DEADLINE).build().expect("a client")
}

/// A visitor comes, buys, and sees the thanks; their tracker sends a click.
async fn visit(shop: &str, trackers: &str) -> String {
    let client = client();
    let home = client.get(shop).send().await.expect("answers");
    assert_eq!(home.status(), 200);
    let cookie = home.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().expect("its value").to_owned();
    let id = cookie.split_once('=').expect("name=value").1.to_owned();

    let buy = client.post(format!("{shop}/buy")).header("cookie", &cookie).send().await;
    let buy = buy.expect("answers");
    assert_eq!((buy.status().as_u16(), buy.headers().get("set-cookie")), (303, None));
    assert_eq!(buy.headers()["location"], "/thanks");
    let thanks = client.get(format!("{shop}/thanks")).header("cookie", &cookie).send().await;
    assert_eq!(thanks.expect("answers").status(), 200);

    let click = json!({
        "event": "Product Clicked", "messageId": "click-1", "anonymousId": id,
        "properties": {"product_id": "tea-7"},
    });
    let send = |key: &'static str| {
        let url = format!("{trackers}/v1/track");
        client.post(url).basic_auth(key, Some("")).body(click.to_string()).send()
    };
    assert_eq!(send("another-key").await.expect("answers").status(), 401);
    assert_eq!(send("a-public-write-key").await.expect("answers").status(), 200);

    let settings = format!("{trackers}/v1/projects/a-public-write-key/settings");
    let settings = client.get(settings).send().await.expect("answers");
    let settings: Value = settings.json().await.expect("JSON");
    let host = trackers.strip_prefix("http://").expect("a URL");
    assert_eq!(settings["integrations"]["Segment.io"]["apiHost"], format!("{host}/v1"));
    id
}

/// Everything that [`visit`] did, by one visitor.
fn assert_visit(events: &[Value], id: &str, shop: &str) {
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            assert_eq!(text("anonymous_id"), id, "{event}");
            assert_eq!(text("app_id"), "shop", "{event}");
            (text("event_name"), text("page_url"), text("order_id"))
        })
        .collect();
    let line = |name: &str, url: &str, order: &str| (name.into(), url.into(), order.into());
    let mut expected: Vec<(String, String, String)> = vec![
        line("page_view", &format!("{shop}/"), ""),
        line("purchase", "", "A-1001"),
        line("page_view", &format!("{shop}/thanks"), ""),
        line("product_click", "", ""),
    ];
    // A page view may come into the spool after the purchase that followed it.
    let mut found = found;
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let purchase = events.iter().find(|event| event["event_name"] == "purchase");
    let purchase = purchase.expect("the purchase");
    assert_eq!((&purchase["total"], &purchase["currency"]), (&json!(15.9), &json!("EUR")));
    assert_eq!(purchase["items"][0]["product_id"], "tea-7");
}

#[tokio::test]
async fn the_axum_shop_records_pages_orders_and_trackers_of_one_visitor() {
    let example = Example::start("axum");
    let shop = example.url("listening");
    let id = visit(&shop, &format!("{shop}/collect")).await;
    assert_visit(&example.stop(), &id, &shop);
}

#[tokio::test]
async fn the_hyper_shop_records_pages_orders_and_trackers_of_one_visitor() {
    let example = Example::start("hyper");
    let shop = example.url("listening");
    let id = visit(&shop, &format!("{shop}/collect")).await;
    assert_visit(&example.stop(), &id, &shop);
}

#[tokio::test]
async fn the_actix_shop_records_pages_orders_and_trackers_of_one_visitor() {
    let example = Example::start("actix");
    let trackers = example.url("trackers");
    let shop = example.url("listening");
    let id = visit(&shop, &trackers).await;
    assert_visit(&example.stop(), &id, &shop);
}

/// What is known without packing: an event alone is a record, a PUT payload unit of
/// 25 KB and a step of 5 KB, and 500 records are a call.
#[cfg(feature = "aws")]
#[test]
fn the_cost_of_events_is_that_of_their_records_and_far_less_together() {
    let output = Command::new(program("cost")).arg("20000").output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let of = |sink: &str, how: &str| -> Vec<(usize, String, usize)> {
        let found = rows.iter().filter(|row| row[0] == sink && row[3] == how);
        let number = |text: &str| text.parse().expect("a number");
        found.map(|row| (number(row[4]), row[6].to_owned(), number(row[7]))).collect()
    };
    // Batches of 100, 1,000 and 10,000 events.
    let alone = |billed: &str| -> Vec<(usize, String, usize)> {
        let calls = [10_000, 2_000, 2_000].into_iter();
        calls.map(|calls| (1_000_000, billed.to_owned(), calls)).collect()
    };
    assert_eq!(of("Kinesis", "one each"), alone("1000000 units"));
    assert_eq!(of("Firehose", "one each"), alone("5120 MB"));
    let aggregated = of("Kinesis", "aggregated");
    assert_eq!(aggregated.len(), 3);
    for (records, billed, _) in aggregated {
        let units: usize = billed.strip_suffix(" units").expect("units").parse().expect("a number");
        assert!(records * 10 < 1_000_000 && units * 10 < 1_000_000, "{text}");
    }
    for (records, billed, _) in of("Firehose", "shared records") {
        let megabytes: f64 = billed.strip_suffix(" MB").expect("MB").parse().expect("a number");
        assert!(records * 50 < 1_000_000 && megabytes < 1_500.0, "{text}");
    }
}
