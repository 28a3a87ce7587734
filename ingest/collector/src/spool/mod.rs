//! The durable queue between "received" and "shipped": a folder of segments.
//!
//! # Guarantees
//! - What [`Spool::append`] acknowledged is on disk (written and fdatasynced,
//!   its segment's folder entry too) and is read back, in order, after a
//!   process or power failure.
//! - Every event and reject has a `wal_seq`, from 1, without gaps, and never two
//!   of them the same one. Lineage (`collector_id`, `wal_seq`) stands in the line.
//!   With [`SyncPolicy::Within`] that holds after a process failure; a power failure
//!   can cost what was acknowledged within that time.
//! - Memory is bounded by [`QUEUE_BYTES`], the disk by [`SpoolOptions::max_bytes`].
//!
//! # How it fails
//! - A write or fdatasync that fails *poisons* its segment: nothing more is
//!   written there and nothing is assumed of its end. The unacknowledged group
//!   is written once more to a new segment, else it is refused
//!   ([`AppendError::Io`]). A new segment's header says with which `wal_seq` it
//!   begins; whatever an older one holds from there on does not count.
//! - A full spool refuses ([`AppendError::Full`]); shipping makes room.
//! - A torn tail is cut off at opening. Damage elsewhere costs the records of
//!   the block it hits, is stepped over, kept, and reported with its place and
//!   the range of `wal_seq` lost: see [`Recovery`].
//! - An unacknowledged record may be there after a crash: the client that got no
//!   answer sends it again, and the event's id tells the copies apart.
//!
//! # The folder
//! ```text
//! lock                        held while the spool is open
//! collector_id                a random UUID, as text
//! checkpoint                  {"shipped_wal_seq":N}, replaced atomically
//! 00000000000000000001.seg    segments, by ordinal; their bytes: see `format`
//! ```
//! The newest segment is never deleted, so `wal_seq` goes on where it was.

pub mod disk;
mod encode;
mod error;
pub mod format;
pub mod inspect;
mod queue;
mod reader;
mod recover;
mod volatile;
mod writer;

#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
#[cfg(test)]
mod model;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "the tests use more of it"))]
#[allow(clippy::expect_used, reason = "a broken property panics")]
mod simulated;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clickmill_schemas::Timestamp;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::sink::SpoolRecord;
use disk::{Disk, OsDisk};
use error::io_error;
pub use error::{AppendError, SpoolError};
pub use format::Entry;
pub use queue::{CHUNK_BYTES, OverflowPolicy, QUEUE_BYTES};
use queue::{Queue, Request};
pub(crate) use reader::SpoolReader;
pub use recover::{DamagedRange, Recovery};
pub use volatile::volatile_file_system;
pub use writer::MAX_UNSYNCED_BYTES;
use writer::Writer;

/// A single append is no larger than this.
pub const MAX_APPEND_BYTES: usize = 8 * 1024 * 1024;

pub(crate) const COLLECTOR_ID_FILE: &str = "collector_id";
const CHECKPOINT_FILE: &str = "checkpoint";
const LOCK_FILE: &str = "lock";

/// Sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// A segment is closed once it is larger.
    pub segment_bytes: u64,
    /// The spool refuses what would make it larger.
    pub max_bytes: u64,
    /// Bytes of lines that are compressed, and lost to damage, together; 0 keeps
    /// every record by itself, at about twice to three times the disk space.
    pub block_bytes: usize,
    /// Whether the answer waits for the disk.
    pub sync: SyncPolicy,
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Once it is synced: it survives a power failure.
    #[default]
    BeforeAnswer,
    /// Once it is written (it survives the process); it is synced at the latest
    /// after this time, or [`MAX_UNSYNCED_BYTES`]. A power failure in between
    /// loses it.
    Within(Duration),
}

/// See docs/spool.md for what larger and smaller ones cost.
pub const DEFAULT_BLOCK_BYTES: usize = 16 * 1024;

impl Default for SpoolOptions {
    /// Segments of 32 MiB; 4 GiB in all; blocks of [`DEFAULT_BLOCK_BYTES`];
    /// synced before the answer.
    fn default() -> Self {
        Self {
            segment_bytes: 32 * 1024 * 1024,
            max_bytes: 4 * 1024 * 1024 * 1024,
            block_bytes: DEFAULT_BLOCK_BYTES,
            sync: SyncPolicy::BeforeAnswer,
        }
    }
}

/// What an append got: `first_wal_seq..next_wal_seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// What its first event or reject has.
    pub first_wal_seq: i64,
    /// The first after it.
    pub next_wal_seq: i64,
}

/// An open spool: one writer thread, any number of appenders.
pub struct Spool {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    recovery: Recovery,
}

/// Numbers of the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Bytes of all segments.
    pub bytes: u64,
    /// The limit.
    pub max_bytes: u64,
    /// The highest `wal_seq` on disk, 0 before the first.
    pub last_wal_seq: i64,
    /// The highest `wal_seq` shipped.
    pub shipped_wal_seq: i64,
    /// The last write that failed, until one succeeds.
    pub write_error: Option<String>,
    /// Records refused since the start after they were handed over: they have
    /// no `wal_seq`.
    pub refused: u64,
    /// Tracked events dropped since the start, as [`OverflowPolicy`] says.
    pub dropped: u64,
}

struct Shared {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    options: SpoolOptions,
    metrics: Arc<Metrics>,
    collector_id: Uuid,
    state: Mutex<State>,
    queue: Queue,
    /// Bytes of all segments, as in `state`: read for every event that comes in.
    used: AtomicU64,
    /// Counts commits: whoever waits for new records watches it.
    commits: watch::Sender<u64>,
    /// The highest `wal_seq` that the sink took.
    shipped: watch::Sender<i64>,
    _lock: Box<dyn Send + Sync>,
}

struct State {
    segments: BTreeMap<u64, SegmentState>,
    next_wal_seq: i64,
    shipped_wal_seq: i64,
    write_error: Option<String>,
    refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct SegmentState {
    first_wal_seq: i64,
    /// What is durable and acknowledged; a reader stops here.
    len: u64,
}

impl Spool {
    /// Opens the spool in `dir`, which is created where it does not exist, and
    /// recovers what a crash left.
    ///
    /// # Errors
    /// [`SpoolError`] where it is in use, or cannot be read or written.
    pub fn open(dir: &Path, options: SpoolOptions) -> Result<Self, SpoolError> {
        Self::open_with(Arc::new(OsDisk), dir, options, Arc::default())
    }

    /// As [`Spool::open`], on another disk, and counting in `metrics`.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: SpoolOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SpoolError> {
        disk.create_dir(dir).map_err(|e| io_error("create", dir, e))?;
        let lock = disk.lock(&dir.join(LOCK_FILE)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SpoolError::Locked { dir: dir.to_owned() },
            _ => io_error("lock", dir, error),
        })?;
        let shipped = read_checkpoint(&*disk, dir)?;
        let found = recover::find_segments(&*disk, dir)?;
        let recovery = recover::sum_up(&found, shipped);
        let collector_id = match recover::collector_id(&*disk, dir, &found)? {
            Some(id) => id,
            None => Uuid::new_v4(),
        };
        let text = format!("{collector_id}\n");
        disk::replace(&*disk, dir, COLLECTOR_ID_FILE, text.as_bytes())
            .map_err(|e| io_error("write", &dir.join(COLLECTOR_ID_FILE), e))?;
        let mut segments = BTreeMap::new();
        for segment in &found {
            let Some(first_wal_seq) = segment.first_wal_seq else {
                // Neither a header nor a frame is intact: it was being begun at the crash.
                disk.remove(&segment.path).map_err(|e| io_error("remove", &segment.path, e))?;
                continue;
            };
            // What a killed process wrote but did not sync is taken over: numbers
            // go on from it, so it has to stay. Truncating syncs, too.
            if segment.valid_len < segment.file_len {
                disk.truncate(&segment.path, segment.valid_len)
                    .map_err(|e| io_error("truncate", &segment.path, e))?;
            } else {
                disk.sync(&segment.path).map_err(|e| io_error("sync", &segment.path, e))?;
            }
            segments
                .insert(segment.ordinal, SegmentState { first_wal_seq, len: segment.valid_len });
        }
        report(&recovery);
        let next_ordinal = found.last().map_or(1, |segment| segment.ordinal + 1);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            disk,
            options,
            metrics,
            collector_id,
            queue: Queue::new(),
            used: AtomicU64::new(segments.values().map(|segment| segment.len).sum()),
            state: Mutex::new(State {
                segments,
                next_wal_seq: recovery.last_wal_seq + 1,
                shipped_wal_seq: shipped,
                write_error: None,
                refused: 0,
            }),
            commits: watch::Sender::new(0),
            shipped: watch::Sender::new(shipped),
            _lock: lock,
        });
        let started = Writer::new(Arc::clone(&shared), next_ordinal).and_then(|writer| {
            let thread = std::thread::Builder::new().name("clickmill-spool".to_owned());
            thread.spawn(move || writer.run())
        });
        let thread = started.map_err(|e| io_error("start the writer thread of", dir, e))?;
        Ok(Self { shared, writer: Mutex::new(Some(thread)), recovery })
    }

    /// Appends all of `entries` or none, and returns once they are on disk.
    ///
    /// # Errors
    /// [`AppendError`]; then none of them is acknowledged.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Appended, AppendError> {
        let bytes = self.admit(&entries)?;
        let permit = self.shared.queue.reserve(bytes).await?;
        let (ack, acknowledged) = oneshot::channel();
        self.shared.queue.push(Request { entries, ack: Some(ack), permit })?;
        acknowledged.await.map_err(|_| AppendError::Closed)?
    }

    /// Hands `entries` to the writer and returns at once. What happens to them
    /// then shows only in [`SpoolStatus::refused`].
    ///
    /// # Errors
    /// [`AppendError::Busy`] where the queue is full, and as [`Spool::append`].
    pub fn append_later(&self, entries: Vec<Entry>) -> Result<(), AppendError> {
        let bytes = self.admit(&entries)?;
        let permit = self.shared.queue.try_reserve(bytes)?;
        self.shared.queue.push(Request { entries, ack: None, permit })
    }

    /// Hands one encoded event without lineage to the writer and returns at
    /// once. Copies `line`; never waits for the disk.
    ///
    /// # Errors
    /// As [`Spool::append_later`], unless `policy` says that the event is to be
    /// dropped and counted instead.
    pub fn track(&self, line: &[u8], policy: OverflowPolicy) -> Result<(), AppendError> {
        let bytes = line.len() + format::LINEAGE_BYTES;
        if let Err(error) = self.has_room(bytes) {
            return self.shared.queue.overflow(error, policy);
        }
        self.shared.queue.track(line, policy)
    }

    /// What it weighs, if there is room.
    fn admit(&self, entries: &[Entry]) -> Result<u32, AppendError> {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        self.has_room(bytes)?;
        u32::try_from(bytes).map_err(|_| AppendError::TooLarge { bytes })
    }

    fn has_room(&self, bytes: usize) -> Result<(), AppendError> {
        if bytes > MAX_APPEND_BYTES {
            return Err(AppendError::TooLarge { bytes });
        }
        let (used, max) = (self.shared.used_bytes(), self.shared.options.max_bytes);
        if used >= max {
            return Err(AppendError::Full { used, max });
        }
        Ok(())
    }

    /// Takes no more appends and returns once everything handed over is on
    /// disk or refused. Blocks; a second call does nothing.
    pub fn close(&self) {
        self.shared.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the spool's writer thread panicked");
        }
    }

    /// The random id made with the folder.
    #[must_use]
    pub fn collector_id(&self) -> String {
        self.shared.collector_id.to_string()
    }

    /// What opening it found.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Numbers of the moment.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let state = self.shared.state();
        SpoolStatus {
            bytes: self.shared.used_bytes(),
            max_bytes: self.shared.options.max_bytes,
            last_wal_seq: state.next_wal_seq - 1,
            shipped_wal_seq: state.shipped_wal_seq,
            write_error: state.write_error.clone(),
            refused: state.refused,
            dropped: self.shared.queue.dropped(),
        }
    }

    /// Changes with every commit.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.shared.commits.subscribe()
    }

    /// Follows what the sink took.
    pub(crate) fn shipped(&self) -> watch::Receiver<i64> {
        self.shared.shipped.subscribe()
    }

    /// Notes, in memory, that the sink has everything up to `wal_seq`.
    pub(crate) fn note_shipped(&self, wal_seq: i64) {
        self.shared.shipped.send_modify(|shipped| *shipped = (*shipped).max(wal_seq));
    }

    /// Reads from the oldest record still held.
    pub(crate) fn reader(&self) -> SpoolReader {
        SpoolReader::new(Arc::clone(&self.shared))
    }

    /// Notes durably that everything up to `wal_seq` is shipped, and deletes the
    /// segments before `ordinal` that hold nothing else. Blocks.
    pub(crate) fn checkpoint(&self, wal_seq: i64, ordinal: u64) -> Result<(), SpoolError> {
        let shared = &self.shared;
        let text = format!("{{\"shipped_wal_seq\":{wal_seq}}}\n");
        disk::replace(&*shared.disk, &shared.dir, CHECKPOINT_FILE, text.as_bytes())
            .map_err(|e| io_error("write", &shared.dir.join(CHECKPOINT_FILE), e))?;
        let done: Vec<u64> = {
            let mut state = shared.state();
            state.shipped_wal_seq = wal_seq;
            let segments: Vec<_> = state.segments.iter().map(|(o, s)| (*o, *s)).collect();
            segments
                .windows(2)
                .filter(|pair| pair[0].0 < ordinal && pair[1].1.first_wal_seq - 1 <= wal_seq)
                .map(|pair| pair[0].0)
                .collect()
        };
        for ordinal in done {
            let path = shared.dir.join(recover::segment_name(ordinal));
            match shared.disk.remove(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &path, error)),
            }
            shared.remove_segment(ordinal);
        }
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}

/// Everything that a spool's folder holds.
#[derive(Clone, Debug)]
pub struct SpoolContents {
    /// The spool's random id; `None` where the folder is empty.
    pub collector_id: Option<String>,
    /// Its records in order, also those that are shipped but not yet deleted.
    pub records: Vec<SpoolRecord>,
    /// The highest `wal_seq` shipped.
    pub shipped_wal_seq: i64,
    /// What a collector would find at opening it.
    pub recovery: Recovery,
}

/// Reads the spool in `dir` without opening or changing it: meant for when no
/// collector runs on it (else the end is a snapshot, and a segment may vanish).
///
/// # Errors
/// [`SpoolError`] where a file cannot be read.
pub fn read_all(dir: impl AsRef<Path>) -> Result<SpoolContents, SpoolError> {
    read_all_on(&OsDisk, dir.as_ref())
}

fn read_all_on(disk: &dyn Disk, dir: &Path) -> Result<SpoolContents, SpoolError> {
    let shipped_wal_seq = read_checkpoint(disk, dir)?;
    let found = recover::find_segments(disk, dir)?;
    let mut records = Vec::new();
    for (index, segment) in found.iter().enumerate() {
        records.extend(recover::read_segment(disk, segment, recover::end_of(&found, index))?);
    }
    Ok(SpoolContents {
        collector_id: recover::collector_id(disk, dir, &found)?.map(|id| id.to_string()),
        records,
        shipped_wal_seq,
        recovery: recover::sum_up(&found, shipped_wal_seq),
    })
}

/// 0 where there is none. One that does not decode counts as none: the sink is
/// asked what it has, or gets records twice.
fn read_checkpoint(disk: &dyn Disk, dir: &Path) -> Result<i64, SpoolError> {
    #[derive(serde::Deserialize)]
    struct Checkpoint {
        shipped_wal_seq: i64,
    }
    let path = dir.join(CHECKPOINT_FILE);
    match disk.read(&path) {
        Ok(bytes) => Ok(match serde_json::from_slice::<Checkpoint>(&bytes) {
            Ok(checkpoint) => checkpoint.shipped_wal_seq.max(0),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the checkpoint does not decode; shipping begins with the oldest record");
                0
            }
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(io_error("read", &path, error)),
    }
}

fn report(recovery: &Recovery) {
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            "cut off the torn tail of the spool: a write that was never acknowledged"
        );
    }
    for damage in &recovery.damaged {
        tracing::error!(
            segment = damage.segment,
            offset = damage.offset,
            bytes = damage.len,
            first_wal_seq = damage.wal_seqs.map(|range| range.0),
            last_wal_seq = damage.wal_seqs.map(|range| range.1),
            "damage in the spool; what follows it is read"
        );
    }
    for (first, last) in &recovery.lost {
        tracing::error!(first, last, "wal_seq lost to damage in the spool");
    }
    for (first, last) in &recovery.uncertain {
        tracing::warn!(
            first,
            last,
            "wal_seq missing from the last write before a crash: lost to damage, or never \
             acknowledged"
        );
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now() -> Timestamp {
        Timestamp::now()
    }

    fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn add_segment(&self, ordinal: u64, segment: SegmentState) {
        self.change_segments(|segments| {
            segments.insert(ordinal, segment);
        });
    }

    /// Lets readers go up to `len`.
    fn grow(&self, ordinal: u64, len: u64) {
        self.change_segments(|segments| {
            if let Some(segment) = segments.get_mut(&ordinal) {
                segment.len = len;
            }
        });
    }

    /// Bytes of the segment that are durable.
    fn synced_len(&self, ordinal: u64) -> u64 {
        self.state().segments.get(&ordinal).map_or(0, |segment| segment.len)
    }

    fn remove_segment(&self, ordinal: u64) {
        self.change_segments(|segments| {
            segments.remove(&ordinal);
        });
    }

    fn change_segments(&self, change: impl FnOnce(&mut BTreeMap<u64, SegmentState>)) {
        let mut state = self.state();
        change(&mut state.segments);
        self.used
            .store(state.segments.values().map(|segment| segment.len).sum(), Ordering::Relaxed);
    }
}
