//! Kinesis Data Streams, by PutRecords.
//!
//! # Guarantees
//! - A record holds the lines of several events in the KPL's aggregation
//!   ([`super::kpl`]), or one line with a newline. Lines are aggregated by the
//!   shard they belong to: by the MD5 of their partition key, the visitor's id
//!   (else the event's). A visitor's events stay in order on one shard as far
//!   as retries and resharding allow.
//! - Records that Kinesis refuses are sent again alone. What a batch already
//!   got through is remembered, so that the shipper's retry sends only the
//!   rest. After a restart in the middle of a batch, or a call that succeeded
//!   without an answer, records arrive twice, with the same lineage.
//! - The shards are asked for at the start, when an answer shows another shard
//!   than predicted, and now and then. Where that is not allowed or fails,
//!   lines are aggregated by equal parts of the hash space: dearer, as safe.
//!
//! # Failure
//! A shard that throttles is slowed down by itself (`pace`), and what it does
//! not take yet is held back, within [`HELD_BYTES`] and [`HELD_EVENTS`], while
//! later batches go on; refusals are waited out in rounds (`rounds`). Nothing is
//! ever given up.
//!
//! # Limits
//! [`KinesisLimits`]. A line too large for a record becomes a reject
//! (`too_large`) with its lineage and as many of its bytes as fit.

mod pace;
mod pack;
mod shards;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardFilter, ShardFilterType};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::pace::Pacer;
use self::pack::Outgoing;
use self::shards::{Mapping, Refreshed, ShardMap};
use super::progress::{CallCaps, Progress, Ready};
use super::rounds::{self, Answer, Service, Settled};
use super::{Sink, SinkBatch, SinkError};
use crate::metrics::Metrics;

pub use super::line::MAX_PARTITION_KEY_CHARS;
pub use super::rounds::CALL_TIMEOUT;
pub use pack::Packing;

/// Records in a PutRecords call (service model of 2024, `PutRecordsRequestEntryList`).
pub const MAX_RECORDS_A_CALL: usize = 500;
/// Bytes in a call, partition keys included (API reference of 2025; 5 MiB before).
pub const MAX_BYTES_A_CALL: usize = 10 * 1024 * 1024;
/// Bytes of a record with its partition key, where the stream has the default
/// `MaxRecordSize`.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;
/// Bytes of an aggregate: the KPL's own default (`AggregationMaxSize`), and
/// two PUT payload units to the byte.
pub const AGGREGATE_BYTES: usize = 51_200;
/// A record is billed in steps of this many bytes (Kinesis Data Streams
/// pricing, "PUT Payload Unit": 25 KB).
pub const PUT_UNIT_BYTES: usize = 25 * 1024;
/// What shards that throttle do not take yet is held in memory up to this: their
/// later records wait behind it, all others go on.
pub const HELD_BYTES: usize = 8 * 1024 * 1024;
/// The newest event that was sent is no more than so many after the first that
/// is held: after a crash, what lies between may be sent twice.
pub const HELD_EVENTS: i64 = 100_000;
/// Pages of ListShards: 1,000 shards each, more than any stream has.
const MAX_LIST_PAGES: usize = 100;
/// What counts for a shard whose name is not known.
const UNKNOWN_SHARD: &str = "unknown";
/// What a record's error code says of a shard that is sent too much.
const THROTTLED: &str = "ProvisionedThroughputExceededException";

/// The service's caps, for streams that have others, and our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KinesisLimits {
    /// [`MAX_RECORDS_A_CALL`].
    pub records_a_call: usize,
    /// [`MAX_BYTES_A_CALL`].
    pub bytes_a_call: usize,
    /// [`MAX_RECORD_BYTES`], up to 10 MiB where the stream allows it.
    pub record_bytes: usize,
    /// [`AGGREGATE_BYTES`]; 0 switches aggregation off, for consumers that
    /// cannot take aggregates apart.
    pub aggregate_bytes: usize,
    /// [`CALL_TIMEOUT`].
    pub call_timeout: Duration,
}

impl Default for KinesisLimits {
    fn default() -> Self {
        Self {
            records_a_call: MAX_RECORDS_A_CALL,
            bytes_a_call: MAX_BYTES_A_CALL,
            record_bytes: MAX_RECORD_BYTES,
            aggregate_bytes: AGGREGATE_BYTES,
            call_timeout: CALL_TIMEOUT,
        }
    }
}

impl KinesisLimits {
    /// A record has to fit into a call, too.
    pub(super) fn largest_record(&self) -> usize {
        self.record_bytes.min(self.bytes_a_call)
    }

    pub(super) const fn caps(&self) -> CallCaps {
        CallCaps { records: self.records_a_call, bytes: self.bytes_a_call }
    }
}

/// A stream.
#[derive(Debug)]
pub struct KinesisSink {
    client: Client,
    stream: String,
    limits: KinesisLimits,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// [`Sink::held_from`]; 0 where nothing is.
    held_from: AtomicI64,
}

/// What lasts from batch to batch.
#[derive(Debug, Default)]
struct State {
    /// Of the last batch, with what is held of those before.
    progress: Option<Progress<Outgoing>>,
    /// The last `wal_seq` of that batch.
    last_wal_seq: i64,
    mapping: Mapping,
    pacer: Pacer,
}

impl KinesisSink {
    /// Sends to `stream` (a name) with `client`, whose own retries are switched
    /// off: a retry has one owner.
    #[must_use]
    pub fn new(client: &Client, stream: impl Into<String>, limits: KinesisLimits) -> Self {
        let config = client.config().to_builder().retry_config(RetryConfig::disabled());
        let config = config.timeout_config(rounds::timeouts(limits.call_timeout)).build();
        Self {
            client: Client::from_conf(config),
            stream: stream.into(),
            limits,
            metrics: Arc::default(),
            state: Mutex::default(),
            held_from: AtomicI64::new(0),
        }
    }

    /// Counts there: throttles and retries of records, and by shard what it
    /// took and what it throttled, so that a hot one shows.
    #[must_use]
    pub fn counting(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Asks for the shards where that is due. Only between two batches: the
    /// records of a batch know their shards by their place in the map, and those
    /// that are held get their new places with the next batch.
    async fn refresh(&self, state: &mut State) {
        if !state.mapping.is_due(Instant::now()) {
            return;
        }
        let map = match self.list_shards().await {
            Ok(map) => map,
            Err(error) => {
                tracing::warn!(
                    stream = self.stream,
                    %error,
                    "the shards cannot be listed; aggregating by what is known of them"
                );
                state.mapping.not_refreshed(Instant::now());
                return;
            }
        };
        match state.mapping.refreshed(map, Instant::now()) {
            Refreshed::Same => {}
            Refreshed::Changed => {
                tracing::info!(
                    stream = self.stream,
                    shards = state.mapping.map.len(),
                    "the stream's shards"
                );
                state.pacer.clear();
            }
            Refreshed::SelfDistributing => tracing::warn!(
                stream = self.stream,
                "records land on other shards than their keys say: the stream distributes them by \
                 itself, so a visitor's events are in no order across its shards"
            ),
        }
    }

    /// Sends what is pending, but for what may be held.
    async fn drive(&self, state: &mut State) -> Result<(), SinkError> {
        let State { progress: slot, last_wal_seq, mapping, pacer } = state;
        let Some(progress) = slot else { return Ok(()) };
        let through = *last_wal_seq;
        // It stays where it is, so that neither a failure nor a dropped call forgets it.
        rounds::drive(&mut Sending { sink: self, mapping, pacer, through }, progress).await?;
        progress.forget_settled();
        let held_from = progress.rest().map(|record| record.first_wal_seq).min();
        self.held_from.store(held_from.unwrap_or(0), Ordering::SeqCst);
        if held_from.is_none() {
            *slot = None;
        }
        Ok(())
    }

    async fn list_shards(&self) -> Result<ShardMap, SinkError> {
        let newest = ShardFilter::builder()
            .r#type(ShardFilterType::AtLatest)
            .build()
            .map_err(|e| SinkError::permanent("cannot build a filter").with_source(e))?;
        let mut shards = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_LIST_PAGES {
            let call = self.client.list_shards();
            // A token stands for the name and the filter.
            let call = match token {
                Some(token) => call.next_token(token),
                None => call.stream_name(&self.stream).shard_filter(newest.clone()),
            };
            let page = call.send().await.map_err(|error| {
                let code = error.code().unwrap_or("no answer").to_owned();
                SinkError::retryable(format!("ListShards failed ({code})")).with_source(error)
            })?;
            shards.extend_from_slice(page.shards());
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        ShardMap::from_listing(&shards)
            .ok_or_else(|| SinkError::retryable("ListShards names no open shard"))
    }
}

/// The stream in the middle of a batch.
struct Sending<'a> {
    sink: &'a KinesisSink,
    mapping: &'a mut Mapping,
    pacer: &'a mut Pacer,
    through: i64,
}

impl Service for Sending<'_> {
    type Record = Outgoing;

    fn caps(&self) -> CallCaps {
        self.sink.limits.caps()
    }

    fn size(record: &Outgoing) -> usize {
        record.size()
    }

    fn ready(&mut self, progress: &Progress<Outgoing>) -> Ready {
        self.pacer.ready(&progress.pending, &progress.records, Instant::now())
    }

    async fn call(&self, records: &[Outgoing], indexes: &[usize]) -> Result<Settled, SinkError> {
        let KinesisSink { client, stream, .. } = self.sink;
        let mut call = client.put_records().stream_name(stream);
        for &index in indexes {
            let record = &records[index];
            let entry = PutRecordsRequestEntry::builder()
                .partition_key(&record.partition_key)
                .set_explicit_hash_key(record.explicit_hash_key.clone())
                .data(Blob::new(record.data.as_ref()))
                .build()
                .map_err(|e| SinkError::permanent("cannot build a record").with_source(e))?;
            call = call.records(entry);
        }
        let operation = format!("PutRecords to the stream {stream}");
        let output = call.send().await.map_err(|error| rounds::call_failed(&operation, error))?;
        let answers = output.records().iter();
        let answers =
            answers.map(|one| Answer { error_code: one.error_code(), shard: one.shard_id() });
        Ok(Settled::of(indexes, answers))
    }

    /// Slows down or speeds up, too, and holds the map against the answer.
    fn note(&mut self, records: &[Outgoing], settled: &Settled) {
        let Self { sink: KinesisSink { metrics, .. }, mapping, pacer, .. } = self;
        let now = Instant::now();
        let throttled: BTreeSet<usize> = settled
            .refused
            .iter()
            .filter(|(_, code)| code == THROTTLED)
            .map(|(index, _)| records[*index].place)
            .collect();
        let took: BTreeSet<usize> =
            settled.taken.iter().map(|(index, _)| records[*index].place).collect();
        for place in &throttled {
            pacer.throttled(*place, now);
        }
        for place in took.difference(&throttled) {
            pacer.took(*place, now);
        }
        for (index, shard) in &settled.taken {
            if let Some(shard) = shard {
                mapping.landed(records[*index].place, shard);
            }
        }
        for (index, shard) in &settled.taken {
            let shard = [shard.as_deref().unwrap_or(UNKNOWN_SHARD)];
            metrics.shard_records.with(shard).inc();
            metrics.shard_bytes.with(shard).add(records[*index].size() as u64);
        }
        for (index, code) in &settled.refused {
            metrics.sink_retries.with([code]).inc();
            if code == THROTTLED {
                let shard = mapping.map.id(records[*index].place);
                let shard = [shard.map_or(UNKNOWN_SHARD, AsRef::as_ref)];
                metrics.sink_throttles.inc();
                metrics.shard_throttles.with(shard).inc();
            }
        }
    }

    fn holds(&self, progress: &Progress<Outgoing>) -> bool {
        progress.rest().map(Outgoing::size).sum::<usize>() <= HELD_BYTES
            && progress.rest().all(|record| {
                self.pacer.slows(record.place) && self.through - record.first_wal_seq <= HELD_EVENTS
            })
    }

    fn refuses(&self, refused: &str) -> SinkError {
        SinkError::retryable(format!(
            "the stream {} refused {refused}; it may need more shards",
            self.sink.stream
        ))
    }
}

#[async_trait]
impl Sink for KinesisSink {
    /// Kinesis cannot tell.
    async fn resume_after(&self, _collector_id: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        if !state.progress.as_ref().is_some_and(|progress| progress.is_of(&batch)) {
            self.refresh(state).await;
            let map = &state.mapping.map;
            let held = state.progress.iter().flat_map(Progress::rest).cloned();
            let held = held.map(|record| Outgoing { place: map.place_of(record.hash), ..record });
            let records = held.chain(pack::pack(&batch.records, map, &self.limits)).collect();
            state.progress = Some(Progress::new(&batch, records));
            state.last_wal_seq = batch.last_wal_seq;
        }
        self.drive(state).await
    }

    fn held_from(&self) -> Option<i64> {
        match self.held_from.load(Ordering::SeqCst) {
            0 => None,
            from => Some(from),
        }
    }

    async fn settle(&self) -> Result<(), SinkError> {
        let mut state = self.state.lock().await;
        self.drive(&mut state).await
    }
}
