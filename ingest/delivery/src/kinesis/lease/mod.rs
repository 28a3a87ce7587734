//! Who reads which shard, where several workers share a stream.
//!
//! # Guarantees
//! A lease only schedules. What exists is decided by the commit chain: a worker
//! that reads a shard without its lease (a zombie, a clock that stood still, a
//! table that was deleted) loses at the PUT of its commit and harms nobody. So a
//! lease needs no clock that two machines share and no fencing token.
//!
//! - A change of a lease is conditional: of two workers that want the same one,
//!   one gets it.
//! - A worker says that it lives by changing something of its own every
//!   [`LeasePolicy::beat`]. Others hold it for dead when they have seen no
//!   change for [`LeasePolicy::expiry`] *by their own clock*.
//! - `finished` is set after the shard's chain was closed, never before.
//!
//! # Failure modes
//! Where the table cannot be reached the worker goes on reading what it has and
//! says so in its log; others may take its shards, and the chain decides.
//!
//! [`plan`] holds the decisions, without I/O; [`lake`], [`dynamodb`] and
//! [`solo`] are the tables.

pub(super) mod dynamodb;
pub(super) mod lake;
pub(super) mod plan;
pub(super) mod solo;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use super::shards::Shard;

/// A worker that was not seen to live for this long loses its leases.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(20);
/// Shortest lease that a configuration may ask for.
pub const MIN_LEASE: Duration = Duration::from_secs(1);
/// A worker shows so many signs of life within a lease.
const BEATS: u32 = 4;

/// How long leases last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasePolicy {
    /// A worker that has shown no sign of life for this long is held for dead.
    pub expiry: Duration,
}

impl LeasePolicy {
    /// Time between two signs of life, and between two looks at the table.
    #[must_use]
    pub fn beat(&self) -> Duration {
        self.expiry / BEATS
    }

    /// What a worker that takes a shard from a living one waits before it reads:
    /// the other looks at the table, stops and commits what it holds meanwhile.
    #[must_use]
    pub fn handover(&self) -> Duration {
        self.beat() * 2
    }
}

/// One shard's lease, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub shard: String,
    /// Nobody where it is free.
    pub owner: Option<String>,
    /// The shard has been read to its end for good.
    pub finished: bool,
    /// Another number after each change; what the next change is conditional on.
    pub version: u64,
}

impl Lease {
    /// What `change` by the worker `me` makes of the lease of `shard` that was last `seen`.
    fn next(shard: &str, seen: Option<&Self>, change: Change, me: &str) -> Self {
        Self {
            shard: shard.to_owned(),
            owner: (change == Change::Take).then(|| me.to_owned()),
            finished: change == Change::Finish,
            version: seen.map_or(0, |lease| lease.version) + 1,
        }
    }
}

/// A sign of life: whenever `value` of a (worker, key) is another one, that worker lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulse {
    pub worker: String,
    pub key: String,
    pub value: String,
}

/// The whole table at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub leases: BTreeMap<String, Lease>,
    pub pulses: Vec<Pulse>,
}

impl View {
    pub fn owner(&self, shard: &str) -> Option<&str> {
        self.leases.get(shard)?.owner.as_deref()
    }
}

/// A shard that this worker holds, for its sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub shard: String,
    /// What is committed of it, where anything is.
    pub position: Option<String>,
}

/// What to make of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is mine now.
    Take,
    /// It is free.
    Release,
    /// It is free, and the shard is done for good.
    Finish,
}

/// A table of leases for one stream and one worker.
#[async_trait]
pub(super) trait LeaseTable: fmt::Debug + Send + Sync {
    /// Tells it of the stream's shards, where it says more of them than their owner.
    fn know(&self, _: &[Shard]) {}

    /// Everything in it.
    async fn view(&self) -> Result<View, LeaseError>;

    /// What the next signs of life say beside it: requests that this worker tried again.
    fn say(&self, _retries: u64) {}

    /// What workers that live, or did, said last; nothing where there is no place for it.
    async fn said(&self) -> Result<BTreeMap<String, u64>, LeaseError> {
        Ok(BTreeMap::new())
    }

    /// Shows that this worker lives.
    async fn beat(&self, held: &[Held]) -> Result<(), LeaseError>;

    /// Changes the lease of `shard`, which was last seen as `seen` (`None`: not there).
    /// `None` where another worker has changed it meanwhile.
    async fn change(
        &self,
        shard: &str,
        seen: Option<&Lease>,
        change: Change,
    ) -> Result<Option<Lease>, LeaseError>;

    /// Removes leases of shards that the stream has no more.
    async fn forget(&self, leases: &[Lease]) -> Result<(), LeaseError>;

    /// Removes what workers left behind that are long dead, or this worker's own at its end.
    async fn bury(&self, workers: &[String]) -> Result<(), LeaseError>;
}

/// Leases changed at once.
const CONCURRENCY: usize = 16;
/// Looks at the table of a worker that leaves; one of its name may take what it frees.
const LAST_LOOKS: u32 = 4;

/// Changes leases as they were seen; those that changed meanwhile stay, and are left out.
pub(super) async fn change_all(
    table: &dyn LeaseTable,
    changes: Vec<(Lease, Change)>,
) -> Result<Vec<Lease>, LeaseError> {
    stream::iter(changes)
        .map(
            |(lease, change)| async move { table.change(&lease.shard, Some(&lease), change).await },
        )
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|changed| std::future::ready(Ok(changed)))
        .try_collect()
        .await
}

/// Frees everything that is `me`'s, the leases in `drained` for good, and buries it. A turn may
/// have been broken off, and its sign of life or its taking arrive behind a look, so it looks
/// until nothing is left.
pub(super) async fn leave(
    table: &dyn LeaseTable,
    me: &str,
    drained: &BTreeSet<&str>,
) -> Result<(), LeaseError> {
    for _ in 0..LAST_LOOKS {
        let leases = table.view().await?.leases.into_values();
        let mine: Vec<_> = leases
            .filter(|lease| lease.owner.as_deref() == Some(me))
            .map(|lease| {
                let is_drained = drained.contains(lease.shard.as_str());
                let change = if is_drained { Change::Finish } else { Change::Release };
                (lease, change)
            })
            .collect();
        if mine.is_empty() {
            break;
        }
        change_all(table, mine).await?;
    }
    table.bury(&[me.to_owned()]).await
}

/// The table failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// A request to the store or to DynamoDB failed.
    #[error("cannot {operation} {subject}")]
    Request {
        /// Verb.
        operation: &'static str,
        /// The object or the table.
        subject: String,
        /// Its word.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else stands there than a lease.
    #[error("{subject} is no lease of ours: {reason}; leases only schedule, so it may be deleted")]
    Corrupt {
        /// The object or the item.
        subject: String,
        /// What does not fit.
        reason: String,
    },
}

impl LeaseError {
    fn request(
        operation: &'static str,
        subject: impl ToString,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Request { operation, subject: subject.to_string(), source: Box::new(source) }
    }
}
