//! How the delivery of a stream stands, for somebody who asks: shard by shard, from
//! the stream, the chains and the leases. Reads only.
//!
//! It costs one GetShardIterator and one GetRecords a shard that is not done, which
//! count against the shard's quota of five reads a second.

use std::collections::HashSet;

use aws_sdk_kinesis::Client;
use clickmill_lake::landing::{Beginning, Chain, Source};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::config::{DeliverConfig, Leases};
use super::error::DeliverError;
use super::feed::Position;
use super::lease::View;
use super::reader::{Outcome, Reader};
use super::shards::readable;
use super::supervisor::lease_table;

/// Shards asked about at once.
const CONCURRENCY: usize = 8;

/// A stream's delivery into a lake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The stream.
    pub stream: String,
    /// Where the delivery began; null: at the oldest record, or not at all yet.
    pub from: Option<Timestamp>,
    /// Workers that have a lease, sorted.
    pub workers: Vec<String>,
    /// The shards that the stream lists, in its order.
    pub shards: Vec<ShardStatus>,
}

/// One shard's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardStatus {
    /// Its id.
    pub shard: String,
    /// What it is up to.
    pub state: ShardPhase,
    /// The worker that has its lease; null where nobody does, or there are no leases.
    pub owner: Option<String>,
    /// Everything up to this sequence number has landed; null before anything has.
    pub checkpoint: Option<String>,
    /// Commits of its chain.
    pub commits: u64,
    /// When the last one was made.
    pub committed_at: Option<Timestamp>,
    /// How far the checkpoint is behind the shard's newest record; null where the shard
    /// is drained or waits for its parents.
    pub millis_behind: Option<i64>,
}

/// What a shard is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardPhase {
    /// Somebody has its lease.
    Leased,
    /// It may be read and nobody has its lease.
    Free,
    /// Its parents are not drained yet.
    Waiting,
    /// It has been read to its end for good.
    Drained,
}

/// Looks at everything once.
///
/// # Errors
/// [`DeliverError`].
pub async fn status(
    config: &DeliverConfig,
    lake: &Lake,
    client: &Client,
) -> Result<Status, DeliverError> {
    let reader = Reader {
        client: client.clone(),
        stream: config.stream.clone(),
        retry: config.retry,
        cancel: CancellationToken::new(),
        monitor: std::sync::Arc::default(),
    };
    let cancelled = || DeliverError::Incomplete { operation: "status", missing: "an end" };
    let stream = reader.describe().await?.ok_or_else(cancelled)?;
    let shards = reader.shards().await?.ok_or_else(cancelled)?;
    let beginning = Beginning::find(lake, &stream.name, stream.created).await;
    let from =
        beginning.map_err(|e| DeliverError::lake(&stream.name, e))?.and_then(|begun| begun.from);
    let view = match &config.leases {
        Leases::None => View::default(),
        leases => lease_table(leases, lake, &stream, "status").view().await?,
    };
    let sources: Result<Vec<Source>, LakeError> = shards
        .iter()
        .map(|shard| Source::kinesis(&stream.name, stream.created, &shard.id))
        .collect();
    let sources = sources.map_err(|error| DeliverError::lake(&stream.name, error))?;
    let chains: Vec<Chain> = stream::iter(sources)
        .map(|source| async move {
            let subject = source.to_string();
            Chain::open(lake, source).await.map_err(|error| DeliverError::lake(&subject, error))
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let closed = |chain: &&Chain| chain.is_closed();
    let drained: HashSet<&str> =
        chains.iter().filter(closed).filter_map(|chain| shard_of(chain.source())).collect();
    let open: HashSet<&str> = readable(&shards, |id| drained.contains(id))
        .into_iter()
        .map(|shard| shard.id.as_str())
        .collect();
    let mut looked: Vec<ShardStatus> = shards
        .iter()
        .zip(&chains)
        .map(|(shard, chain)| {
            let owner = view.owner(&shard.id).map(str::to_owned);
            let state = match (drained.contains(&*shard.id), open.contains(&*shard.id), &owner) {
                (true, ..) => ShardPhase::Drained,
                (_, false, _) => ShardPhase::Waiting,
                (.., Some(_)) => ShardPhase::Leased,
                (.., None) => ShardPhase::Free,
            };
            ShardStatus {
                shard: shard.id.clone(),
                state,
                owner,
                checkpoint: chain.position().map(str::to_owned),
                commits: chain.last().map_or(0, |last| last.ordinal),
                committed_at: chain.last().map(|last| last.committed_at),
                millis_behind: None,
            }
        })
        .collect();
    let asked: Vec<(usize, String, Option<String>)> = looked
        .iter()
        .enumerate()
        .filter(|(_, shard)| matches!(shard.state, ShardPhase::Leased | ShardPhase::Free))
        .map(|(place, shard)| (place, shard.shard.clone(), shard.checkpoint.clone()))
        .collect();
    let reader = &reader;
    let lags: Vec<(usize, Option<i64>)> = stream::iter(asked)
        .map(|(place, shard, checkpoint)| async move {
            let lag = lag(reader, &shard, checkpoint.as_deref(), from).await?;
            Ok::<_, DeliverError>((place, lag))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    for (place, lag) in lags {
        looked[place].millis_behind = lag;
    }
    let mut workers: Vec<String> =
        view.leases.values().filter_map(|lease| lease.owner.clone()).collect();
    workers.sort();
    workers.dedup();
    Ok(Status { stream: stream.name, from, workers, shards: looked })
}

fn shard_of(source: &Source) -> Option<&str> {
    source.as_str().rsplit_once('/').map(|(_, shard)| shard)
}

/// How far a reader that goes on from the checkpoint is behind: one record is asked for.
async fn lag(
    reader: &Reader,
    shard: &str,
    position: Option<&str>,
    from: Option<Timestamp>,
) -> Result<Option<i64>, DeliverError> {
    let position = Position::after(position, from);
    let Some(iterator) = reader.iterator(shard, &position).await? else { return Ok(None) };
    match reader.records(&iterator, 1).await {
        Outcome::Done(page) => Ok(page.millis_behind_latest()),
        Outcome::Failed(fault, source) => {
            tracing::warn!(
                shard,
                ?fault,
                error = super::reader::chain(&*source),
                "the shard could not be read; its lag is left out"
            );
            Ok(None)
        }
    }
}
