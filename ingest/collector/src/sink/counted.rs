//! Counts what goes into a sink, whichever it is.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Sink, SinkBatch, SinkError};
use crate::metrics::Metrics;

/// The `reason` of a batch that the shipper sends again.
const BATCH: &str = "batch";

/// A sink with its latency, its records and its batches' retries counted.
pub(crate) struct Counted {
    inner: Arc<dyn Sink>,
    metrics: Arc<Metrics>,
}

impl Counted {
    pub fn new(inner: Arc<dyn Sink>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

#[async_trait]
impl Sink for Counted {
    async fn resume_after(&self, collector_id: &str) -> Result<Option<i64>, SinkError> {
        self.inner.resume_after(collector_id).await
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        let (records, bytes) = (batch.records.len() as u64, batch.bytes() as u64);
        let began = Instant::now();
        let outcome = self.inner.send(batch).await;
        self.metrics.sink_send_seconds.observe(began.elapsed());
        match &outcome {
            Ok(()) => {
                self.metrics.sink_records.add(records);
                self.metrics.sink_bytes.add(bytes);
            }
            // The shipper never gives one up: each failure is a retry.
            Err(_) => self.metrics.sink_retries.with([BATCH]).inc(),
        }
        outcome
    }

    fn held_from(&self) -> Option<i64> {
        self.inner.held_from()
    }

    async fn settle(&self) -> Result<(), SinkError> {
        let outcome = self.inner.settle().await;
        if outcome.is_err() {
            self.metrics.sink_retries.with([BATCH]).inc();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::sink::{RecordKind, SpoolRecord};

    /// Refuses the first batch.
    struct Refusing(AtomicBool);

    #[async_trait]
    impl Sink for Refusing {
        async fn resume_after(&self, _: &str) -> Result<Option<i64>, SinkError> {
            Ok(Some(7))
        }

        async fn send(&self, _: SinkBatch) -> Result<(), SinkError> {
            match self.0.swap(true, Ordering::SeqCst) {
                true => Ok(()),
                false => Err(SinkError::retryable("not yet")),
            }
        }
    }

    #[tokio::test]
    async fn a_batch_counts_once_it_is_taken_and_a_refusal_is_a_retry() {
        let metrics = Arc::new(Metrics::default());
        let sink = Counted::new(Arc::new(Refusing(AtomicBool::new(false))), Arc::clone(&metrics));
        let line = bytes::Bytes::from_static(b"{\"event_id\":\"e\"}");
        let record = SpoolRecord { wal_seq: 8, kind: RecordKind::Event, line };
        let batch = SinkBatch {
            collector_id: "c".to_owned(),
            first_wal_seq: 8,
            last_wal_seq: 8,
            records: vec![record],
        };
        assert_eq!(sink.resume_after("c").await.expect("answers"), Some(7));
        sink.send(batch.clone()).await.expect_err("refuses");
        assert_eq!((metrics.sink_records.get(), metrics.sink_bytes.get()), (0, 0));
        sink.send(batch).await.expect("takes");
        assert_eq!((metrics.sink_records.get(), metrics.sink_bytes.get()), (1, 16));
        assert_eq!(metrics.sink_retries.with([BATCH]).get(), 1);
        assert_eq!(metrics.sink_send_seconds.count(), 2);
    }
}
