//! The one thread that writes: takes what waits, commits it as one group,
//! answers everybody in it.

use std::io;
use std::sync::Arc;

use clickmill_failpoint as failpoint;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::disk::DiskFile;
use super::format::{Entry, SEGMENT_HEADER_LEN, SegmentHeader, encode_frame};
use super::recover::segment_name;
use super::{AppendError, Appended, SegmentState, Shared};

/// A group is closed once it weighs this much: it is what one fdatasync costs
/// in latency.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// What one appender wants written.
pub(super) struct Request {
    pub entries: Vec<Entry>,
    pub ack: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    /// Its share of the queue, given back when the request is dropped.
    pub _permit: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    next_ordinal: u64,
    open: Option<OpenSegment>,
}

struct OpenSegment {
    ordinal: u64,
    file: Box<dyn DiskFile>,
    len: u64,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, next_ordinal: u64) -> Self {
        Self { shared, next_ordinal, open: None }
    }

    /// Until every sender is gone and the queue is empty.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut weight = first.weight();
            let mut group = vec![first];
            while weight < GROUP_BYTES {
                let Ok(next) = requests.try_recv() else { break };
                weight += next.weight();
                group.push(next);
            }
            self.settle(group);
        }
    }

    fn settle(&mut self, group: Vec<Request>) {
        let outcome = self.commit(&group);
        let mut next = match &outcome {
            Ok(first) => *first,
            Err(error) => {
                let records: usize = group.iter().map(|request| request.entries.len()).sum();
                let mut state = self.shared.state();
                state.refused += records as u64;
                if let AppendError::Io(source) = error {
                    state.write_error = Some(source.to_string());
                }
                0
            }
        };
        for request in group {
            let first_wal_seq = next;
            next += request.counted();
            let answer = outcome.clone().map(|_| Appended { first_wal_seq, next_wal_seq: next });
            if let Some(ack) = request.ack {
                // An appender that went away does not need its answer.
                let _ = ack.send(answer);
            }
        }
        if outcome.is_ok() {
            self.shared.commits.send_modify(|count| *count += 1);
        }
    }

    /// Returns the group's first `wal_seq`.
    fn commit(&mut self, group: &[Request]) -> Result<i64, AppendError> {
        let failed = |error: io::Error| AppendError::Io(Arc::new(error));
        let (first, used) = {
            let state = self.shared.state();
            (state.next_wal_seq, state.bytes())
        };
        let entries = group.iter().flat_map(|request| &request.entries);
        let id = self.shared.collector_id.to_string();
        let (frame, next) = encode_frame(entries, &id, first, Shared::now()).map_err(failed)?;
        let max = self.shared.options.max_bytes;
        let len = frame.len() as u64;
        if used + len > max {
            return Err(AppendError::Full { used, max });
        }
        if let Err(error) = self.write(&frame, first) {
            // The segment is poisoned: `write` has let go of it.
            tracing::warn!(%error, "a write to the spool failed; trying a new segment");
            self.write(&frame, first).map_err(|error| {
                tracing::error!(%error, "cannot write to the spool: records are refused");
                failed(error)
            })?;
        }
        let Some(open) = &self.open else { return Err(AppendError::Closed) };
        let mut state = self.shared.state();
        state.next_wal_seq = next;
        state.write_error = None;
        if let Some(segment) = state.segments.get_mut(&open.ordinal) {
            segment.len = open.len;
        }
        Ok(first)
    }

    /// Writes and syncs; after an error no segment is open.
    fn write(&mut self, frame: &[u8], first_wal_seq: i64) -> io::Result<()> {
        let mut segment = match self.open.take() {
            Some(open) if open.len < self.shared.options.segment_bytes => open,
            _ => self.begin(first_wal_seq)?,
        };
        segment.file.append(frame)?;
        failpoint::hit("spool.written");
        segment.file.sync()?;
        failpoint::hit("spool.synced");
        segment.len += frame.len() as u64;
        self.open = Some(segment);
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
        shared.state().segments.insert(ordinal, SegmentState { first_wal_seq, len });
        Ok(OpenSegment { ordinal, file, len })
    }
}

impl Request {
    fn weight(&self) -> usize {
        self.entries.iter().map(Entry::bytes).sum()
    }

    /// How many of its entries get a `wal_seq`.
    fn counted(&self) -> i64 {
        let counted =
            self.entries.iter().filter(|entry| !matches!(entry, Entry::Heartbeat { .. })).count();
        i64::try_from(counted).unwrap_or(i64::MAX)
    }
}
