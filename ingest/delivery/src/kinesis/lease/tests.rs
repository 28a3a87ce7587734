//! One suite that every shared lease table has to pass: in a folder, in a bucket
//! and in DynamoDB. The last two run where the test servers are
//! (`python3 tests/servers.py run -- cargo test`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use clickmill_lake::Lake;

use super::dynamodb::DynamoDbTable;
use super::lake::LakeTable;
use super::plan::Pulses;
use super::{Change, Held, Lease, LeaseError, LeaseTable, View, leave};
use crate::kinesis::shards::Shard;

const LEASE: Duration = Duration::from_secs(20);

/// Two workers' tables on one place.
type Pair = (Box<dyn LeaseTable>, Box<dyn LeaseTable>);

async fn in_lake(lake: &Lake, stream: &str) -> Pair {
    let table = |me| Box::new(LakeTable::new(lake.store(), stream, me));
    (table("w"), table("x"))
}

fn shard(id: &str, parents: &[&str]) -> Shard {
    Shard {
        id: id.to_owned(),
        parents: parents.iter().map(|&parent| parent.to_owned()).collect(),
        closed: false,
        starts: "0".to_owned(),
        hashes: Some(("0".to_owned(), "99".to_owned())),
    }
}

async fn view(table: &dyn LeaseTable) -> View {
    table.view().await.expect("is read")
}

async fn take(table: &dyn LeaseTable, shard: &str, seen: Option<&Lease>) -> Option<Lease> {
    table.change(shard, seen, Change::Take).await.expect("answers")
}

fn owners(view: &View) -> BTreeMap<&str, Option<&str>> {
    view.leases.values().map(|lease| (lease.shard.as_str(), lease.owner.as_deref())).collect()
}

/// What every table must do.
async fn conforms((w, x): &Pair) {
    assert_eq!(view(&**w).await.leases, BTreeMap::new());

    // Of two that want the same free shard, one gets it.
    let mine = take(&**w, "a", None).await.expect("is free");
    assert_eq!(take(&**x, "a", None).await, None);
    assert_eq!(take(&**x, "b", None).await.expect("is free").owner.as_deref(), Some("x"));
    for table in [w, x] {
        assert_eq!(
            owners(&view(&**table).await),
            BTreeMap::from([("a", Some("w")), ("b", Some("x"))])
        );
    }

    // A sign of life changes a pulse of its worker, and of nobody else.
    let mut pulses = Pulses::default();
    let start = Instant::now();
    let held = |shard: &str| [Held { shard: shard.to_owned(), position: Some("49".to_owned()) }];
    w.beat(&held("a")).await.expect("beats");
    x.beat(&held("b")).await.expect("beats");
    pulses.observe(&view(&**x).await, start);
    w.beat(&held("a")).await.expect("beats");
    pulses.observe(&view(&**x).await, start + LEASE / 2);
    let living = pulses.living(start + LEASE, LEASE);
    assert_eq!(living.into_iter().collect::<Vec<_>>(), ["w"]);
    assert!(pulses.is_proven("w") && !pulses.is_proven("x"));

    // A steal succeeds against what is there, not against what was.
    let now = view(&**x).await.leases["a"].clone();
    let stolen = take(&**x, "a", Some(&now)).await.expect("is as it was seen");
    assert_eq!(stolen.owner.as_deref(), Some("x"));
    assert_eq!(w.change("a", Some(&now), Change::Release).await.expect("answers"), None);
    if now.version != mine.version {
        assert_eq!(take(&**w, "a", Some(&mine)).await, None);
    }
    assert_eq!(view(&**w).await.owner("a"), Some("x"));

    // The loser's sign of life renews nothing that it lost.
    w.beat(&held("a")).await.expect("beats");
    assert_eq!(view(&**w).await.owner("a"), Some("x"));

    // Freed, it is anybody's.
    let b = view(&**x).await.leases["b"].clone();
    x.change("b", Some(&b), Change::Release).await.expect("answers").expect("is its own");
    let seen = view(&**w).await;
    assert_eq!(seen.owner("b"), None);
    let b = take(&**w, "b", seen.leases.get("b")).await.expect("is free");

    // Finished, and forgotten once the stream has it no more.
    w.change("b", Some(&b), Change::Finish).await.expect("answers").expect("is its own");
    let seen = view(&**x).await;
    assert!(seen.leases["b"].finished && seen.leases["b"].owner.is_none());
    assert!(!seen.leases["a"].finished);
    x.forget(&[seen.leases["b"].clone()]).await.expect("forgets");
    assert_eq!(owners(&view(&**w).await), BTreeMap::from([("a", Some("x"))]));

    // Who is buried shows no life.
    let a = view(&**x).await.leases["a"].clone();
    x.change("a", Some(&a), Change::Release).await.expect("answers").expect("is its own");
    w.bury(&["w".to_owned(), "x".to_owned()]).await.expect("buries");
    assert_eq!(view(&**w).await.pulses, []);
}

/// False only where the user asked to skip.
fn has_servers(variable: &str) -> bool {
    if std::env::var(variable).is_ok() {
        return true;
    }
    assert!(
        std::env::var("CLICKMILL_SKIP_SERVERS").is_ok_and(|value| value == "1"),
        "{variable} is not set: run `python3 tests/servers.py run -- cargo test ...`, \
         or set CLICKMILL_SKIP_SERVERS=1 to leave these tests out"
    );
    eprintln!("skipped: no {variable}");
    false
}

#[tokio::test]
async fn a_folder_holds_leases() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
    conforms(&in_lake(&lake, "clicks-1").await).await;
}

#[tokio::test]
async fn a_bucket_holds_leases() {
    if !has_servers("CLICKMILL_TEST_BUCKET") {
        return;
    }
    let bucket = std::env::var("CLICKMILL_TEST_BUCKET").expect("is set");
    let location = format!("s3://{bucket}/leases-{}", uuid::Uuid::new_v4());
    let lake = Lake::open(&location).await.expect("opens");
    conforms(&in_lake(&lake, "clicks-1").await).await;
}

#[tokio::test]
async fn a_worker_that_slept_while_its_place_was_cleared_finds_that_it_has_nothing() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
    let (w, x) = in_lake(&lake, "clicks-1").await;
    let before = take(&*w, "a", None).await.expect("is free");
    let mut lease = before.clone();
    for _ in 0..2 {
        lease = take(&*x, "a", Some(&lease)).await.expect("is as it was seen");
    }
    // Version 2 was created and deleted meanwhile, so the sleeper's PUT of it succeeds.
    assert!(take(&*w, "a", Some(&before)).await.is_some());
    for table in [&w, &x] {
        let seen = view(&**table).await;
        assert_eq!(seen.leases["a"], lease);
    }
}

#[tokio::test]
async fn dynamodb_holds_leases_in_the_kcls_layout() {
    if !has_servers("AWS_ENDPOINT_URL_DYNAMODB") {
        return;
    }
    let client = crate::kinesis::lease_client(&clickmill_lake::aws::sdk_config().await);
    let name = format!("leases-{}", uuid::Uuid::new_v4());
    let table = |me| -> Box<dyn LeaseTable> { Box::new(DynamoDbTable::new(&client, &name, me)) };
    let pair = (table("w"), table("x"));
    conforms(&pair).await;

    let (w, _) = pair;
    w.know(&[shard("p", &[]), shard("q", &["p"]), shard("r", &["p"]), shard("s", &["q", "r"])]);
    let p = take(&*w, "p", None).await.expect("is free");
    w.change("p", Some(&p), Change::Finish).await.expect("answers").expect("is its own");
    take(&*w, "s", None).await.expect("is free");
    w.beat(&[Held { shard: "s".to_owned(), position: Some("4959".to_owned()) }])
        .await
        .expect("beats");
    let item = async |key: &str| {
        let request = client.get_item().table_name(&name).consistent_read(true);
        let found = request.key("leaseKey", AttributeValue::S(key.to_owned())).send().await;
        let item = found.expect("answers").item.expect("is there");
        item.into_iter().collect::<BTreeMap<_, _>>()
    };
    let s = |text: &str| AttributeValue::S(text.to_owned());
    let n = |number: &str| AttributeValue::N(number.to_owned());
    let ss =
        |texts: &[&str]| AttributeValue::Ss(texts.iter().map(|&text| text.to_owned()).collect());
    let expected = |pairs: Vec<(&str, AttributeValue)>| -> BTreeMap<String, AttributeValue> {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    assert_eq!(
        item("p").await,
        expected(vec![
            ("leaseKey", s("p")),
            ("leaseCounter", n("2")),
            ("checkpoint", s("SHARD_END")),
            ("checkpointSubSequenceNumber", n("0")),
            ("ownerSwitchesSinceCheckpoint", n("0")),
            ("childShardIds", ss(&["q", "r"])),
            ("startingHashKey", s("0")),
            ("endingHashKey", s("99")),
        ])
    );
    assert_eq!(
        item("s").await,
        expected(vec![
            ("leaseKey", s("s")),
            ("leaseOwner", s("w")),
            ("leaseCounter", n("2")),
            ("checkpoint", s("4959")),
            ("checkpointSubSequenceNumber", n("0")),
            ("ownerSwitchesSinceCheckpoint", n("0")),
            ("parentShardId", ss(&["q", "r"])),
            ("startingHashKey", s("0")),
            ("endingHashKey", s("99")),
        ])
    );
}

/// A table in which this worker's own taking of a shard arrives just before it frees it, once:
/// it was sent when the turn was broken off.
#[derive(Debug)]
struct Late {
    table: Box<dyn LeaseTable>,
    arrived: Mutex<HashSet<String>>,
}

#[async_trait]
impl LeaseTable for Late {
    async fn view(&self) -> Result<View, LeaseError> {
        self.table.view().await
    }

    async fn beat(&self, held: &[Held]) -> Result<(), LeaseError> {
        self.table.beat(held).await
    }

    async fn change(
        &self,
        shard: &str,
        seen: Option<&Lease>,
        change: Change,
    ) -> Result<Option<Lease>, LeaseError> {
        if self.arrived.lock().expect("is free").insert(shard.to_owned()) {
            self.table.change(shard, seen, Change::Take).await?.expect("arrives");
        }
        self.table.change(shard, seen, change).await
    }

    async fn forget(&self, leases: &[Lease]) -> Result<(), LeaseError> {
        self.table.forget(leases).await
    }

    async fn bury(&self, workers: &[String]) -> Result<(), LeaseError> {
        self.table.bury(workers).await
    }
}

#[tokio::test]
async fn who_leaves_frees_also_what_its_last_change_reaches_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
    let (table, other) = in_lake(&lake, "clicks").await;
    for shard in ["a", "b"] {
        take(&*table, shard, None).await.expect("is free");
    }
    take(&*other, "c", None).await.expect("is free");
    table.beat(&[]).await.expect("beats");
    let late = Late { table, arrived: Mutex::default() };
    leave(&late, "w", &BTreeSet::from(["b"])).await.expect("leaves");
    let seen = view(&late).await;
    assert_eq!(owners(&seen), BTreeMap::from([("a", None), ("b", None), ("c", Some("x"))]));
    assert!(seen.leases["b"].finished && !seen.leases["a"].finished);
    assert!(seen.pulses.iter().all(|pulse| pulse.worker != "w"), "{seen:?}");
}
