//! The one thread that writes: takes what waits, commits it as one group,
//! answers everybody in it.
//!
//! With [`SyncPolicy::BeforeAnswer`] a group is answered once it is synced. With
//! [`SyncPolicy::Within`] it is answered once it is written, and the sync follows:
//! until then its frames stay in memory too, so that a sync that fails can be
//! made good in a new segment. A reader sees what is synced only, so nothing is
//! shipped whose number a power cut could give out again.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use clickmill_failpoint as failpoint;

use super::disk::DiskFile;
use super::encode::Encoder;
use super::format::{SEGMENT_HEADER_LEN, SegmentHeader};
use super::queue::{Chunk, Wake};
use super::recover::segment_name;
use super::{AppendError, Appended, SegmentState, Shared, SyncPolicy};

/// A group is closed once it weighs this much: it is what one fdatasync costs
/// in latency.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// With [`SyncPolicy::Within`], frames that are written but not synced, at most: it
/// bounds their memory, and the loss beside the time.
pub const MAX_UNSYNCED_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Writer {
    shared: Arc<Shared>,
    encoder: Encoder,
    next_ordinal: u64,
    next_wal_seq: i64,
    open: Option<OpenSegment>,
    unsynced: Unsynced,
}

struct OpenSegment {
    ordinal: u64,
    file: Box<dyn DiskFile>,
    /// Bytes written, synced or not.
    len: u64,
}

/// Frames whose sync is still to come.
#[derive(Default)]
struct Unsynced {
    frames: Vec<u8>,
    /// How many of those bytes stand in the open segment; 0 where none is open.
    written: usize,
    first_wal_seq: i64,
    /// When their sync is due.
    due: Option<Instant>,
    /// How many of the bytes were acknowledged.
    acknowledged: usize,
    /// How many of those stand in a poisoned segment that was left behind: a
    /// killed process leaves them there, if the sync never came about.
    left_behind: usize,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, next_ordinal: u64) -> io::Result<Self> {
        let encoder = Encoder::new(shared.collector_id, shared.options.block_bytes)?;
        let next_wal_seq = shared.state().next_wal_seq;
        let unsynced = Unsynced::default();
        Ok(Self { shared, encoder, next_ordinal, next_wal_seq, open: None, unsynced })
    }

    /// Until the queue is closed and empty.
    pub fn run(mut self) {
        loop {
            match self.shared.queue.take(GROUP_BYTES, self.unsynced.due) {
                Wake::Chunks(group) => {
                    self.settle(group);
                    if self.unsynced.due.is_some_and(|due| due <= Instant::now()) {
                        self.catch_up();
                    }
                }
                Wake::Due => self.catch_up(),
                Wake::Closed => {
                    self.catch_up();
                    if !self.unsynced.frames.is_empty() {
                        tracing::error!(
                            bytes = self.unsynced.frames.len(),
                            "closing with acknowledged records that the disk does not take"
                        );
                    }
                    return;
                }
            }
        }
    }

    fn settle(&mut self, group: Vec<Chunk>) {
        let outcome = self.commit(&group);
        let mut next = match &outcome {
            Ok(first) => *first,
            Err(error) => {
                let mut state = self.shared.state();
                state.refused += group.iter().map(Chunk::records).sum::<u64>();
                if let AppendError::Io(source) = error {
                    state.write_error = Some(source.to_string());
                }
                0
            }
        };
        for chunk in group {
            let request = match chunk {
                Chunk::Tracked(tracked) => {
                    next += tracked.records as i64;
                    self.shared.queue.settled(&tracked);
                    continue;
                }
                Chunk::Request(request) => request,
            };
            let first_wal_seq = next;
            next += request.counted();
            let answer = outcome.clone().map(|_| Appended { first_wal_seq, next_wal_seq: next });
            if let Some(ack) = request.ack {
                // An appender that went away does not need its answer.
                let _ = ack.send(answer);
            }
        }
    }

    /// Writes the group, and syncs it where that comes before the answer.
    /// Returns its first `wal_seq`.
    fn commit(&mut self, group: &[Chunk]) -> Result<i64, AppendError> {
        let failed = |error: io::Error| AppendError::Io(Arc::new(error));
        let first = self.next_wal_seq;
        let before = self.unsynced.frames.len();
        let next = self.encode(group, first).map_err(|error| {
            self.unsynced.frames.truncate(before);
            failed(error)
        })?;
        let max = self.shared.options.max_bytes;
        let used = self.shared.used_bytes();
        if used + self.unsynced.frames.len() as u64 > max {
            self.unsynced.frames.truncate(before);
            return Err(AppendError::Full { used, max });
        }
        if before == 0 {
            self.unsynced.first_wal_seq = first;
        }
        let written = match self.shared.options.sync {
            SyncPolicy::BeforeAnswer => self.twice(Self::sync),
            SyncPolicy::Within(window) => self.twice(Self::write).map(|()| {
                let now = Instant::now();
                self.unsynced.due.get_or_insert(now + window);
                if self.unsynced.frames.len() >= MAX_UNSYNCED_BYTES {
                    self.unsynced.due = Some(now);
                }
            }),
        };
        if let Err(error) = written {
            tracing::error!(%error, "cannot write to the spool: records are refused");
            self.unsynced.frames.truncate(before);
            return Err(failed(error));
        }
        self.shared.metrics.spool_records.add((next - first).unsigned_abs());
        self.next_wal_seq = next;
        self.unsynced.acknowledged = self.unsynced.frames.len();
        let mut state = self.shared.state();
        state.next_wal_seq = next;
        state.write_error = None;
        drop(state);
        self.shared.commits.send_modify(|count| *count += 1);
        Ok(first)
    }

    /// Adds the group's frames to `unsynced`; returns the first `wal_seq` after it.
    fn encode(&mut self, group: &[Chunk], first_wal_seq: i64) -> io::Result<i64> {
        let now = Shared::now();
        self.encoder.begin(first_wal_seq, self.unsynced.frames.len());
        for chunk in group {
            match chunk {
                Chunk::Tracked(tracked) => {
                    for line in tracked.lines() {
                        self.encoder.event(line)?;
                    }
                }
                Chunk::Request(request) => {
                    for entry in &request.entries {
                        self.encoder.entry(entry, now)?;
                    }
                }
            }
        }
        let (frames, next) = self.encoder.finish()?;
        self.unsynced.frames.extend_from_slice(frames);
        Ok(next)
    }

    /// Syncs what was answered before it was synced. Where the disk does not
    /// take it, it is kept, and tried again after another window.
    fn catch_up(&mut self) {
        let SyncPolicy::Within(window) = self.shared.options.sync else { return };
        if self.unsynced.frames.is_empty() {
            self.unsynced.due = None;
            return;
        }
        match self.twice(Self::sync) {
            Ok(()) => {
                self.shared.state().write_error = None;
                self.shared.commits.send_modify(|count| *count += 1);
            }
            Err(error) => {
                tracing::error!(%error, "cannot sync what was acknowledged; trying again");
                self.shared.state().write_error = Some(error.to_string());
                self.unsynced.due = Some(Instant::now() + window);
            }
        }
    }

    /// Tries again in a new segment: the one that failed is poisoned, and let go of.
    fn twice(&mut self, step: fn(&mut Self) -> io::Result<()>) -> io::Result<()> {
        step(self).or_else(|error| {
            self.shared.metrics.spool_write_errors.inc();
            tracing::warn!(%error, "a write to the spool failed; trying a new segment");
            step(self).inspect_err(|_| self.shared.metrics.spool_write_errors.inc())
        })
    }

    /// Lets go of a segment that failed, of which `written` bytes of `unsynced`
    /// went well. It is removed where it holds nothing that anybody was
    /// promised: a disk that fails for hours would be filled with them.
    fn poison(&mut self, segment: OpenSegment, written: usize) {
        self.unsynced.written = 0;
        let promised = written.min(self.unsynced.acknowledged);
        let synced = self.shared.synced_len(segment.ordinal);
        if synced > SEGMENT_HEADER_LEN as u64 || promised > self.unsynced.left_behind {
            self.unsynced.left_behind = self.unsynced.left_behind.max(promised);
            return;
        }
        let ordinal = segment.ordinal;
        let path = self.shared.dir.join(segment_name(ordinal));
        drop(segment);
        // Should it stay, the next segment's header ends it.
        if self.shared.disk.remove(&path).is_ok() {
            self.shared.remove_segment(ordinal);
        }
    }

    /// Writes what of `unsynced` is not written yet. After an error no segment is open.
    fn write(&mut self) -> io::Result<()> {
        let mut segment = match self.open.take() {
            // One that holds unsynced frames is synced before another is begun.
            Some(open)
                if open.len < self.shared.options.segment_bytes || self.unsynced.written > 0 =>
            {
                open
            }
            _ => {
                self.unsynced.written = 0;
                self.begin(self.unsynced.first_wal_seq)?
            }
        };
        let unwritten = &self.unsynced.frames[self.unsynced.written..];
        if let Err(error) = segment.file.append(unwritten) {
            let written = self.unsynced.written;
            self.poison(segment, written);
            return Err(error);
        }
        failpoint::hit("spool.written");
        segment.len += unwritten.len() as u64;
        self.unsynced.written = self.unsynced.frames.len();
        self.open = Some(segment);
        Ok(())
    }

    /// Writes the rest of `unsynced` and syncs. After an error no segment is open.
    fn sync(&mut self) -> io::Result<()> {
        if self.open.is_none() || self.unsynced.written < self.unsynced.frames.len() {
            self.write()?;
        }
        let Some(mut segment) = self.open.take() else { return Ok(()) };
        let started = Instant::now();
        if let Err(error) = segment.file.sync() {
            let written = self.unsynced.written;
            self.poison(segment, written);
            return Err(error);
        }
        failpoint::hit("spool.synced");
        self.shared.metrics.spool_sync_seconds.observe(started.elapsed());
        self.shared.metrics.spool_bytes_written.add(self.unsynced.frames.len() as u64);
        self.shared.grow(segment.ordinal, segment.len);
        self.open = Some(segment);
        let mut frames = std::mem::take(&mut self.unsynced).frames;
        frames.clear();
        self.unsynced.frames = frames;
        Ok(())
    }

    /// A new segment, with its header and its folder entry durable.
    fn begin(&mut self, first_wal_seq: i64) -> io::Result<OpenSegment> {
        // A failed attempt's number is not used again: its file may be there in any state.
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let shared = &self.shared;
        let header = SegmentHeader {
            ordinal,
            first_wal_seq,
            created: Shared::now(),
            collector_id: shared.collector_id,
        };
        let path = shared.dir.join(segment_name(ordinal));
        let mut file = shared.disk.create(&path)?;
        let durable = file
            .append(&header.encode())
            .and_then(|()| file.sync())
            .and_then(|()| shared.disk.sync_dir(&shared.dir));
        if let Err(error) = durable {
            // It holds nothing. Should it stay, opening the spool removes or skips it.
            let _ = shared.disk.remove(&path);
            return Err(error);
        }
        let len = SEGMENT_HEADER_LEN as u64;
        shared.add_segment(ordinal, SegmentState { first_wal_seq, len });
        Ok(OpenSegment { ordinal, file, len })
    }
}
