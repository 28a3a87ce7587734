use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;

use super::*;
use crate::spool::{Entry, SpoolOptions};

const DEADLINE: Duration = Duration::from_secs(20);
const NOBODY: i64 = i64::MIN;

/// Remembers batches; `has` is what it answers to `resume_after`.
struct Remembering {
    has: AtomicI64,
    batches: Mutex<Vec<SinkBatch>>,
}

impl Remembering {
    fn new(has: i64) -> Arc<Self> {
        Arc::new(Self { has: AtomicI64::new(has), batches: Mutex::default() })
    }

    fn ranges(&self) -> Vec<(i64, i64, usize)> {
        let batches = self.batches.lock().expect("lock");
        batches.iter().map(|b| (b.first_wal_seq, b.last_wal_seq, b.records.len())).collect()
    }
}

#[async_trait]
impl Sink for Remembering {
    async fn resume_after(&self, _: &str) -> Result<Option<i64>, SinkError> {
        let has = self.has.load(Ordering::SeqCst);
        Ok((has != NOBODY).then_some(has))
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        self.batches.lock().expect("lock").push(batch);
        Ok(())
    }
}

async fn spool_of(folder: &tempfile::TempDir, events: i64) -> Arc<Spool> {
    let spool = Spool::open(folder.path(), SpoolOptions::default()).expect("opens");
    for n in 0..events {
        let line = format!("{{\"event_id\":\"e{n}\"}}").into_bytes();
        spool.append(vec![Entry::Event(line)]).await.expect("appends");
    }
    Arc::new(spool)
}

/// Ships everything and returns what the shipper last said of the sink.
async fn ship(spool: &Arc<Spool>, sink: &Arc<Remembering>, max_events: usize) -> Option<String> {
    let (health, drain) = (SinkHealth::default(), CancellationToken::new());
    let limits = BatchLimits { max_events, ..BatchLimits::default() };
    let sink = Arc::clone(sink) as Arc<dyn Sink>;
    let shipper = Shipper::new(Arc::clone(spool), sink, limits, health.clone(), drain.clone());
    spool.close();
    drain.cancel();
    let mut running = tokio::spawn(shipper.run());
    let seen = health.clone();
    let refused = async move {
        while seen.get().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = &mut running => ended.expect("ends"),
        () = refused => running.abort(),
        () = tokio::time::sleep(DEADLINE) => panic!("neither drained nor refused"),
    }
    health.get()
}

#[tokio::test]
async fn batches_are_cut_by_count_and_follow_each_other_without_a_gap() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool_of(&folder, 7).await;
    spool.append(vec![Entry::Heartbeat { closing: true }]).await.expect("appends");
    let sink = Remembering::new(NOBODY);
    assert_eq!(ship(&spool, &sink, 3).await, None);
    assert_eq!(sink.ranges(), [(1, 3, 3), (4, 6, 3), (7, 7, 2)]);
    assert_eq!(spool.status().shipped_wal_seq, 7);
}

#[tokio::test]
async fn a_sink_that_knows_what_it_has_gets_the_rest_only() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool_of(&folder, 5).await;
    let sink = Remembering::new(3);
    ship(&spool, &sink, 100).await;
    assert_eq!(sink.ranges(), [(4, 5, 2)]);
}

#[tokio::test]
async fn a_sink_that_lost_data_gets_again_what_the_spool_still_has() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool_of(&folder, 5).await;
    ship(&spool, &Remembering::new(NOBODY), 100).await;
    drop(spool);
    let spool = spool_of(&folder, 1).await;
    let sink = Remembering::new(2);
    ship(&spool, &sink, 100).await;
    assert_eq!(sink.ranges(), [(3, 6, 4)]);
}

#[tokio::test]
async fn an_old_copy_of_a_spool_ships_nothing_and_says_why() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool_of(&folder, 5).await;
    let sink = Remembering::new(6);
    let said = ship(&spool, &sink, 100).await.expect("an error");
    assert!(said.contains("old copy") && said.contains("wal_seq 6"), "{said}");
    assert_eq!(sink.ranges(), []);
}

#[test]
fn the_age_of_a_record_is_read_from_its_own_key_only() {
    let line = br#"{"event_id":"\"received_ts\":\"1999-01-01T00:00:00Z\"","event_ts":"2026-11-23T12:00:00.000000Z","received_ts":"2026-11-23T12:00:01.500000Z","properties":{"received_ts":"2000-01-01T00:00:00Z"}}"#;
    let at = clickmill_schemas::Timestamp::parse("2026-11-23T12:00:01.5Z").expect("time");
    assert_eq!(received_ms(line), Some(at.micros() / 1_000));
    assert_eq!(received_ms(br#"{"heartbeat_ts":"2026-11-23T12:00:00.000000Z"}"#), None);
}

/// Holds back what comes after `durable`, until it has been asked so many times.
struct Holding {
    durable: i64,
    taken: AtomicI64,
    asked: AtomicI64,
    times: i64,
}

#[async_trait]
impl Sink for Holding {
    async fn resume_after(&self, _: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        self.taken.store(batch.last_wal_seq, Ordering::SeqCst);
        Ok(())
    }

    fn held_from(&self) -> Option<i64> {
        let holds = self.asked.load(Ordering::SeqCst) < self.times
            && self.taken.load(Ordering::SeqCst) > self.durable;
        holds.then_some(self.durable + 1)
    }

    async fn settle(&self) -> Result<(), SinkError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn what_a_sink_holds_back_is_not_shipped_and_the_drain_waits_for_it() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool_of(&folder, 7).await;
    let sink = Arc::new(Holding {
        durable: 2,
        taken: AtomicI64::new(0),
        asked: AtomicI64::new(0),
        times: 3,
    });
    let drain = CancellationToken::new();
    let limits = BatchLimits { max_events: 3, ..BatchLimits::default() };
    let shipper = Shipper::new(
        Arc::clone(&spool),
        Arc::clone(&sink) as Arc<dyn Sink>,
        limits,
        SinkHealth::default(),
        drain.clone(),
    );
    spool.close();
    drain.cancel();
    let mut running = tokio::spawn(shipper.run());
    let watched = Arc::clone(&spool);
    let held = async {
        // All three batches are taken, and two events noted.
        while sink.taken.load(Ordering::SeqCst) < 7 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        watched.status().shipped_wal_seq
    };
    let noted = tokio::time::timeout(DEADLINE, held).await.expect("takes all");
    assert_eq!(noted, 2);
    tokio::time::timeout(DEADLINE, &mut running).await.expect("drains").expect("ends");
    assert_eq!(sink.asked.load(Ordering::SeqCst), 3);
    assert_eq!(spool.status().shipped_wal_seq, 7);
}

/// As one that another spool shares, whose numbers are far ahead.
struct Shared;

#[async_trait]
impl Sink for Shared {
    async fn resume_after(&self, _: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, _: SinkBatch) -> Result<(), SinkError> {
        Ok(())
    }

    fn held_from(&self) -> Option<i64> {
        Some(1_000)
    }
}

#[tokio::test]
async fn what_a_sink_holds_back_of_another_spool_ships_nothing_that_was_not_sent() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool_of(&folder, 7).await;
    let drain = CancellationToken::new();
    let limits = BatchLimits { max_events: 5, max_wait: DEADLINE * 10, ..BatchLimits::default() };
    let shipper = Shipper::new(
        Arc::clone(&spool),
        Arc::new(Shared),
        limits,
        SinkHealth::default(),
        drain.clone(),
    );
    let running = tokio::spawn(shipper.run());
    let shipped = async {
        while spool.status().shipped_wal_seq == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, shipped).await.expect("ships the first batch");
    assert_eq!(spool.status().shipped_wal_seq, 5);
    running.abort();
}
