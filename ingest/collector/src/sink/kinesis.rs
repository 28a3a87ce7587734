//! Kinesis Data Streams, by PutRecords.
//!
//! A record is one line with a newline; its partition key is the visitor's id
//! (else the event's), so a visitor's events stay in order on one shard as far
//! as retries allow. Records that Kinesis refuses are sent again alone; what a
//! batch already got through is remembered, so that the shipper's retry of the
//! batch sends only the rest. After a restart in the middle of a batch, or a
//! time-out that had succeeded, records arrive twice, with the same lineage.
//!
//! A line too large for a record becomes a reject (`too_large`) with its
//! lineage and as many of its bytes as fit.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clickmill_schemas::{Reject, RejectReason, Timestamp, WireRecord};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{RecordKind, Sink, SinkBatch, SinkError, SpoolRecord};
use crate::backoff::Backoff;

/// Records in a PutRecords call (service model of 2024, `PutRecordsRequestEntryList`).
pub const MAX_RECORDS_A_CALL: usize = 500;
/// Bytes in a call, partition keys included (API reference of 2025; 5 MiB before).
pub const MAX_BYTES_A_CALL: usize = 10 * 1024 * 1024;
/// Bytes of a record with its partition key, where the stream has the default
/// `MaxRecordSize`.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;
/// Characters of a partition key (API reference, `PartitionKey`).
pub const MAX_PARTITION_KEY_CHARS: usize = 256;
/// How often refused records are sent again before the shipper is told.
const ATTEMPTS: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Of a line too large for a record, a reject keeps this much; base64 makes it
/// a third longer.
const KEPT_BYTES: usize = 512 * 1024;

/// The service's caps, for streams that have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KinesisLimits {
    /// [`MAX_RECORDS_A_CALL`].
    pub records_a_call: usize,
    /// [`MAX_BYTES_A_CALL`].
    pub bytes_a_call: usize,
    /// [`MAX_RECORD_BYTES`], up to 10 MiB where the stream allows it.
    pub record_bytes: usize,
}

impl Default for KinesisLimits {
    fn default() -> Self {
        Self {
            records_a_call: MAX_RECORDS_A_CALL,
            bytes_a_call: MAX_BYTES_A_CALL,
            record_bytes: MAX_RECORD_BYTES,
        }
    }
}

/// A stream.
#[derive(Debug)]
pub struct KinesisSink {
    client: Client,
    stream: String,
    limits: KinesisLimits,
    progress: Mutex<Progress>,
}

/// How far the current batch got: which of its records Kinesis has.
#[derive(Debug, Default)]
struct Progress {
    batch: Option<(String, i64, i64, usize)>,
    pending: Vec<usize>,
}

/// A record as Kinesis takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outgoing {
    key: String,
    data: Bytes,
}

impl KinesisSink {
    /// Sends to `stream` (a name) with `client`, whose own retries are switched
    /// off: a retry has one owner.
    #[must_use]
    pub fn new(client: &Client, stream: impl Into<String>) -> Self {
        let config = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        Self {
            client: Client::from_conf(config),
            stream: stream.into(),
            limits: KinesisLimits::default(),
            progress: Mutex::default(),
        }
    }

    /// With other caps.
    #[must_use]
    pub const fn with_limits(mut self, limits: KinesisLimits) -> Self {
        self.limits = limits;
        self
    }

    /// One call; returns those of `indexes` that Kinesis did not take, and why.
    async fn put(
        &self,
        records: &[Outgoing],
        indexes: &[usize],
    ) -> Result<(Vec<usize>, Option<String>), SinkError> {
        let mut call = self.client.put_records().stream_name(&self.stream);
        for &index in indexes {
            let Outgoing { key, data } = &records[index];
            let entry = PutRecordsRequestEntry::builder()
                .partition_key(key)
                .data(Blob::new(data.as_ref()))
                .build()
                .map_err(|e| SinkError::permanent("cannot build a record").with_source(e))?;
            call = call.records(entry);
        }
        let output = call.send().await.map_err(|error| self.call_failed(error))?;
        Ok(refused(&output, indexes))
    }

    fn call_failed(
        &self,
        error: aws_sdk_kinesis::error::SdkError<
            aws_sdk_kinesis::operation::put_records::PutRecordsError,
        >,
    ) -> SinkError {
        const NEEDS_SOMEBODY: &[&str] = &[
            "ResourceNotFoundException",
            "AccessDeniedException",
            "InvalidArgumentException",
            "ValidationException",
            "KMSAccessDeniedException",
            "KMSDisabledException",
            "KMSNotFoundException",
            "KMSOptInRequired",
            "UnrecognizedClientException",
            "InvalidSignatureException",
        ];
        let code = error.code().unwrap_or("no answer").to_owned();
        let message = format!("PutRecords to the stream {} failed ({code})", self.stream);
        let sink_error = if NEEDS_SOMEBODY.contains(&code.as_str()) {
            SinkError::permanent(message)
        } else {
            SinkError::retryable(message)
        };
        sink_error.with_source(error)
    }
}

#[async_trait]
impl Sink for KinesisSink {
    /// Kinesis cannot tell.
    async fn resume_after(&self, _collector_id: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        let records: Vec<Outgoing> =
            batch.records.iter().map(|record| outgoing(record, self.limits.record_bytes)).collect();
        let id = (batch.collector_id, batch.first_wal_seq, batch.last_wal_seq, batch.records.len());
        let mut progress = self.progress.lock().await;
        if progress.batch.as_ref() != Some(&id) {
            *progress = Progress { batch: Some(id), pending: (0..records.len()).collect() };
        }
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut why = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(backoff.next()).await;
            }
            let calls = cut(&records, &progress.pending, &self.limits);
            let mut left = Vec::new();
            let mut calls = calls.into_iter();
            while let Some(call) = calls.next() {
                match self.put(&records, &call).await {
                    Ok((refused, reason)) => {
                        left.extend(refused);
                        why = reason.or(why);
                    }
                    Err(error) => {
                        left.extend(call);
                        left.extend(calls.flatten());
                        progress.pending = left;
                        return Err(error);
                    }
                }
            }
            progress.pending = left;
            if progress.pending.is_empty() {
                progress.batch = None;
                return Ok(());
            }
        }
        Err(SinkError::retryable(format!(
            "the stream {} refused {} of {} records in {ATTEMPTS} attempts ({}); it may need more \
             shards",
            self.stream,
            progress.pending.len(),
            records.len(),
            why.unwrap_or_default()
        )))
    }
}

/// Those of `indexes` whose result has an error code, and the first such code.
fn refused(output: &PutRecordsOutput, indexes: &[usize]) -> (Vec<usize>, Option<String>) {
    let results = output.records();
    let mut why = None;
    let refused = indexes
        .iter()
        .enumerate()
        .filter(|(at, _)| match results.get(*at) {
            Some(result) => {
                why = why.take().or_else(|| result.error_code().map(str::to_owned));
                result.error_code().is_some()
            }
            // An answer that is too short says nothing about the rest.
            None => true,
        })
        .map(|(_, index)| *index)
        .collect();
    (refused, why)
}

/// `pending` in calls within the caps.
fn cut(records: &[Outgoing], pending: &[usize], limits: &KinesisLimits) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &index in pending {
        let size = records[index].size();
        match calls.last_mut() {
            Some(call)
                if call.len() < limits.records_a_call && bytes + size <= limits.bytes_a_call =>
            {
                bytes += size;
                call.push(index);
            }
            _ => {
                bytes = size;
                calls.push(vec![index]);
            }
        }
    }
    calls
}

impl Outgoing {
    fn size(&self) -> usize {
        self.key.len() + self.data.len()
    }
}

/// The parts of a line that its key and a reject of it need.
#[derive(Default, Deserialize)]
struct Ids<'a> {
    #[serde(borrow, default)]
    anonymous_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    network_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    device_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    user_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    event_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    reject_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    app_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    collector_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    received_ts: Option<Timestamp>,
}

fn outgoing(record: &SpoolRecord, max_bytes: usize) -> Outgoing {
    // A line of ours always decodes; one that does not still gets out.
    let ids: Ids<'_> = serde_json::from_slice(&record.line).unwrap_or_default();
    let key = [
        &ids.anonymous_id,
        &ids.network_id,
        &ids.device_id,
        &ids.user_id,
        &ids.event_id,
        &ids.reject_id,
        &ids.collector_id,
    ]
    .into_iter()
    .find_map(|id| id.as_deref().filter(|id| !id.is_empty()))
    .unwrap_or("clickmill");
    let key: String = key.chars().take(MAX_PARTITION_KEY_CHARS).collect();
    let room = max_bytes.saturating_sub(key.len() + 1);
    let line = if record.line.len() > room {
        tracing::warn!(
            wal_seq = record.wal_seq,
            bytes = record.line.len(),
            "a record too large for the stream becomes a reject"
        );
        Bytes::from(too_large(record, &ids, max_bytes))
    } else {
        record.line.clone()
    };
    let mut data = Vec::with_capacity(line.len() + 1);
    data.extend_from_slice(&line);
    data.push(b'\n');
    Outgoing { key, data: data.into() }
}

/// The reject that goes in place of a line larger than `max_bytes`.
fn too_large(record: &SpoolRecord, ids: &Ids<'_>, max_bytes: usize) -> String {
    let kept = &record.line[..record.line.len().min(KEPT_BYTES).min(max_bytes / 2)];
    let id = ids.event_id.as_deref().or(ids.reject_id.as_deref()).unwrap_or("unknown");
    let id: String = id.chars().take(MAX_PARTITION_KEY_CHARS).collect();
    WireRecord::Reject(Reject {
        reject_id: format!("{id}-too-large").into(),
        received_ts: ids.received_ts.unwrap_or_else(Timestamp::now),
        protocol: "kinesis".into(),
        reason: RejectReason::TooLarge,
        detail: format!(
            "{} bytes; a record of the stream has at most {max_bytes}. The first {} bytes are kept",
            record.line.len(),
            kept.len()
        )
        .into(),
        origin: "sink".into(),
        app_id: ids.app_id.as_deref().map(Into::into),
        bytes_base64: STANDARD.encode(kept).into(),
        collector_id: ids.collector_id.as_deref().map(Into::into),
        wal_seq: (record.kind != RecordKind::Heartbeat).then_some(record.wal_seq),
        shard_id: None,
        sequence_number: None,
    })
    .encode()
}

#[cfg(test)]
#[path = "kinesis_tests.rs"]
mod tests;
