use async_trait::async_trait;
use clickmill_schemas::{EventTime, Timestamp};

use super::*;
use crate::sink::{SinkBatch, SinkError};

const DEADLINE: Duration = Duration::from_secs(20);

fn event(id: &str) -> Event<'static> {
    let now = Timestamp::now();
    let time = EventTime::resolve(Some(now), None, now);
    Event::new(id.to_owned(), "custom", "native", "shop", time)
}

/// Takes what it gets, or nothing at all.
struct Taking {
    refuses: bool,
    lines: Mutex<Vec<String>>,
}

impl Taking {
    fn new(refuses: bool) -> Arc<Self> {
        Arc::new(Self { refuses, lines: Mutex::default() })
    }

    fn has(&self, id: &str) -> bool {
        self.lines.lock().expect("lock").iter().any(|line| line.contains(id))
    }
}

#[async_trait]
impl Sink for Taking {
    async fn resume_after(&self, _: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        if self.refuses {
            return Err(SinkError::retryable("not now"));
        }
        let lines = batch.records.iter().map(|r| String::from_utf8_lossy(&r.line).into_owned());
        self.lines.lock().expect("lock").extend(lines);
        Ok(())
    }
}

#[tokio::test]
async fn in_stream_mode_an_event_is_answered_once_the_sink_has_it() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = Taking::new(false);
    let collector = Collector::builder(folder.path())
        .sink(Arc::clone(&sink) as Arc<dyn Sink>)
        .durability(Durability::Stream)
        .start()
        .await
        .expect("starts");
    for n in 0..5 {
        let id = format!("stream-{n}");
        collector.track_durable(&event(&id)).await.expect("taken");
        assert!(sink.has(&id), "{id}");
    }
    assert_eq!(collector.shutdown(DEADLINE).await, Drained { left: 0 });
}

#[tokio::test]
async fn in_stream_mode_a_sink_that_takes_nothing_is_reported_and_the_event_is_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let collector = Collector::builder(folder.path())
        .sink(Taking::new(true))
        .durability(Durability::Stream)
        .stream_answer_within(Duration::from_millis(50))
        .start()
        .await
        .expect("starts");
    let refused = collector.track_durable(&event("kept")).await;
    let not_shipped = matches!(refused, Err(TrackError::Spool(AppendError::NotShipped { .. })));
    assert!(not_shipped, "{refused:?}");
    assert_eq!(collector.shutdown(Duration::ZERO).await, Drained { left: 1 });
}

#[tokio::test]
async fn stream_mode_without_a_sink_does_not_start() {
    let folder = tempfile::tempdir().expect("folder");
    let builder = Collector::builder(folder.path()).durability(Durability::Stream);
    assert!(matches!(builder.start().await, Err(CollectorError::NoSink)));
}

#[tokio::test]
async fn a_full_spool_refuses_or_drops_tracked_events_as_told() {
    for policy in [OverflowPolicy::Refuse, OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
        let folder = tempfile::tempdir().expect("folder");
        let collector = Collector::builder(folder.path())
            .spool(SpoolOptions { max_bytes: 1_000, ..SpoolOptions::default() })
            .overflow(policy)
            .start()
            .await
            .expect("starts");
        // Until the disk is full to the last byte: what is waited for is never dropped.
        let full = loop {
            if let Err(error) = collector.track_durable(&event("e")).await {
                break error;
            }
        };
        assert!(matches!(full, TrackError::Spool(AppendError::Full { .. })), "{full:?}");
        let before = collector.status().spool;
        let tracked = collector.track(&event("over"));
        collector.0.spool.close();
        let after = collector.status().spool;
        assert_eq!(after.last_wal_seq, before.last_wal_seq);
        // Handed over and then refused by the disk, or not even that: counted either way.
        let counted = after.refused + after.dropped - before.refused - before.dropped;
        match policy {
            OverflowPolicy::Refuse => assert_eq!(counted, u64::from(tracked.is_ok())),
            OverflowPolicy::DropNewest | OverflowPolicy::DropOldest => {
                assert!(tracked.is_ok());
                assert_eq!(counted, 1);
            }
        }
    }
}
