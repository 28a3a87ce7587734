//! What a spool's folder holds, found without trusting its end.
//!
//! A segment is read frame by frame. What follows its last intact frame is a
//! torn tail: a write that the crash cut short, and that nobody was promised.
//! Damage before that is stepped over and reported with its place, so that the
//! rest still gets out. Where it lies before the segment's last sync point it
//! is loss; behind it, a power cut may have kept later blocks of the last write
//! and not earlier ones, so nobody can tell (`Recovery::uncertain`).

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::disk::Disk;
use super::format::{
    Piece, SEGMENT_HEADER_LEN, SegmentHeader, decode_frame, next_wal_seq, piece_at,
};
use super::{SpoolError, io_error};
use crate::sink::SpoolRecord;

const SEGMENT_SUFFIX: &str = ".seg";

/// One segment, as found.
#[derive(Clone, Debug)]
pub(crate) struct FoundSegment {
    pub ordinal: u64,
    pub path: PathBuf,
    pub header: Option<SegmentHeader>,
    /// Where its last intact frame ends; no smaller than the header.
    pub valid_len: u64,
    pub file_len: u64,
    /// Damage before `valid_len`.
    pub damaged: Vec<DamagedRange>,
    /// What the first event or reject of it has or gets; `None` where neither
    /// header nor frame is intact.
    pub first_wal_seq: Option<i64>,
    /// The first `wal_seq` after it.
    pub next_wal_seq: Option<i64>,
    /// Intact frames.
    pub frames: u64,
    /// Missing between its frames.
    gaps: Vec<Gap>,
    /// All before was synced.
    synced_len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    first: i64,
    last: i64,
    offset: u64,
}

/// A stretch of a segment that belongs to no intact frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// The segment's number.
    pub segment: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// The events and rejects (inclusive) that stood there, where the frame's
    /// header still says it.
    pub wal_seqs: Option<(i64, i64)>,
}

/// What was found at opening a spool, for its operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments with at least an intact header or frame.
    pub segments: usize,
    /// The highest `wal_seq` given out before.
    pub last_wal_seq: i64,
    /// Bytes of torn tails: writes that a crash cut short before they were
    /// acknowledged.
    pub torn_bytes: u64,
    /// Damage in front of intact frames, and where.
    pub damaged: Vec<DamagedRange>,
    /// Ranges of `wal_seq` (inclusive) that were given out and are neither here
    /// nor shipped: lost to damage.
    pub lost: Vec<(i64, i64)>,
    /// The same in the last write before a crash, which may never have been
    /// acknowledged.
    pub uncertain: Vec<(i64, i64)>,
}

pub(crate) fn segment_name(ordinal: u64) -> String {
    format!("{ordinal:020}{SEGMENT_SUFFIX}")
}

/// The segments' numbers, in order.
pub(super) fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut ordinals: Vec<u64> = disk
        .list(dir)
        .map_err(|e| io_error("list", dir, e))?
        .iter()
        .filter_map(|name| name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok())
        .collect();
    ordinals.sort_unstable();
    Ok(ordinals)
}

/// The segments in order of their number. One that vanishes meanwhile, shipped
/// by its collector, is left out.
pub(crate) fn find_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<FoundSegment>, SpoolError> {
    let mut found = Vec::new();
    for ordinal in list_segments(disk, dir)? {
        let path = dir.join(segment_name(ordinal));
        match disk.read(&path) {
            Ok(bytes) => found.push(examine(ordinal, path, &bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &path, error)),
        }
    }
    Ok(found)
}

fn examine(ordinal: u64, path: PathBuf, bytes: &[u8]) -> FoundSegment {
    let header = SegmentHeader::decode(bytes);
    let mut at = if header.is_some() { SEGMENT_HEADER_LEN } else { 0 };
    let mut found = FoundSegment {
        ordinal,
        path,
        header,
        valid_len: at as u64,
        file_len: bytes.len() as u64,
        damaged: Vec::new(),
        first_wal_seq: header.map(|h| h.first_wal_seq),
        next_wal_seq: header.map(|h| h.first_wal_seq),
        frames: 0,
        gaps: Vec::new(),
        synced_len: at as u64,
    };
    while at < bytes.len() {
        let offset = at as u64;
        match piece_at(bytes, at) {
            Piece::Frame(frame) => {
                found.synced_len = found.synced_len.max(offset.saturating_sub(frame.since_sync));
                found.reached(frame.first_wal_seq);
                at += frame.frame_len();
                found.valid_len = at as u64;
                found.frames += 1;
                found.next_wal_seq = Some(next_wal_seq(&bytes[offset as usize..], &frame));
            }
            Piece::Damage { len, header } => {
                if let Some(frame) = header {
                    let synced = offset.saturating_sub(frame.since_sync);
                    found.synced_len = found.synced_len.max(synced);
                    // Numbers of what was synced are not given out again. Those of
                    // a write that may never have been are, if nothing of it is left.
                    if synced > found.valid_len {
                        found.reached(frame.first_wal_seq);
                    }
                }
                let wal_seqs = header.and_then(|header| header.wal_seqs());
                let segment = ordinal;
                found.damaged.push(DamagedRange { segment, offset, len: len as u64, wal_seqs });
                at += len;
            }
        }
    }
    // What was synced was promised, intact or not: its numbers are not given out again.
    found.valid_len = found.valid_len.max(found.synced_len);
    found.damaged.retain(|damage| damage.offset < found.valid_len);
    found.gaps.retain(|gap| gap.offset < found.valid_len);
    found
}

impl FoundSegment {
    /// Numbers before `first_wal_seq` were given out: those that no intact
    /// frame has are missing, from where the last one ended.
    fn reached(&mut self, first_wal_seq: i64) {
        self.first_wal_seq.get_or_insert(first_wal_seq);
        let next = self.next_wal_seq.get_or_insert(first_wal_seq);
        if first_wal_seq > *next {
            let offset = self.valid_len;
            self.gaps.push(Gap { first: *next, last: first_wal_seq - 1, offset });
            *next = first_wal_seq;
        }
    }
}

/// Where the segment ends: with the `wal_seq` that the next one begins with,
/// whatever this one still holds.
pub(crate) fn end_of(segments: &[FoundSegment], index: usize) -> i64 {
    segments[index + 1..].iter().find_map(|s| s.first_wal_seq).unwrap_or(i64::MAX)
}

/// The segment's records before `end`, in order.
pub(crate) fn read_segment(
    disk: &dyn Disk,
    segment: &FoundSegment,
    end: i64,
) -> Result<Vec<SpoolRecord>, SpoolError> {
    let bytes = match disk.read(&segment.path) {
        Ok(bytes) => bytes,
        // Shipped and deleted meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", &segment.path, error)),
    };
    let bytes = &bytes[..bytes.len().min(usize::try_from(segment.valid_len).unwrap_or(usize::MAX))];
    let mut records = Vec::new();
    let mut at = if segment.header.is_some() { SEGMENT_HEADER_LEN } else { 0 };
    while at < bytes.len() {
        at += match piece_at(bytes, at) {
            Piece::Frame(header) => {
                // A right checksum around wrong content cannot be; it is damage all the same.
                if let Ok((_, frame)) = decode_frame(&bytes[at..]) {
                    records.extend(frame.records.into_iter().filter(|r| r.wal_seq < end));
                }
                header.frame_len()
            }
            Piece::Damage { len, .. } => len,
        };
    }
    Ok(records)
}

/// Sums up what was found; `shipped` is the checkpoint.
pub(crate) fn sum_up(segments: &[FoundSegment], shipped: i64) -> Recovery {
    let mut recovery = Recovery { last_wal_seq: shipped, ..Recovery::default() };
    // The last one decides: an older one may end with a group that was refused,
    // and whose numbers were given out again.
    if let Some(next) = segments.iter().rev().find_map(|segment| segment.next_wal_seq) {
        recovery.last_wal_seq = recovery.last_wal_seq.max(next - 1);
    }
    let mut expected = shipped + 1;
    for (index, segment) in segments.iter().enumerate() {
        let (Some(first), Some(next)) = (segment.first_wal_seq, segment.next_wal_seq) else {
            recovery.torn_bytes += segment.file_len;
            continue;
        };
        let end = end_of(segments, index);
        recovery.segments += 1;
        recovery.torn_bytes += segment.file_len - segment.valid_len;
        recovery.damaged.extend(&segment.damaged);
        if first > expected {
            recovery.lost.push((expected, first - 1));
        }
        for gap in &segment.gaps {
            let (first, last) = (gap.first.max(shipped + 1), gap.last.min(end - 1));
            if first > last {
                continue;
            }
            let certain = gap.offset < segment.synced_len;
            let missing = if certain { &mut recovery.lost } else { &mut recovery.uncertain };
            missing.push((first, last));
        }
        expected = expected.max(next.min(end));
    }
    recovery
}

/// The collector id of the folder: from its file, else from a segment.
pub(crate) fn collector_id(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[FoundSegment],
) -> Result<Option<Uuid>, SpoolError> {
    let path = dir.join(super::COLLECTOR_ID_FILE);
    match disk.read(&path) {
        Ok(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Uuid::parse_str(text.trim()).ok())
            .or_else(|| segments.iter().find_map(|s| s.header.map(|h| h.collector_id)))
            .map(Some)
            .ok_or(SpoolError::BadCollectorId { path }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let from_header = segments.iter().find_map(|s| s.header.map(|h| h.collector_id));
            if from_header.is_none() && segments.iter().any(|s| s.first_wal_seq.is_some()) {
                return Err(SpoolError::BadCollectorId { path });
            }
            Ok(from_header)
        }
        Err(error) => Err(io_error("read", &path, error)),
    }
}
