//! The durable queue between "received" and "shipped": a folder of segments.
//!
//! # Guarantees
//! - What [`Spool::append`] acknowledged is on disk (written and fdatasynced,
//!   its segment's folder entry too) and is read back, in order, after a
//!   process or power failure.
//! - Every event and reject has a `wal_seq`, from 1, without gaps, and never two
//!   of them the same one. Lineage (`collector_id`, `wal_seq`) stands in the line.
//! - Memory is bounded by [`QUEUE_REQUESTS`] and [`QUEUE_BYTES`], the disk by
//!   [`SpoolOptions::max_bytes`].
//!
//! # How it fails
//! - A write or fdatasync that fails *poisons* its segment: nothing more is
//!   written there and nothing is assumed of its end. The unacknowledged group
//!   is written once more to a new segment, else it is refused
//!   ([`AppendError::Io`]). A new segment's header says with which `wal_seq` it
//!   begins; whatever an older one holds from there on does not count.
//! - A full spool refuses ([`AppendError::Full`]); shipping makes room.
//! - A torn tail is cut off at opening. Damage elsewhere is stepped over, kept
//!   and reported as a lost range: see [`Recovery`].
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
pub mod format;
mod reader;
mod recover;
mod writer;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use clickmill_schemas::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::sink::SpoolRecord;
use disk::{Disk, OsDisk};
pub use format::Entry;
pub(crate) use reader::SpoolReader;
pub use recover::Recovery;
use writer::{Request, Writer};

/// Requests that wait for the writer, at most.
pub const QUEUE_REQUESTS: usize = 4_096;
/// Bytes that wait for the writer, at most.
pub const QUEUE_BYTES: usize = 64 * 1024 * 1024;
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
}

impl Default for SpoolOptions {
    /// Segments of 32 MiB; 4 GiB in all.
    fn default() -> Self {
        Self { segment_bytes: 32 * 1024 * 1024, max_bytes: 4 * 1024 * 1024 * 1024 }
    }
}

/// Why a spool does not open or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process (or another spool of this one) has it open.
    #[error(
        "the spool {} is in use by another process; give each collector a folder of its own",
        dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder's id is unreadable and no segment says it.
    #[error(
        "{} does not hold a UUID and no segment says which it was; restore it from a backup, or \
         move the folder away to begin a new spool",
        path.display()
    )]
    BadCollectorId {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Why something was not appended. None of it is in the spool.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// [`SpoolOptions::max_bytes`] is reached: the sink takes too little.
    #[error("the spool is full ({used} of {max} bytes): it is refused until the sink takes more")]
    Full {
        /// Bytes on disk.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The writer's queue is full: the disk is slower than the input.
    #[error("the spool's queue is full; try again shortly")]
    Busy,
    /// Larger than [`MAX_APPEND_BYTES`].
    #[error("{bytes} bytes at once are more than the spool's {MAX_APPEND_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Writing failed, in a new segment too.
    #[error("cannot write to the spool")]
    Io(#[source] Arc<io::Error>),
    /// The spool is closed.
    #[error("the spool is closed")]
    Closed,
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
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    queued_bytes: Arc<Semaphore>,
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
}

struct Shared {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    options: SpoolOptions,
    collector_id: Uuid,
    state: Mutex<State>,
    /// Counts commits: whoever waits for new records watches it.
    commits: watch::Sender<u64>,
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
        Self::open_on(Arc::new(OsDisk), dir, options)
    }

    /// As [`Spool::open`], on another disk.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: SpoolOptions,
    ) -> Result<Self, SpoolError> {
        disk.create_dir(dir).map_err(|e| io_error("create", dir, e))?;
        let lock = disk.lock(&dir.join(LOCK_FILE)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SpoolError::Locked { dir: dir.to_owned() },
            _ => io_error("lock", dir, error),
        })?;
        let shipped = read_checkpoint(&*disk, dir)?;
        let found = recover::find_segments(&*disk, dir)?;
        let recovery = recover::sum_up(&*disk, &found, shipped)?;
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
            if segment.valid_len < segment.file_len {
                disk.truncate(&segment.path, segment.valid_len)
                    .map_err(|e| io_error("truncate", &segment.path, e))?;
            }
            segments
                .insert(segment.ordinal, SegmentState { first_wal_seq, len: segment.valid_len });
        }
        report(dir, &recovery);
        let next_ordinal = found.last().map_or(1, |segment| segment.ordinal + 1);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            disk,
            options,
            collector_id,
            state: Mutex::new(State {
                segments,
                next_wal_seq: recovery.last_wal_seq + 1,
                shipped_wal_seq: shipped,
                write_error: None,
                refused: 0,
            }),
            commits: watch::Sender::new(0),
            _lock: lock,
        });
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let writer = Writer::new(Arc::clone(&shared), next_ordinal);
        let thread = std::thread::Builder::new()
            .name("clickmill-spool".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|e| io_error("start the writer thread of", dir, e))?;
        Ok(Self {
            shared,
            queue: Mutex::new(Some(queue)),
            queued_bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            writer: Mutex::new(Some(thread)),
            recovery,
        })
    }

    /// Appends all of `entries` or none, and returns once they are on disk.
    ///
    /// # Errors
    /// [`AppendError`]; then none of them is acknowledged.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Appended, AppendError> {
        let bytes = self.admit(&entries)?;
        let queue = self.queue()?;
        let permit = Arc::clone(&self.queued_bytes)
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| AppendError::Closed)?;
        let (ack, acknowledged) = oneshot::channel();
        queue
            .send(Request { entries, ack: Some(ack), _permit: permit })
            .await
            .map_err(|_| AppendError::Closed)?;
        acknowledged.await.map_err(|_| AppendError::Closed)?
    }

    /// Hands `entries` to the writer and returns at once. What happens to them
    /// then shows only in [`SpoolStatus::refused`].
    ///
    /// # Errors
    /// [`AppendError::Busy`] where the queue is full, and as [`Spool::append`].
    pub fn append_later(&self, entries: Vec<Entry>) -> Result<(), AppendError> {
        let bytes = self.admit(&entries)?;
        let permit = Arc::clone(&self.queued_bytes)
            .try_acquire_many_owned(bytes)
            .map_err(|_| AppendError::Busy)?;
        self.queue()?.try_send(Request { entries, ack: None, _permit: permit }).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Busy,
                mpsc::error::TrySendError::Closed(_) => AppendError::Closed,
            }
        })
    }

    /// What it weighs, if there is room.
    fn admit(&self, entries: &[Entry]) -> Result<u32, AppendError> {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        if bytes > MAX_APPEND_BYTES {
            return Err(AppendError::TooLarge { bytes });
        }
        let used = self.shared.state().bytes();
        let max = self.shared.options.max_bytes;
        if used >= max {
            return Err(AppendError::Full { used, max });
        }
        u32::try_from(bytes).map_err(|_| AppendError::TooLarge { bytes })
    }

    fn queue(&self) -> Result<mpsc::Sender<Request>, AppendError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.clone().ok_or(AppendError::Closed)
    }

    /// Takes no more appends and returns once everything handed over is on
    /// disk or refused. Blocks; a second call does nothing.
    pub fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
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
            bytes: state.bytes(),
            max_bytes: self.shared.options.max_bytes,
            last_wal_seq: state.next_wal_seq - 1,
            shipped_wal_seq: state.shipped_wal_seq,
            write_error: state.write_error.clone(),
            refused: state.refused,
        }
    }

    /// Changes with every commit.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.shared.commits.subscribe()
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
            shared.state().segments.remove(&ordinal);
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
    Ok(SpoolContents {
        collector_id: recover::collector_id(disk, dir, &found)?.map(|id| id.to_string()),
        records: recover::read_segments(disk, &found)?,
        shipped_wal_seq,
        recovery: recover::sum_up(disk, &found, shipped_wal_seq)?,
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

fn report(dir: &Path, recovery: &Recovery) {
    let dir = dir.display();
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            spool = %dir,
            bytes = recovery.torn_bytes,
            "cut off the torn tail of a write that was never acknowledged"
        );
    }
    for (first, last) in &recovery.lost {
        tracing::error!(spool = %dir, first, last, "wal_seq lost to damage in the spool");
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now() -> Timestamp {
        Timestamp::now()
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.len).sum()
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io { action, path: path.to_owned(), source }
}
