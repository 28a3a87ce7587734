//! Looks at a spool's folder without opening, locking or changing it: also
//! beside the collector that writes it, and on one that is broken.
//!
//! Beside a running collector this is a snapshot. Segments that are shipped and
//! deleted meanwhile are left out, and the newest may end in a write that is
//! still on its way (`SpoolReport::tail`), which is not damage.

use std::path::Path;
use std::sync::Arc;

use clickmill_schemas::Timestamp;

use super::disk::{Disk, OsDisk};
use super::recover::{self, DamagedRange, FoundSegment, Recovery};
use super::{SpoolError, read_checkpoint};
use crate::sink::{RecordKind, SpoolRecord};

/// A segment, for its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its number.
    pub ordinal: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// When it was begun; `None` where its header is damaged.
    pub created: Option<Timestamp>,
    /// The first and the last `wal_seq` in it; `None` where it holds no event
    /// or reject.
    pub wal_seqs: Option<(i64, i64)>,
    /// Intact frames.
    pub frames: u64,
    /// Of those, what they hold.
    pub events: u64,
    /// Likewise.
    pub rejects: u64,
    /// Likewise.
    pub heartbeats: u64,
    /// Bytes of its lines once decompressed.
    pub line_bytes: u64,
    /// Its header does not decode; what is in it is read all the same.
    pub header_damaged: bool,
    /// Damage before its last intact frame.
    pub damaged: Vec<DamagedRange>,
    /// Bytes after its last intact frame: a torn write, or one on its way.
    pub tail_bytes: u64,
}

/// A spool, for its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolReport {
    /// `None` where neither the file nor a segment says it.
    pub collector_id: Option<String>,
    /// Another process has the spool open.
    pub in_use: bool,
    /// The highest `wal_seq` shipped, by the checkpoint.
    pub shipped_wal_seq: i64,
    /// In order.
    pub segments: Vec<SegmentReport>,
    /// What opening it would find.
    pub recovery: Recovery,
}

impl SpoolReport {
    /// True where something that was written is not there any more, or a
    /// segment's header is gone. A torn tail is none: it was never acknowledged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.segments.iter().any(|s| !s.damaged.is_empty() || s.header_damaged)
            || !self.recovery.lost.is_empty()
            || !self.recovery.uncertain.is_empty()
            || self.collector_id.is_none() && !self.segments.is_empty()
    }

    /// Events and rejects that are not shipped.
    #[must_use]
    pub fn backlog(&self) -> i64 {
        (self.recovery.last_wal_seq - self.shipped_wal_seq).max(0)
    }
}

/// Looks at the spool in `dir`. Reads every byte of it, a segment at a time.
///
/// # Errors
/// [`SpoolError::Io`] where the folder or a file cannot be read.
pub fn inspect(dir: &Path) -> Result<SpoolReport, SpoolError> {
    let in_use = OsDisk::in_use(&dir.join(super::LOCK_FILE));
    inspect_on(&OsDisk, dir, in_use)
}

fn inspect_on(disk: &dyn Disk, dir: &Path, in_use: bool) -> Result<SpoolReport, SpoolError> {
    let shipped_wal_seq = read_checkpoint(disk, dir)?;
    let found = recover::find_segments(disk, dir)?;
    let mut segments = Vec::new();
    for (index, segment) in found.iter().enumerate() {
        let records = recover::read_segment(disk, segment, recover::end_of(&found, index))?;
        segments.push(report(segment, &records));
    }
    Ok(SpoolReport {
        // A file that says nothing is part of the report, not its end.
        collector_id: recover::collector_id(disk, dir, &found)
            .ok()
            .flatten()
            .map(|i| i.to_string()),
        in_use,
        shipped_wal_seq,
        segments,
        recovery: recover::sum_up(&found, shipped_wal_seq),
    })
}

fn report(found: &FoundSegment, records: &[SpoolRecord]) -> SegmentReport {
    let count = |kind| records.iter().filter(|record| record.kind == kind).count() as u64;
    let mut counted = records.iter().filter(|r| r.kind != RecordKind::Heartbeat);
    let first = counted.next();
    let last = counted.next_back().or(first);
    SegmentReport {
        ordinal: found.ordinal,
        bytes: found.file_len,
        created: found.header.map(|header| header.created),
        wal_seqs: first.zip(last).map(|(first, last)| (first.wal_seq, last.wal_seq)),
        frames: found.frames,
        events: count(RecordKind::Event),
        rejects: count(RecordKind::Reject),
        heartbeats: count(RecordKind::Heartbeat),
        line_bytes: records.iter().map(|record| record.line.len() as u64).sum(),
        header_damaged: found.header.is_none(),
        damaged: found.damaged.clone(),
        tail_bytes: found.file_len.saturating_sub(found.valid_len),
    }
}

/// The records of a spool that is not opened, a segment at a time.
pub struct Records {
    disk: Arc<dyn Disk>,
    found: Vec<FoundSegment>,
    next: usize,
    collector_id: Option<String>,
    recovery: Recovery,
}

impl Records {
    /// Of the spool in `dir`, as it is now.
    ///
    /// # Errors
    /// [`SpoolError`] where it cannot be read, or nothing says whose it is.
    pub fn open(dir: &Path) -> Result<Self, SpoolError> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let shipped = read_checkpoint(&*disk, dir)?;
        let found = recover::find_segments(&*disk, dir)?;
        let collector_id = recover::collector_id(&*disk, dir, &found)?.map(|id| id.to_string());
        let recovery = recover::sum_up(&found, shipped);
        Ok(Self { disk, found, next: 0, collector_id, recovery })
    }

    /// The spool's random id; `None` where the folder is empty.
    #[must_use]
    pub fn collector_id(&self) -> Option<&str> {
        self.collector_id.as_deref()
    }

    /// What opening the spool would find.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The next segment's records, in order; `None` after the last. Blocks.
    ///
    /// # Errors
    /// [`SpoolError::Io`] where the segment cannot be read.
    pub fn next_segment(&mut self) -> Result<Option<Vec<SpoolRecord>>, SpoolError> {
        let Some(segment) = self.found.get(self.next) else { return Ok(None) };
        let end = recover::end_of(&self.found, self.next);
        self.next += 1;
        recover::read_segment(&*self.disk, segment, end).map(Some)
    }
}
