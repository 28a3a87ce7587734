//! Carries the spool's records to the sink, in order, one batch at a time.
//!
//! It never gives up and never skips: while the sink refuses, the spool keeps
//! the data, until it is full and refuses in its turn. After each batch the
//! checkpoint is written, so a restart begins after the last batch that was
//! noted; a sink that can tell what it has (`resume_after`) is believed
//! rather than the checkpoint. What a sink holds back (`held_from`) is not
//! noted before it is durable, and is asked for again and again meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::sink::{RecordKind, Sink, SinkBatch, SinkError, SpoolRecord};
use crate::spool::{Spool, SpoolReader};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A sink that holds something back is asked to send it this often.
const SETTLE_EVERY: Duration = Duration::from_millis(100);

/// When a batch is sent: as soon as one of these is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Events, rejects and heartbeats, at most.
    pub max_events: usize,
    /// Bytes of lines; one record may exceed it.
    pub max_bytes: usize,
    /// How long the first record of a batch waits for others.
    pub max_wait: Duration,
}

impl Default for BatchLimits {
    /// 20,000 records, 16 MiB, 5 seconds: few and large objects for a lake.
    fn default() -> Self {
        Self { max_events: 20_000, max_bytes: 16 * 1024 * 1024, max_wait: Duration::from_secs(5) }
    }
}

/// What the sink last said; `None` while all is well.
#[derive(Clone, Debug, Default)]
pub(crate) struct SinkHealth(Arc<Mutex<Option<String>>>);

pub(crate) struct Shipper {
    spool: Arc<Spool>,
    sink: Arc<dyn Sink>,
    limits: BatchLimits,
    health: SinkHealth,
    metrics: Arc<Metrics>,
    /// Cancelled once the spool is closed: ship what is left, at once, and end.
    drain: CancellationToken,
    buffer: VecDeque<Buffered>,
    buffered_bytes: usize,
    buffering_since: Instant,
    /// The segment that the reader is in.
    reading: u64,
    /// The last `wal_seq` that the sink took.
    sent: i64,
    /// The last one of those that are durable without a gap.
    shipped: i64,
    /// The batches between the two, in order.
    held: VecDeque<Held>,
}

struct Buffered {
    ordinal: u64,
    record: SpoolRecord,
}

/// A batch of which the sink holds something back, or of one before.
struct Held {
    last_wal_seq: i64,
    /// The segment where it begins.
    ordinal: u64,
    /// When its first record was received, in milliseconds since 1970.
    received_ms: Option<i64>,
}

impl Shipper {
    pub fn new(
        spool: Arc<Spool>,
        sink: Arc<dyn Sink>,
        limits: BatchLimits,
        health: SinkHealth,
        drain: CancellationToken,
    ) -> Self {
        Self {
            spool,
            sink,
            limits,
            health,
            metrics: Arc::default(),
            drain,
            buffer: VecDeque::new(),
            buffered_bytes: 0,
            buffering_since: Instant::now(),
            reading: 0,
            sent: 0,
            shipped: 0,
            held: VecDeque::new(),
        }
    }

    /// Says how old the oldest record is that is not shipped.
    pub fn counting(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Until it has drained.
    pub async fn run(mut self) {
        self.shipped = self.resume().await;
        self.sent = self.shipped;
        let mut commits = self.spool.commits();
        let mut reader = self.spool.reader();
        loop {
            commits.mark_unchanged();
            let draining = self.drain.is_cancelled();
            reader = self.fill(reader).await;
            self.note_oldest(self.buffer.front().map(|next| &next.record));
            let holding = self.sink.held_from().is_some();
            if self.buffer.is_empty() && !holding && draining {
                return;
            }
            let due = self.buffering_since + self.limits.max_wait;
            let is_due = self.is_full() || draining || Instant::now() >= due;
            if !self.buffer.is_empty() && is_due {
                self.send().await;
                continue;
            }
            let due = (!self.buffer.is_empty()).then_some(due);
            let settle = holding.then(|| Instant::now() + SETTLE_EVERY);
            tokio::select! {
                _ = commits.changed() => {}
                () = sleep_until(due.into_iter().chain(settle).min()) => {}
                () = self.drain.cancelled(), if !draining => {}
            }
            if holding {
                self.settle().await;
            }
        }
    }

    /// The `wal_seq` after which to begin.
    async fn resume(&self) -> i64 {
        let status = self.spool.status();
        let noted = status.shipped_wal_seq;
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let error = match self.sink.resume_after(&self.spool.collector_id()).await {
                Ok(None) => return noted,
                Ok(Some(has)) if has <= status.last_wal_seq => {
                    if has < noted {
                        tracing::warn!(
                            sink_has = has,
                            checkpoint = noted,
                            "the sink holds less than was shipped (another sink, or one that lost \
                             data): sending again what the spool still has"
                        );
                    }
                    self.health.set(None);
                    return has;
                }
                Ok(Some(has)) => SinkError::permanent(format!(
                    "the sink holds wal_seq {has} of this collector but its spool ends at {}: the \
                     spool is an old copy; stop this collector, move its folder away and start \
                     with a new one",
                    status.last_wal_seq
                )),
                Err(error) => error,
            };
            self.failed("ask the sink what it has", &error, &mut backoff).await;
        }
    }

    /// Reads until a batch is full or the reader has caught up.
    async fn fill(&mut self, mut reader: SpoolReader) -> SpoolReader {
        while !self.is_full() {
            let read = tokio::task::spawn_blocking(move || {
                let frames = reader.next_frames();
                (reader, frames)
            })
            .await;
            let frames = match read {
                Ok((back, frames)) => {
                    reader = back;
                    frames
                }
                Err(error) => {
                    tracing::error!(%error, "reading the spool panicked; starting over");
                    reader = self.start_over().await;
                    continue;
                }
            };
            match frames {
                Ok(frames) if frames.is_empty() => break,
                Ok(frames) => {
                    for frame in frames {
                        for record in frame.records {
                            self.push(frame.ordinal, record);
                        }
                    }
                }
                Err(error) => {
                    self.health.set(Some(describe(&error)));
                    tracing::error!(error = %describe(&error), "cannot read the spool; starting over");
                    reader = self.start_over().await;
                }
            }
        }
        self.reading = reader.ordinal();
        reader
    }

    async fn start_over(&mut self) -> SpoolReader {
        tokio::time::sleep(LAST_RETRY).await;
        self.buffer.clear();
        self.buffered_bytes = 0;
        self.spool.reader()
    }

    fn push(&mut self, ordinal: u64, record: SpoolRecord) {
        // A heartbeat right after the last shipped record may go twice: it says nothing new.
        let known = match record.kind {
            RecordKind::Heartbeat => record.wal_seq < self.sent,
            RecordKind::Event | RecordKind::Reject => record.wal_seq <= self.sent,
        };
        if known {
            return;
        }
        if self.buffer.is_empty() {
            self.buffering_since = Instant::now();
        }
        self.buffered_bytes += record.line.len();
        self.buffer.push_back(Buffered { ordinal, record });
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= self.limits.max_events || self.buffered_bytes >= self.limits.max_bytes
    }

    /// The longest prefix of the buffer within the limits, at least one record.
    fn take_batch(&mut self) -> SinkBatch {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut last = self.sent;
        while let Some(next) = self.buffer.front() {
            let len = next.record.line.len();
            let fits =
                records.len() < self.limits.max_events && bytes + len <= self.limits.max_bytes;
            if !fits && !records.is_empty() {
                break;
            }
            bytes += len;
            let Some(next) = self.buffer.pop_front() else { break };
            if next.record.kind != RecordKind::Heartbeat {
                last = next.record.wal_seq;
            }
            records.push(next.record);
        }
        self.buffered_bytes -= bytes;
        SinkBatch {
            collector_id: self.spool.collector_id(),
            first_wal_seq: self.sent + 1,
            last_wal_seq: last,
            records,
        }
    }

    /// Sends a batch until it is taken, then notes it.
    async fn send(&mut self) {
        let ordinal = self.buffer.front().map_or(self.reading, |next| next.ordinal);
        let batch = self.take_batch();
        self.note_oldest(batch.records.first());
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        while let Err(error) = self.sink.send(batch.clone()).await {
            self.failed("send a batch", &error, &mut backoff).await;
        }
        clickmill_failpoint::hit("sink.landed");
        self.sent = batch.last_wal_seq;
        let received_ms = batch.records.first().and_then(|first| received_ms(&first.line));
        self.held.push_back(Held { last_wal_seq: self.sent, ordinal, received_ms });
        self.note_shipped().await;
    }

    /// Has the sink send of what it holds back what is taken now.
    async fn settle(&mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        while let Err(error) = self.sink.settle().await {
            self.failed("send what was held back", &error, &mut backoff).await;
        }
        self.note_shipped().await;
    }

    /// Notes what is durable now.
    async fn note_shipped(&mut self) {
        self.health.set(None);
        // A sink that two spools share may hold back what is the other's: no number of it
        // takes this one past what it sent, or back.
        let durable = self.sink.held_from().map_or(self.sent, |from| from - 1);
        let durable = durable.min(self.sent).max(self.shipped);
        let held = self.held.len();
        self.held.retain(|batch| batch.last_wal_seq > durable);
        if self.held.len() == held && durable == self.shipped {
            return;
        }
        self.shipped = durable;
        self.spool.note_shipped(durable);
        let next = self.buffer.front().map_or(self.reading, |next| next.ordinal);
        let before = self.held.front().map_or(next, |batch| batch.ordinal);
        let spool = Arc::clone(&self.spool);
        let noted = tokio::task::spawn_blocking(move || spool.checkpoint(durable, before)).await;
        // Not noting it costs a repetition after a restart, nothing more.
        match noted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(error = %describe(&error), "cannot write the spool's checkpoint");
            }
            Err(error) => tracing::error!(%error, "writing the checkpoint panicked"),
        }
    }

    /// `next` is the first record that the sink did not take yet.
    fn note_oldest(&self, next: Option<&SpoolRecord>) {
        // One without the time is a heartbeat: what follows it has one.
        let received = match self.held.front() {
            Some(held) => Some(held.received_ms),
            None => next.map(|record| received_ms(&record.line)),
        };
        match received {
            None => self.metrics.oldest_unshipped_ms.set(0),
            Some(None) => {}
            Some(Some(received)) => self.metrics.oldest_unshipped_ms.set(received),
        }
    }

    async fn failed(&self, operation: &str, error: &SinkError, backoff: &mut Backoff) {
        let text = describe(error);
        let wait = if error.is_retryable() { backoff.next() } else { LAST_RETRY };
        if error.is_retryable() {
            tracing::warn!(operation, error = %text, ?wait, "the sink refused; trying again");
        } else {
            tracing::error!(operation, error = %text, ?wait, "the sink refused; the spool keeps the data until this is put right");
        }
        self.health.set(Some(text));
        tokio::time::sleep(wait).await;
    }
}

impl SinkHealth {
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// For ever without a time.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// When the record was received, in milliseconds since 1970. The key cannot
/// stand inside of a value: its quotes would be escaped.
fn received_ms(line: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(line).ok()?;
    let (_, after) = text.split_once("\"received_ts\":\"")?;
    let (time, _) = after.split_once('"')?;
    Some(clickmill_schemas::Timestamp::parse(time).ok()?.micros() / 1_000)
}

/// The error and its causes, for a status line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "shipper_tests.rs"]
mod tests;
