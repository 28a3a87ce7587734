use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

use super::*;

/// What the service does with a call.
#[derive(Clone)]
enum Answer {
    /// Refuses the records at these places, takes the others.
    Refuse(Vec<usize>),
    /// Fails the whole call.
    Fail(&'static str),
}

/// The records of a call: key and decoded data.
type Call = Vec<(String, String)>;

/// A PutRecords endpoint that answers by a script, then takes everything.
#[derive(Clone, Default)]
struct Service {
    script: Arc<Mutex<VecDeque<Answer>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Service {
    async fn start(script: impl IntoIterator<Item = Answer>) -> (Self, Client) {
        let service =
            Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() };
        let handler = service.clone();
        let router = Router::new()
            .route("/", post(move |body: String| async move { handler.answer(&body) }))
            .layer(axum::extract::DefaultBodyLimit::disable());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("a", "s", None, None, "test"))
            .endpoint_url(url)
            .build();
        (service, Client::from_conf(config))
    }

    fn answer(&self, body: &str) -> (StatusCode, String) {
        let body: Value = serde_json::from_str(body).expect("json");
        let records: Call = body["Records"]
            .as_array()
            .expect("records")
            .iter()
            .map(|r| {
                let data = STANDARD.decode(r["Data"].as_str().expect("data")).expect("base64");
                (
                    r["PartitionKey"].as_str().expect("key").to_owned(),
                    String::from_utf8(data).expect("utf8"),
                )
            })
            .collect();
        let count = records.len();
        self.calls.lock().expect("lock").push(records);
        let refused = match self.script.lock().expect("lock").pop_front() {
            Some(Answer::Fail(code)) => {
                return (
                    StatusCode::BAD_REQUEST,
                    json!({"__type": code, "message": "m"}).to_string(),
                );
            }
            Some(Answer::Refuse(refused)) => refused,
            None => Vec::new(),
        };
        let results: Vec<Value> = (0..count)
            .map(|at| match refused.contains(&at) {
                true => json!({"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "m"}),
                false => json!({"SequenceNumber": "1", "ShardId": "shardId-000000000000"}),
            })
            .collect();
        let answer = json!({"FailedRecordCount": refused.len(), "Records": results});
        (StatusCode::OK, answer.to_string())
    }

    fn sizes(&self) -> Vec<usize> {
        self.calls.lock().expect("lock").iter().map(Vec::len).collect()
    }
}

fn batch(count: i64) -> SinkBatch {
    let records = (1..=count)
        .map(|wal_seq| SpoolRecord {
            wal_seq,
            kind: RecordKind::Event,
            line: format!("{{\"event_id\":\"e{wal_seq}\",\"wal_seq\":{wal_seq}}}").into(),
        })
        .collect();
    SinkBatch { collector_id: "c".to_owned(), first_wal_seq: 1, last_wal_seq: count, records }
}

#[tokio::test]
async fn a_record_refused_by_kinesis_is_sent_again_alone() {
    let (service, client) = Service::start([Answer::Refuse(vec![1, 3])]).await;
    KinesisSink::new(&client, "s").send(batch(5)).await.expect("sends");
    let calls = service.calls.lock().expect("lock").clone();
    let keys: Vec<Vec<&str>> =
        calls.iter().map(|call| call.iter().map(|(key, _)| key.as_str()).collect()).collect();
    assert_eq!(keys, [vec!["e1", "e2", "e3", "e4", "e5"], vec!["e2", "e4"]]);
    assert_eq!(calls[1][0].1, "{\"event_id\":\"e2\",\"wal_seq\":2}\n");
}

#[tokio::test]
async fn a_failed_call_goes_to_the_shipper_whose_retry_sends_only_the_rest() {
    // The first call of 500 is taken but for one, the second fails as a whole.
    let script = [Answer::Refuse(vec![7]), Answer::Fail("LimitExceededException")];
    let (service, client) = Service::start(script).await;
    let sink = KinesisSink::new(&client, "s");
    let error = sink.send(batch(600)).await.expect_err("fails");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(service.sizes(), [500, 100], "the SDK does not retry by itself");
    sink.send(batch(600)).await.expect("sends");
    assert_eq!(service.sizes(), [500, 100, 101]);
    // Another batch begins anew.
    sink.send(batch(2)).await.expect("sends");
    assert_eq!(service.sizes(), [500, 100, 101, 2]);
}

#[tokio::test]
async fn a_missing_stream_needs_somebody() {
    let (_, client) = Service::start([Answer::Fail("ResourceNotFoundException")]).await;
    let error = KinesisSink::new(&client, "clicks").send(batch(1)).await.expect_err("fails");
    assert!(!error.is_retryable());
    assert_eq!(
        error.to_string(),
        "PutRecords to the stream clicks failed (ResourceNotFoundException)"
    );
}

#[test]
fn calls_are_cut_at_500_records_and_at_10_mib_with_keys() {
    let limits = KinesisLimits::default();
    let record = |bytes: usize| Outgoing { key: "k".repeat(10), data: vec![0; bytes].into() };
    let sizes = |records: &[Outgoing]| -> Vec<usize> {
        let all: Vec<usize> = (0..records.len()).collect();
        cut(records, &all, &limits).iter().map(Vec::len).collect()
    };
    assert_eq!(sizes(&vec![record(1); 500]), [500]);
    assert_eq!(sizes(&vec![record(1); 501]), [500, 1]);
    let tenth = 1024 * 1024 - 10;
    assert_eq!(sizes(&vec![record(tenth); 10]), [10]);
    let mut over = vec![record(tenth); 9];
    over.push(record(tenth + 1));
    assert_eq!(sizes(&over), [9, 1]);
    assert_eq!(sizes(&[]), Vec::<usize>::new());
}

#[test]
fn a_record_of_1_mib_goes_and_one_more_byte_becomes_a_reject() {
    let line = |padding: usize| {
        let line = format!(
            "{{\"event_id\":\"e\",\"app_id\":\"a\",\"collector_id\":\"c\",\"x\":\"{}\"}}",
            "x".repeat(padding)
        );
        SpoolRecord { wal_seq: 9, kind: RecordKind::Event, line: line.into() }
    };
    let empty = line(0).line.len();
    // Key "e" and the newline count too.
    let fits = line(MAX_RECORD_BYTES - empty - 2);
    assert_eq!(outgoing(&fits, MAX_RECORD_BYTES).size(), MAX_RECORD_BYTES);
    let sent = outgoing(&line(MAX_RECORD_BYTES - empty - 1), MAX_RECORD_BYTES);
    assert!(sent.size() <= MAX_RECORD_BYTES);
    let WireRecord::Reject(reject) = WireRecord::decode(&sent.data).expect("decodes") else {
        panic!("no reject");
    };
    assert_eq!((reject.reason, reject.wal_seq), (RejectReason::TooLarge, Some(9)));
    assert_eq!((reject.collector_id.as_deref(), reject.app_id.as_deref()), (Some("c"), Some("a")));
}

#[test]
fn the_key_is_the_visitor_and_at_most_256_characters() {
    let key = |line: &str| {
        outgoing(
            &SpoolRecord { wal_seq: 1, kind: RecordKind::Event, line: line.to_owned().into() },
            MAX_RECORD_BYTES,
        )
        .key
    };
    assert_eq!(key(r#"{"event_id":"e","user_id":"u","anonymous_id":"a\"b"}"#), "a\"b");
    assert_eq!(key(r#"{"event_id":"e","user_id":"u","device_id":"d"}"#), "d");
    assert_eq!(key(r#"{"event_id":"e"}"#), "e");
    assert_eq!(key(r#"{"reject_id":"r"}"#), "r");
    assert_eq!(key(r#"{"heartbeat_ts":"t","collector_id":"c"}"#), "c");
    assert_eq!(key(&format!("{{\"event_id\":\"{}\"}}", "ü".repeat(300))), "ü".repeat(256));
}
