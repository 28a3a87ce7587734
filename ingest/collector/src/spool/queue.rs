//! What waits for the writer: bounded by [`QUEUE_BYTES`], in order of arrival.
//!
//! Handing over an event is a copy of its line behind one short lock. The
//! writer is woken only where it sleeps, so a burst costs one wake-up, and
//! nobody who hands over waits for the disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::format::{Entry, LINEAGE_BYTES};
use super::{AppendError, Appended};

/// Bytes that wait for the writer, at most.
pub const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Tracked events are gathered to chunks of about this size: what one
/// [`OverflowPolicy::DropOldest`] drops at once.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// What [`Collector::track`](crate::Collector::track) does with an event when
/// [`QUEUE_BYTES`] wait for the disk, or the spool takes nothing. Whatever is
/// dropped is counted in [`SpoolStatus::dropped`](super::SpoolStatus::dropped).
/// What was acknowledged is never dropped, nor is anything on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// Refuse the event: the caller learns why.
    #[default]
    Refuse,
    /// Drop the event, and say nothing.
    DropNewest,
    /// Drop the oldest tracked events that wait in memory, up to
    /// [`CHUNK_BYTES`] at a time, to make room. A full or failing disk, where
    /// that helps nothing, drops the newest.
    DropOldest,
}

/// What the writer takes at once.
pub(super) enum Chunk {
    /// Events that nobody waits for.
    Tracked(Tracked),
    /// What one appender wants written, all or none.
    Request(Request),
}

/// Encoded events without lineage, one behind the other.
#[derive(Default)]
pub(super) struct Tracked {
    /// For each its length (4 bytes, the machine's order), then the line.
    lines: Vec<u8>,
    pub records: u64,
    /// Its share of [`QUEUE_BYTES`].
    weight: usize,
}

pub(super) struct Request {
    pub entries: Vec<Entry>,
    pub ack: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    /// Its share of the queue, given back when the request is dropped.
    pub permit: OwnedSemaphorePermit,
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    /// Bytes of room; closed with the queue.
    room: Arc<Semaphore>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Chunk>,
    /// The writer sleeps until something comes.
    asleep: bool,
    closed: bool,
}

/// What the writer woke up for.
pub(super) enum Wake {
    /// At most about so many bytes as asked for; at least one chunk.
    Chunks(Vec<Chunk>),
    /// Nothing came until the time given.
    Due,
    /// Closed, and nothing is left.
    Closed,
}

impl Queue {
    pub fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE_BYTES)),
            dropped: AtomicU64::new(0),
        }
    }

    /// Room for `bytes`, waited for.
    pub async fn reserve(&self, bytes: u32) -> Result<OwnedSemaphorePermit, AppendError> {
        Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| AppendError::Closed)
    }

    /// Room for `bytes`, if there is any.
    pub fn try_reserve(&self, bytes: u32) -> Result<OwnedSemaphorePermit, AppendError> {
        Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|error| match error {
            tokio::sync::TryAcquireError::Closed => AppendError::Closed,
            tokio::sync::TryAcquireError::NoPermits => AppendError::Busy,
        })
    }

    /// Hands a request over.
    pub fn push(&self, request: Request) -> Result<(), AppendError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(AppendError::Closed);
        }
        waiting.chunks.push_back(Chunk::Request(request));
        self.wake(waiting);
        Ok(())
    }

    /// Hands an encoded event over, where there is room.
    pub fn track(&self, line: &[u8], policy: OverflowPolicy) -> Result<(), AppendError> {
        let weight = line.len() + LINEAGE_BYTES;
        let len = u32::try_from(line.len());
        let (Ok(len), Ok(permits)) = (len, u32::try_from(weight)) else {
            return Err(AppendError::TooLarge { bytes: line.len() });
        };
        if let Err(error) = self.take_room(permits, policy) {
            return self.overflow(error, policy);
        }
        let mut waiting = self.waiting();
        if waiting.closed {
            drop(waiting);
            self.room.add_permits(weight);
            return Err(AppendError::Closed);
        }
        if !matches!(waiting.chunks.back(), Some(Chunk::Tracked(last)) if last.weight < CHUNK_BYTES)
        {
            let lines = Vec::with_capacity(CHUNK_BYTES);
            waiting.chunks.push_back(Chunk::Tracked(Tracked { lines, ..Tracked::default() }));
        }
        if let Some(Chunk::Tracked(last)) = waiting.chunks.back_mut() {
            last.lines.extend_from_slice(&len.to_ne_bytes());
            last.lines.extend_from_slice(line);
            last.records += 1;
            last.weight += weight;
        }
        self.wake(waiting);
        Ok(())
    }

    /// What the policy makes of a tracked event that is not taken.
    pub fn overflow(&self, error: AppendError, policy: OverflowPolicy) -> Result<(), AppendError> {
        match (policy, &error) {
            (OverflowPolicy::Refuse, _)
            | (_, AppendError::Closed | AppendError::TooLarge { .. }) => Err(error),
            (OverflowPolicy::DropNewest | OverflowPolicy::DropOldest, _) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn take_room(&self, permits: u32, policy: OverflowPolicy) -> Result<(), AppendError> {
        loop {
            match self.room.try_acquire_many(permits) {
                Ok(permit) => {
                    // Given back by the writer, with the chunk.
                    permit.forget();
                    return Ok(());
                }
                Err(tokio::sync::TryAcquireError::Closed) => return Err(AppendError::Closed),
                Err(tokio::sync::TryAcquireError::NoPermits) => {
                    // Each turn makes the queue shorter, or ends.
                    if policy != OverflowPolicy::DropOldest || !self.drop_oldest() {
                        return Err(AppendError::Busy);
                    }
                }
            }
        }
    }

    /// False where no tracked event waits.
    fn drop_oldest(&self) -> bool {
        let mut waiting = self.waiting();
        let oldest = waiting.chunks.iter().position(|chunk| matches!(chunk, Chunk::Tracked(_)));
        let Some(Chunk::Tracked(chunk)) = oldest.and_then(|at| waiting.chunks.remove(at)) else {
            return false;
        };
        drop(waiting);
        self.dropped.fetch_add(chunk.records, Ordering::Relaxed);
        self.room.add_permits(chunk.weight);
        true
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.filled.notify_one();
        }
    }

    /// Takes what waits, up to about `bytes`; sleeps until something comes, at
    /// most until `due`.
    pub fn take(&self, bytes: usize, due: Option<Instant>) -> Wake {
        let mut waiting = self.waiting();
        while waiting.chunks.is_empty() {
            if waiting.closed {
                return Wake::Closed;
            }
            waiting.asleep = true;
            waiting = match due {
                None => self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        waiting.asleep = false;
                        return Wake::Due;
                    }
                    let woken = self.filled.wait_timeout(waiting, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        waiting.asleep = false;
        let (mut chunks, mut weight) = (Vec::new(), 0);
        while weight < bytes
            && let Some(chunk) = waiting.chunks.pop_front()
        {
            weight += chunk.weight();
            chunks.push(chunk);
        }
        Wake::Chunks(chunks)
    }

    /// Gives back the room of chunks that are settled.
    pub fn settled(&self, tracked: &Tracked) {
        self.room.add_permits(tracked.weight);
    }

    /// Takes no more. What waits is still taken by the writer.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        drop(waiting);
        self.room.close();
        self.filled.notify_one();
    }

    /// Events dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chunk {
    fn weight(&self) -> usize {
        match self {
            Self::Tracked(tracked) => tracked.weight,
            Self::Request(request) => request.permit.num_permits(),
        }
    }

    /// All of its records.
    pub fn records(&self) -> u64 {
        match self {
            Self::Tracked(tracked) => tracked.records,
            Self::Request(request) => request.entries.len() as u64,
        }
    }
}

impl Tracked {
    /// Its lines, in order.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.lines.as_slice();
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first_chunk()?;
            let (line, after) = after.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
            rest = after;
            Some(line)
        })
    }
}

impl Request {
    /// How many of its entries get a `wal_seq`.
    pub fn counted(&self) -> i64 {
        let counted =
            self.entries.iter().filter(|entry| !matches!(entry, Entry::Heartbeat { .. })).count();
        i64::try_from(counted).unwrap_or(i64::MAX)
    }
}
