//! Where the spool's records go.
//!
//! A [`Sink`] takes batches in order of `wal_seq`, one at a time, and answers
//! when every record is durable in it, or is held back and said to be
//! ([`Sink::held_from`]). The collector's shipper is its only
//! caller and owns the retries: a batch that failed is sent again, unchanged,
//! until it is taken, also after a restart. A sink that can tell what it
//! already holds ([`Sink::resume_after`]) therefore gets each record exactly
//! once; any other gets it at least once.
//!
//! The sinks for Kinesis and Firehose need the feature `aws`, which is on by
//! default; the KPL's format ([`kpl`]) does not.

mod counted;
#[cfg(feature = "aws")]
pub mod firehose;
#[cfg(feature = "aws")]
pub mod kinesis;
pub mod kpl;
#[cfg(feature = "aws")]
mod line;
#[cfg(feature = "aws")]
mod progress;
#[cfg(feature = "aws")]
mod rounds;
#[cfg(feature = "aws")]
mod settings;

use std::error::Error;

use async_trait::async_trait;

pub(crate) use counted::Counted;
#[cfg(feature = "aws")]
pub use firehose::{FirehoseLimits, FirehoseSink};
#[cfg(feature = "aws")]
pub use kinesis::{KinesisLimits, KinesisSink};
#[cfg(feature = "aws")]
pub use settings::{FirehoseSettings, KinesisSettings};

/// What a line of the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A decoded event.
    Event,
    /// Input that could not be decoded, with its bytes.
    Reject,
    /// The collector's sign of life.
    Heartbeat,
}

/// One line of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolRecord {
    /// Its position in the spool. A heartbeat carries the highest `wal_seq` so
    /// far (0 before the first) and consumes none.
    pub wal_seq: i64,
    /// What the line is.
    pub kind: RecordKind,
    /// An encoded [`clickmill_schemas::WireRecord`] without newline, lineage included.
    pub line: bytes::Bytes,
}

/// Consecutive records of one spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkBatch {
    /// The spool's random id.
    pub collector_id: String,
    /// The first `wal_seq` of its events and rejects: always the one after the
    /// last of the batch before.
    pub first_wal_seq: i64,
    /// The last one. A batch that holds heartbeats only has
    /// `last_wal_seq == first_wal_seq - 1`.
    pub last_wal_seq: i64,
    /// In the order of the spool.
    pub records: Vec<SpoolRecord>,
}

/// A place that takes batches.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// The highest `wal_seq` of this collector that the sink durably has, where
    /// it can tell (an exactly-once sink); `None` where it cannot.
    ///
    /// # Errors
    /// [`SinkError`] where the sink cannot be asked now.
    async fn resume_after(&self, collector_id: &str) -> Result<Option<i64>, SinkError>;

    /// Returns once every record of the batch is durable in the sink, or held
    /// back by it, as [`Sink::held_from`] then says.
    ///
    /// # Errors
    /// [`SinkError`] where some are neither; the caller sends the same batch again.
    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError>;

    /// The lowest `wal_seq` that [`Sink::send`] took and that is not durable yet.
    /// A sink may hold back, within bounds of its own, what a part of it (a hot
    /// shard) does not take now, so that the next batch need not wait for it. The
    /// spool keeps everything from there on, and after a restart sends it again.
    fn held_from(&self) -> Option<i64> {
        None
    }

    /// Sends of what is held back as much as is taken now.
    ///
    /// # Errors
    /// As [`Sink::send`].
    async fn settle(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Why a sink did not take a batch.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    retryable: bool,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SinkError {
    /// It may pass by itself: a time-out, a throttle, an unreachable endpoint.
    #[must_use]
    pub fn retryable(message: impl Into<String>) -> Self {
        Self { retryable: true, message: message.into(), source: None }
    }

    /// Somebody has to act: no such stream, access denied. It is tried again
    /// all the same, slowly, so that nothing is lost meanwhile.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { retryable: false, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// True where trying again soon may help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl SinkBatch {
    /// Bytes of its lines.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.line.len()).sum()
    }
}
