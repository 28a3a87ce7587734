//! Does everybody get the objects with what it gave, whoever comes, waits, fails and goes?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use clickmill_faultstore::{Fate, FaultStore, Faults, Op};
use clickmill_lake::landing::Source;
use clickmill_lake::raw::{RawFormat, RawLine, RawWriter, read};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::*;

const CUT: CutPolicy = CutPolicy {
    target_bytes: 20_000,
    max_age: Duration::from_secs(3_600),
    idle: Duration::from_secs(3_600),
};
const LIMIT: u64 = 64 << 20;
/// Longer than a test may take: who waits for it hangs.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

/// Fails every so many writes, and none where that is 0.
#[derive(Default)]
struct Every {
    nth: u64,
    writes: AtomicU64,
}

impl fmt::Debug for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Every({})", self.nth)
    }
}

#[async_trait]
impl Faults for Every {
    async fn fate(&self, op: Op, _: &Path) -> Fate {
        let write = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if op == Op::Write && self.nth > 0 && write.is_multiple_of(self.nth) {
            let source = "no answer".into();
            return Fate::Failed(object_store::Error::Generic { store: "test", source });
        }
        Fate::Done
    }
}

/// A lake in a folder, whose store fails each `nth` write.
async fn lake(nth: u64) -> (tempfile::TempDir, Lake) {
    let folder = tempfile::tempdir().expect("temp");
    let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
    let store = FaultStore::new(lake.store(), Every { nth, ..Every::default() });
    (folder, lake.with_store(store))
}

fn gather(lake: &Lake, limit: u64) -> Arc<Gather> {
    gather_with(lake, CUT, limit)
}

fn gather_with(lake: &Lake, cut: CutPolicy, limit: u64) -> Arc<Gather> {
    Arc::new(Gather::new(lake, "s-1-shared".to_owned(), cut, limit, 2).expect("starts"))
}

/// A shard: its writer, and its place for the next commit.
struct Shard {
    writer: RawWriter,
    place: Place,
    next: u32,
    name: u32,
    /// Bytes of each line that no compressor makes smaller.
    filler: u32,
    hour: u32,
}

impl Shard {
    fn new(lake: &Lake, gather: &Arc<Gather>, name: u32, format: RawFormat) -> Self {
        let source = Source::kinesis("s", 1, &format!("shard-{name}")).expect("valid");
        let writer = RawWriter::new(lake, &source).with_format(format);
        Self { writer, place: gather.join(), next: 0, name, filler: 0, hour: 0 }
    }

    /// Reads lines, whose ids it returns.
    async fn read(&mut self, lines: u32) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..lines {
            let id = format!("{}-{}", self.name, self.next);
            let seed = u64::from(self.name) << 32 | u64::from(self.next);
            let filler = (0..self.filler).map(|n| {
                // The finalizer of splitmix64.
                let mut mixed = (seed * 8_191 + u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                char::from(b'0' + u8::try_from(mixed >> 58).unwrap_or_default())
            });
            let filler = filler.collect::<String>().replace('\\', "-");
            let line = format!(
                r#"{{"event_id":"{id}","page_title":"{filler}","event_name":"page_view","source_protocol":"native","app_id":"shop","event_ts":"2026-11-23T00:00:00.000000Z","received_ts":"2026-11-23T{:02}:59:59.000000Z"}}"#,
                self.hour
            );
            let line = RawLine::parse(line.as_bytes()).expect("parses");
            self.writer.push(line, &self.next.to_string()).await.expect("pushes");
            self.next += 1;
            ids.push(id);
        }
        self.place.hold(self.writer.memory(), Instant::now());
        ids
    }

    async fn give(&mut self) {
        let pieces = self.writer.pieces();
        self.place.give(pieces).await;
    }

    async fn land(&mut self, wait: Duration) -> Result<Vec<LandedObject>, LakeError> {
        let pieces = self.writer.pieces();
        self.place.land(pieces, wait, &CancellationToken::new()).await
    }
}

/// The ids in what a commit names.
async fn ids(lake: &Lake, objects: &[LandedObject]) -> Vec<String> {
    let mut ids = Vec::new();
    for object in objects {
        let stored = lake.store().get(&Path::from(object.path.as_str())).await.expect("is there");
        let bytes = stored.bytes().await.expect("reads");
        assert_eq!(format!("{:08x}", crc32c::crc32c(&bytes)), object.crc32c);
        let before = ids.len();
        read::for_each_line(&bytes, &object.path, &[object.lines()], |_, line| {
            let line: serde_json::Value = serde_json::from_slice(line).expect("is JSON");
            ids.push(line["event_id"].as_str().expect("has an id").to_owned());
            Ok::<_, LakeError>(true)
        })
        .expect("reads");
        assert_eq!((ids.len() - before) as u64, object.records);
    }
    ids
}

/// What a commit names holds these ids, each once, in whichever order objects are.
async fn assert_names(lake: &Lake, objects: &[LandedObject], mut expected: Vec<String>) {
    let mut named = ids(lake, objects).await;
    named.sort();
    expected.sort();
    let (lines, of) = (named.len(), expected.len());
    assert!(named == expected, "{lines} lines, not those {of}: {objects:#?}");
}

#[tokio::test]
async fn who_lands_at_once_shares_an_object_and_nobody_waits_for_who_has_nothing() {
    let (_folder, lake) = lake(0).await;
    let gather = gather(&lake, LIMIT);
    let mut shards: Vec<Shard> =
        (0..4).map(|n| Shard::new(&lake, &gather, n, RawFormat::Parquet)).collect();
    let _idle = shards.pop().expect("four");
    let mut expected = Vec::new();
    for shard in &mut shards {
        expected.push(shard.read(10).await);
    }
    let landing = shards.iter_mut().map(|shard| shard.land(LONG));
    let landed = tokio::time::timeout(SHORT, futures::future::join_all(landing)).await;
    let landed: Vec<Vec<LandedObject>> =
        landed.expect("at once").into_iter().map(|one| one.expect("lands")).collect();
    for (objects, expected) in landed.iter().zip(expected) {
        assert_names(&lake, objects, expected).await;
        assert_eq!(objects[0].path, landed[0][0].path);
    }
    assert_eq!(gather.held(), 0);
}

#[tokio::test]
async fn who_waits_for_the_others_waits_for_its_time_only() {
    let (_folder, lake) = lake(0).await;
    let gather = gather(&lake, LIMIT);
    let mut first = Shard::new(&lake, &gather, 1, RawFormat::Json);
    let mut other = Shard::new(&lake, &gather, 2, RawFormat::Json);
    let (expected, others) = (first.read(5).await, other.read(5).await);
    gather.call();
    assert_eq!((first.place.asked(), other.place.asked()), (Asked::Land, Asked::Land));
    let began = Instant::now();
    let landed = first.land(SHORT).await.expect("lands");
    assert!(began.elapsed() >= SHORT, "it did not wait for the other");
    assert_eq!((landed[0].section, landed.len()), (None, 1));
    assert!(landed[0].path.ends_with("s-1-shard-1-0-4.json.gz"), "{}", landed[0].path);
    assert_names(&lake, &landed, expected).await;
    // It is late, and alone now; who has nothing holds nobody up.
    let began = Instant::now();
    assert_names(&lake, &other.land(LONG).await.expect("lands"), others).await;
    assert!(began.elapsed() < LONG / 2);
    // A commit without lines needs no object.
    assert_eq!(first.land(LONG).await.expect("lands"), []);
}

#[tokio::test]
async fn in_a_round_nobody_waits_for_who_was_not_called() {
    let (_folder, lake) = lake(0).await;
    let gather = gather(&lake, LIMIT);
    let mut shards: Vec<Shard> =
        (0..3).map(|n| Shard::new(&lake, &gather, n, RawFormat::Json)).collect();
    let mut expected = Vec::new();
    for shard in &mut shards[..2] {
        expected.push(shard.read(5).await);
    }
    let (late, called) = (shards.pop().expect("three"), &mut shards);
    let waits = tokio::time::timeout(SHORT, late.place.called());
    waits.await.expect_err("nobody called it");
    let wakes = tokio::time::timeout(LONG, called[0].place.called());
    let (woken, ()) = tokio::join!(wakes, async { gather.call() });
    woken.expect("it was called");
    // It reads while the others are landing.
    let mut late = late;
    late.read(5).await;
    let landing = futures::future::join_all(called.iter_mut().map(|shard| shard.land(LONG)));
    let landed = tokio::time::timeout(SHORT, landing).await.expect("at once");
    for (objects, expected) in landed.into_iter().zip(expected) {
        assert_names(&lake, &objects.expect("lands"), expected).await;
    }
    assert_eq!(late.place.asked(), Asked::Nothing);
}

#[tokio::test]
async fn an_object_that_cannot_be_written_fails_nobody_in_another_one() {
    let (_folder, lake) = lake(2).await;
    let gather = gather(&lake, LIMIT);
    let mut shards: Vec<Shard> = (0..2)
        .map(|n| Shard { hour: n, ..Shard::new(&lake, &gather, n, RawFormat::Json) })
        .collect();
    let mut expected = Vec::new();
    for shard in &mut shards {
        expected.push(shard.read(5).await);
    }
    let landing = shards.iter_mut().map(|shard| shard.land(LONG));
    let landed = futures::future::join_all(landing).await;
    let (good, bad): (Vec<_>, Vec<_>) =
        landed.into_iter().zip(expected).partition(|(one, _)| one.is_ok());
    let ([(Ok(good), expected)], [(Err(error), _)]) = (&good[..], &bad[..]) else {
        panic!("{} good, {} bad", good.len(), bad.len());
    };
    assert!(error.is_of_store(), "{error}");
    assert_names(&lake, good, expected.clone()).await;
}

#[tokio::test]
async fn over_the_budget_shards_give_and_commit_later_what_was_written() {
    let (_folder, lake) = lake(0).await;
    // A shard holds some 150 KB of a thousand lines.
    let gather = gather(&lake, 400 << 10);
    let mut shards: Vec<Shard> =
        (0..6).map(|n| Shard::new(&lake, &gather, n, RawFormat::Json)).collect();
    let mut expected = vec![Vec::new(); shards.len()];
    let mut gave = 0;
    while gather.since_landed().is_none() {
        for (shard, expected) in shards.iter_mut().zip(&mut expected) {
            expected.extend(shard.read(200).await);
            if shard.place.asked() == Asked::Give {
                shard.give().await;
                gave += 1;
            }
            assert_ne!(shard.place.asked(), Asked::Land, "an object needs no commit");
        }
        assert!(gave < 1_000, "nothing was ever written");
    }
    assert!(gave >= 3, "only {gave} gave before there was an object");
    let landing = shards.iter_mut().map(|shard| shard.land(SHORT));
    let landed = futures::future::join_all(landing).await;
    let mut paths = BTreeSet::new();
    for (objects, expected) in landed.into_iter().zip(expected) {
        let objects = objects.expect("lands");
        paths.extend(objects.iter().map(|object| object.path.clone()));
        assert_names(&lake, &objects, expected).await;
    }
    assert!((2..=4).contains(&paths.len()), "{paths:?}");
    assert_eq!(gather.held(), 0);
}

#[tokio::test]
async fn before_a_commit_is_too_large_everybody_who_has_something_lands() {
    let (_folder, lake) = lake(0).await;
    let mut gather = Gather::new(&lake, "s-1-shared".to_owned(), CUT, 4 << 10, 1).expect("starts");
    gather.most_sections = 5;
    let gather = Arc::new(gather);
    let mut shards: Vec<Shard> =
        (0..3).map(|n| Shard::new(&lake, &gather, n, RawFormat::Json)).collect();
    let idle = shards.pop().expect("three");
    // One whose lines are all in objects, and that holds nothing.
    let mut expected = vec![Vec::new(), shards[1].read(50).await];
    shards[1].give().await;
    for gave in 0.. {
        assert!(gave < 200, "nobody was called");
        expected[0].extend(shards[0].read(50).await);
        shards[0].give().await;
        // Objects are written meanwhile.
        tokio::time::sleep(Duration::from_millis(5)).await;
        if shards[0].place.asked() == Asked::Land {
            break;
        }
    }
    assert_eq!((shards[1].place.asked(), idle.place.asked()), (Asked::Land, Asked::Nothing));
    let landed = futures::future::join_all(shards.iter_mut().map(|one| one.land(LONG)));
    let landed = tokio::time::timeout(LONG / 2, landed).await.expect("at once");
    for (objects, expected) in landed.into_iter().zip(expected) {
        let objects = objects.expect("lands");
        assert!(objects.len() < 20, "{} sections", objects.len());
        assert_names(&lake, &objects, expected).await;
    }
}

#[tokio::test]
async fn where_an_object_cannot_be_written_everybody_in_it_learns_it() {
    let (_folder, lake) = lake(1).await;
    let gather = gather(&lake, LIMIT);
    let mut gave = Shard::new(&lake, &gather, 1, RawFormat::Json);
    let mut lands = Shard::new(&lake, &gather, 2, RawFormat::Json);
    gave.read(5).await;
    lands.read(5).await;
    gave.give().await;
    let error = lands.land(Duration::ZERO).await.expect_err("is refused");
    assert!(error.is_of_store(), "{error}");
    // It did not wait, and its lines are in no object all the same.
    assert_eq!(gave.place.asked(), Asked::Land);
    gave.place.called().await;
    let error = gave.land(LONG).await.expect_err("is refused");
    assert!(error.is_of_store() && error.to_string().contains("raw/events"), "{error}");
}

/// Shards that read, give, land, fail, go and come back, all at once.
async fn at_random(format: RawFormat, limit: u64, nth: u64, rounds: u32) -> BTreeMap<u32, u32> {
    let (_folder, lake) = lake(nth).await;
    let gather = gather(&lake, limit);
    let tasks = (0..8_u32).map(|name| {
        let (lake, gather) = (lake.clone(), Arc::clone(&gather));
        tokio::spawn(async move {
            let mut random = u64::from(name) * 7_919 + nth;
            let mut pick = move |of: u32| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                u32::try_from(random >> 33).unwrap_or_default() % of
            };
            let mut landed = 0;
            for _ in 0..rounds {
                let mut shard = Shard::new(&lake, &gather, name, format);
                let mut expected = Vec::new();
                let outcome = loop {
                    match pick(8) {
                        0..=3 => expected.extend(shard.read(pick(200)).await),
                        4 => shard.give().await,
                        5 => tokio::time::sleep(Duration::from_millis(u64::from(pick(20)))).await,
                        6 if pick(3) == 0 => break None,
                        6 => {}
                        _ => {
                            if pick(2) == 0 {
                                gather.call();
                            }
                            let wait = Duration::from_millis(u64::from(pick(50)));
                            break Some(shard.land(wait).await);
                        }
                    }
                    if shard.place.asked() == Asked::Land {
                        break Some(shard.land(Duration::from_millis(50)).await);
                    }
                };
                match outcome {
                    // Gone, with what it gave.
                    None => {}
                    Some(Err(error)) => assert!(nth > 0 && error.is_of_store(), "{error}"),
                    Some(Ok(objects)) => {
                        assert_names(&lake, &objects, expected).await;
                        landed += 1;
                    }
                }
            }
            (name, landed)
        })
    });
    let tasks = futures::future::try_join_all(tasks);
    let done = tokio::time::timeout(LONG, tasks).await.expect("nobody hangs").expect("ends");
    for _ in 0..100 {
        if gather.held() == 0 {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    assert_eq!(gather.held(), 0, "memory of nobody");
    done.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_pace_each_commit_names_its_own_lines_and_no_others() {
    for format in [RawFormat::Json, RawFormat::Parquet] {
        for (limit, nth) in [(LIMIT, 0), (100 << 10, 0), (100 << 10, 3)] {
            let landed = at_random(format, limit, nth, 25).await;
            assert!(
                landed.values().all(|count| *count > 3),
                "{format:?} {limit} {nth}: {landed:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_was_given_and_does_not_shrink_keeps_nobody_waiting_for_ever() {
    let (_folder, lake) = lake(0).await;
    let limit = 4 << 20;
    let gather = gather_with(&lake, CutPolicy { target_bytes: u64::MAX, ..CUT }, limit);
    let mut shards: Vec<Shard> =
        (0..4).map(|n| Shard::new(&lake, &gather, n, RawFormat::Json)).collect();
    let since = Instant::now();
    for other in &shards[1..] {
        other.place.hold(limit * 245 / 1_000, since);
    }
    let large = &mut shards[0];
    large.filler = 8_000;
    let expected = large.read(230).await;
    assert_eq!(large.place.asked(), Asked::Give);
    large.give().await;
    // Three quarters are held by others, who were not asked, and a third by what it gave.
    let mut waits = 0;
    while !gather.has_room() {
        for shard in &mut shards {
            if shard.place.asked() == Asked::Give {
                shard.give().await;
            }
        }
        waits += 1;
        assert!(waits < 200, "{} of {limit}, and nobody gives way", gather.held());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    assert!(waits > 0, "there was always room");
    let landed = shards[0].land(SHORT).await.expect("lands");
    assert_names(&lake, &landed, expected).await;
}
