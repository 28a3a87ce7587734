//! Does the commit chain land each range once, whoever races and whatever fails?

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use clickmill_faultstore::{DiesAt, Fate, FaultStore, Faults, Op};
use clickmill_lake::landing::{
    Beginning, Chain, Decided, LandedObject, NewCommit, Section, Source, commits_after,
    list_sources, survey,
};
use clickmill_lake::raw::pack::Encoders;
use clickmill_lake::raw::{MAX_OPEN_OBJECTS, RawFormat, RawKind, RawLine, RawWriter, read};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};

fn source() -> Source {
    Source::collector("c-1").expect("valid")
}

fn range(first: u64, last: u64) -> NewCommit {
    NewCommit {
        first: Some(first.to_string()),
        last: Some(last.to_string()),
        closed: false,
        objects: vec![],
        possible_loss: None,
        read_through: None,
        committed_at: Timestamp::parse("2026-11-23T17:40:00Z").expect("time"),
    }
}

async fn chains(lake: &Lake) {
    // Empty, then growing; another reader resumes where it ended.
    let mut chain = Chain::open(lake, source()).await.expect("opens");
    assert!(chain.last().is_none() && chain.position().is_none());
    assert_eq!(chain.append(range(1, 10)).await.expect("appends").ordinal, 1);
    assert_eq!(chain.append(range(11, 20)).await.expect("appends").after.as_deref(), Some("10"));
    let mut rival = Chain::open(lake, source()).await.expect("opens");
    assert_eq!(rival.position(), Some("20"));

    // Two writers: the first wins, the other is told, rereads, and goes on from there.
    rival.append(range(21, 30)).await.expect("wins");
    let lost = chain.append(range(21, 25)).await;
    assert!(matches!(lost, Err(LakeError::LostRace { ordinal: 3, .. })), "{lost:?}");
    assert_eq!(chain.position(), Some("20"), "a lost race moves nothing");
    chain.reload().await.expect("rereads");
    assert_eq!(chain.position(), Some("30"));

    // The same content is success: whoever wrote it, it stands there once.
    let mut twin = Chain::open(lake, source()).await.expect("opens");
    chain.append(range(31, 40)).await.expect("appends");
    assert_eq!(twin.append(range(31, 40)).await.expect("own content").ordinal, 4);

    // A closing commit may be empty; nothing follows it.
    let end = NewCommit { first: None, last: None, closed: true, ..range(0, 0) };
    chain.append(end).await.expect("closes");
    assert_eq!(chain.position(), Some("40"));
    assert!(matches!(chain.append(range(41, 50)).await, Err(LakeError::Unfit { .. })));

    // Readers.
    Chain::open(lake, Source::kinesis("s", 7, "shardId-0").expect("valid"))
        .await
        .expect("opens")
        .append(range(1, 1))
        .await
        .expect("appends");
    let sources = list_sources(lake).await.expect("lists");
    let names: Vec<&str> = sources.iter().map(Source::as_str).collect();
    assert_eq!(names, ["collector/c-1", "kinesis/s-7/shardId-0"]);
    let commits = commits_after(lake, &source(), 0).await.expect("reads");
    let positions: Vec<_> = commits.iter().map(|commit| commit.position().expect("some")).collect();
    assert_eq!(positions, ["10", "20", "30", "40", "40"]);
    assert_eq!(commits_after(lake, &source(), 4).await.expect("reads").len(), 1);
    assert!(commits_after(lake, &source(), 5).await.expect("reads").is_empty());

    // A hole is loud, for readers and writers.
    let hole = source().folder().join("00000000000000000002.json");
    lake.store().delete(&hole).await.expect("deletes");
    let read = commits_after(lake, &source(), 0).await;
    assert!(matches!(read, Err(LakeError::Gap { missing: 2, .. })), "{read:?}");
    assert!(matches!(Chain::open(lake, source()).await, Err(LakeError::Gap { .. })));

    // Who looks for holes reads on: what is there, what is missing, what is damaged.
    lake.store().put(&path_of(4), Bytes::from("{}").into()).await.expect("puts");
    let found = survey(lake, &source(), None).await.expect("surveys");
    let read: Vec<u64> = found.commits.iter().map(|commit| commit.ordinal).collect();
    assert_eq!((found.total, read), (4, vec![1, 3, 5]));
    let at: Vec<u64> = found.problems.iter().map(|problem| problem.ordinal).collect();
    assert_eq!(at, [2, 4], "{:?}", found.problems);
    let later = Timestamp::parse("2026-11-23T17:40:00.000001Z").expect("time");
    let found = survey(lake, &source(), Some(later)).await.expect("surveys");
    // A damaged commit counts as late, so that nothing is left out: what follows it is read.
    let read: Vec<u64> = found.commits.iter().map(|commit| commit.ordinal).collect();
    assert_eq!((found.total, read), (4, vec![5]));
    assert_eq!(found.problems[0].ordinal, 2, "a hole shows whatever is asked for");
}

fn path_of(ordinal: u64) -> Path {
    source().folder().join(format!("{ordinal:020}.json"))
}

#[tokio::test]
async fn a_chain_in_a_folder_holds() {
    let folder = tempfile::tempdir().expect("temp");
    chains(&support::folder_lake(folder.path()).await).await;
}

#[tokio::test]
async fn a_chain_in_a_bucket_holds() {
    if let Some(lake) = support::bucket_lake("landing").await {
        chains(&lake).await;
    }
}

#[tokio::test]
async fn a_delivery_begins_once_whoever_asks_and_its_object_has_these_bytes() {
    let at = |text| Timestamp::parse(text).expect(text);
    let (now, from) = (at("2026-11-23T17:40:00Z"), at("2026-11-22T00:00:00.5Z"));
    let folder = tempfile::tempdir().expect("temp");
    let mut lakes = vec![support::folder_lake(folder.path()).await];
    lakes.extend(support::bucket_lake("beginning").await);
    for lake in lakes {
        let begin = async |from, now| {
            Beginning::of_stream(&lake, "clicks", 1_795_455_600, from, now).await.expect("begins")
        };
        let (begun, decided) = begin(Some(from), now).await;
        assert_eq!((begun.from, decided), (Some(from), Decided::Now));
        let (begun, decided) = begin(None, at("2026-11-23T18:00:00Z")).await;
        assert_eq!((begun.from, decided), (Some(from), Decided::Before));
        let path = Path::from("_clickmill/beginnings/clicks-1795455600.json");
        let stored = lake.store().get(&path).await.expect("is there").bytes().await.expect("reads");
        assert_eq!(stored, include_str!("golden/beginning-v1.json"));
    }
}

#[tokio::test]
async fn a_stream_with_commits_but_no_beginning_began_at_its_oldest_record() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let source = Source::kinesis("clicks", 1, "shardId-0").expect("valid");
    let mut chain = Chain::open(&lake, source).await.expect("opens");
    chain.append(range(1, 10)).await.expect("appends");
    let now = Timestamp::parse("2026-11-23T17:40:00Z").expect("time");
    for _ in 0..2 {
        let begun = Beginning::of_stream(&lake, "clicks", 1, Some(now), now).await;
        let (begun, decided) = begun.expect("is read");
        assert_eq!((begun.from, decided), (None, Decided::Before));
    }
    assert!(Beginning::of_stream(&lake, "../clicks", 1, None, now).await.is_err());
}

#[tokio::test]
async fn of_many_writers_at_once_each_range_lands_once() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    // Each wants to count to 60, by appending one more than what it finds.
    let writer = async || {
        let mut chain = Chain::open(&lake, source()).await.expect("opens");
        loop {
            let next = chain.position().map_or(0, |p| p.parse::<u64>().expect("number")) + 1;
            if next > 60 {
                break;
            }
            match chain.append(range(next, next)).await {
                Ok(_) => {}
                Err(LakeError::LostRace { .. }) => chain.reload().await.expect("rereads"),
                Err(error) => panic!("{error}"),
            }
        }
    };
    futures::join!(writer(), writer(), writer(), writer());
    let commits = commits_after(&lake, &source(), 0).await.expect("reads");
    let firsts: Vec<String> = commits.into_iter().filter_map(|commit| commit.first).collect();
    let expected: Vec<String> = (1..=60).map(|n: u64| n.to_string()).collect();
    assert_eq!(firsts, expected);
}

#[tokio::test]
async fn the_end_of_a_long_chain_is_found() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let mut chain = Chain::open(&lake, source()).await.expect("opens");
    chain.append(range(1, 1)).await.expect("appends");
    let commit_1 = source().folder().join("00000000000000000001.json");
    let template = lake.store().get(&commit_1).await.expect("gets").bytes().await.expect("reads");
    let template = String::from_utf8(template.to_vec()).expect("utf8");
    for last in [999_u64, 1_000, 1_001, 2_000, 2_777] {
        // Written by hand: 2,777 fsynced commits would take a while.
        let known = chain.last().expect("some").ordinal;
        for ordinal in known + 1..=last {
            let text = template.replace("\"ordinal\":1,", &format!("\"ordinal\":{ordinal},"));
            let path = folder.path().join(source().folder().as_ref());
            std::fs::write(path.join(format!("{ordinal:020}.json")), text).expect("writes");
        }
        chain.reload().await.expect("rereads");
        assert_eq!(chain.last().expect("some").ordinal, last);
    }
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_counts_once_and_a_refused_one_is_tried_again() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    for (at, count) in [(DiesAt::AfterPut, 1), (DiesAt::BeforePut, 3), (DiesAt::AfterPut, 5)] {
        let refusing = Refusing { at, left: AtomicU32::new(count) };
        let store = FaultStore::new(lake.store(), refusing);
        let mut chain = Chain::open(&lake.with_store(store), source()).await.expect("opens");
        let next = chain.last().map_or(0, |commit| commit.ordinal) + 1;
        assert_eq!(chain.append(range(next, next)).await.expect("appends").ordinal, next);
    }
    assert_eq!(commits_after(&lake, &source(), 0).await.expect("reads").len(), 3);
}

#[tokio::test]
async fn raw_objects_hold_their_lines_by_kind_and_hour_and_are_never_written_twice() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let event = |id: u32, event_ts: &str, received_ts: &str| {
        format!(r#"{{"event_id":"{id}","event_ts":"{event_ts}","received_ts":"{received_ts}"}}"#)
    };
    let lines = [
        event(1, "2026-11-22T23:59:59Z", "2026-11-23T00:00:01Z"),
        event(2, "2026-11-23T00:00:00Z", "2026-11-23T00:59:59Z"),
        event(3, "2026-11-23T01:00:00Z", "2026-11-23T01:00:00Z"),
        r#"{"reject_id":"r","received_ts":"2026-11-23T01:00:00Z"}"#.to_owned(),
    ];
    let write = async || {
        let mut writer = RawWriter::new(&lake, &source());
        for (line, seq) in lines.iter().zip(1..) {
            let line = RawLine::parse(line.as_bytes()).expect("parses");
            writer.push(line, &format!("{seq}")).await.expect("pushes");
        }
        writer.finish().await.expect("finishes")
    };
    let objects = write().await;
    let paths: Vec<&str> = objects.iter().map(|object| object.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "raw/events/dt=2026-11-23/hour=00/c-1-1-2.json.gz",
            "raw/events/dt=2026-11-23/hour=01/c-1-3-3.json.gz",
            "raw/rejects/dt=2026-11-23/hour=01/c-1-4-4.json.gz",
        ]
    );
    let first = &objects[0];
    assert_eq!((first.records, first.kind), (2, RawKind::Events));
    let dates: Vec<String> = first.event_dates.iter().map(ToString::to_string).collect();
    assert_eq!(dates, ["2026-11-22", "2026-11-23"]);
    assert_eq!(first.max_received_ts.to_string(), "2026-11-23T00:59:59.000000Z");

    let stored = std::fs::read(folder.path().join(paths[0])).expect("reads");
    assert_eq!(stored.len() as u64, first.bytes);
    assert_eq!(first.crc32c, format!("{:08x}", crc32c::crc32c(&stored)));
    let mut text = String::new();
    let mut gunzip = flate2::read::GzDecoder::new(&stored[..]);
    std::io::Read::read_to_string(&mut gunzip, &mut text).expect("gunzips");
    assert_eq!(text, format!("{}\n{}\n", lines[0], lines[1]));

    // A second attempt takes other names and leaves the first's bytes alone.
    let again = write().await;
    assert!(again.iter().zip(&objects).all(|(a, b)| a.path != b.path && a.crc32c == b.crc32c));
    assert_eq!(std::fs::read(folder.path().join(paths[0])).expect("reads"), stored);
}

#[tokio::test]
async fn the_same_lines_come_back_from_either_format() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    // More than one row group, and among them what is no event, and no text.
    let mut lines: Vec<Vec<u8>> = (0..4_000)
        .map(|n| {
            let (url, filler) = (format!("https://shop.example/{}", n % 100), "x".repeat(n % 5_000));
            format!(
                r#"{{"event_id":"e{n}","event_name":"page_view","source_protocol":"native","app_id":"shop","event_ts":"2026-11-23T00:00:00.000000Z","received_ts":"2026-11-23T00:59:59.000000Z","page_url":"{url}","properties":{{"n":{n}.10,"filler":"{filler}"}},"collector_id":"c","wal_seq":{n},"shard_id":"s","sequence_number":"{n}"}}"#
            )
            .into_bytes()
        })
        .collect();
    lines[1] = br#"{"event_id":"odd","event_ts":"2026-11-23T00:00:00Z","received_ts":"2026-11-23T00:00:00Z","wal_seq":1}"#.to_vec();
    lines[2] = b"{\"event_id\":\"\xff\",\"event_ts\":\"2026-11-23T00:00:00Z\",\"received_ts\":\"2026-11-23T00:00:00Z\"}".to_vec();
    let mut lineages = Vec::new();
    for format in [RawFormat::Json, RawFormat::Parquet] {
        let mut writer = RawWriter::new(&lake, &source()).with_format(format);
        for (n, line) in lines.iter().enumerate() {
            let received_ts = Timestamp::parse("2026-11-23T00:00:00Z").expect("a time");
            let (kind, event_date) = (RawKind::Events, Some(received_ts.date()));
            let line = RawLine { kind, received_ts, event_date, bytes: line };
            writer.push(line, &n.to_string()).await.expect("pushes");
        }
        assert!(writer.memory() > 0 && writer.stored_bytes() > 0);
        let objects = writer.finish().await.expect("finishes");
        let (mut back, mut lineage) = (Vec::new(), Vec::new());
        for object in &objects {
            let stored = std::fs::read(folder.path().join(&object.path)).expect("reads");
            let bytes = bytes::Bytes::from(stored);
            let before = back.len();
            read::for_each_line(&bytes, &object.path, read::ALL, |number, line| {
                back.push(line.to_vec());
                assert_eq!(number as usize, back.len() - before);
                Ok::<_, LakeError>(true)
            })
            .expect("reads");
            assert_eq!((back.len() - before) as u64, object.records);
            lineage.extend(read::lineage(&bytes, &object.path, read::ALL).expect("reads"));
        }
        back.sort_unstable();
        let mut sent = lines.clone();
        sent.sort_unstable();
        assert!(back == sent, "{format:?}");
        lineage.sort_by_key(|one| (one.wal_seq, one.sequence_number.clone()));
        lineages.push(lineage);
        let suffixes: Vec<_> =
            objects.iter().map(|object| object.path.ends_with(".parquet")).collect();
        // What is no text cannot stand in a column: it has an object of lines beside.
        let expected = if format == RawFormat::Json { vec![false] } else { vec![true, false] };
        assert_eq!(suffixes, expected);
    }
    assert_eq!(lineages[0], lineages[1]);
}

#[tokio::test]
async fn a_damaged_parquet_object_is_an_error_that_names_it() {
    for bytes in [&b"PAR1"[..], b"PAR1 and no footer PAR1"] {
        let bytes = bytes::Bytes::from_static(bytes);
        let visit = |_, _: read::Line<'_>| Ok::<_, LakeError>(true);
        let error =
            read::for_each(&bytes, "raw/x.parquet", read::ALL, visit).expect_err("is damaged");
        assert!(error.to_string().starts_with("raw/x.parquet is damaged"), "{error}");
        assert!(read::lineage(&bytes, "raw/x.parquet", read::ALL).is_err());
    }
}

#[tokio::test]
async fn a_full_object_is_cut_and_open_ones_are_bounded() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let mut writer = RawWriter::new(&lake, &source()).with_object_bytes(500);
    // One line for each of 100 hours from 1990 on: more than may be open at once.
    for n in 0..100 {
        push(&mut writer, 631_152_000_000_000 + n * 3_600_000_000, n).await;
    }
    let written = walk(folder.path());
    assert_eq!(written, 100 - MAX_OPEN_OBJECTS, "the rest is open");
    // Ten lines of some 100 bytes in one hour: cut after each fifth.
    for n in 100..110 {
        push(&mut writer, 0, n).await;
    }
    let mut objects = writer.finish().await.expect("finishes");
    assert_eq!(objects.iter().map(|object| object.records).sum::<u64>(), 110);
    assert_eq!(walk(folder.path()), objects.len());
    objects.retain(|object| object.path.contains("dt=1970-01-01"));
    let records: Vec<u64> = objects.iter().map(|object| object.records).collect();
    assert_eq!(records, [5, 5]);
}

async fn push(writer: &mut RawWriter, received_micros: i64, n: i64) {
    let received = Timestamp::from_micros(received_micros).expect("in range");
    let line =
        format!(r#"{{"event_id":"{n}","event_ts":"{received}","received_ts":"{received}"}}"#);
    let line = RawLine::parse(line.as_bytes()).expect("parses");
    writer.push(line, &n.to_string()).await.expect("pushes");
}

/// Files below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("reads").map(|entry| entry.expect("reads"));
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

/// Fails `left` PUTs, before or after they take effect.
#[derive(Debug)]
struct Refusing {
    at: DiesAt,
    left: AtomicU32,
}

#[async_trait]
impl Faults for Refusing {
    async fn fate(&self, op: Op, _: &Path) -> Fate {
        let less = |left: u32| left.checked_sub(1);
        let fails = op == Op::Write
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        let error = |text: &'static str| Error::Generic { store: "faulty", source: text.into() };
        match (fails, self.at) {
            (false, _) => Fate::Done,
            (true, DiesAt::BeforePut) => Fate::Failed(error("503")),
            (true, DiesAt::AfterPut) => Fate::AnswerLost(error("time-out")),
        }
    }
}

/// Lines of one source with so many bytes of filler each.
fn lines_of(owner: u64, sizes: &[usize]) -> Vec<Vec<u8>> {
    let line = |(n, size): (usize, &usize)| {
        format!(
            r#"{{"event_id":"{owner}-{n}","event_name":"page_view","source_protocol":"native","app_id":"shop","event_ts":"2026-11-23T00:00:00.000000Z","received_ts":"2026-11-23T{:02}:00:00.000000Z","properties":{{"filler":"{}"}},"collector_id":"c-{owner}","wal_seq":{n},"shard_id":"s","sequence_number":"{n}"}}"#,
            n % 3 / 2,
            "x".repeat(*size)
        )
        .into_bytes()
    };
    sizes.iter().enumerate().map(line).collect()
}

/// Gives lines of several sources in turns, and returns what each one's commit is to name.
async fn packed(
    lake: &Lake,
    format: RawFormat,
    lines: &[Vec<Vec<u8>>],
    turns: usize,
    target: u64,
) -> Vec<(u64, LandedObject)> {
    let encoders = Encoders::new(2).expect("starts");
    let mut stretches = Vec::new();
    let mut writers: Vec<RawWriter> = (0..lines.len())
        .map(|n| RawWriter::new(lake, &Source::collector(&format!("c-{n}")).expect("valid")))
        .map(|writer| writer.with_format(format))
        .collect();
    for turn in 0..turns {
        let mut pieces = Vec::new();
        for (owner, (writer, lines)) in writers.iter_mut().zip(lines).enumerate() {
            let part = lines.len().div_ceil(turns);
            for (n, line) in lines.iter().enumerate().skip(turn * part).take(part) {
                let line = RawLine::parse(line).expect("parses");
                writer.push(line, &n.to_string()).await.expect("pushes");
            }
            pieces.extend(writer.pieces().into_iter().map(|piece| (owner as u64, piece)));
        }
        stretches.extend(encoders.encode(pieces).await.expect("encodes"));
    }
    let written = encoders.write(lake, "c-shared", stretches, target).await;
    written.into_iter().flat_map(|object| object.landed.expect("writes")).collect()
}

#[tokio::test]
async fn of_an_object_that_sources_share_each_gets_its_own_lines_back() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    // One source with enough for an encoder of its own, many with little, one with nothing.
    let lines = |format| -> Vec<Vec<Vec<u8>>> {
        let large = if format == RawFormat::Json { 300 } else { 8_000 };
        let mut sizes = vec![vec![large; 1_200], vec![]];
        sizes.extend((0..20).map(|n| (0..n * 3).map(|line| line * 37 % 900).collect()));
        sizes.iter().enumerate().map(|(owner, sizes)| lines_of(owner as u64, sizes)).collect()
    };
    for (format, turns, target) in [
        (RawFormat::Json, 1, u64::MAX),
        (RawFormat::Json, 3, 10_000),
        (RawFormat::Parquet, 1, u64::MAX),
        (RawFormat::Parquet, 3, 10_000),
        (RawFormat::Parquet, 2, 1),
    ] {
        let lines = lines(format);
        let landed = packed(&lake, format, &lines, turns, target).await;
        let mut back: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        let mut whole: BTreeMap<&str, (u64, Vec<Range<u64>>)> = BTreeMap::new();
        for (owner, object) in &landed {
            let stored = std::fs::read(folder.path().join(&object.path)).expect("reads");
            assert_eq!(stored.len() as u64, object.bytes);
            assert_eq!(format!("{:08x}", crc32c::crc32c(&stored)), object.crc32c);
            let bytes = bytes::Bytes::from(stored);
            let named = [object.lines()];
            let (mut number, mine) = (object.lines().start, back.entry(*owner).or_default());
            read::for_each_line(&bytes, &object.path, &named, |at, line| {
                assert_eq!(u64::from(at), number);
                number += 1;
                mine.push(line.to_vec());
                Ok::<_, LakeError>(true)
            })
            .expect("reads");
            assert_eq!(number, object.lines().end, "{object:?}");
            let lineage = read::lineage(&bytes, &object.path, &named).expect("reads");
            assert_eq!(lineage.len() as u64, object.records);
            let id = format!("c-{owner}");
            assert!(lineage.iter().all(|one| one.collector_id.as_ref() == Some(&id)));
            let of = object.section.map_or(object.records, |section| section.of);
            let (lines, ranges) = whole.entry(&object.path).or_insert((of, Vec::new()));
            assert_eq!(*lines, of);
            ranges.push(object.lines());
        }
        for (owner, lines) in lines.iter().enumerate() {
            // Hour by hour, in the order in which they were given.
            let mut back = back.remove(&(owner as u64)).unwrap_or_default();
            back.sort_by_key(|line| {
                RawLine::parse(line).map(|line| line.received_ts).expect("parses")
            });
            let mut sent = lines.clone();
            sent.sort_by_key(|line| {
                RawLine::parse(line).map(|line| line.received_ts).expect("parses")
            });
            assert!(back == sent, "{format:?} {turns} {target}: {owner}");
        }
        // Together they are all of each object; any of them can be read at once.
        for (path, (of, mut ranges)) in whole {
            ranges.sort_by_key(|range| range.start);
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (1, of + 1));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
            let bytes = std::fs::read(folder.path().join(path)).expect("reads");
            let bytes = bytes::Bytes::from(bytes);
            let numbers = |ranges: &[Range<u64>]| {
                let mut numbers = Vec::new();
                read::for_each_line(&bytes, path, ranges, |number, _| {
                    numbers.push(u64::from(number));
                    Ok::<_, LakeError>(true)
                })
                .expect("reads");
                numbers
            };
            assert_eq!(numbers(read::ALL), (1..=of).collect::<Vec<_>>());
            let every_other: Vec<Range<u64>> = ranges.iter().step_by(2).cloned().collect();
            let expected: Vec<u64> = every_other.iter().cloned().flatten().collect();
            assert_eq!(numbers(&every_other), expected);
        }
        if target == u64::MAX {
            // An object for each hour; who is alone in it has the usual name.
            let paths: BTreeSet<&str> = landed.iter().map(|(_, one)| one.path.as_str()).collect();
            assert_eq!(paths.len(), 2, "{paths:?}");
            assert!(paths.iter().all(|path| path.contains("/c-shared-")), "{paths:?}");
        }
    }
    let lines = lines(RawFormat::Parquet);
    let alone = packed(&lake, RawFormat::Parquet, &lines[..1], 3, u64::MAX).await;
    let names: Vec<(&str, Option<Section>, u64)> =
        alone.iter().map(|(_, one)| (one.path.as_str(), one.section, one.records)).collect();
    let [(first, None, 800), (second, None, 400)] = names[..] else { panic!("{names:?}") };
    assert!(first.ends_with("/hour=00/c-0-0-1198.parquet"), "{first}");
    assert!(second.ends_with("/hour=01/c-0-2-1199.parquet"), "{second}");
}
