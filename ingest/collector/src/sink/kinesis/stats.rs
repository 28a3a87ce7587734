//! What a Kinesis sink has done, shard by shard: which is hot shows here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The name that counts for records whose shard is not known.
const UNKNOWN: &str = "unknown";

/// Counters since the sink was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KinesisStats {
    /// Calls of PutRecords that were answered.
    pub calls: u64,
    /// Calls that failed as a whole, or were not answered.
    pub failed_calls: u64,
    /// Lines (events, rejects, heartbeats) that Kinesis took.
    pub lines: u64,
    /// Records that it took, aggregates counted once.
    pub records: u64,
    /// Bytes of these, partition keys included.
    pub bytes: u64,
    /// Records that it refused, each time counted: they were sent again.
    pub refused: u64,
    /// Shards that are held back now because they throttled.
    pub held_back: usize,
    /// By shard id. Shards that were closed since are gone.
    pub shards: BTreeMap<String, ShardStats>,
}

/// One shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Records that it took.
    pub records: u64,
    /// Their bytes, partition keys included.
    pub bytes: u64,
    /// Records that it refused by `ProvisionedThroughputExceededException`.
    pub throttled: u64,
    /// Records that it refused for another reason.
    pub failed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<KinesisStats>);

impl Counters {
    pub fn get(&self) -> KinesisStats {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut KinesisStats)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl KinesisStats {
    pub(super) fn shard(&mut self, id: Option<&str>) -> &mut ShardStats {
        self.shards.entry(id.unwrap_or(UNKNOWN).to_owned()).or_default()
    }
}
