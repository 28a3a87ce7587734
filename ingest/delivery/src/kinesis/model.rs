//! A model of a large stream: the real lease planner, lease table and cut policy, in
//! virtual time.
//!
//! It prints the figures of docs/scale.md:
//!
//! ```text
//! CLICKMILL_MODEL_SHARDS=10000 cargo test --workspace --lib -- --nocapture a_stream_of_so_many_shards
//! ```
//!
//! What is real: [`decide`] and [`Pulses`], [`LakeTable`] with every request that it makes
//! (on a store in memory that counts them), [`CutPolicy::is_due`]. What is modelled: the order of turns,
//! how long requests take ([`LATENCIES`]), and DynamoDB's table, by the requests that
//! `lease/dynamodb.rs` makes of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clickmill_lake::store::counting::{CountingStore, IoCounters};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::MAX_SHARDS;
use super::config::{CutPolicy, DeliverConfig, Gathered, MIN_POLL, Until};
use super::lease::lake::LakeTable;
use super::lease::plan::{Pulses, Situation, decide};
use super::lease::{
    Change, DEFAULT_LEASE, Held, Lease, LeaseError, LeasePolicy, LeaseTable, Pulse, View,
};
use super::supervisor::MAX_TAKES;

const POLICY: LeasePolicy = LeasePolicy { expiry: DEFAULT_LEASE };
/// Objects of one LIST request. Source: ListObjectsV2, Amazon S3 API Reference.
const LIST_PAGE: usize = 1_000;
/// Bytes of an item in the KCL's layout, of a read unit (a strongly consistent read) and of a page
/// of a scan. Source of the latter: Read and write operations, Amazon DynamoDB Developer Guide.
const ITEM_BYTES: usize = 400;
const READ_UNIT_BYTES: usize = 4_096;
const SCAN_PAGE_BYTES: usize = 1 << 20;
/// How long a page of a listing or a scan takes, a small GET or an item's write (16 at once), and a
/// change of a lease (a PUT and a DELETE, or an item's write).
const LATENCIES: [Duration; 3] =
    [Duration::from_millis(60), Duration::from_millis(1), Duration::from_millis(50)];

/// DynamoDB's table, as `lease/dynamodb.rs` uses it: a write for each lease that is held and each
/// change, a scan for each look.
#[derive(Debug, Default)]
struct Items {
    leases: BTreeMap<String, Lease>,
    writes: u64,
    pages: u64,
    read_units: u64,
}

#[derive(Debug)]
struct DynamoDbModel {
    me: String,
    items: Arc<Mutex<Items>>,
}

#[async_trait]
impl LeaseTable for DynamoDbModel {
    async fn view(&self) -> Result<View, LeaseError> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.pages += (items.leases.len() * ITEM_BYTES).div_ceil(SCAN_PAGE_BYTES) as u64;
        items.read_units += (items.leases.len() * ITEM_BYTES).div_ceil(READ_UNIT_BYTES) as u64;
        let pulse = |lease: &Lease| {
            let (key, value) = (lease.shard.clone(), lease.version.to_string());
            lease.owner.clone().map(|worker| Pulse { worker, key, value })
        };
        let pulses = items.leases.values().filter_map(pulse).collect();
        Ok(View { leases: items.leases.clone(), pulses })
    }

    async fn beat(&self, held: &[Held]) -> Result<(), LeaseError> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.writes += held.len() as u64;
        for held in held {
            if let Some(lease) = items.leases.get_mut(&held.shard) {
                lease.version += u64::from(lease.owner.as_ref() == Some(&self.me));
            }
        }
        Ok(())
    }

    async fn change(
        &self,
        shard: &str,
        seen: Option<&Lease>,
        change: Change,
    ) -> Result<Option<Lease>, LeaseError> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.writes += 1;
        if items.leases.get(shard).map(|lease| lease.version) != seen.map(|lease| lease.version) {
            return Ok(None);
        }
        let lease = Lease {
            shard: shard.to_owned(),
            owner: (change == Change::Take).then(|| self.me.clone()),
            finished: change == Change::Finish,
            version: seen.map_or(0, |lease| lease.version) + 1,
        };
        items.leases.insert(shard.to_owned(), lease.clone());
        Ok(Some(lease))
    }

    async fn forget(&self, _: &[Lease]) -> Result<(), LeaseError> {
        Ok(())
    }

    async fn bury(&self, _: &[String]) -> Result<(), LeaseError> {
        Ok(())
    }
}

/// Where the leases are.
enum Place {
    Lake { store: Arc<dyn ObjectStore>, counters: Arc<IoCounters> },
    DynamoDb(Arc<Mutex<Items>>),
}

/// Requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Requests {
    /// Of listings or scans.
    pages: f64,
    /// Of scans.
    read_units: f64,
    gets: f64,
    /// PUTs, or writes of items.
    puts: f64,
}

impl Requests {
    fn since(self, before: Self, elapsed: Duration) -> Self {
        let rate = |now: f64, before: f64| (now - before) / elapsed.as_secs_f64();
        Self {
            pages: rate(self.pages, before.pages),
            read_units: rate(self.read_units, before.read_units),
            gets: rate(self.gets, before.gets),
            puts: rate(self.puts, before.puts),
        }
    }
}

struct Worker {
    me: String,
    table: Box<dyn LeaseTable>,
    pulses: Pulses,
    running: BTreeSet<String>,
    /// When its next turn begins, since the start.
    turn_at: Duration,
}

/// A stream's workers, in virtual time.
struct Fleet {
    place: Place,
    shards: Vec<String>,
    workers: Vec<Worker>,
    started: Instant,
    now: Duration,
    /// Looks at the table of all workers.
    looks: u64,
    moves: u64,
}

impl Fleet {
    fn new(place: Place, shards: usize) -> Self {
        Self {
            place,
            shards: (0..shards).map(|n| format!("shardId-{n:012}")).collect(),
            workers: Vec::new(),
            started: Instant::now(),
            now: Duration::ZERO,
            looks: 0,
            moves: 0,
        }
    }

    fn in_lake(shards: usize) -> Self {
        let (store, counters) = CountingStore::new(Arc::new(InMemory::new()));
        Self::new(Place::Lake { store, counters }, shards)
    }

    fn in_dynamodb(shards: usize) -> Self {
        Self::new(Place::DynamoDb(Arc::default()), shards)
    }

    fn join(&mut self, n: usize) {
        let me = format!("worker-{n}");
        let table: Box<dyn LeaseTable> = match &self.place {
            Place::Lake { store, .. } => Box::new(LakeTable::new(store, "clicks-1", &me)),
            Place::DynamoDb(items) => {
                Box::new(DynamoDbModel { me: me.clone(), items: Arc::clone(items) })
            }
        };
        // They do not start in step.
        let turn_at = self.now + POLICY.beat() / 16 * (n as u32 % 16);
        let pulses = Pulses::default();
        self.workers.push(Worker { me, table, pulses, running: BTreeSet::new(), turn_at });
    }

    fn requests(&self) -> Requests {
        match &self.place {
            Place::Lake { counters, .. } => {
                let pages = (self.shards.len() + self.workers.len()).div_ceil(LIST_PAGE);
                Requests {
                    pages: (counters.lists() * pages as u64) as f64,
                    read_units: 0.0,
                    gets: counters.gets() as f64,
                    puts: counters.puts() as f64,
                }
            }
            Place::DynamoDb(items) => {
                let items = items.lock().unwrap_or_else(PoisonError::into_inner);
                Requests {
                    pages: items.pages as f64,
                    read_units: items.read_units as f64,
                    gets: 0.0,
                    puts: items.writes as f64,
                }
            }
        }
    }

    /// One turn of the worker whose turn is next: as `Supervisor::turn`.
    async fn turn(&mut self) {
        let at = (0..self.workers.len()).min_by_key(|at| self.workers[*at].turn_at).expect("one");
        let before = self.requests();
        let worker = &mut self.workers[at];
        self.now = worker.turn_at;
        self.looks += 1;
        let held = |shard: &String| Held { shard: shard.clone(), position: None };
        let held: Vec<Held> = worker.running.iter().map(held).collect();
        worker.table.beat(&held).await.expect("beats");
        let view = worker.table.view().await.expect("views");
        let now = self.started + self.now;
        worker.pulses.observe(&view, now);
        worker.running.retain(|shard| view.owner(shard) == Some(&worker.me));
        let living = worker.pulses.living(now, POLICY.expiry);
        let taken = decide(&Situation {
            me: &worker.me,
            readable: &self.shards,
            view: &view,
            living: &living,
            capacity: MAX_SHARDS,
        });
        let more = taken.len() > MAX_TAKES;
        let mut changes = 0;
        for (shard, _) in taken.into_iter().take(MAX_TAKES) {
            changes += 1;
            let seen = view.leases.get(&shard);
            let changed = worker.table.change(&shard, seen, Change::Take).await.expect("changes");
            if changed.is_some() {
                worker.running.insert(shard);
                self.moves += 1;
            }
        }
        let after = self.requests();
        let [page, small, change] = LATENCIES;
        let small_ones = after.gets - before.gets + after.puts - before.puts - f64::from(changes);
        let took = page.mul_f64(after.pages - before.pages)
            + small.mul_f64(small_ones.max(0.0))
            + change * changes;
        let wait = if more { Duration::ZERO } else { POLICY.beat() };
        self.workers[at].turn_at = self.now + took + wait;
    }

    fn is_shared(&self) -> bool {
        let read: BTreeSet<&String> = self.workers.iter().flat_map(|w| &w.running).collect();
        let counts = self.workers.iter().map(|worker| worker.running.len());
        let (least, most) = (counts.clone().min(), counts.max());
        read.len() == self.shards.len()
            && most.zip(least).is_some_and(|(most, least)| most <= least + 1)
    }

    /// Until every shard is read and the load is even; how long that took.
    async fn until_shared(&mut self) -> Duration {
        let began = self.now;
        while !self.is_shared() {
            self.turn().await;
            assert!(self.now - began < Duration::from_secs(3_600), "it never comes to rest");
        }
        self.now - began
    }

    /// Requests a second while nothing happens, and looks at the table.
    async fn steady(&mut self, beats: u32) -> (Requests, f64) {
        let (before, looks, began) = (self.requests(), self.looks, self.now);
        while self.now < began + POLICY.beat() * beats {
            self.turn().await;
        }
        let elapsed = self.now - began;
        let looks = (self.looks - looks) as f64 / elapsed.as_secs_f64();
        (self.requests().since(before, elapsed), looks)
    }
}

/// What a fleet goes through, in figures.
#[derive(Debug)]
struct Figures {
    start: Duration,
    start_requests: Requests,
    steady: Requests,
    looks: f64,
    /// After one worker died.
    death: Duration,
    /// After one more came.
    join: Duration,
    join_moves: u64,
}

async fn figures(mut fleet: Fleet, workers: usize) -> Figures {
    (0..workers).for_each(|n| fleet.join(n));
    let start = fleet.until_shared().await;
    let start_requests = fleet.requests();
    // Those that took in the last turn are seen by the others.
    fleet.steady(2).await;
    let (steady, looks) = fleet.steady(12).await;
    fleet.workers.remove(0);
    let death = fleet.until_shared().await;
    let before = fleet.moves;
    fleet.join(workers);
    let join = fleet.until_shared().await;
    Figures { start, start_requests, steady, looks, death, join, join_moves: fleet.moves - before }
}

/// Commits that the cut policy makes of a shard in a day, with `per_second` lines of `bytes`, as stored.
fn commits_a_day(cut: &CutPolicy, poll: Duration, per_second: f64, bytes: f64) -> u64 {
    let day = 86_400.0;
    let (mut now, mut commits) = (0.0, 0);
    let mut arrived = 0_u64;
    let (mut first, mut last, mut lines, mut landed) = (0.0, 0.0, 0_u64, None::<f64>);
    while now < day {
        let due = (now * per_second) as u64;
        if due > arrived {
            if lines == 0 {
                first = now;
            }
            last = now;
            lines += due - arrived;
            arrived = due;
        }
        let gathered = Gathered {
            lines,
            stored_bytes: (lines as f64 * bytes) as u64,
            // As the worker counts it: the others join before it is too old.
            since_first: Duration::from_secs_f64(now - first)
                + (poll + MIN_POLL).min(cut.max_age / 4),
            since_last: Duration::from_secs_f64(now - last),
            since_commit: landed.map(|at| Duration::from_secs_f64(now - at)),
        };
        if cut.is_due(&gathered) {
            (commits, lines, landed) = (commits + 1, 0, Some(now));
        }
        now += poll.as_secs_f64();
    }
    commits
}

/// Seconds to catch up after an outage: the backlog over what is read beyond what still comes.
fn catch_up(outage: f64, rate: f64, drain: f64) -> Option<f64> {
    (drain > rate).then(|| outage * rate / (drain - rate))
}

/// What one shard gives to all its readers. Source: Quotas and limits, Kinesis Data Streams.
const SHARD_READ: f64 = 2.0;

/// Of one answer. Source: GetRecords, Kinesis API Reference.
const PAGE: f64 = 10.0;

/// MB/s that a core lands as JSON.gz: benches/RESULTS-deliver.md.
const CORE_LANDS: f64 = 116.0;

/// Seconds until all of 10,000 shards are read: above.
const TAKEN_AFTER: f64 = 48.0;

/// A worker that catches up with shards that bring `rate` MB/s each, page by page.
struct CatchingUp {
    shards: usize,
    rate: f64,
    /// Seconds until it has taken the last of its shards.
    start: f64,
    /// MB/s that its cores land.
    lands: f64,
}

impl CatchingUp {
    /// Seconds until the last of its shards is level, after so many seconds in which nobody read.
    /// `None` where that takes more than two days.
    fn after(&self, outage: f64) -> Option<f64> {
        let micros = |seconds: f64| (seconds * 1e6) as u64;
        let begins = |shard| micros(self.start * shard as f64 / self.shards as f64);
        let mut due: BinaryHeap<Reverse<(u64, usize)>> =
            (0..self.shards).map(|shard| Reverse((begins(shard), shard))).collect();
        let mut read = vec![0.0; self.shards];
        let (mut free, mut level) = (0.0_f64, 0.0_f64);
        while let Some(Reverse((at, shard))) = due.pop() {
            // It waits for its turn, and gets what has come by then.
            let now = (at as f64 / 1e6).max(free);
            if now > 2.0 * 86_400.0 {
                return None;
            }
            let page = (self.rate * (outage + now) - read[shard]).min(PAGE);
            read[shard] += page;
            free = now + page / self.lands;
            let rest = (page / SHARD_READ).max(MIN_POLL.as_secs_f64());
            if self.rate * (outage + free) - read[shard] <= self.rate * (rest + 1.0) {
                level = level.max(free);
            } else {
                due.push(Reverse((micros(now + rest), shard)));
            }
        }
        Some(level)
    }
}

#[tokio::test]
async fn a_fleet_costs_what_the_formula_says_and_comes_to_rest_after_each_change() {
    let (shards, workers, beat) = (300, 3, POLICY.beat().as_secs_f64());
    let lake = figures(Fleet::in_lake(shards), workers).await;
    let is = |found: f64, expected: f64| (found / expected - 1.0).abs() < 0.05;
    // A PUT and a LIST of one page a look, and nothing else.
    assert!(is(lake.steady.puts, lake.looks) && is(lake.steady.pages, lake.looks), "{lake:?}");
    assert_eq!(lake.steady.gets, 0.0);
    // A write for each lease.
    let dynamodb = figures(Fleet::in_dynamodb(shards), workers).await;
    let held = (shards / workers) as f64;
    assert!(is(dynamodb.steady.puts, dynamodb.looks * held), "{dynamodb:?}");
    for figures in [lake, dynamodb] {
        // Each worker looks once a beat; the look itself takes some of the time.
        let looks = figures.looks * beat / workers as f64;
        assert!((0.85..=1.05).contains(&looks), "{figures:?}");
        // A dead one's shards are taken when its leases have expired, at the next looks.
        assert!(figures.death >= POLICY.expiry - POLICY.beat(), "{figures:?}");
        assert!(figures.death < POLICY.expiry * 3, "{figures:?}");
        // Three share 300; the newcomer among now three takes a third, and no more.
        assert_eq!(figures.join_moves, 100, "{figures:?}");
    }
}

#[test]
fn a_shard_makes_a_commit_an_age_when_busy_and_none_when_idle() {
    let config = DeliverConfig::new("s", Until::Cancelled);
    let commits = |per_second| commits_a_day(&config.cut, config.poll, per_second, 100.0);
    assert_eq!(commits(0.0), 0);
    let busy = (86_400.0 / config.cut.max_age.as_secs_f64()) as u64;
    assert!(commits(100.0).abs_diff(busy) <= 1, "{} and not {busy}", commits(100.0));
    // One record in ten minutes is a commit each.
    assert_eq!(commits(1.0 / 600.0), 143);
    assert_eq!(catch_up(3_600.0, 1.0, 2.0), Some(3_600.0));
    assert_eq!(catch_up(3_600.0, 2.0, 2.0), None);
}

#[test]
fn a_worker_catches_up_as_the_formula_says_where_nothing_but_the_shards_quota_bounds_it() {
    let worker = CatchingUp { shards: 20, rate: 0.5, start: 0.0, lands: 1e9 };
    let [found, formula] = [worker.after(3_600.0), catch_up(3_600.0, 0.5, SHARD_READ)]
        .map(|seconds| seconds.expect("it does"));
    assert!((found / formula - 1.0).abs() < 0.02, "{found} and {formula}");
    // With cores for half of it, they are what it is read at.
    let found = CatchingUp { lands: 20.0, ..worker }.after(3_600.0).expect("it does");
    let formula = catch_up(3_600.0, 0.5, 1.0).expect("it does");
    assert!((found / formula - 1.0).abs() < 0.02, "{found} and {formula}");
    let worker = CatchingUp { shards: 20, rate: 0.5, start: 0.0, lands: 9.9 };
    assert_eq!(worker.after(3_600.0), None);
}

/// Prints the tables of docs/scale.md, of a small stream where no size is given.
#[tokio::test]
async fn a_stream_of_so_many_shards_is_shared_evenly() {
    let shards =
        std::env::var("CLICKMILL_MODEL_SHARDS").map_or(320, |n| n.parse().expect("a number"));
    let workers = 16;
    println!("\n{shards} shards, {workers} workers, leases of {} s\n", POLICY.expiry.as_secs());
    println!(
        "| leases in | pages of LIST or scans/s | read units/s | GET/s | PUT or item writes/s \
         | start s | requests for it | death s | join s | shards moved |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, fleet) in
        [("lake", Fleet::in_lake(shards)), ("DynamoDB", Fleet::in_dynamodb(shards))]
    {
        let f = figures(fleet, workers).await;
        assert_eq!(f.join_moves, (shards / workers) as u64, "a newcomer takes its share: {f:?}");
        let asked = f.start_requests.pages + f.start_requests.gets + f.start_requests.puts;
        println!(
            "| {name} | {:.1} | {:.0} | {:.1} | {:.1} | {:.0} | {asked:.0} | {:.0} | {:.0} | {} |",
            f.steady.pages,
            f.steady.read_units,
            f.steady.gets,
            f.steady.puts,
            f.start.as_secs_f64(),
            f.death.as_secs_f64(),
            f.join.as_secs_f64(),
            f.join_moves,
        );
    }
    println!(
        "\n| a shard brings | max_age_seconds | commits a day of a shard | of {shards} \
         | data objects a day |"
    );
    println!("|---|---|---|---|---|");
    for (name, per_second) in [
        ("nothing", 0.0),
        ("a record in 10 minutes", 1.0 / 600.0),
        ("a record a second", 1.0),
        ("100 records a second", 100.0),
    ] {
        for age in [20, 60, 300, 900] {
            let mut config = DeliverConfig::new("s", Until::Cancelled);
            config.cut.max_age = Duration::from_secs(age);
            // All shards of a worker land together.
            let of_worker = per_second * (shards / workers) as f64;
            let rounds = commits_a_day(&config.cut, config.poll, of_worker, 120.0);
            let commits = commits_a_day(&config.cut, config.poll, per_second, 120.0);
            let objects = rounds * workers as u64;
            println!("| {name} | {age} | {commits} | {} | {objects} |", commits * shards as u64);
        }
    }
    println!(
        "\n| MB/s a shard | level after an hour's outage, min: by Kinesis' limit \
         | {workers} workers of 8 cores | of 4 | of 2 |"
    );
    println!("|---|---|---|---|---|");
    for rate in [0.1, 0.25, 0.5, 0.75, 1.0] {
        let of = shards / workers;
        let by_cores = [f64::INFINITY, 8.0, 4.0, 2.0].map(|cores| {
            let lands = cores * CORE_LANDS;
            let worker = CatchingUp { shards: of, rate, start: TAKEN_AFTER, lands };
            let minutes = worker.after(3_600.0).map(|seconds| format!("{:.0}", seconds / 60.0));
            minutes.unwrap_or_else(|| "never".to_owned())
        });
        println!("| {rate} | {} |", by_cores.join(" | "));
    }
}
