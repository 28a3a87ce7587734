//! What a spool's folder holds, found without trusting its end.
//!
//! A segment is read frame by frame. What follows its last intact frame is a
//! torn tail: a write that the crash cut short, and that nobody was promised.
//! Damage *before* an intact frame is loss, since frames are synced in order;
//! it is stepped over and reported, so that the rest still gets out.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::disk::Disk;
use super::format::{SEGMENT_HEADER_LEN, SegmentHeader, decode_frame, find_frame, frame_len};
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
    /// Bytes of damage between intact frames.
    pub damaged_bytes: u64,
    /// What the first event or reject of it has or gets; `None` where neither
    /// header nor frame is intact.
    pub first_wal_seq: Option<i64>,
    /// The first `wal_seq` after it.
    pub next_wal_seq: Option<i64>,
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
    /// Bytes of damage in front of intact frames.
    pub damaged_bytes: u64,
    /// Ranges of `wal_seq` (inclusive) that were given out and are neither here
    /// nor shipped: lost to damage.
    pub lost: Vec<(i64, i64)>,
}

pub(crate) fn segment_name(ordinal: u64) -> String {
    format!("{ordinal:020}{SEGMENT_SUFFIX}")
}

/// The segments in order of their number.
pub(crate) fn find_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<FoundSegment>, SpoolError> {
    let mut ordinals: Vec<u64> = disk
        .list(dir)
        .map_err(|e| io_error("list", dir, e))?
        .iter()
        .filter_map(|name| name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok())
        .collect();
    ordinals.sort_unstable();
    ordinals.into_iter().map(|ordinal| examine(disk, dir, ordinal)).collect()
}

fn examine(disk: &dyn Disk, dir: &Path, ordinal: u64) -> Result<FoundSegment, SpoolError> {
    let path = dir.join(segment_name(ordinal));
    let bytes = disk.read(&path).map_err(|e| io_error("read", &path, e))?;
    let header = SegmentHeader::decode(&bytes);
    let mut found = FoundSegment {
        ordinal,
        path,
        header,
        valid_len: if header.is_some() { SEGMENT_HEADER_LEN as u64 } else { 0 },
        file_len: bytes.len() as u64,
        damaged_bytes: 0,
        first_wal_seq: header.map(|h| h.first_wal_seq),
        next_wal_seq: header.map(|h| h.first_wal_seq),
    };
    let mut at = if header.is_some() { SEGMENT_HEADER_LEN } else { 0 };
    while let Some(start) = find_frame(&bytes, at) {
        found.damaged_bytes += (start - at) as u64;
        // `find_frame` decoded it: neither of these fails.
        let (Ok(frame), Ok(len)) = (decode_frame(&bytes[start..]), frame_len(&bytes[start..]))
        else {
            break;
        };
        at = start + len;
        found.valid_len = at as u64;
        found.first_wal_seq.get_or_insert(frame.first_wal_seq);
        found.next_wal_seq = Some(frame.next_wal_seq());
    }
    Ok(found)
}

/// Every record of the segments, in order, each once, with the ranges of
/// `wal_seq` that are missing between them.
pub(crate) fn read_segments(
    disk: &dyn Disk,
    segments: &[FoundSegment],
) -> Result<Vec<SpoolRecord>, SpoolError> {
    let mut records: Vec<SpoolRecord> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let end = segments[index + 1..].iter().find_map(|s| s.first_wal_seq).unwrap_or(i64::MAX);
        let bytes = disk.read(&segment.path).map_err(|e| io_error("read", &segment.path, e))?;
        let mut at = 0;
        while let Some(start) = find_frame(&bytes, at) {
            let (Ok(frame), Ok(len)) = (decode_frame(&bytes[start..]), frame_len(&bytes[start..]))
            else {
                break;
            };
            records.extend(frame.records.into_iter().filter(|record| record.wal_seq < end));
            at = start + len;
        }
    }
    Ok(records)
}

/// Sums up what was found; `shipped` is the checkpoint.
pub(crate) fn sum_up(
    disk: &dyn Disk,
    segments: &[FoundSegment],
    shipped: i64,
) -> Result<Recovery, SpoolError> {
    let mut recovery = Recovery { last_wal_seq: shipped, ..Recovery::default() };
    for segment in segments {
        recovery.segments += usize::from(segment.first_wal_seq.is_some());
        recovery.torn_bytes += segment.file_len - segment.valid_len;
        recovery.damaged_bytes += segment.damaged_bytes;
    }
    // The last one decides: an older one may end with a group that was refused,
    // and whose numbers were given out again.
    if let Some(next) = segments.iter().rev().find_map(|segment| segment.next_wal_seq) {
        recovery.last_wal_seq = recovery.last_wal_seq.max(next - 1);
    }
    let mut expected = shipped + 1;
    let seams = segments.iter().any(|segment| segment.damaged_bytes > 0)
        || segments.windows(2).any(|pair| match (pair[0].next_wal_seq, pair[1].first_wal_seq) {
            (Some(next), Some(first)) => next < first,
            _ => true,
        });
    if seams {
        for record in read_segments(disk, segments)? {
            if record.wal_seq > expected {
                recovery.lost.push((expected, record.wal_seq - 1));
            }
            expected = expected.max(record.wal_seq + 1);
        }
    } else if let Some(first) = segments.iter().find_map(|s| s.first_wal_seq)
        && first > expected
    {
        recovery.lost.push((expected, first - 1));
    }
    Ok(recovery)
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
