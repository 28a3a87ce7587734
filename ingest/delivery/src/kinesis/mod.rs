//! Kinesis Data Streams to the raw zone, exactly once.
//!
//! Any number of worker processes share a stream's shards by leases ([`lease`]).
//! Each shard is a chain of commits (`clickmill_lake::landing`),
//! `kinesis/<stream>-<creation>/<shard>`, and the chain is the only checkpoint: a
//! lease only schedules.
//!
//! # Guarantees
//! - Each record of the stream is in exactly one committed object, whatever is
//!   killed and whenever: what is read and not committed is read again.
//! - A shard is read in order. A child of a split or merge starts once all its
//!   parents are drained and their chains closed.
//! - A delivery begins at the oldest record, or at the time that its first worker
//!   was told ([`Begin`]); from then on the chains' positions count.
//! - Two processes that read the same shard do no harm, whatever the leases say:
//!   of two, one loses each commit and goes on from what the other landed.
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
//! # Polling and fan-out
//! Records are asked for by GetRecords, or pushed to a registered consumer ([`Retrieval`]). That
//! is one place, [`feed`]: checkpoints, leases, cuts and rejects know nothing of it.
//!
//! # Limits
//! [`MAX_SHARDS`] shards a process. Memory: [`DeliverConfig::memory`], whatever the
//! number of shards, hours and late records ([`gather`]), and what the process
//! itself takes.

mod config;
mod decode;
mod error;
mod feed;
mod gather;
mod identity;
mod lease;
mod loss;
mod memory;
mod metrics;
#[cfg(test)]
mod model;
mod monitor;
mod reader;
mod replay;
mod shards;
mod status;
mod supervisor;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::StalledStreamProtectionConfig;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use clickmill_lake::Lake;
use clickmill_lake::landing::{Beginning, Decided};
use clickmill_schemas::Timestamp;
use tokio_util::sync::CancellationToken;

pub use config::{
    Begin, CutPolicy, DEFAULT_TARGET, DeliverConfig, DeliverSettings, Gathered, LeaseSetting,
    Leases, MAX_PAGE_RECORDS, MIN_POLL, Retrieval, RetrievalMode, RetryPolicy, Until,
};
pub use error::DeliverError;
pub use identity::WorkerName;
pub use lease::{DEFAULT_LEASE, LeaseError, LeasePolicy, MIN_LEASE};
pub use memory::{CONCURRENT_READS, DEFAULT_MEMORY, MIN_MEMORY};
pub use monitor::{Landed, Monitor, SIZE_CLASSES, ShardState, State};
pub use replay::{ReplayRange, ReplayReport, replay};

pub use status::{ShardPhase, ShardStatus, Status, status};

use reader::{Reader, Stream};
use supervisor::{Ended, Supervisor};

/// Shards that one process reads.
pub const MAX_SHARDS: usize = 1_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A full GetRecords answer of 10 MiB on a slow line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Items are small, and a lease does not wait.
const LEASE_TIMEOUT: Duration = Duration::from_secs(5);

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
    Client::from_conf(client_config(config).build())
}

/// A client for subscriptions to shards, with connections of its own. Nobody may read for long,
/// since memory is full: that is no stalled stream.
fn subscriber(config: &SdkConfig) -> Client {
    let stalls = StalledStreamProtectionConfig::disabled();
    Client::from_conf(client_config(config).stalled_stream_protection(stalls).build())
}

fn client_config(config: &SdkConfig) -> aws_sdk_kinesis::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(REQUEST_TIMEOUT)
        .build();
    aws_sdk_kinesis::config::Builder::from(config)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
}

/// The client for leases in DynamoDB: without retries of its own, since a look
/// at the table is repeated as a whole.
#[must_use]
pub fn lease_client(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(LEASE_TIMEOUT)
        .build();
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
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
    run_watched(config, lake, client, cancel, &Arc::default()).await
}

/// As [`run`], and says in `monitor` meanwhile how it is going.
///
/// # Errors
/// As [`run`].
pub async fn run_watched(
    config: &DeliverConfig,
    lake: &Lake,
    client: &Client,
    cancel: &CancellationToken,
    monitor: &Arc<Monitor>,
) -> Result<DeliverReport, DeliverError> {
    let mut report = DeliverReport::default();
    let reader = Reader::new(config, client, cancel, monitor);
    let mut wanted = config.from;
    // Once for each stream of this name: it may be deleted and created anew.
    while let Some(stream) = reader.describe().await? {
        let begun = begin(lake, &stream, wanted).await?;
        let supervisor = Supervisor::new(config, lake, stream, begun, &reader, &mut report)?;
        match supervisor.run().await? {
            Ended::Done => break,
            Ended::Replaced => {
                tracing::warn!(
                    stream = config.stream,
                    "the stream was created anew; reading the new one"
                );
                // It was empty when it was created: everything in it is new.
                wanted = Begin::TrimHorizon;
            }
        }
    }
    Ok(report)
}

/// Where shards without a checkpoint start.
async fn begin(lake: &Lake, stream: &Stream, wanted: Begin) -> Result<Beginning, DeliverError> {
    let now = Timestamp::now();
    let begun =
        Beginning::of_stream(lake, &stream.name, stream.created, wanted.time(now), now).await;
    let (beginning, decided) = begun.map_err(|source| DeliverError::lake(&stream.name, source))?;
    let from = beginning.from.map_or_else(|| "its oldest record".to_owned(), |t| t.to_string());
    match decided {
        Decided::Now => {
            tracing::info!(stream = stream.name, from, "delivery begins");
            let horizon = now.saturating_sub(stream.retention);
            if stream.created_at() < horizon && beginning.from.is_some_and(|at| at < horizon) {
                tracing::error!(
                    stream = stream.name,
                    from,
                    to = horizon.to_string(),
                    "the stream keeps nothing of before its retention: what arrived in this range \
                     is not delivered"
                );
            }
        }
        Decided::Before if wanted == Begin::TrimHorizon => {}
        Decided::Before => tracing::warn!(
            stream = stream.name,
            from,
            "this stream is delivered into this lake already: --from is not used, delivery goes \
             on from the checkpoints"
        ),
    }
    Ok(beginning)
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
