//! Kinesis Data Streams to the raw zone, exactly once.
//!
//! One worker process reads all shards of a stream at once. Each shard is a
//! chain of commits (`clickmill_lake::landing`), `kinesis/<stream>-<creation>/<shard>`,
//! and the chain is the only checkpoint: there is no lease table.
//!
//! # Guarantees
//! - Each record of the stream is in exactly one committed object, whatever is
//!   killed and whenever: what is read and not committed is read again.
//! - A shard is read in order. A child of a split or merge starts, at its oldest
//!   record, once all its parents are drained and their chains closed.
//! - A second process on the same stream does no harm: of two, one loses each
//!   commit and goes on from what the other landed.
//! - What does not decode lands in `raw/rejects` with its bytes, shard and
//!   sequence number.
//! - A stream that was deleted and created again under its name is another source.
//!
//! # Failure modes
//! Throttles, time-outs and failures inside Kinesis or the store are retried with
//! backoff, for ever or, with [`Until::CaughtUp`], ten times in a row; denied
//! access too, with errors in the log. What the stream trims before it is read
//! is lost: a checkpoint as old as the stream's retention is reported, in the log,
//! in the report and in the next commit (`possible_loss`).
//!
//! # Limits
//! [`MAX_SHARDS`] shards a process. Memory: about 10 MiB for each of
//! [`CONCURRENT_READS`] answers, and the compressed lines of what is not
//! committed yet (`max_bytes` before compression, less with many shards).

mod config;
mod decode;
mod error;
mod loss;
mod reader;
mod shards;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use clickmill_lake::Lake;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{
    CutPolicy, DeliverConfig, DeliverSettings, MAX_PAGE_RECORDS, MIN_POLL, RetryPolicy, Until,
};
pub use error::DeliverError;

use reader::{Reader, Stream};
use shards::{Progress, startable};
use worker::{End, Worker};

/// Shards that one process reads.
pub const MAX_SHARDS: usize = 1_000;
/// GetRecords in flight.
pub const CONCURRENT_READS: usize = 16;
/// What all shards together may hold uncommitted, in bytes before compression.
const MAX_HELD_BYTES: u64 = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A full GetRecords answer of 10 MiB on a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a delivery did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliverReport {
    /// Commits made.
    pub commits: u64,
    /// Objects that they name.
    pub objects: u64,
    /// Events in them.
    pub events: u64,
    /// Rejects in them.
    pub rejects: u64,
    /// Heartbeats in them.
    pub heartbeats: u64,
    /// Shards with records that may have been trimmed before they were read.
    pub possible_losses: u64,
}

/// The Kinesis client, for readers and writers alike: without retries of its own,
/// since ours know what may be repeated.
#[must_use]
pub fn client(config: &SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(REQUEST_TIMEOUT)
        .build();
    let config = aws_sdk_kinesis::config::Builder::from(config)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    Client::from_conf(config)
}

/// Delivers until `config.until` says so or `cancel` does; then everything that
/// was read is committed.
///
/// # Errors
/// [`DeliverError`]. What was committed stays, and a restart goes on from there.
pub async fn run(
    config: &DeliverConfig,
    lake: &Lake,
    client: &Client,
    cancel: &CancellationToken,
) -> Result<DeliverReport, DeliverError> {
    let mut report = DeliverReport::default();
    let reader = Reader {
        client: client.clone(),
        stream: config.stream.clone(),
        retry: config.retry,
        cancel: cancel.clone(),
    };
    // Once for each stream of this name: it may be deleted and created anew.
    while let Some(stream) = reader.describe().await? {
        let mut delivery = Delivery {
            config,
            lake,
            stream,
            reader: Reader { cancel: cancel.child_token(), ..reader.clone() },
            describer: &reader,
            reads: Arc::new(Semaphore::new(CONCURRENT_READS)),
            workers: JoinSet::new(),
            progress: HashMap::new(),
            report: &mut report,
        };
        match delivery.run().await? {
            Ended::Done => break,
            Ended::Replaced => {
                tracing::warn!(
                    stream = config.stream,
                    "the stream was created anew; reading the new one"
                );
            }
        }
    }
    Ok(report)
}

/// One stream, from its creation to its deletion.
struct Delivery<'a> {
    config: &'a DeliverConfig,
    lake: &'a Lake,
    stream: Stream,
    /// The workers': cancelled when one of them fails.
    reader: Reader,
    /// Still good then.
    describer: &'a Reader,
    reads: Arc<Semaphore>,
    workers: JoinSet<(shards::Shard, DeliverReport, Result<End, DeliverError>)>,
    progress: HashMap<String, Progress>,
    report: &'a mut DeliverReport,
}

enum Ended {
    Done,
    Replaced,
}

impl Delivery<'_> {
    async fn run(&mut self) -> Result<Ended, DeliverError> {
        let outcome = self.supervise().await;
        // Whatever the reason: the others commit what they hold before this returns.
        self.reader.cancel.cancel();
        while let Some(ended) = self.workers.join_next().await {
            let (_, report, result) = ended?;
            self.report.add(report);
            if let Err(error) = result {
                tracing::warn!(
                    error = reader::chain(&error),
                    "a worker failed while it was stopped"
                );
            }
        }
        match outcome {
            // An iterator of a stream that was replaced since is refused.
            Err(DeliverError::NoStream { .. } | DeliverError::Refused { .. })
                if self.is_replaced().await? =>
            {
                Ok(Ended::Replaced)
            }
            outcome => outcome,
        }
    }

    /// Starts workers as shards become readable, and collects those that end.
    async fn supervise(&mut self) -> Result<Ended, DeliverError> {
        loop {
            let Some(listed) = self.reader.shards().await? else { return Ok(Ended::Done) };
            if listed.len() > MAX_SHARDS {
                let (stream, shards) = (self.stream.name.clone(), listed.len());
                return Err(DeliverError::TooManyShards { stream, shards, limit: MAX_SHARDS });
            }
            let ready: Vec<_> = startable(&listed, &self.progress).into_iter().cloned().collect();
            for shard in ready {
                self.start(shard, listed.len());
            }
            if self.workers.is_empty() && self.config.until == Until::CaughtUp {
                return Ok(Ended::Done);
            }
            let ended = tokio::select! {
                () = self.reader.cancel.cancelled() => return Ok(Ended::Done),
                // There is always a worker, except on a stream whose shards all ended.
                Some(ended) = self.workers.join_next() => ended?,
                () = tokio::time::sleep(self.config.discover) => {
                    match self.is_replaced().await? {
                        true => return Ok(Ended::Replaced),
                        false => continue,
                    }
                }
            };
            let (shard, report, result) = ended;
            self.report.add(report);
            let progress = match result? {
                End::Drained => Progress::Drained,
                End::CaughtUp => Progress::CaughtUp,
                End::Cancelled => return Ok(Ended::Done),
            };
            tracing::debug!(shard = shard.id, ?progress, "a shard's worker ended");
            self.progress.insert(shard.id, progress);
        }
    }

    fn start(&mut self, shard: shards::Shard, shards: usize) {
        let mut config = self.config.clone();
        config.cut.max_bytes = config.cut.max_bytes.min(MAX_HELD_BYTES / shards.max(1) as u64);
        self.progress.insert(shard.id.clone(), Progress::Running);
        let worker = Worker {
            config,
            lake: self.lake.clone(),
            reader: self.reader.clone(),
            stream: self.stream.clone(),
            shard,
            reads: Arc::clone(&self.reads),
            report: DeliverReport::default(),
            failures: 0,
            checked_for_loss: false,
        };
        self.workers.spawn(worker.run());
    }

    async fn is_replaced(&self) -> Result<bool, DeliverError> {
        let now = self.describer.describe().await?;
        Ok(now.is_some_and(|now| now.created != self.stream.created))
    }
}

impl DeliverReport {
    fn add(&mut self, other: Self) {
        self.commits += other.commits;
        self.objects += other.objects;
        self.events += other.events;
        self.rejects += other.rejects;
        self.heartbeats += other.heartbeats;
        self.possible_losses += other.possible_losses;
    }
}
