//! The bytes of a segment. All integers are little-endian.
//!
//! ```text
//! segment  = header frame*
//!
//! header   (56 bytes)
//!   magic          8   "CMSPOOL1"
//!   version        4   u32, 1
//!   ordinal        8   u64, the number in the file's name
//!   first_wal_seq  8   i64, what the first event or reject in it gets; earlier
//!                      segments end before it, whatever else they hold
//!   created        8   i64, microseconds since 1970
//!   collector_id  16   UUID
//!   crc            4   CRC32C of the 52 bytes before
//!
//! frame    (one group commit: written, then synced, as one)
//!   magic          4   "CMF1"
//!   codec          4   u32: 0 as is, 1 zstd
//!   body_len       4   u32, bytes that follow this header
//!   raw_len        4   u32, bytes of the body once decompressed
//!   records        4   u32
//!   first_wal_seq  8   i64
//!   crc            4   CRC32C of the 28 bytes before and of the body
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

use bytes::Bytes;
use clickmill_schemas::{Heartbeat, RawJson, Timestamp, WireRecord, append_lineage};
use uuid::Uuid;

use crate::sink::{RecordKind, SpoolRecord};

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 56;
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 32;
/// No frame is longer than this when decompressed: what says otherwise is
/// damage, and is not allocated for.
pub const MAX_FRAME_RAW_BYTES: usize = 32 * 1024 * 1024;

const SEGMENT_MAGIC: &[u8; 8] = b"CMSPOOL1";
const FRAME_MAGIC: &[u8; 4] = b"CMF1";
const VERSION: u32 = 1;
const CODEC_NONE: u32 = 0;
const CODEC_ZSTD: u32 = 1;
/// The fastest level: the spool is written once and read once.
const ZSTD_LEVEL: i32 = 1;

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

/// About what [`append_lineage`] adds to a line, with the record's own header.
const LINEAGE_BYTES: usize = 90;

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
            && u32_at(bytes, 8)? == VERSION
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

/// Encodes `entries` to one frame, giving out `wal_seq` from `first_wal_seq`
/// on. Also returns the first `wal_seq` after it.
///
/// # Errors
/// Where zstd fails, or the frame would be over [`MAX_FRAME_RAW_BYTES`].
pub fn encode_frame<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    collector_id: &str,
    first_wal_seq: i64,
    now: Timestamp,
) -> std::io::Result<(Vec<u8>, i64)> {
    let too_large = || std::io::Error::other("a group commit of more than 32 MiB");
    // A UUID's text needs no escapes.
    let quoted = format!("\"{collector_id}\"");
    let id = RawJson::parse(&quoted).map_err(std::io::Error::other)?;
    let mut raw = Vec::new();
    let mut records = 0_u32;
    let mut next = first_wal_seq;
    for entry in entries {
        let kind = match entry {
            Entry::Event(_) => 1,
            Entry::Reject(_) => 2,
            Entry::Heartbeat { .. } => 3,
        };
        let mut line = match entry {
            Entry::Event(line) | Entry::Reject(line) => {
                let mut with_lineage = Vec::with_capacity(line.len() + LINEAGE_BYTES);
                with_lineage.extend_from_slice(line);
                let seq = next.to_string();
                let seq = RawJson::parse(&seq).map_err(std::io::Error::other)?;
                append_lineage(
                    &mut with_lineage,
                    &[("collector_id", id.clone()), ("wal_seq", seq)],
                );
                next += 1;
                with_lineage
            }
            Entry::Heartbeat { closing } => WireRecord::Heartbeat(Heartbeat {
                heartbeat_ts: now,
                collector_id: collector_id.into(),
                last_wal_seq: next - 1,
                closing: *closing,
            })
            .encode()
            .into_bytes(),
        };
        raw.push(kind);
        raw.extend_from_slice(&u32::try_from(line.len()).map_err(|_| too_large())?.to_le_bytes());
        raw.append(&mut line);
        records += 1;
        if raw.len() > MAX_FRAME_RAW_BYTES {
            return Err(too_large());
        }
    }
    let packed = zstd::bulk::compress(&raw, ZSTD_LEVEL)?;
    let (codec, body) =
        if packed.len() < raw.len() { (CODEC_ZSTD, &packed) } else { (CODEC_NONE, &raw) };
    let len = |n: usize| u32::try_from(n).map_err(|_| too_large());
    let mut frame = Vec::with_capacity(FRAME_HEADER_LEN + body.len());
    frame.extend_from_slice(FRAME_MAGIC);
    frame.extend_from_slice(&codec.to_le_bytes());
    frame.extend_from_slice(&len(body.len())?.to_le_bytes());
    frame.extend_from_slice(&len(raw.len())?.to_le_bytes());
    frame.extend_from_slice(&records.to_le_bytes());
    frame.extend_from_slice(&first_wal_seq.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), body);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(body);
    Ok((frame, next))
}

/// How long the frame at the start of `bytes` says that it is, its header included.
///
/// # Errors
/// [`FrameError`] where no frame begins here or the header is cut short.
pub fn frame_len(bytes: &[u8]) -> Result<usize, FrameError> {
    let magic = bytes.get(..4).ok_or(FrameError::Short)?;
    if magic != FRAME_MAGIC {
        return Err(FrameError::Magic);
    }
    if bytes.len() < FRAME_HEADER_LEN {
        return Err(FrameError::Short);
    }
    let at = |offset| u32_at(bytes, offset).map(|n| n as usize).ok_or(FrameError::Short);
    let (body, raw) = (at(8)?, at(12)?);
    // zstd may add a little to what does not compress, but then the codec is 0.
    if body > MAX_FRAME_RAW_BYTES || raw > MAX_FRAME_RAW_BYTES || body > raw {
        return Err(FrameError::Damaged);
    }
    Ok(FRAME_HEADER_LEN + body)
}

/// Decodes the frame at the start of `bytes`.
///
/// # Errors
/// [`FrameError`] where there is none, or its checksum is wrong.
pub fn decode_frame(bytes: &[u8]) -> Result<Frame, FrameError> {
    let len = frame_len(bytes)?;
    let frame = bytes.get(..len).ok_or(FrameError::Short)?;
    let (header, body) = frame.split_at(FRAME_HEADER_LEN);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..28]), body);
    if u32_at(header, 28) != Some(crc) {
        return Err(FrameError::Damaged);
    }
    let field = |offset| u32_at(header, offset).ok_or(FrameError::Damaged);
    let (codec, raw_len, count) = (field(4)?, field(12)? as usize, field(16)?);
    let first_wal_seq = i64_at(header, 20).ok_or(FrameError::Damaged)?;
    let raw = match codec {
        CODEC_NONE => Bytes::copy_from_slice(body),
        CODEC_ZSTD => {
            Bytes::from(zstd::bulk::decompress(body, raw_len).map_err(|_| FrameError::Damaged)?)
        }
        _ => return Err(FrameError::Damaged),
    };
    let mut records = Vec::with_capacity((count as usize).min(raw.len() / 5));
    let (mut at, mut next) = (0, first_wal_seq);
    while at < raw.len() {
        let len = u32_at(&raw, at + 1).ok_or(FrameError::Damaged)? as usize;
        let (start, end) = (at + 5, at + 5 + len);
        if end > raw.len() {
            return Err(FrameError::Damaged);
        }
        let (kind, wal_seq) = match raw[at] {
            1 => (RecordKind::Event, next),
            2 => (RecordKind::Reject, next),
            3 => (RecordKind::Heartbeat, next - 1),
            _ => return Err(FrameError::Damaged),
        };
        next += i64::from(kind != RecordKind::Heartbeat);
        records.push(SpoolRecord { wal_seq, kind, line: raw.slice(start..end) });
        at = end;
    }
    if records.len() != count as usize {
        return Err(FrameError::Damaged);
    }
    Ok(Frame { first_wal_seq, records })
}

/// The place of the next intact frame at or after `from`, past any damage.
#[must_use]
pub fn find_frame(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(rest) = bytes.get(at..) {
        let step = rest.windows(FRAME_MAGIC.len()).position(|window| window == FRAME_MAGIC)?;
        at += step;
        if decode_frame(&bytes[at..]).is_ok() {
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
        self.first_wal_seq + i64::try_from(counted).unwrap_or(i64::MAX)
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
