//! Does the embedded sink land every record of a spool exactly once?

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use clickmill_collector::sink::{RecordKind, Sink as _, SinkBatch, SpoolRecord};
use clickmill_delivery::LakeSink;
use clickmill_faultstore::{Death, DiesAt, FaultStore};
use clickmill_schemas::{RawJson, append_lineage};
use support::{event, folder_lake, landed};

fn id(seq: i64) -> String {
    format!("e{seq:04}")
}

fn record(seq: i64) -> SpoolRecord {
    let mut line = event(&id(seq)).into_bytes();
    let json = |value: &str| RawJson::parse(value).expect("json").into_owned();
    append_lineage(
        &mut line,
        &[("collector_id", json("\"c-1\"")), ("wal_seq", json(&seq.to_string()))],
    );
    SpoolRecord { wal_seq: seq, kind: RecordKind::Event, line: line.into() }
}

fn heartbeat(last_wal_seq: i64) -> SpoolRecord {
    let line = format!(
        r#"{{"heartbeat_ts":"2026-11-23T17:41:00.000000Z","collector_id":"c-1","last_wal_seq":{last_wal_seq}}}"#
    );
    SpoolRecord { wal_seq: last_wal_seq, kind: RecordKind::Heartbeat, line: line.into() }
}

/// `first..=last` and a heartbeat.
fn batch(first: i64, last: i64) -> SinkBatch {
    let mut records: Vec<SpoolRecord> = (first..=last).map(record).collect();
    records.push(heartbeat(last));
    SinkBatch { collector_id: "c-1".to_owned(), first_wal_seq: first, last_wal_seq: last, records }
}

#[tokio::test]
async fn a_batch_is_a_commit_and_the_sink_tells_where_to_resume() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let sink = LakeSink::new(lake.clone());
    assert_eq!(sink.resume_after("c-1").await.expect("asks"), None);
    sink.send(batch(1, 10)).await.expect("lands");
    sink.send(batch(11, 12)).await.expect("lands");
    // Only a heartbeat: it lands and moves nothing.
    sink.send(batch(13, 12)).await.expect("lands");
    assert_eq!(sink.resume_after("c-1").await.expect("asks"), Some(12));
    assert_eq!(LakeSink::new(lake.clone()).resume_after("c-2").await.expect("asks"), None);

    let landed = landed(&lake).await;
    landed.assert_each_once((1..=12).map(id));
    let commits = &landed.commits["collector/c-1"];
    let ranges: Vec<_> = commits.iter().map(|c| (c.first.as_deref(), c.last.as_deref())).collect();
    assert_eq!(ranges, [(Some("1"), Some("10")), (Some("11"), Some("12")), (None, None)]);
    assert!(landed.lines[0].ends_with(r#""collector_id":"c-1","wal_seq":1}"#));
}

#[tokio::test]
async fn what_landed_before_is_left_out_however_it_is_cut_again() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    LakeSink::new(lake.clone()).send(batch(1, 10)).await.expect("lands");
    let sink = LakeSink::new(lake.clone());
    sink.send(batch(1, 10)).await.expect("is known");
    sink.send(batch(6, 15)).await.expect("lands the rest");
    sink.send(batch(21, 25)).await.expect("a stretch that never came is no reason to stop");
    let landed = landed(&lake).await;
    landed.assert_each_once((1..=15).chain(21..=25).map(id));
    let last = landed.commits["collector/c-1"].last().expect("some");
    assert_eq!((last.after.as_deref(), last.first.as_deref()), (Some("15"), Some("21")));
}

#[tokio::test]
async fn two_sinks_that_race_with_the_same_batches_land_each_once() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = folder_lake(folder.path()).await;
    let send = async |size: i64| {
        let sink = LakeSink::new(lake.clone());
        for first in (1..=120).step_by(usize::try_from(size).expect("small")) {
            let batch = batch(first, (first + size - 1).min(120));
            // Large batches lose to small ones more often than one call takes; the shipper repeats.
            let mut attempts = 0;
            while let Err(error) = sink.send(batch.clone()).await {
                attempts += 1;
                assert!(error.is_retryable() && attempts < 100, "{error:?}");
            }
        }
    };
    futures::join!(send(7), send(10), send(3));
    landed(&lake).await.assert_each_once((1..=120).map(id));
}

#[tokio::test]
async fn a_crash_at_any_write_neither_loses_nor_repeats() {
    let batches = || (0..4).map(|n| batch(n * 5 + 1, n * 5 + 5));
    for crash in [DiesAt::BeforePut, DiesAt::AfterPut] {
        for puts in 0.. {
            let folder = tempfile::tempdir().expect("temp");
            let lake = folder_lake(folder.path()).await;
            let store = FaultStore::new(lake.store(), Death::after(puts, crash));
            let dying = LakeSink::new(lake.with_store(store.clone()));
            for batch in batches() {
                if dying.send(batch).await.is_err() {
                    break;
                }
            }
            if !store.faults().has_come() {
                assert!(puts >= 12, "four batches write two objects and a commit each");
                landed(&lake).await.assert_each_once((1..=20).map(id));
                break;
            }
            // The shipper's checkpoint may be older than the chain: everything again.
            let sink = LakeSink::new(lake.clone());
            let resumed = sink.resume_after("c-1").await.expect("asks").unwrap_or(0);
            assert_eq!(resumed % 5, 0, "a batch lands whole");
            for batch in batches() {
                sink.send(batch).await.expect("lands");
            }
            landed(&lake).await.assert_each_once((1..=20).map(id));
        }
    }
}
