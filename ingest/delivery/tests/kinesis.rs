//! Does a stream land exactly once, through splits, kills and rivals?
//!
//! Against a real Kinesis API: `python3 tests/servers.py run -- cargo test`.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::StreamStatus;
use clickmill_delivery::kinesis::{self, DeliverConfig, DeliverError, DeliverReport, Until};
use clickmill_lake::Lake;
use futures::StreamExt as _;
use support::{Crash, CrashStore, event, folder_lake, landed};
use tokio_util::sync::CancellationToken;

/// Polls end after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client. `None` only where the user asked to skip.
async fn server() -> Option<Client> {
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

async fn create(client: &Client, name: &str, shards: i32) -> String {
    let stream = format!("{name}-{}", uuid::Uuid::new_v4());
    client.create_stream().stream_name(&stream).shard_count(shards).send().await.expect("creates");
    active(client, &stream).await;
    stream
}

async fn active(client: &Client, stream: &str) {
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

async fn put(client: &Client, stream: &str, key: &str, data: &str) {
    let data = Blob::new(data);
    let request = client.put_record().stream_name(stream).partition_key(key).data(data);
    request.send().await.expect("puts");
}

fn ids(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|n| format!("e{n:05}"))
}

async fn put_ids(client: &Client, stream: &str, range: std::ops::Range<u32>) {
    for id in ids(range) {
        put(client, stream, &id, &event(&id)).await;
    }
}

/// Small pages and short waits, so that little data makes many commits.
fn config(stream: &str, until: Until) -> DeliverConfig {
    let mut config = DeliverConfig::new(stream, until);
    config.page_records = 10;
    config.cut.max_bytes = 2_000;
    config.cut.idle = Duration::from_millis(100);
    config.poll = Duration::from_millis(210);
    config.discover = Duration::from_millis(300);
    config.retry.base = Duration::from_millis(10);
    config.retry.max_attempts = Some(3);
    config
}

async fn deliver_once(
    stream: &str,
    lake: &Lake,
    client: &Client,
) -> Result<DeliverReport, DeliverError> {
    let config = config(stream, Until::CaughtUp);
    kinesis::run(&config, lake, client, &CancellationToken::new()).await
}

async fn wait_for(lake: &Lake, count: usize) {
    let began = Instant::now();
    while landed(lake).await.events.len() < count {
        assert!(began.elapsed() < PATIENCE, "not landed in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lands_with_its_lineage_and_its_bad_records() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "lineage", 2).await;
    put_ids(&client, &stream, 0..40).await;
    put(&client, &stream, "k", &format!("{}\n{}\n", event("two-0"), event("two-1"))).await;
    put(&client, &stream, "k", "nonsense").await;

    let report = deliver_once(&stream, &lake, &client).await.expect("delivers");
    assert_eq!((report.events, report.rejects), (42, 1));
    let first = landed(&lake).await;
    first.assert_each_once(ids(0..40).chain(["two-0".to_owned(), "two-1".to_owned()]));
    assert!(first.lines.iter().all(|line| line.contains("\"shard_id\":\"shardId-00000000000")));
    assert_eq!(first.rejects.len(), 1);

    // Again: nothing new, nothing twice. Then more.
    let report = deliver_once(&stream, &lake, &client).await.expect("delivers");
    assert_eq!(report, DeliverReport::default());
    put_ids(&client, &stream, 40..50).await;
    let report = deliver_once(&stream, &lake, &client).await.expect("delivers");
    assert_eq!(report.events, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn splits_and_a_merge_on_the_way_lose_and_repeat_nothing() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "reshard", 1).await;
    let cancel = CancellationToken::new();
    let worker = tokio::spawn({
        let (config, lake, client, cancel) =
            (config(&stream, Until::Cancelled), lake.clone(), client.clone(), cancel.clone());
        async move { kinesis::run(&config, &lake, &client, &cancel).await }
    });
    put_ids(&client, &stream, 0..50).await;
    client
        .split_shard()
        .stream_name(&stream)
        .shard_to_split("shardId-000000000000")
        .new_starting_hash_key("170141183460469231731687303715884105728")
        .send()
        .await
        .expect("splits");
    active(&client, &stream).await;
    put_ids(&client, &stream, 50..100).await;
    wait_for(&lake, 100).await;
    client
        .merge_shards()
        .stream_name(&stream)
        .shard_to_merge("shardId-000000000001")
        .adjacent_shard_to_merge("shardId-000000000002")
        .send()
        .await
        .expect("merges");
    active(&client, &stream).await;
    put_ids(&client, &stream, 100..150).await;
    wait_for(&lake, 150).await;
    cancel.cancel();
    let report = worker.await.expect("ends").expect("delivers");
    assert_eq!(report.events, 150);

    let landed = landed(&lake).await;
    landed.assert_each_once(ids(0..150));
    let closed: Vec<bool> =
        landed.commits.values().map(|commits| commits.last().expect("some").closed).collect();
    assert_eq!(closed, [true, true, true, false], "{:?}", landed.commits.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_write_neither_loses_nor_repeats() {
    let Some(client) = server().await else { return };
    let stream = create(&client, "crash", 2).await;
    put_ids(&client, &stream, 0..60).await;
    client
        .split_shard()
        .stream_name(&stream)
        .shard_to_split("shardId-000000000000")
        .new_starting_hash_key("42535295865117307932921825928971026432")
        .send()
        .await
        .expect("splits");
    active(&client, &stream).await;
    put_ids(&client, &stream, 60..100).await;

    // Each point has a lake of its own; most of a run is waiting for the stream's pace.
    let hit = futures::stream::iter([Crash::BeforePut, Crash::AfterPut])
        .flat_map(|crash| {
            futures::stream::iter((0..MAX_KILL_POINTS).map(move |puts| (crash, puts)))
        })
        .map(|(crash, puts)| killed_at(&client, &stream, crash, puts))
        .buffer_unordered(6)
        .collect::<Vec<bool>>()
        .await;
    let kills = hit.iter().filter(|hit| **hit).count();
    assert!(kills > 20, "only {kills} kills hit");
    assert!(kills < hit.len(), "there are more writes than points: raise MAX_KILL_POINTS");
}

/// Writes at which a run is killed.
const MAX_KILL_POINTS: u32 = 40;

/// Delivers 100 records with a kill, then without. False where the run ended before its kill.
async fn killed_at(client: &Client, stream: &str, crash: Crash, puts: u32) -> bool {
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let store = CrashStore::new(&lake, crash, puts);
    let dying = deliver_once(stream, &lake.with_store(store.clone()), client).await;
    if store.is_dead() {
        deliver_once(stream, &lake, client).await.expect("goes on after the kill");
    } else {
        dying.expect("delivers");
    }
    landed(&lake).await.assert_each_once(ids(0..100));
    store.is_dead()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_dropped_at_any_moment_is_taken_over() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "drop", 3).await;
    put_ids(&client, &stream, 0..150).await;
    // Each run is dropped a bit later than the one before.
    for milliseconds in (40..700).step_by(60) {
        let run = deliver_once(&stream, &lake, &client);
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), run).await;
    }
    deliver_once(&stream, &lake, &client).await.expect("delivers");
    landed(&lake).await.assert_each_once(ids(0..150));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_on_one_stream_land_each_record_once() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "rivals", 2).await;
    put_ids(&client, &stream, 0..120).await;
    let run = || async {
        let mut config = config(&stream, Until::CaughtUp);
        config.retry.max_attempts = Some(100);
        kinesis::run(&config, &lake, &client, &CancellationToken::new()).await
    };
    let (one, other) = futures::join!(run(), run());
    let events = one.expect("delivers").events + other.expect("delivers").events;
    assert_eq!(events, 120);
    landed(&lake).await.assert_each_once(ids(0..120));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_created_anew_is_another_source_and_a_missing_one_an_error() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "anew", 1).await;
    put_ids(&client, &stream, 0..10).await;
    deliver_once(&stream, &lake, &client).await.expect("delivers");
    client.delete_stream().stream_name(&stream).send().await.expect("deletes");
    let began = Instant::now();
    while client.describe_stream_summary().stream_name(&stream).send().await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "the stream is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let missing = deliver_once(&stream, &lake, &client).await;
    assert!(matches!(missing, Err(DeliverError::NoStream { .. })), "{missing:?}");

    client.create_stream().stream_name(&stream).shard_count(1).send().await.expect("creates");
    active(&client, &stream).await;
    put_ids(&client, &stream, 10..20).await;
    deliver_once(&stream, &lake, &client).await.expect("delivers");
    let landed = landed(&lake).await;
    landed.assert_each_once(ids(0..20));
    assert_eq!(landed.commits.len(), 2, "{:?}", landed.commits.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lands_in_a_bucket() {
    let Some(client) = server().await else { return };
    let bucket = std::env::var("CLICKMILL_TEST_BUCKET").expect("servers.py sets it");
    let location = format!("s3://{bucket}/deliver-{}", uuid::Uuid::new_v4());
    let lake = Lake::open(&location).await.expect("opens");
    let stream = create(&client, "bucket", 2).await;
    put_ids(&client, &stream, 0..60).await;
    deliver_once(&stream, &lake, &client).await.expect("delivers");
    landed(&lake).await.assert_each_once(ids(0..60));
}
