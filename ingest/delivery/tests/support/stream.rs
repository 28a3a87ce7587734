//! A stream on the Kinesis test server, and how the tests deliver from it.

use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::StreamStatus;
use clickmill_delivery::kinesis::{self, DeliverConfig, DeliverError, DeliverReport, Until};
use clickmill_lake::Lake;
use tokio_util::sync::CancellationToken;

use super::{event, landed};

/// Polls end after this.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The client. `None` only where the user asked to skip.
pub async fn server() -> Option<Client> {
    if std::env::var("AWS_ENDPOINT_URL_KINESIS").is_err() {
        assert!(
            std::env::var("CLICKMILL_SKIP_SERVERS").is_ok_and(|value| value == "1"),
            "no Kinesis server: run `python3 tests/servers.py run -- cargo test ...`, \
             or set CLICKMILL_SKIP_SERVERS=1 to leave these tests out"
        );
        eprintln!("skipped: no Kinesis server");
        return None;
    }
    Some(kinesis::client(&clickmill_lake::aws::sdk_config().await))
}

pub async fn create(client: &Client, name: &str, shards: i32) -> String {
    let stream = format!("{name}-{}", uuid::Uuid::new_v4());
    client.create_stream().stream_name(&stream).shard_count(shards).send().await.expect("creates");
    active(client, &stream).await;
    stream
}

pub async fn active(client: &Client, stream: &str) {
    let began = Instant::now();
    loop {
        let answer = client.describe_stream_summary().stream_name(stream).send().await;
        let status = answer.ok().and_then(|answer| {
            answer.stream_description_summary().map(|summary| summary.stream_status().clone())
        });
        if status == Some(StreamStatus::Active) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the stream is not active: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn put(client: &Client, stream: &str, key: &str, data: &str) {
    let data = Blob::new(data);
    let request = client.put_record().stream_name(stream).partition_key(key).data(data);
    request.send().await.expect("puts");
}

pub fn ids(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|n| format!("e{n:05}"))
}

pub async fn put_ids(client: &Client, stream: &str, range: std::ops::Range<u32>) {
    for id in ids(range) {
        put(client, stream, &id, &event(&id)).await;
    }
}

/// Small pages and short waits, so that little data makes many commits.
pub fn config(stream: &str, until: Until) -> DeliverConfig {
    let mut config = DeliverConfig::new(stream, until);
    config.page_records = 10;
    config.cut.target_bytes = 2_000;
    config.cut.idle = Duration::from_millis(100);
    config.cut.max_age = Duration::from_millis(500);
    config.poll = Duration::from_millis(210);
    config.discover = Duration::from_millis(300);
    config.retry.base = Duration::from_millis(10);
    config.retry.max_attempts = Some(3);
    config
}

pub async fn deliver_once(
    stream: &str,
    lake: &Lake,
    client: &Client,
) -> Result<DeliverReport, DeliverError> {
    let config = config(stream, Until::CaughtUp);
    kinesis::run(&config, lake, client, &CancellationToken::new()).await
}

pub async fn wait_for(lake: &Lake, count: usize) {
    let began = Instant::now();
    while landed(lake).await.events.len() < count {
        assert!(began.elapsed() < PATIENCE, "not landed in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
