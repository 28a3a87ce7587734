//! Is there any order of events in which the commit chain loses or repeats a record?
//!
//! The real [`Chain`], over an object store by another hand (`InMemory`), driven
//! one store operation at a time. In a small scope every order is tried: two
//! workers that read the same shard, each operation of each at any time, with one
//! fault anywhere (the operation fails; it succeeds and its answer is lost; the
//! worker dies). A zombie is one of these orders: a worker that stops before its
//! PUT until the other is done. A worker's shards share each data object, as the delivery's
//! do: it is written first, then each shard's commit names its section. Larger scopes are tried
//! at random.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use clickmill_faultstore::{self as faultstore, FaultStore, Faults, Op};
use clickmill_lake::landing::{Chain, LandedObject, NewCommit, Section, Source, commits_after};
use clickmill_lake::raw::RawKind;
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};
use proptest::prelude::*;

/// Steps of one run: far more than any order needs that makes progress.
const MAX_STEPS: usize = 1_000;

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Step(usize, Fate),
    Death(usize),
}

#[derive(Debug, Default)]
struct Gate {
    waiting: Mutex<Option<Op>>,
    granted: Mutex<Option<Fate>>,
}

/// What becomes of an operation that a worker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// It does not happen, and an error is answered.
    Failed,
    /// It happens, and an error is answered.
    AnswerLost,
}

/// Every operation waits to be let through.
#[derive(Debug)]
struct Gated(Arc<Gate>);

#[async_trait]
impl Faults for Gated {
    async fn fate(&self, op: Op, _: &Path) -> faultstore::Fate {
        *self.0.waiting.lock().expect("lock") = Some(op);
        let fate = poll_fn(|_| match self.0.granted.lock().expect("lock").take() {
            Some(fate) => Poll::Ready(fate),
            None => Poll::Pending,
        });
        let broken = || Error::Generic { store: "gated", source: "no answer".into() };
        match fate.await {
            Fate::Done => faultstore::Fate::Done,
            Fate::Failed => faultstore::Fate::Failed(broken()),
            Fate::AnswerLost => faultstore::Fate::AnswerLost(broken()),
        }
    }
}

fn source(shard: usize) -> Source {
    Source::kinesis("clicks", 1, &format!("shardId-{shard}")).expect("valid")
}

/// Reads records 1 to `last` of each shard from where its chain ends, `cut` at a time, writes
/// those of all shards into one object and commits them, as the delivery's workers do.
async fn work(lake: Lake, name: String, shards: usize, last: u64, cut: u64) {
    let mut chains: Vec<Option<Chain>> = (0..shards).map(|_| None).collect();
    for attempt in 0_u64.. {
        for (shard, chain) in chains.iter_mut().enumerate().filter(|(_, chain)| chain.is_none()) {
            while chain.is_none() {
                let opened = Chain::open(&lake, source(shard)).await;
                *chain = opened.ok().map(|chain| chain.with_backoff(Duration::ZERO));
            }
        }
        let mut ranges = Vec::new();
        let mut lines = Vec::new();
        for (shard, chain) in chains.iter().enumerate() {
            let position = chain.as_ref().and_then(Chain::position);
            let read = position.map_or(0, |position| position.parse().expect("a number"));
            let range = read + 1..=(read + cut).min(last);
            lines.extend(range.clone().map(|number| format!("{shard}:{number}\n")));
            ranges.push(range);
        }
        if lines.is_empty() {
            return;
        }
        let path = format!("raw/{name}-{attempt}");
        let of = lines.len() as u64;
        if lake.store().put(&Path::from(&*path), lines.concat().into()).await.is_err() {
            // What was read is read again.
            continue;
        }
        let mut skip = 0;
        for (range, place) in ranges.into_iter().zip(&mut chains) {
            let (records, at) = (range.clone().count() as u64, skip);
            skip += records;
            if records == 0 {
                continue;
            }
            let object = LandedObject {
                path: path.clone(),
                kind: RawKind::Events,
                records,
                section: (records < of).then_some(Section { skip: at, of }),
                bytes: 0,
                crc32c: String::new(),
                etag: None,
                event_dates: vec![],
                min_received_ts: time(),
                max_received_ts: time(),
            };
            let commit = NewCommit {
                first: Some(range.start().to_string()),
                last: Some(range.end().to_string()),
                closed: false,
                objects: vec![object],
                possible_loss: None,
                read_through: None,
                committed_at: time(),
            };
            match place.as_mut().expect("is open").append(commit).await {
                Ok(_) => {}
                Err(LakeError::LostRace { .. } | LakeError::Store { .. }) => *place = None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn time() -> Timestamp {
    Timestamp::parse("2026-11-23T17:40:00Z").expect("a time")
}

/// A worker that runs; gone when it is done or dead.
type Work = Pin<Box<dyn Future<Output = ()>>>;

/// How many of each there are.
#[derive(Clone, Debug)]
struct Scope {
    /// The records that each worker commits at once.
    cuts: Vec<u64>,
    shards: usize,
    /// Of each shard.
    records: u64,
    faults: u32,
}

/// Runs one order of events, chosen one by one, to its end, and checks it.
async fn run(scope: &Scope, lake: &Lake, mut choose: impl FnMut(&[Event]) -> usize) {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gates: Vec<Arc<Gate>> = scope.cuts.iter().map(|_| Arc::default()).collect();
    let mut workers: Vec<Option<Work>> = Vec::new();
    for (number, (gate, cut)) in gates.iter().zip(&scope.cuts).enumerate() {
        let store = FaultStore::new(&inner, Gated(Arc::clone(gate)));
        let (lake, name) = (lake.with_store(store), format!("w{number}"));
        workers.push(Some(Box::pin(work(lake, name, scope.shards, scope.records, *cut))));
    }
    let (mut faults, mut history) = (scope.faults, Vec::new());
    for _ in 0..MAX_STEPS {
        // Everybody runs until it waits for the store or is done.
        let mut events = Vec::new();
        for (number, (worker, gate)) in workers.iter_mut().zip(&gates).enumerate() {
            let Some(future) = worker else { continue };
            if gate.waiting.lock().expect("lock").is_none()
                && future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
            {
                *worker = None;
                continue;
            }
            let op = gate.waiting.lock().expect("lock").expect("it waits for the store only");
            events.push(Event::Step(number, Fate::Done));
            if faults > 0 {
                events.push(Event::Step(number, Fate::Failed));
                events.push(Event::Death(number));
                if op == Op::Write {
                    events.push(Event::Step(number, Fate::AnswerLost));
                }
            }
        }
        if events.is_empty() {
            break;
        }
        let event = events[choose(&events)];
        history.push(event);
        faults -= u32::from(!matches!(event, Event::Step(_, Fate::Done)));
        match event {
            Event::Step(number, fate) => {
                *gates[number].waiting.lock().expect("lock") = None;
                *gates[number].granted.lock().expect("lock") = Some(fate);
                if let Some(future) = &mut workers[number]
                    && future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
                {
                    workers[number] = None;
                }
            }
            Event::Death(number) => workers[number] = None,
        }
    }
    assert!(workers.iter().all(Option::is_none), "no end in sight: {history:?}");

    // Whoever comes next finds the chains whole, and finishes them.
    let plain = lake.with_store(inner);
    work(plain.clone(), "last".to_owned(), scope.shards, scope.records, 1).await;
    for shard in 0..scope.shards {
        let commits = commits_after(&plain, &source(shard), 0).await.expect("the chain is whole");
        let mut landed = Vec::new();
        for object in commits.iter().flat_map(|commit| &commit.objects) {
            let stored = plain.store().get(&Path::from(&*object.path)).await;
            let bytes = stored.expect("what is committed is there").bytes().await.expect("reads");
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            let named = (1..).zip(text.lines()).filter(|(line, _)| object.lines().contains(line));
            landed.extend(named.map(|(_, line)| line.to_owned()));
        }
        let expected: Vec<String> =
            (1..=scope.records).map(|number| format!("{shard}:{number}")).collect();
        assert_eq!(landed, expected, "{history:?}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// Tries every order; returns how many there are.
fn try_all(scope: &Scope) -> u64 {
    let folder = tempfile::tempdir().expect("temp");
    let location = folder.path().display().to_string();
    runtime().block_on(async {
        let lake = Lake::open(&location).await.expect("opens");
        let (mut path, mut runs) = (Vec::<(usize, usize)>::new(), 0);
        loop {
            let mut depth = 0;
            run(scope, &lake, |events| {
                if depth == path.len() {
                    path.push((0, events.len()));
                }
                assert_eq!(path[depth].1, events.len(), "the same choices give the same run");
                depth += 1;
                path[depth - 1].0
            })
            .await;
            runs += 1;
            // The next order: the last choice that has another one left.
            path.truncate(depth);
            while path.last().is_some_and(|(chosen, of)| chosen + 1 == *of) {
                path.pop();
            }
            match path.last_mut() {
                Some((chosen, _)) => *chosen += 1,
                None => return runs,
            }
        }
    })
}

#[test]
fn in_every_order_of_two_workers_with_one_fault_each_record_lands_once() {
    let runs = try_all(&Scope { cuts: vec![1, 1], shards: 1, records: 1, faults: 1 });
    assert!(runs > 500, "only {runs} orders");
    let runs = try_all(&Scope { cuts: vec![1, 2], shards: 1, records: 2, faults: 1 });
    assert!(runs > 5_000, "only {runs} orders");
}

#[test]
fn in_every_order_of_two_workers_with_two_faults_each_record_lands_once() {
    let runs = try_all(&Scope { cuts: vec![1, 1], shards: 1, records: 1, faults: 2 });
    assert!(runs > 1_000, "only {runs} orders");
}

#[test]
fn in_every_order_without_a_fault_workers_that_cut_elsewhere_land_each_record_once() {
    let runs = try_all(&Scope { cuts: vec![1, 2], shards: 1, records: 3, faults: 0 });
    assert!(runs > 100, "only {runs} orders");
}

#[test]
fn in_every_order_of_two_workers_whose_shards_share_objects_each_record_lands_once() {
    let runs = try_all(&Scope { cuts: vec![1, 1], shards: 2, records: 1, faults: 0 });
    assert!(runs > 1_000, "only {runs} orders");
}

#[test]
fn a_zombie_that_wakes_after_the_other_is_done_lands_nothing() {
    let folder = tempfile::tempdir().expect("temp");
    let location = folder.path().display().to_string();
    runtime().block_on(async {
        let lake = Lake::open(&location).await.expect("opens");
        // The first worker goes on to each of its operations in turn, sleeps there until
        // the second one is done, and wakes up.
        for sleeps_at in 0..12 {
            let mut steps = 0;
            let scope = Scope { cuts: vec![2, 1], shards: 2, records: 4, faults: 0 };
            run(&scope, &lake, |events| {
                let of = |worker| events.iter().position(|e| *e == Event::Step(worker, Fate::Done));
                let wanted = if steps < sleeps_at { [0, 1] } else { [1, 0] };
                steps += 1;
                wanted.into_iter().find_map(of).expect("somebody goes on")
            })
            .await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn at_random_three_workers_with_faults_land_each_record_once(
        cuts in prop::collection::vec(1..4_u64, 3),
        shards in 1..4_usize,
        records in 1..12_u64,
        faults in 0..12_u32,
        choices in prop::collection::vec(any::<prop::sample::Index>(), MAX_STEPS),
    ) {
        let folder = tempfile::tempdir().expect("temp");
        let location = folder.path().display().to_string();
        runtime().block_on(async {
            let lake = Lake::open(&location).await.expect("opens");
            let mut choices = choices.iter();
            let scope = Scope { cuts, shards, records, faults };
            run(&scope, &lake, |events| {
                choices.next().map_or(0, |choice| choice.index(events.len()))
            })
            .await;
        });
    }
}
