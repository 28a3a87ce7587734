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
//! Refusals are waited out with decorrelated jitter; after eight rounds in a
//! row in which nothing got through, or a call that failed as a whole, the
//! shipper takes over, with longer waits. Nothing is ever given up.
//!
//! # Limits
//! [`FirehoseLimits`]. A line too large for a record becomes a reject
//! (`too_large`) with its lineage and as many of its bytes as fit.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::config::retry::RetryConfig;
use aws_sdk_firehose::config::timeout::TimeoutConfig;
use aws_sdk_firehose::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_firehose::operation::put_record_batch::{PutRecordBatchError, PutRecordBatchOutput};
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::line::{Line, RecordCap};
use super::progress::{CallCaps, Progress, cut};
use super::{Sink, SinkBatch, SinkError, SpoolRecord};
use crate::backoff::Backoff;
use crate::metrics::Metrics;

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
/// A call that has no answer by now counts as failed; it may have succeeded.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is not made by now counts as failed (the SDK's own default).
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);
/// Rounds in a row in which nothing gets through, before the shipper is told.
const ATTEMPTS: usize = 8;
/// What a record's error code says of a stream that is sent too much (API
/// Reference, PutRecordBatch: "Slow down").
const THROTTLED: &str = "ServiceUnavailableException";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

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
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(limits.call_timeout)
            .build();
        let config = client.config().to_builder();
        let config = config.retry_config(RetryConfig::disabled()).timeout_config(timeouts).build();
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

    /// Sends what is pending, in rounds, until nothing is.
    async fn drive(&self, progress: &mut Progress<Bytes>) -> Result<(), SinkError> {
        let caps =
            CallCaps { records: self.limits.records_a_call, bytes: self.limits.bytes_a_call };
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut in_vain = 0;
        while !progress.pending.is_empty() {
            let before = progress.pending.len();
            let mut why = None;
            for call in cut(&progress.pending, caps, |n| progress.records[n].len()) {
                let settled = self.put(&progress.records, &call).await?;
                for code in &settled.refused {
                    self.metrics.sink_retries.with([code]).inc();
                    if code == THROTTLED {
                        self.metrics.sink_throttles.inc();
                    }
                }
                progress.settle(&settled.taken);
                why = settled.refused.into_iter().next().or(why);
            }
            let Some(why) = why else { continue };
            if progress.pending.len() < before {
                in_vain = 0;
                backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
            } else {
                in_vain += 1;
            }
            if in_vain == ATTEMPTS {
                return Err(SinkError::retryable(format!(
                    "the delivery stream {} refused {} of {} records in {ATTEMPTS} attempts \
                     ({why}); it may need a higher quota",
                    self.stream,
                    progress.pending.len(),
                    progress.records.len(),
                )));
            }
            tokio::time::sleep(backoff.next()).await;
        }
        Ok(())
    }

    /// One call.
    async fn put(&self, records: &[Bytes], indexes: &[usize]) -> Result<Settled, SinkError> {
        let mut call = self.client.put_record_batch().delivery_stream_name(&self.stream);
        for &index in indexes {
            let record = Record::builder()
                .data(Blob::new(records[index].as_ref()))
                .build()
                .map_err(|e| SinkError::permanent("cannot build a record").with_source(e))?;
            call = call.records(record);
        }
        let output = call.send().await.map_err(|error| call_failed(&self.stream, error))?;
        Ok(settled(&output, indexes))
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
        self.drive(progress.insert(current)).await?;
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

/// What became of a call's records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settled {
    /// Firehose has these, ascending.
    taken: Vec<usize>,
    /// The codes of the others.
    refused: Vec<String>,
}

/// Which of `indexes` the answer takes, and why not the others.
fn settled(output: &PutRecordBatchOutput, indexes: &[usize]) -> Settled {
    let mut settled = Settled::default();
    for (at, &index) in indexes.iter().enumerate() {
        match output.request_responses().get(at) {
            Some(result) => match result.error_code() {
                None => settled.taken.push(index),
                Some(code) => settled.refused.push(code.to_owned()),
            },
            // An answer that is too short says nothing about the rest.
            None => settled.refused.push("no result".to_owned()),
        }
    }
    settled
}

fn call_failed(stream: &str, error: SdkError<PutRecordBatchError>) -> SinkError {
    const NEEDS_SOMEBODY: &[&str] = &[
        "ResourceNotFoundException",
        "AccessDeniedException",
        "InvalidArgumentException",
        "InvalidKMSResourceException",
        "InvalidSourceException",
        "ValidationException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ];
    let code = error.code().unwrap_or("no answer").to_owned();
    let message = format!("PutRecordBatch to the delivery stream {stream} failed ({code})");
    let sink_error = if NEEDS_SOMEBODY.contains(&code.as_str()) {
        SinkError::permanent(message)
    } else {
        SinkError::retryable(message)
    };
    sink_error.with_source(error)
}

#[cfg(test)]
mod tests {
    use aws_sdk_firehose::types::PutRecordBatchResponseEntry;
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
        let billed = |limits: &FirehoseLimits| -> usize {
            let step = BILLED_STEP_BYTES;
            sizes(&events, limits).iter().map(|bytes| bytes.div_ceil(step) * step).sum()
        };
        let limits = FirehoseLimits::default();
        let bytes = 901 * 2_000;
        assert!(billed(&limits) * 100 < bytes * 102);
        let alone = FirehoseLimits { record_target_bytes: 0, ..limits };
        assert_eq!(billed(&alone), 2_000 * BILLED_STEP_BYTES);
    }

    #[test]
    fn a_records_result_settles_it_and_a_missing_one_does_not() {
        let taken = PutRecordBatchResponseEntry::builder().record_id("r").build();
        let refused = PutRecordBatchResponseEntry::builder().error_code(THROTTLED);
        let output = PutRecordBatchOutput::builder()
            .failed_put_count(1)
            .request_responses(taken.clone())
            .request_responses(refused.build())
            .request_responses(taken)
            .build()
            .expect("an answer");
        let settled = settled(&output, &[3, 5, 8, 9]);
        assert_eq!(settled.taken, [3, 8]);
        assert_eq!(settled.refused, [THROTTLED, "no result"]);
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
