//! How the delivery of a stream stands, for somebody who asks: shard by shard, from
//! the stream, the chains and the leases. Reads only.
//!
//! It costs one GetShardIterator and one GetRecords a shard that is not done, which
//! count against the shard's quota of five reads a second. Rates are those of a shard's
//! last commits.

use std::collections::{BTreeMap, HashSet};

use aws_sdk_kinesis::Client;
use clickmill_lake::landing::{
    Beginning, Chain, Commit, LandedObject, Source, commits_after, list_stream,
};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::config::{DeliverConfig, Leases};
use super::error::{DeliverError, Fault};
use super::feed::Position;
use super::reader::{Outcome, Reader, arrival};
use super::shards::readable;
use super::supervisor::lease_table;

/// Commits of a chain that its rates are taken from.
const RATE_COMMITS: u64 = 10;
/// Shards asked about at once.
const CONCURRENCY: usize = 8;

/// A stream's delivery into a lake.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The stream.
    pub stream: String,
    /// When somebody first delivered the stream into this lake; null: nobody has.
    pub begun_at: Option<Timestamp>,
    /// Where the delivery began; null: at the oldest record, or not at all yet.
    pub from: Option<Timestamp>,
    /// Workers that have a lease, sorted.
    pub workers: Vec<String>,
    /// Of the workers that say so by a sign of life in the lake: requests that failed and were
    /// tried again since it started.
    pub retries: BTreeMap<String, u64>,
    /// The leases' table in DynamoDB where there is none of that name: no worker ever used it.
    pub missing_lease_table: Option<String>,
    /// The shards that the stream lists, in its order; and behind them what expired unread.
    pub shards: Vec<ShardStatus>,
}

/// One shard's.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// How long ago the oldest record arrived that has not landed, 0 where all have; null where the
    /// shard is drained or waits for its parents.
    pub millis_behind: Option<i64>,
    /// About how many lines that is, at the rate of its last commits; null where that is not known.
    pub lines_behind: Option<u64>,
    /// Lines a second that its last commits landed.
    pub lines_per_second: Option<f64>,
    /// Bytes a second that they stored.
    pub stored_bytes_per_second: Option<f64>,
    /// Mean size of the objects of its last commits, as stored.
    pub object_bytes: Option<u64>,
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
    /// The stream has it no more, and it was not read to its end.
    Expired,
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
    let monitor = std::sync::Arc::default();
    let reader = Reader::new(config, client, &CancellationToken::new(), &monitor);
    let cancelled = || DeliverError::Incomplete { operation: "status", missing: "an end" };
    let stream = reader.describe().await?.ok_or_else(cancelled)?;
    let shards = reader.shards().await?.ok_or_else(cancelled)?;
    let beginning = Beginning::find(lake, &stream.name, stream.created).await;
    let beginning = beginning.map_err(|e| DeliverError::lake(&stream.name, e))?;
    let begun_at = beginning.as_ref().map(|begun| begun.decided_at);
    let from = beginning.and_then(|begun| begun.from);
    let (view, retries) = match &config.leases {
        Leases::None => Default::default(),
        leases => {
            let table = lease_table(leases, lake, &stream, "status");
            (table.view().await?, table.said().await?)
        }
    };
    let missing_lease_table = match &config.leases {
        Leases::DynamoDb { client, table } if view.leases.is_empty() => {
            let described = client.describe_table().table_name(table).send().await;
            let is_missing = described.is_err_and(|error| Fault::of(&error) == Fault::Gone);
            is_missing.then(|| table.clone())
        }
        _ => None,
    };
    let failed = |error| DeliverError::lake(&stream.name, error);
    let sources: Result<Vec<Source>, LakeError> = shards
        .iter()
        .map(|shard| Source::kinesis(&stream.name, stream.created, &shard.id))
        .collect();
    let mut sources = sources.map_err(failed)?;
    let listed: HashSet<&str> = shards.iter().map(|shard| shard.id.as_str()).collect();
    let held = list_stream(lake, &stream.name, stream.created).await.map_err(failed)?;
    sources.extend(held.into_iter().filter(|source| !listed.contains(source.leaf())));
    let mut chains: Vec<(Chain, Vec<Commit>)> = stream::iter(sources)
        .map(|source| async move {
            let subject = source.to_string();
            let looked = look(lake, source).await;
            looked.map_err(|error| DeliverError::lake(&subject, error))
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let expired = chains.split_off(shards.len());
    let drained: HashSet<&str> = chains
        .iter()
        .filter(|(chain, _)| chain.is_closed())
        .map(|(chain, _)| chain.source().leaf())
        .collect();
    let open: HashSet<&str> = readable(&shards, |id| drained.contains(id))
        .into_iter()
        .map(|shard| shard.id.as_str())
        .collect();
    let mut looked: Vec<ShardStatus> = shards
        .iter()
        .zip(&chains)
        .map(|(shard, (chain, last))| {
            let owner = view.owner(&shard.id).map(str::to_owned);
            let state = match (drained.contains(&*shard.id), open.contains(&*shard.id), &owner) {
                (true, ..) => ShardPhase::Drained,
                (_, false, _) => ShardPhase::Waiting,
                (.., Some(_)) => ShardPhase::Leased,
                (.., None) => ShardPhase::Free,
            };
            ShardStatus { owner, ..ShardStatus::of(chain, last, state) }
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
        let shard = &mut looked[place];
        shard.millis_behind = lag;
        let seconds = lag.map(|millis| millis as f64 / 1_000.0);
        let lines = seconds.zip(shard.lines_per_second).map(|(seconds, rate)| seconds * rate);
        shard.lines_behind = lines.map(|lines| lines.round() as u64);
    }
    // A chain that is closed was read to its end, or says what is gone.
    let expired = expired.iter().filter(|(chain, _)| !chain.is_closed());
    looked.extend(expired.map(|(chain, last)| ShardStatus::of(chain, last, ShardPhase::Expired)));
    let mut workers: Vec<String> =
        view.leases.values().filter_map(|lease| lease.owner.clone()).collect();
    workers.sort();
    workers.dedup();
    let (stream, shards) = (stream.name, looked);
    Ok(Status { stream, begun_at, from, workers, retries, missing_lease_table, shards })
}

impl ShardStatus {
    /// What its chain and the last commits of it say.
    fn of(chain: &Chain, last: &[Commit], state: ShardPhase) -> Self {
        let objects = || last.iter().flat_map(|commit| &commit.objects);
        let bytes: u64 = objects().map(|object| object.bytes).sum();
        let rates = last.first().zip(last.last()).and_then(|(first, newest)| {
            let span = newest.committed_at.micros() - first.committed_at.micros();
            // What the first of them landed came before.
            let since = || last.iter().skip(1).flat_map(|commit| &commit.objects);
            let a_second = |sum: u64| sum as f64 * 1e6 / span as f64;
            let lines = a_second(since().map(|object| object.records).sum());
            let stored = a_second(since().map(LandedObject::share).sum());
            (span > 0).then_some((lines, stored))
        });
        Self {
            shard: chain.source().leaf().to_owned(),
            state,
            owner: None,
            checkpoint: chain.position().map(str::to_owned),
            commits: chain.last().map_or(0, |last| last.ordinal),
            committed_at: chain.last().map(|last| last.committed_at),
            millis_behind: None,
            lines_behind: None,
            lines_per_second: rates.map(|(lines, _)| lines),
            stored_bytes_per_second: rates.map(|(_, stored)| stored),
            object_bytes: bytes.checked_div(objects().count() as u64),
        }
    }
}

/// A chain, and the last commits of one that goes on.
async fn look(lake: &Lake, source: Source) -> Result<(Chain, Vec<Commit>), LakeError> {
    let chain = Chain::open(lake, source).await?;
    let newest = chain.last().filter(|last| !last.closed).map_or(0, |last| last.ordinal);
    let last = match newest {
        0 => Vec::new(),
        newest => commits_after(lake, chain.source(), newest.saturating_sub(RATE_COMMITS)).await?,
    };
    Ok((chain, last))
}

/// How long ago the record arrived that comes next, in milliseconds: it alone is asked for.
async fn lag(
    reader: &Reader,
    shard: &str,
    position: Option<&str>,
    from: Option<Timestamp>,
) -> Result<Option<i64>, DeliverError> {
    let position = Position::after(position, from);
    let Some(iterator) = reader.iterator(shard, &position).await? else { return Ok(None) };
    match reader.records(&iterator, 1).await {
        Outcome::Done(page) => Ok(match page.records().first() {
            Some(next) => {
                let arrived = arrival(next.approximate_arrival_timestamp());
                Some(((Timestamp::now().micros() - arrived.micros()) / 1_000).max(0))
            }
            None => page.millis_behind_latest(),
        }),
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
