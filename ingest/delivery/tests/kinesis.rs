//! Does a stream land exactly once, through splits, kills and rivals?
//!
//! Against a real Kinesis API: `python3 tests/servers.py run -- cargo test`.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;
use clickmill_delivery::kinesis::{self, Begin, DeliverError, DeliverReport, Leases, Until};
use clickmill_faultstore::{Death, DiesAt, FaultStore};
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use futures::StreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use support::stream::{
    PATIENCE, active, config, create, deliver_once, ids, put, put_ids, server, wait_for,
};
use support::{event, folder_lake, landed};
use tokio_util::sync::CancellationToken;

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
    let hit = futures::stream::iter([DiesAt::BeforePut, DiesAt::AfterPut])
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
async fn killed_at(client: &Client, stream: &str, crash: DiesAt, puts: u32) -> bool {
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let store = FaultStore::new(lake.store(), Death::after(puts, crash));
    let dying = deliver_once(stream, &lake.with_store(store.clone()), client).await;
    if store.faults().has_come() {
        deliver_once(stream, &lake, client).await.expect("goes on after the kill");
    } else {
        dying.expect("delivers");
    }
    landed(&lake).await.assert_each_once(ids(0..100));
    store.faults().has_come()
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

/// Arrival of the newest record of the first shard.
async fn newest_arrival(client: &Client, stream: &str) -> Timestamp {
    let request = client.get_shard_iterator().stream_name(stream).shard_id("shardId-000000000000");
    let answer = request.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await;
    let iterator = answer.expect("answers").shard_iterator.expect("has one");
    let page = client.get_records().shard_iterator(iterator).send().await.expect("answers");
    let record = page.records().last().expect("has some");
    let arrived = record.approximate_arrival_timestamp().expect("has a time");
    Timestamp::from_micros(arrived.to_millis().expect("fits") * 1_000).expect("fits")
}

/// A moment after everything that is in the stream's one shard, and before what comes next.
async fn between(client: &Client, stream: &str) -> Timestamp {
    let moment = newest_arrival(client, stream).await.saturating_add(Duration::from_millis(2));
    let began = Instant::now();
    while Timestamp::now() <= moment.saturating_add(Duration::from_millis(2)) {
        assert!(began.elapsed() < PATIENCE, "the clock stands still");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    moment
}

async fn deliver_from(
    stream: &str,
    from: Begin,
    lake: &Lake,
    client: &Client,
) -> Result<DeliverReport, DeliverError> {
    let mut config = config(stream, Until::CaughtUp);
    config.from = from;
    kinesis::run(&config, lake, client, &CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_begins_at_a_time_in_every_shard_and_goes_on_from_its_checkpoints() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "from", 1).await;
    put_ids(&client, &stream, 0..20).await;
    let time = between(&client, &stream).await;
    put_ids(&client, &stream, 20..40).await;
    client
        .split_shard()
        .stream_name(&stream)
        .shard_to_split("shardId-000000000000")
        .new_starting_hash_key("170141183460469231731687303715884105728")
        .send()
        .await
        .expect("splits");
    active(&client, &stream).await;
    put_ids(&client, &stream, 40..60).await;
    deliver_from(&stream, Begin::At(time), &lake, &client).await.expect("delivers");
    landed(&lake).await.assert_each_once(ids(20..60));

    // Whatever it is told from now on, the checkpoints win.
    put_ids(&client, &stream, 60..70).await;
    for from in [Begin::TrimHorizon, Begin::Latest] {
        deliver_from(&stream, from, &lake, &client).await.expect("delivers");
        landed(&lake).await.assert_each_once(ids(20..70));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_from_now_on_that_is_killed_before_its_first_commit_begins_there_again() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "latest", 1).await;
    put_ids(&client, &stream, 0..20).await;
    between(&client, &stream).await;
    // Its first PUT tells where it begins; it dies before the second.
    let store = FaultStore::new(lake.store(), Death::after(1, DiesAt::BeforePut));
    let dying = {
        let mut config = config(&stream, Until::Cancelled);
        config.from = Begin::Latest;
        config.leases = Leases::None;
        let (lake, client) = (lake.with_store(store.clone()), client.clone());
        tokio::spawn(async move {
            kinesis::run(&config, &lake, &client, &CancellationToken::new()).await
        })
    };
    let began = Instant::now();
    while lake.store().head(&beginning(&client, &stream).await).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "it did not say where it begins");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    put_ids(&client, &stream, 20..40).await;
    assert!(dying.await.expect("ends").is_err());
    assert!(store.faults().has_come());
    deliver_from(&stream, Begin::Latest, &lake, &client).await.expect("delivers");
    landed(&lake).await.assert_each_once(ids(20..40));
}

/// The object that says where a stream's delivery began.
async fn beginning(client: &Client, stream: &str) -> Path {
    let answer = client.describe_stream_summary().stream_name(stream).send().await;
    let summary = answer.expect("answers").stream_description_summary.expect("has one");
    let created = summary.stream_creation_timestamp().secs();
    Path::from(format!("_clickmill/beginnings/{stream}-{created}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_and_idle_shards_make_objects_near_the_target_and_few_commits() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "mix", 4).await;
    let at = async |hash: &str, id: &str| {
        let request = client.put_record().stream_name(&stream).partition_key(id);
        let request = request.explicit_hash_key(hash).data(Blob::new(event(id)));
        request.send().await.expect("puts");
    };
    let mut config = config(&stream, Until::Cancelled);
    config.leases = Leases::None;
    config.cut.target_bytes = 8_000;
    config.cut.max_age = Duration::from_secs(2);
    // Longer than the pace of reads.
    config.cut.idle = Duration::from_secs(1);
    let max_age = config.cut.max_age;
    // A backlog of 300 in the first shard, then a trickle in every other.
    let line = event("e00000").len() as u64 + 110;
    for id in ids(0..300) {
        at("0", &id).await;
    }
    let began = Instant::now();
    let cancel = CancellationToken::new();
    let worker = tokio::spawn({
        let (lake, client, cancel) = (lake.clone(), client.clone(), cancel.clone());
        async move { kinesis::run(&config, &lake, &client, &cancel).await }
    });
    let idle = [
        "85070591730234615865843651857942052864",
        "170141183460469231731687303715884105728",
        "255211775190703847597530955573826158592",
    ];
    let mut next = 300;
    while began.elapsed() < max_age * 3 || landed(&lake).await.events.len() < next as usize {
        assert!(began.elapsed() < PATIENCE, "not landed in time");
        if began.elapsed() < max_age * 3 {
            for (hash, id) in idle.iter().zip(ids(next..next + 3)) {
                at(hash, &id).await;
            }
            next += 3;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let elapsed = began.elapsed();
    cancel.cancel();
    worker.await.expect("ends").expect("delivers");
    let landed = landed(&lake).await;
    landed.assert_each_once(ids(0..next));
    let rounds = elapsed.as_millis() / max_age.as_millis() + 2;
    let mut objects: BTreeMap<&str, (u64, u64, Vec<&str>)> = BTreeMap::new();
    for (shard, commits) in &landed.commits {
        let is_busy = shard.ends_with("shardId-000000000000");
        assert!(is_busy || commits.len() as u128 <= rounds, "{shard}: {} commits", commits.len());
        for object in commits.iter().flat_map(|commit| &commit.objects) {
            let of = object.section.map_or(object.records, |section| section.of);
            let (lines, _, shards) =
                objects.entry(&object.path).or_insert((of, object.bytes, vec![]));
            assert_eq!(*lines, of);
            shards.push(shard);
        }
    }
    // The cut is looked at after each page of 10 records.
    let is_full = |lines: u64| (7_000..=16_000 + 11 * line).contains(&(lines * line));
    let full = objects.values().filter(|(lines, ..)| is_full(*lines)).count();
    assert!(full > 3, "{objects:?}");
    // All that is not full was due by age: one object for all shards, not one for each.
    assert!((objects.len() - full) as u128 <= rounds, "{rounds} rounds of {objects:?}");
    let shared = objects.values().filter(|(.., shards)| shards.len() >= idle.len()).count();
    assert!(shared > 0, "{objects:?}");
}
