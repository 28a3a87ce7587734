//! Amazon Data Firehose, by PutRecordBatch ("direct put").
//!
//! # Guarantees
//! - A record holds the lines of one or more events, each ended by a newline,
//!   in the order of the spool; so what Firehose concatenates is JSON lines.
//! - Records that Firehose refuses are sent again alone; what a batch already
//!   got through is remembered. After a restart in the middle of a batch, or a
//!   call that succeeded without an answer, events arrive twice, with the same
//!   lineage. Firehose itself delivers at least once, in no order.
//!
//! # How large a record is
//! Firehose bills each record rounded up to 5 KB ([`BILLED_STEP_BYTES`]), not
//! each call: an event of 900 bytes alone costs 5.7 times its size. A record
//! filled with whole events wastes half a step in the mean, whatever its size,
//! so at 50 steps ([`RECORD_TARGET_BYTES`]) 1% is wasted. A larger record would
//! save less than that 1%, and a refused one would send more again. At most
//! [`MAX_LINES_A_RECORD`] events go into one: Firehose's own de-aggregation,
//! where a stream has it switched on, takes no more.
//!
//! # Failure
//! Refusals are waited out in rounds (`rounds`). Nothing is ever given up.
//!
//! # Limits
//! [`FirehoseLimits`]. A line too large for a record becomes a reject
//! (`too_large`) with its lineage and as many of its bytes as fit.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::config::retry::RetryConfig;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::line::{Line, RecordCap};
use super::progress::{CallCaps, Progress, Ready, cut};
use super::rounds::{self, Answer, Service, Settled};
use super::{Sink, SinkBatch, SinkError, SpoolRecord};
use crate::metrics::Metrics;

pub use super::rounds::CALL_TIMEOUT;

/// Records in a PutRecordBatch call (Firehose API Reference).
pub const MAX_RECORDS_A_CALL: usize = 500;
/// Bytes in a call (Firehose API Reference: 4 MiB).
pub const MAX_BYTES_A_CALL: usize = 4 * 1024 * 1024;
/// Bytes of a record before base64 (Firehose API Reference: 1,000 KiB).
pub const MAX_RECORD_BYTES: usize = 1_000 * 1024;
/// A record is billed in steps of this many bytes (Firehose pricing: 5 KB).
pub const BILLED_STEP_BYTES: usize = 5 * 1024;
/// Bytes up to which lines share a record: 50 steps. See the module's head.
pub const RECORD_TARGET_BYTES: usize = 50 * BILLED_STEP_BYTES;
/// Lines that share a record (Firehose, record de-aggregation: 500 sub-records).
pub const MAX_LINES_A_RECORD: usize = 500;
/// What a record's error code says of a stream that is sent too much (API
/// Reference, PutRecordBatch: "Slow down").
const THROTTLED: &str = "ServiceUnavailableException";

/// The service's caps, and our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirehoseLimits {
    /// [`MAX_RECORDS_A_CALL`].
    pub records_a_call: usize,
    /// [`MAX_BYTES_A_CALL`].
    pub bytes_a_call: usize,
    /// [`MAX_RECORD_BYTES`].
    pub record_bytes: usize,
    /// [`RECORD_TARGET_BYTES`]; 0: every line is a record of its own.
    pub record_target_bytes: usize,
    /// [`CALL_TIMEOUT`].
    pub call_timeout: Duration,
}

impl Default for FirehoseLimits {
    fn default() -> Self {
        Self {
            records_a_call: MAX_RECORDS_A_CALL,
            bytes_a_call: MAX_BYTES_A_CALL,
            record_bytes: MAX_RECORD_BYTES,
            record_target_bytes: RECORD_TARGET_BYTES,
            call_timeout: CALL_TIMEOUT,
        }
    }
}

impl FirehoseLimits {
    const fn caps(&self) -> CallCaps {
        CallCaps { records: self.records_a_call, bytes: self.bytes_a_call }
    }
}

/// A delivery stream.
#[derive(Debug)]
pub struct FirehoseSink {
    client: Client,
    stream: String,
    limits: FirehoseLimits,
    metrics: Arc<Metrics>,
    progress: Mutex<Option<Progress<Bytes>>>,
}

impl FirehoseSink {
    /// Sends to the delivery stream `stream` (a name) with `client`, whose own
    /// retries are switched off: a retry has one owner.
    #[must_use]
    pub fn new(client: &Client, stream: impl Into<String>, limits: FirehoseLimits) -> Self {
        let config = client.config().to_builder().retry_config(RetryConfig::disabled());
        let config = config.timeout_config(rounds::timeouts(limits.call_timeout)).build();
        Self {
            client: Client::from_conf(config),
            stream: stream.into(),
            limits,
            metrics: Arc::default(),
            progress: Mutex::default(),
        }
    }

    /// Counts there: throttles and retries of records.
    #[must_use]
    pub fn counting(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }
}

impl Service for &FirehoseSink {
    type Record = Bytes;

    fn caps(&self) -> CallCaps {
        self.limits.caps()
    }

    fn size(record: &Bytes) -> usize {
        record.len()
    }

    fn ready(&mut self, progress: &Progress<Bytes>) -> Ready {
        Ready::Now(progress.pending.clone())
    }

    async fn call(&self, records: &[Bytes], indexes: &[usize]) -> Result<Settled, SinkError> {
        let mut call = self.client.put_record_batch().delivery_stream_name(&self.stream);
        for &index in indexes {
            let record = Record::builder()
                .data(Blob::new(records[index].as_ref()))
                .build()
                .map_err(|e| SinkError::permanent("cannot build a record").with_source(e))?;
            call = call.records(record);
        }
        let operation = format!("PutRecordBatch to the delivery stream {}", self.stream);
        let output = call.send().await.map_err(|error| rounds::call_failed(&operation, error))?;
        let answers = output.request_responses().iter();
        let answers = answers.map(|one| Answer { error_code: one.error_code(), shard: None });
        Ok(Settled::of(indexes, answers))
    }

    fn note(&mut self, _: &[Bytes], settled: &Settled) {
        for (_, code) in &settled.refused {
            self.metrics.sink_retries.with([code]).inc();
            if code == THROTTLED {
                self.metrics.sink_throttles.inc();
            }
        }
    }

    fn refuses(&self, refused: &str) -> SinkError {
        SinkError::retryable(format!(
            "the delivery stream {} refused {refused}; it may need a higher quota",
            self.stream
        ))
    }
}

#[async_trait]
impl Sink for FirehoseSink {
    /// Firehose cannot tell.
    async fn resume_after(&self, _collector_id: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        let mut progress = self.progress.lock().await;
        // It stays where it is, so that neither a failure nor a dropped call forgets it.
        let current = match progress.take().filter(|progress| progress.is_of(&batch)) {
            Some(current) => current,
            None => Progress::new(&batch, pack(&batch.records, &self.limits)),
        };
        rounds::drive(&mut &*self, progress.insert(current)).await?;
        *progress = None;
        Ok(())
    }
}

/// The records of a batch: whole lines, in order, up to the target.
fn pack(records: &[SpoolRecord], limits: &FirehoseLimits) -> Vec<Bytes> {
    let largest = limits.record_bytes.min(limits.bytes_a_call);
    let target = limits.record_target_bytes.min(largest);
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut lines = 0;
    for record in records {
        let line = Line::new(record, RecordCap::Data(largest), "firehose").data;
        match out.last_mut() {
            Some(last) if last.len() + line.len() <= target && lines < MAX_LINES_A_RECORD => {
                last.extend_from_slice(&line);
                lines += 1;
            }
            _ => {
                out.push(line.into());
                lines = 1;
            }
        }
    }
    out.into_iter().map(Bytes::from).collect()
}

/// What a batch costs as it is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Records of PutRecordBatch.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// What is billed: each record counts in steps of [`BILLED_STEP_BYTES`].
    pub billed_bytes: usize,
    /// Calls of PutRecordBatch.
    pub calls: usize,
}

impl Packing {
    /// Packs a batch, sends nothing, and counts: for benchmarks and cost estimates.
    #[must_use]
    pub fn of(batch: &SinkBatch, limits: &FirehoseLimits) -> Self {
        let records = pack(&batch.records, limits);
        let all: Vec<usize> = (0..records.len()).collect();
        let billed = |record: &Bytes| record.len().next_multiple_of(BILLED_STEP_BYTES);
        Self {
            records: records.len(),
            bytes: records.iter().map(Bytes::len).sum(),
            billed_bytes: records.iter().map(billed).sum(),
            calls: cut(&all, limits.caps(), |n| records[n].len()).len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sink::RecordKind;

    /// A line of exactly that many bytes with its newline.
    fn record(bytes: usize) -> SpoolRecord {
        let line = format!("{{\"event_id\":\"{}\"}}", "x".repeat(bytes - 16));
        assert_eq!(line.len() + 1, bytes);
        SpoolRecord { wal_seq: 1, kind: RecordKind::Event, line: line.into() }
    }

    fn sizes(records: &[SpoolRecord], limits: &FirehoseLimits) -> Vec<usize> {
        pack(records, limits).iter().map(Bytes::len).collect()
    }

    #[test]
    fn lines_share_a_record_up_to_the_target_and_up_to_500() {
        let limits = FirehoseLimits::default();
        assert_eq!(sizes(&vec![record(1_024); 250], &limits), [RECORD_TARGET_BYTES]);
        let mut over = vec![record(1_024); 249];
        over.push(record(1_025));
        assert_eq!(sizes(&over, &limits), [249 * 1_024, 1_025]);
        assert_eq!(sizes(&vec![record(20); 500], &limits), [10_000]);
        assert_eq!(sizes(&vec![record(20); 501], &limits), [10_000, 20]);
        let alone = FirehoseLimits { record_target_bytes: 0, ..limits };
        assert_eq!(sizes(&[record(20), record(30)], &alone), [20, 30]);
    }

    #[test]
    fn a_record_of_1000_kib_goes_and_one_more_byte_becomes_a_reject() {
        let limits = FirehoseLimits::default();
        let fits = pack(&[record(MAX_RECORD_BYTES)], &limits);
        assert_eq!(fits[0].len(), MAX_RECORD_BYTES);
        let over = pack(&[record(MAX_RECORD_BYTES + 1)], &limits);
        assert!(over[0].starts_with(b"{\"reject_id\"") && over[0].len() <= MAX_RECORD_BYTES);
    }

    #[test]
    fn typical_events_waste_one_percent_and_not_five_times_themselves() {
        let events = vec![record(901); 2_000];
        let batch = SinkBatch {
            collector_id: "c".to_owned(),
            first_wal_seq: 1,
            last_wal_seq: 2_000,
            records: events,
        };
        let packing = |limits: &FirehoseLimits| Packing::of(&batch, limits);
        let limits = FirehoseLimits::default();
        let bytes = 901 * 2_000;
        let together = packing(&limits);
        assert!(together.billed_bytes * 100 < bytes * 102);
        // 284 lines of 901 bytes are the most below 256,000 bytes.
        assert_eq!((together.bytes, together.records, together.calls), (bytes, 8, 1));
        let alone = packing(&FirehoseLimits { record_target_bytes: 0, ..limits });
        assert_eq!(alone.billed_bytes, 2_000 * BILLED_STEP_BYTES);
        assert_eq!((alone.records, alone.calls), (2_000, 4));
    }

    proptest! {
        #[test]
        fn packing_keeps_every_line_once_in_order(
            lines in proptest::collection::vec(16_usize..2_000, 0..200),
            record_target_bytes in 0_usize..9_000,
        ) {
            let records: Vec<SpoolRecord> = lines.iter().map(|bytes| record(*bytes)).collect();
            let limits = FirehoseLimits { record_target_bytes, ..FirehoseLimits::default() };
            let packed = pack(&records, &limits);
            let expected: Vec<u8> =
                records.iter().flat_map(|one| [&one.line[..], b"\n"].concat()).collect();
            for one in &packed {
                let lines = one.iter().filter(|byte| **byte == b'\n').count();
                prop_assert!(one.ends_with(b"\n") && lines > 0);
                prop_assert!(lines == 1 || one.len() <= record_target_bytes);
            }
            prop_assert_eq!(packed.concat(), expected);
        }
    }
}
