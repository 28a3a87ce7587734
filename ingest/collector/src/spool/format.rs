//! The bytes of a segment. All integers are little-endian.
//!
//! ```text
//! segment  = header frame*
//!
//! header   (56 bytes)
//!   magic          8   "CMSPOOL1"
//!   version        4   u32, 2 (1: its frames are of the first version)
//!   ordinal        8   u64, the number in the file's name
//!   first_wal_seq  8   i64, what the first event or reject in it gets; earlier
//!                      segments end before it, whatever else they hold
//!   created        8   i64, microseconds since 1970
//!   collector_id  16   UUID
//!   crc            4   CRC32C of the 52 bytes before
//!
//! frame    (one block of records; a group commit is one or more of them)
//!   magic          4   "CMF2"
//!   codec          4   u32: 0 as is, 1 zstd
//!   body_len       4   u32, bytes that follow this header
//!   raw_len        4   u32, bytes of the body once decompressed
//!   counted        4   u32, events and rejects in it
//!   since_sync     4   u32, bytes of frames between this one and the last point
//!                      of the segment that was synced when this was written
//!   first_wal_seq  8   i64
//!   header_crc     4   CRC32C of the 32 bytes before
//!   body_crc       4   CRC32C of the body
//!   body
//!
//! body     = record*, compressed
//! record
//!   kind           1   1 event, 2 reject, 3 heartbeat
//!   len            4   u32
//!   line         len   an encoded record of the wire, without newline
//! ```
//!
//! A record's `wal_seq` is not stored beside it: it is the frame's
//! `first_wal_seq` plus the number of events and rejects before it in the
//! frame. A heartbeat has that number less one.
//!
//! A frame is the unit of damage: whatever happens to its body costs the
//! records of that frame, and its header still says which those were. How large
//! a frame becomes is the writer's choice (`SpoolOptions::block_bytes`).
//!
//! `since_sync` tells loss from what was never promised: of the frames behind a
//! segment's last sync point a power cut may leave any subset, so a hole among
//! them may be a write that was never acknowledged.
//!
//! The first version's frames ("CMF1": codec, body_len, raw_len, records,
//! first_wal_seq, and one crc over header and body; 32 bytes) are read for ever.
//!
//! Looking for the next frame behind damage cannot be led astray by what a
//! client sent: lines are JSON text, which has no byte below 0x20, and no
//! length in a header can be written without one.

use std::cell::RefCell;

use bytes::Bytes;
use clickmill_schemas::Timestamp;
use uuid::Uuid;

use crate::sink::{RecordKind, SpoolRecord};

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 56;
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 40;
/// Bytes of a frame's header in the first version.
const FRAME_1_HEADER_LEN: usize = 32;
/// No frame is longer than this when decompressed: what says otherwise is
/// damage, and is not allocated for.
pub const MAX_FRAME_RAW_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of a record before its line.
pub(super) const RECORD_HEADER_LEN: usize = 5;

const SEGMENT_MAGIC: &[u8; 8] = b"CMSPOOL1";
const FRAME_MAGIC: &[u8; 4] = b"CMF2";
const FRAME_1_MAGIC: &[u8; 4] = b"CMF1";
/// What this writes.
const VERSION: u32 = 2;
/// The oldest that this reads.
const OLDEST_VERSION: u32 = 1;
pub(super) const CODEC_NONE: u32 = 0;
pub(super) const CODEC_ZSTD: u32 = 1;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number.
    pub ordinal: u64,
    /// What the first event or reject in it gets.
    pub first_wal_seq: i64,
    /// When it was begun.
    pub created: Timestamp,
    /// Whose it is.
    pub collector_id: Uuid,
}

/// A frame's header, its checksum right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    codec: u32,
    /// Bytes of this header.
    pub header_len: usize,
    /// Bytes of the body behind it.
    pub body_len: usize,
    raw_len: usize,
    /// Events and rejects; in the first version all records.
    records: u32,
    /// Bytes between the last point that was synced when this was written and
    /// this frame.
    pub since_sync: u64,
    /// What its first event or reject has.
    pub first_wal_seq: i64,
    crc: u32,
}

/// A frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What its first event or reject has.
    pub first_wal_seq: i64,
    /// In order.
    pub records: Vec<SpoolRecord>,
}

/// Why the bytes at a place are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They end before the frame does.
    #[error("the bytes end inside a frame")]
    Short,
    /// They do not begin like one.
    #[error("no frame begins here")]
    Magic,
    /// Magic and length are there; the checksum or the content is wrong.
    #[error("the frame's checksum or content is wrong")]
    Damaged,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A frame whose checksums are right.
    Frame(FrameHeader),
    /// Bytes that belong to no intact frame, up to the next intact header or the end.
    Damage {
        /// How many.
        len: usize,
        /// Its header, where that is intact.
        header: Option<FrameHeader>,
    },
}

/// What goes into the spool, before it has a `wal_seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An encoded event without lineage.
    Event(Vec<u8>),
    /// An encoded reject without lineage.
    Reject(Vec<u8>),
    /// A sign of life, written when it is appended.
    Heartbeat {
        /// The last before an orderly end.
        closing: bool,
    },
}

impl Entry {
    /// Bytes that it takes in memory and, roughly, before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Event(line) | Self::Reject(line) => line.len() + LINEAGE_BYTES,
            Self::Heartbeat { .. } => 200,
        }
    }
}

/// About what lineage adds to a line, with the record's own header.
pub(super) const LINEAGE_BYTES: usize = 90;

impl SegmentHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[0..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.ordinal.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.first_wal_seq.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.created.micros().to_le_bytes());
        bytes[36..52].copy_from_slice(self.collector_id.as_bytes());
        let crc = crc32c::crc32c(&bytes[..52]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`; `None` where it is short, damaged or
    /// of another version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER_LEN)?;
        let intact = &bytes[..8] == SEGMENT_MAGIC
            && (OLDEST_VERSION..=VERSION).contains(&u32_at(bytes, 8)?)
            && u32_at(bytes, 52)? == crc32c::crc32c(&bytes[..52]);
        if !intact {
            return None;
        }
        Some(Self {
            ordinal: i64_at(bytes, 12)?.cast_unsigned(),
            first_wal_seq: i64_at(bytes, 20)?,
            created: Timestamp::from_micros(i64_at(bytes, 28)?).ok()?,
            collector_id: Uuid::from_slice(&bytes[36..52]).ok()?,
        })
    }
}

impl FrameHeader {
    /// The header at the start of `bytes`. That of the first version has no
    /// checksum of its own: it is believed until its body is read.
    ///
    /// # Errors
    /// [`FrameError`] where no frame begins here, or its header is cut short or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let magic = bytes.get(..4).ok_or(FrameError::Short)?;
        let first_version = magic == FRAME_1_MAGIC;
        if !first_version && magic != FRAME_MAGIC {
            return Err(FrameError::Magic);
        }
        let header_len = if first_version { FRAME_1_HEADER_LEN } else { FRAME_HEADER_LEN };
        let bytes = bytes.get(..header_len).ok_or(FrameError::Short)?;
        let u32_at = |at| u32_at(bytes, at).ok_or(FrameError::Short);
        let i64_at = |at| i64_at(bytes, at).ok_or(FrameError::Short);
        let header = if first_version {
            Self {
                codec: u32_at(4)?,
                header_len,
                body_len: u32_at(8)? as usize,
                raw_len: u32_at(12)? as usize,
                records: u32_at(16)?,
                since_sync: 0,
                first_wal_seq: i64_at(20)?,
                crc: u32_at(28)?,
            }
        } else {
            if u32_at(32)? != crc32c::crc32c(&bytes[..32]) {
                return Err(FrameError::Damaged);
            }
            Self {
                codec: u32_at(4)?,
                header_len,
                body_len: u32_at(8)? as usize,
                raw_len: u32_at(12)? as usize,
                records: u32_at(16)?,
                since_sync: u64::from(u32_at(20)?),
                first_wal_seq: i64_at(24)?,
                crc: u32_at(36)?,
            }
        };
        // zstd may add a little to what does not compress, but then the codec is 0.
        if header.raw_len > MAX_FRAME_RAW_BYTES || header.body_len > header.raw_len {
            return Err(FrameError::Damaged);
        }
        Ok(header)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        self.header_len + self.body_len
    }

    const fn is_first_version(&self) -> bool {
        self.header_len == FRAME_1_HEADER_LEN
    }

    /// The first `wal_seq` after it, its body being intact.
    ///
    /// `None` for the first version, whose body has to be counted.
    fn next_wal_seq(&self) -> Option<i64> {
        let next = self.first_wal_seq.checked_add(i64::from(self.records))?;
        (!self.is_first_version()).then_some(next)
    }

    /// The events and rejects that it speaks for (inclusive), where it has any
    /// and can be believed without its body.
    #[must_use]
    pub fn wal_seqs(&self) -> Option<(i64, i64)> {
        let last = self.next_wal_seq()? - 1;
        (last >= self.first_wal_seq).then_some((self.first_wal_seq, last))
    }
}

/// Appends a frame around `body`, which holds `counted` events and rejects.
/// The lengths were checked by the caller.
pub(super) fn append_frame(
    out: &mut Vec<u8>,
    codec: u32,
    body: &[u8],
    raw_len: u32,
    counted: u32,
    since_sync: u32,
    first_wal_seq: i64,
) {
    let mut header = [0; FRAME_HEADER_LEN];
    header[0..4].copy_from_slice(FRAME_MAGIC);
    header[4..8].copy_from_slice(&codec.to_le_bytes());
    header[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[12..16].copy_from_slice(&raw_len.to_le_bytes());
    header[16..20].copy_from_slice(&counted.to_le_bytes());
    header[20..24].copy_from_slice(&since_sync.to_le_bytes());
    header[24..32].copy_from_slice(&first_wal_seq.to_le_bytes());
    let crc = crc32c::crc32c(&header[..32]);
    header[32..36].copy_from_slice(&crc.to_le_bytes());
    header[36..40].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
}

/// Finds the frame at the start of `bytes` and compares its checksums.
fn check_frame(bytes: &[u8]) -> Result<(FrameHeader, &[u8]), FrameError> {
    let header = FrameHeader::decode(bytes)?;
    let frame = bytes.get(..header.frame_len()).ok_or(FrameError::Short)?;
    let (head, body) = frame.split_at(header.header_len);
    let before = if header.is_first_version() { crc32c::crc32c(&head[..28]) } else { 0 };
    if crc32c::crc32c_append(before, body) != header.crc {
        return Err(FrameError::Damaged);
    }
    Ok((header, body))
}

/// A thread keeps its context: making one costs more than decompressing a block.
fn decompress(body: &[u8], raw_len: usize) -> Result<Vec<u8>, FrameError> {
    thread_local! {
        static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
            RefCell::new(zstd::bulk::Decompressor::new().ok());
    }
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) => context.decompress(body, raw_len).map_err(|_| FrameError::Damaged),
        None => zstd::bulk::decompress(body, raw_len).map_err(|_| FrameError::Damaged),
    })
}

/// Decodes the frame at the start of `bytes`.
///
/// # Errors
/// [`FrameError`] where there is none, or its checksum is wrong.
pub fn decode_frame(bytes: &[u8]) -> Result<(FrameHeader, Frame), FrameError> {
    let (header, body) = check_frame(bytes)?;
    let raw = match header.codec {
        CODEC_NONE => Bytes::copy_from_slice(body),
        CODEC_ZSTD => Bytes::from(decompress(body, header.raw_len)?),
        _ => return Err(FrameError::Damaged),
    };
    let mut records = Vec::with_capacity((header.records as usize).min(raw.len() / 5));
    let (mut at, mut next) = (0, header.first_wal_seq);
    while at < raw.len() {
        let len = u32_at(&raw, at + 1).ok_or(FrameError::Damaged)? as usize;
        let (start, end) = (at + RECORD_HEADER_LEN, at + RECORD_HEADER_LEN + len);
        if end > raw.len() {
            return Err(FrameError::Damaged);
        }
        let (kind, wal_seq) = match raw[at] {
            1 => (RecordKind::Event, next),
            2 => (RecordKind::Reject, next),
            3 => (RecordKind::Heartbeat, next - 1),
            _ => return Err(FrameError::Damaged),
        };
        next = next
            .checked_add(i64::from(kind != RecordKind::Heartbeat))
            .ok_or(FrameError::Damaged)?;
        records.push(SpoolRecord { wal_seq, kind, line: raw.slice(start..end) });
        at = end;
    }
    let counted = next - header.first_wal_seq;
    let said = if header.is_first_version() { records.len() as i64 } else { counted };
    if said != i64::from(header.records) {
        return Err(FrameError::Damaged);
    }
    Ok((header, Frame { first_wal_seq: header.first_wal_seq, records }))
}

/// What stands at `at`, which is before the end of `bytes`. Damage reaches to
/// the end of its frame where the frame's header is intact, else to the next
/// intact header.
#[must_use]
pub fn piece_at(bytes: &[u8], at: usize) -> Piece {
    let rest = &bytes[at..];
    if let Ok((header, _)) = check_frame(rest) {
        return Piece::Frame(header);
    }
    match FrameHeader::decode(rest) {
        Ok(header) if !header.is_first_version() => {
            Piece::Damage { len: header.frame_len().min(rest.len()), header: Some(header) }
        }
        // Here there is none: one byte on at least.
        _ => Piece::Damage { len: find_header(rest, 1).unwrap_or(rest.len()), header: None },
    }
}

/// The first `wal_seq` after the intact frame at the start of `bytes`.
#[must_use]
pub fn next_wal_seq(bytes: &[u8], header: &FrameHeader) -> i64 {
    header.next_wal_seq().unwrap_or_else(|| {
        decode_frame(bytes).map_or(header.first_wal_seq, |(_, frame)| frame.next_wal_seq())
    })
}

/// The place of the next intact header at or after `from`. One of the first
/// version counts if its body is intact, too.
fn find_header(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(rest) = bytes.get(at..) {
        at += rest.windows(4).position(|four| four == FRAME_MAGIC || four == FRAME_1_MAGIC)?;
        let intact = match FrameHeader::decode(&bytes[at..]) {
            Ok(header) if header.is_first_version() => check_frame(&bytes[at..]).is_ok(),
            found => found.is_ok(),
        };
        if intact {
            return Some(at);
        }
        at += 1;
    }
    None
}

impl Frame {
    /// The first `wal_seq` after it.
    #[must_use]
    pub fn next_wal_seq(&self) -> i64 {
        let counted = self.records.iter().filter(|r| r.kind != RecordKind::Heartbeat).count();
        self.first_wal_seq.saturating_add(i64::try_from(counted).unwrap_or(i64::MAX))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..at + 8)?.try_into().ok().map(i64::from_le_bytes)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
