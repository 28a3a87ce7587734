//! What a process knows of the shards that it reads, and what it did: for
//! metrics, for progress, and for the leases' checkpoints.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clickmill_lake::landing::Commit;
use clickmill_lake::raw::RawKind;
use clickmill_schemas::Timestamp;

/// Upper ends of the classes that objects' sizes are counted in, in bytes.
pub const SIZE_CLASSES: [u64; 8] =
    [4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 32 << 20, 64 << 20, 128 << 20];

/// For so long what a page said counts as it is: the next one is not late yet.
const FRESH: Duration = Duration::from_secs(10);

/// Written by the shards' workers, read by who reports.
#[derive(Debug, Default)]
pub struct Monitor {
    state: Mutex<State>,
}

/// Everything at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The shards that this process reads.
    pub shards: BTreeMap<String, ShardState>,
    /// Shards of the stream that may be read now, by anybody.
    pub readable: u64,
    /// Workers that live, this one among them.
    pub workers: u64,
    /// Commits made.
    pub commits: u64,
    /// Commits that another worker was first with.
    pub lost_races: u64,
    /// Records of the stream that were read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What landed.
    pub landed: BTreeMap<RawKind, Landed>,
    /// Subscriptions that Kinesis took, renewals among them.
    pub subscriptions: u64,
    /// Requests that failed and were tried again, by the API's name.
    pub retries: BTreeMap<&'static str, u64>,
    /// Shards with records that may have been trimmed before they were read.
    pub possible_losses: u64,
    /// Bytes in memory, uncommitted.
    pub held_bytes: u64,
}

/// One shard, while this process reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Everything up to here has landed; `None` before anything has.
    pub position: Option<String>,
    /// How far its last page was behind the shard's newest record; `None` before the first.
    pub millis_behind: Option<i64>,
    /// When that page came.
    pub read_at: Option<Instant>,
    /// When the oldest of its records arrived in the stream that was read and has not landed.
    pub held_since: Option<Timestamp>,
    /// Records that were read and have not landed.
    pub held_records: u64,
    /// Records read of it.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What landed of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landed {
    /// Objects.
    pub objects: u64,
    /// Lines in them.
    pub lines: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
    /// Objects by size: of at most [`SIZE_CLASSES`], and larger ones last.
    pub sizes: [u64; SIZE_CLASSES.len() + 1],
}

impl ShardState {
    /// How far reading is behind the shard's newest record by now, in milliseconds: what the
    /// last page said, and the time since where no other came for longer than [`FRESH`].
    #[must_use]
    pub fn millis_behind_now(&self) -> Option<i64> {
        let since = self.read_at.map(|at| at.elapsed()).filter(|since| *since > FRESH);
        let since = i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        Some(self.millis_behind?.saturating_add(since))
    }

    /// How long ago the oldest record arrived that was read and has not landed, in milliseconds.
    #[must_use]
    pub fn held_millis(&self, now: Timestamp) -> i64 {
        self.held_since.map_or(0, |since| ((now.micros() - since.micros()) / 1_000).max(0))
    }
}

impl Monitor {
    /// Everything as it is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// This process reads the shard from here on.
    pub(super) fn begin(&self, shard: &str) {
        self.lock().shards.insert(shard.to_owned(), ShardState::default());
    }

    /// And no more.
    pub(super) fn end(&self, shard: &str) {
        self.lock().shards.remove(shard);
    }

    /// The chain ends here.
    pub(super) fn positioned(&self, shard: &str, position: Option<&str>) {
        if let Some(state) = self.lock().shards.get_mut(shard) {
            state.held_records = 0;
            state.position = position.map(str::to_owned);
        }
    }

    /// What has landed of a shard that this process reads.
    pub(super) fn position(&self, shard: &str) -> Option<String> {
        self.lock().shards.get(shard)?.position.clone()
    }

    /// A page came.
    pub(super) fn read(&self, shard: &str, records: u64, bytes: u64, millis_behind: Option<i64>) {
        let mut state = self.lock();
        state.records += records;
        state.bytes += bytes;
        if let Some(shard) = state.shards.get_mut(shard) {
            shard.records += records;
            shard.held_records += records;
            shard.bytes += bytes;
            shard.read_at = Some(Instant::now());
            shard.millis_behind = millis_behind.or(shard.millis_behind);
        }
    }

    /// A commit was made.
    pub(super) fn committed(&self, shard: &str, commit: &Commit) {
        let mut state = self.lock();
        state.commits += 1;
        for object in &commit.objects {
            let landed = state.landed.entry(object.kind).or_default();
            landed.lines += object.records;
            if !object.is_first() {
                continue;
            }
            landed.objects += 1;
            landed.bytes += object.bytes;
            let class = SIZE_CLASSES.iter().position(|most| object.bytes <= *most);
            landed.sizes[class.unwrap_or(SIZE_CLASSES.len())] += 1;
        }
        if let Some(shard) = state.shards.get_mut(shard) {
            shard.position = commit.position().map(str::to_owned);
            (shard.held_since, shard.held_records) = (None, 0);
        }
    }

    /// A page was read whose first record arrived then. What is dropped by a failure, and read
    /// again, has still not landed.
    pub(super) fn holds_since(&self, shard: &str, arrived: Timestamp) {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            shard.held_since.get_or_insert(arrived);
        }
    }

    /// Another worker was first with a commit.
    pub(super) fn lost_race(&self, shard: &str) {
        let mut state = self.lock();
        state.lost_races += 1;
        // What this worker held has landed; what has not is read again.
        if let Some(shard) = state.shards.get_mut(shard) {
            shard.held_since = None;
        }
    }

    /// A request failed and will be tried again.
    pub(super) fn retried(&self, operation: &'static str) {
        *self.lock().retries.entry(operation).or_default() += 1;
    }

    /// Requests that failed and were tried again, of all kinds.
    pub(super) fn retries(&self) -> u64 {
        self.lock().retries.values().sum()
    }

    /// A shard was subscribed to.
    pub(super) fn subscribed(&self) {
        self.lock().subscriptions += 1;
    }

    /// A shard's records may have been trimmed.
    pub(super) fn possible_loss(&self) {
        self.lock().possible_losses += 1;
    }

    /// How the stream is shared.
    pub(super) fn shared(&self, readable: usize, workers: usize) {
        let mut state = self.lock();
        (state.readable, state.workers) = (readable as u64, workers as u64);
    }

    /// What all shards hold uncommitted.
    pub(super) fn holds(&self, bytes: u64) {
        self.lock().held_bytes = bytes;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
