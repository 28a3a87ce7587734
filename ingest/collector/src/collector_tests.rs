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

#[tokio::test]
async fn what_is_tracked_is_checked_against_the_plan_and_kept_whatever_the_outcome() {
    let plan = |text: &str| Plan::parse(text).expect("a plan");
    let first = r#"
        format = 1
        version = "1"
        [events.purchase]
        fields.order_id = { type = "string", required = true }
    "#;
    let folder = tempfile::tempdir().expect("folder");
    let builder = Collector::builder(folder.path()).plan(plan(first));
    let collector = builder.start().await.expect("starts");
    let purchase = |id: &'static str, order: Option<&'static str>| {
        let mut event = event(id);
        event.event_name = "purchase".into();
        event.order_id = order.map(Into::into);
        // What somebody else once found does not count.
        event.validation = Some("ok".into());
        event
    };
    collector.track(&purchase("as-planned", Some("A-1"))).expect("tracks");
    collector.track(&purchase("no-order", None)).expect("tracks");
    collector.track_durable(&purchase("no-order-durable", None)).await.expect("tracks");
    collector.set_plan(None);
    collector.track(&purchase("no-plan", None)).expect("tracks");
    collector.shutdown(Duration::ZERO).await;

    let events = crate::spool::read_all(folder.path()).expect("reads").records;
    let found: Vec<(String, Option<String>)> = events
        .iter()
        .filter(|record| record.kind == crate::sink::RecordKind::Event)
        .map(|record| {
            let line: serde_json::Value = serde_json::from_slice(&record.line).expect("JSON");
            let text = |key: &str| line[key].as_str().map(str::to_owned);
            // A key that stands there twice reads as one.
            let line = String::from_utf8_lossy(&record.line);
            assert_eq!(line.matches("\"validation\":").count(), 1, "{line}");
            (text("event_id").expect("an id"), text("validation"))
        })
        .collect();
    let missing = Some("missing_property:order_id".to_owned());
    let ok = Some("ok".to_owned());
    assert_eq!(
        found,
        [
            ("as-planned".to_owned(), ok.clone()),
            ("no-order".to_owned(), missing.clone()),
            ("no-order-durable".to_owned(), missing),
            ("no-plan".to_owned(), ok),
        ]
    );
    let counted =
        collector.metrics().plan_violations.with(["purchase", "missing_property:order_id"]).get();
    assert_eq!(counted, 2);
}
