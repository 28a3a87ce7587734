//! Do several workers share a stream, and lose and repeat nothing while they
//! come, go, die, and the stream is resharded under them?
//!
//! Against real Kinesis, S3 and DynamoDB APIs: `python3 tests/servers.py run -- cargo test`.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kinesis::Client;
use clickmill_delivery::kinesis::{
    self, DeliverConfig, DeliverError, DeliverReport, Leases, Until,
};
use clickmill_faultstore::FaultStore;
use clickmill_lake::Lake;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use support::stream::{
    PATIENCE, active, config, create, deliver_once, ids, put_ids, server, wait_for,
};
use support::{Deaf, folder_lake, landed};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A worker that runs until it is stopped or killed.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<DeliverReport, DeliverError>>,
}

impl Running {
    fn start(config: DeliverConfig, lake: &Lake, client: &Client) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (lake, client, stop) = (lake.clone(), client.clone(), stop.clone());
            async move { kinesis::run(&config, &lake, &client, &stop).await }
        });
        Self { stop, task }
    }

    async fn stop(self) -> DeliverReport {
        self.stop.cancel();
        self.task.await.expect("ends").expect("delivers")
    }

    /// Drops it wherever it stands, as `kill -9` would.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("is killed").is_cancelled());
    }
}

fn shared(stream: &str, leases: Leases) -> DeliverConfig {
    let mut config = config(stream, Until::Cancelled);
    config.leases = leases;
    config.lease.expiry = Duration::from_secs(2);
    config.retry.max_attempts = None;
    config
}

/// Who reads what, by the lease objects themselves: the one with the highest version of a shard.
async fn owners(lake: &Lake) -> BTreeMap<String, Option<String>> {
    let folder = Path::from("_clickmill/leases");
    let listed: Vec<_> = lake.store().list(Some(&folder)).try_collect().await.expect("lists");
    let mut newest = BTreeMap::new();
    for path in listed.into_iter().map(|meta| meta.location) {
        let name = path.filename().expect("has a name").to_owned();
        if path.as_ref().contains("/shards/") {
            let (shard, _) = name.split_once('.').expect("has a version");
            newest.insert(shard.to_owned(), path);
        }
    }
    let mut owners = BTreeMap::new();
    for (shard, path) in newest {
        // It may have been superseded since; then the next poll sees what is there.
        let Ok(found) = lake.store().get(&path).await else { continue };
        let bytes = found.bytes().await.expect("reads");
        let lease: serde_json::Value = serde_json::from_slice(&bytes).expect("is JSON");
        if lease["finished"] == false {
            owners.insert(shard, lease["owner"].as_str().map(str::to_owned));
        }
    }
    owners
}

/// How many shards each worker has, ascending; empty while one is free.
fn spread(owners: &BTreeMap<String, Option<String>>) -> Vec<usize> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for owner in owners.values() {
        let Some(owner) = owner else { return Vec::new() };
        *counts.entry(owner).or_default() += 1;
    }
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

async fn until_spread(lake: &Lake, expected: &[usize]) -> BTreeMap<String, Option<String>> {
    let began = Instant::now();
    loop {
        let owners = owners(lake).await;
        if spread(&owners) == expected {
            return owners;
        }
        assert!(began.elapsed() < PATIENCE, "not shared as {expected:?}: {owners:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_that_comes_back_under_its_name_waits_for_no_lease() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "again", 2).await;
    let start = || {
        let mut config = shared(&stream, Leases::Lake);
        // Nobody lives to see these leases expire.
        config.lease.expiry = Duration::from_secs(3_600);
        config.worker = Some("one".to_owned());
        Running::start(config, &lake, &client)
    };
    let one = start();
    put_ids(&client, &stream, 0..20).await;
    wait_for(&lake, 20).await;
    one.kill().await;
    assert_eq!(spread(&owners(&lake).await), [2], "the dead one's leases are there");
    let again = start();
    put_ids(&client, &stream, 20..40).await;
    wait_for(&lake, 40).await;
    again.stop().await;
    landed(&lake).await.assert_each_once(ids(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_have_one_name_all_the_same_land_everything_once() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "twins", 2).await;
    let start = || {
        let config =
            DeliverConfig { worker: Some("one".to_owned()), ..shared(&stream, Leases::Lake) };
        Running::start(config, &lake, &client)
    };
    let (one, two) = (start(), start());
    put_ids(&client, &stream, 0..60).await;
    wait_for(&lake, 60).await;
    one.kill().await;
    put_ids(&client, &stream, 60..90).await;
    wait_for(&lake, 90).await;
    two.stop().await;
    landed(&lake).await.assert_each_once(ids(0..90));
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_rebalanced_when_a_worker_joins_leaves_and_dies() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "fleet", 6).await;
    let start = || Running::start(shared(&stream, Leases::Lake), &lake, &client);

    let one = start();
    put_ids(&client, &stream, 0..40).await;
    until_spread(&lake, &[6]).await;
    let two = start();
    put_ids(&client, &stream, 40..80).await;
    let with_two = until_spread(&lake, &[3, 3]).await;
    let three = start();
    put_ids(&client, &stream, 80..120).await;
    let with_three = until_spread(&lake, &[2, 2, 2]).await;
    let moved = with_two.iter().filter(|(shard, owner)| with_three[*shard] != **owner).count();
    assert_eq!(moved, 2, "only the newcomer's share moves");

    two.kill().await;
    put_ids(&client, &stream, 120..160).await;
    until_spread(&lake, &[3, 3]).await;
    three.stop().await;
    // Who leaves in order frees its shards at once: none is its own any more.
    let left: BTreeSet<String> = owners(&lake).await.into_values().flatten().collect();
    assert!(left.len() <= 1, "{left:?}");
    until_spread(&lake, &[6]).await;
    put_ids(&client, &stream, 160..200).await;
    wait_for(&lake, 200).await;
    one.stop().await;
    assert!(owners(&lake).await.values().all(Option::is_none));
    landed(&lake).await.assert_each_once(ids(0..200));
}

/// Splits, merges and splits a child under load, with three workers of which one is killed.
async fn resharded_under_load(client: &Client, lake: &Lake, leases: &Leases) -> String {
    let stream = create(client, "reshards", 2).await;
    let start = || Running::start(shared(&stream, leases.clone()), lake, client);
    let workers = [start(), start(), start()];
    let writing = CancellationToken::new();
    let writer = tokio::spawn({
        let (client, stream, writing) = (client.clone(), stream.clone(), writing.clone());
        async move {
            let mut count = 0;
            while !writing.is_cancelled() {
                put_ids(&client, &stream, count..count + 10).await;
                count += 10;
            }
            count
        }
    });
    let split = async |shard: &str, at: &str| {
        let request = client.split_shard().stream_name(&stream).shard_to_split(shard);
        request.new_starting_hash_key(at).send().await.expect("splits");
        active(client, &stream).await;
    };
    split("shardId-000000000000", "85070591730234615865843651857942052864").await;
    // A child of the split is split while its parent may not be drained yet.
    split("shardId-000000000002", "42535295865117307932921825928971026432").await;
    client
        .merge_shards()
        .stream_name(&stream)
        .shard_to_merge("shardId-000000000003")
        .adjacent_shard_to_merge("shardId-000000000001")
        .send()
        .await
        .expect("merges");
    active(client, &stream).await;
    let [killed, rest @ ..] = workers;
    killed.kill().await;
    wait_for(lake, 100).await;
    writing.cancel();
    let written = writer.await.expect("writes");
    wait_for(lake, written as usize).await;
    for worker in rest {
        worker.stop().await;
    }
    deliver_once(&stream, lake, client).await.expect("delivers the rest");
    let landed = landed(lake).await;
    landed.assert_each_once(ids(0..written));
    let closed: BTreeMap<&str, bool> = landed
        .commits
        .iter()
        .map(|(source, commits)| {
            let shard = source.rsplit('/').next().expect("has a shard");
            (shard, commits.last().expect("has some").closed)
        })
        .collect();
    for drained in ["0", "1", "2", "3"] {
        assert!(closed[&*format!("shardId-00000000000{drained}")], "{drained}: {closed:?}");
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn split_merge_and_split_of_a_child_under_load_lose_and_repeat_nothing() {
    let Some(client) = server().await else { return };
    let bucket = std::env::var("CLICKMILL_TEST_BUCKET").expect("servers.py sets it");
    let location = format!("s3://{bucket}/fleet-{}", uuid::Uuid::new_v4());
    let lake = Lake::open(&location).await.expect("opens");
    resharded_under_load(&client, &lake, &Leases::Lake).await;
}

fn text(item: &HashMap<String, AttributeValue>, key: &str) -> String {
    let AttributeValue::S(text) = &item[key] else { panic!("{key} of {item:?}") };
    text.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_dynamodb_share_a_stream_as_well() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let dynamodb = kinesis::lease_client(&clickmill_lake::aws::sdk_config().await);
    let table = format!("fleet-{}", uuid::Uuid::new_v4());
    let leases = Leases::DynamoDb { client: dynamodb.clone(), table: table.clone() };
    let stream = resharded_under_load(&client, &lake, &leases).await;

    // What the killed one held is whoever's comes next, once its leases have expired.
    let next = Running::start(shared(&stream, leases), &lake, &client);
    let scan = async || {
        let answer = dynamodb.scan().table_name(&table).send().await.expect("answers");
        answer.items.expect("some")
    };
    let began = Instant::now();
    while scan().await.iter().filter(|item| text(item, "checkpoint") == "SHARD_END").count() < 4 {
        assert!(began.elapsed() < PATIENCE, "not ended: {:?}", scan().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    next.stop().await;
    let mut checkpoints = BTreeMap::new();
    for item in scan().await {
        assert!(!item.contains_key("leaseOwner"), "all left in order: {item:?}");
        checkpoints.insert(text(&item, "leaseKey"), text(&item, "checkpoint"));
    }
    let ended: Vec<_> = checkpoints.values().map(|checkpoint| checkpoint == "SHARD_END").collect();
    assert_eq!(ended[..4], [true; 4], "{checkpoints:?}");
    assert!(ended[4..].iter().all(|ended| !ended), "{checkpoints:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_lost_its_leases_loses_at_the_commit() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "zombie", 2).await;
    // It reads and commits, but from some moment on the lease table does not answer it.
    let store = FaultStore::new(lake.store(), Deaf::to("_clickmill/leases"));
    let zombie =
        Running::start(shared(&stream, Leases::Lake), &lake.with_store(store.clone()), &client);
    put_ids(&client, &stream, 0..40).await;
    let before = until_spread(&lake, &[2]).await;
    store.faults().deafen();
    let other = Running::start(shared(&stream, Leases::Lake), &lake, &client);
    let began = Instant::now();
    let after = loop {
        put_ids(&client, &stream, 40..41).await;
        let owners = owners(&lake).await;
        if spread(&owners) == [2] && owners != before {
            break owners;
        }
        assert!(began.elapsed() < PATIENCE, "nobody took over: {owners:?}");
    };
    assert_ne!(before, after);
    put_ids(&client, &stream, 41..160).await;
    wait_for(&lake, 160).await;
    let (zombie, other) = (zombie.stop().await, other.stop().await);
    let landed = landed(&lake).await;
    // One id was sent many times, as records of their own.
    let repeats = u64::from(landed.events["e00040"]);
    assert_eq!(zombie.events + other.events, 159 + repeats);
    let mut positions = BTreeSet::new();
    for line in &landed.lines {
        let line: serde_json::Value = serde_json::from_str(line).expect("is JSON");
        let position = (line["shard_id"].to_string(), line["sequence_number"].to_string());
        assert!(positions.insert(position), "landed twice: {line}");
    }
    assert_eq!(positions.len() as u64, 159 + repeats);
    assert!(ids(0..160).all(|id| landed.events.contains_key(&id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_table_shared_with_another_lake_hides_no_records() {
    let Some(client) = server().await else { return };
    let stream = create(&client, "shared", 1).await;
    put_ids(&client, &stream, 0..30).await;
    let request = client.split_shard().stream_name(&stream).shard_to_split("shardId-000000000000");
    let at = "170141183460469231731687303715884105728";
    request.new_starting_hash_key(at).send().await.expect("splits");
    active(&client, &stream).await;
    put_ids(&client, &stream, 30..60).await;
    let dynamodb = kinesis::lease_client(&clickmill_lake::aws::sdk_config().await);
    let table = format!("shared-{}", uuid::Uuid::new_v4());
    // The first lake's workers say of the parent that it is finished; in the second it is not.
    for _ in 0..2 {
        let folder = tempfile::tempdir().expect("temp");
        let lake = folder_lake(folder.path()).await;
        let leases = Leases::DynamoDb { client: dynamodb.clone(), table: table.clone() };
        let worker = Running::start(shared(&stream, leases), &lake, &client);
        wait_for(&lake, 60).await;
        worker.stop().await;
        landed(&lake).await.assert_each_once(ids(0..60));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_once_that_shares_takes_over_from_the_dead_and_leaves_the_living_theirs() {
    let Some(client) = server().await else { return };
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let stream = create(&client, "once", 2).await;
    let once = || async {
        let mut config = shared(&stream, Leases::Lake);
        config.until = Until::CaughtUp;
        kinesis::run(&config, &lake, &client, &CancellationToken::new()).await.expect("delivers")
    };
    let dead = Running::start(shared(&stream, Leases::Lake), &lake, &client);
    until_spread(&lake, &[2]).await;
    dead.kill().await;
    put_ids(&client, &stream, 0..40).await;
    assert_eq!(once().await.events, 40);
    let living = Running::start(shared(&stream, Leases::Lake), &lake, &client);
    until_spread(&lake, &[2]).await;
    // It takes its fair half of the shards, reads them to their end, and leaves the rest.
    once().await;
    put_ids(&client, &stream, 40..60).await;
    wait_for(&lake, 60).await;
    living.stop().await;
    landed(&lake).await.assert_each_once(ids(0..60));
}
