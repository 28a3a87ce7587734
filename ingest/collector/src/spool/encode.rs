//! Makes the bytes of group commits: lines with their lineage, cut to blocks,
//! compressed, framed. Its buffers are kept from group to group.

use std::io;

use clickmill_schemas::{Heartbeat, Timestamp, WireRecord};
use uuid::Uuid;

use super::format::{
    CODEC_NONE, CODEC_ZSTD, Entry, MAX_FRAME_RAW_BYTES, RECORD_HEADER_LEN, append_frame,
};

/// The spool is written once and read once, by the writer's one thread: speed
/// before size. See docs/spool.md for what the levels were measured to cost.
const ZSTD_LEVEL: i32 = -1;

const EVENT: u8 = 1;
const REJECT: u8 = 2;
const HEARTBEAT: u8 = 3;

/// See the module's head.
pub(super) struct Encoder {
    collector_id: Uuid,
    /// `,"collector_id":"...","wal_seq":`, what every line gets before its number.
    lineage: Vec<u8>,
    block_bytes: usize,
    compressor: zstd::bulk::Compressor<'static>,
    /// Records of the block that is being filled.
    raw: Vec<u8>,
    /// Events and rejects among them.
    counted: u32,
    packed: Vec<u8>,
    frames: Vec<u8>,
    /// Bytes that stood unsynced before the first of `frames`.
    unsynced_before: usize,
    /// Of the block that is being filled.
    first_wal_seq: i64,
    next_wal_seq: i64,
}

impl Encoder {
    pub fn new(collector_id: Uuid, block_bytes: usize) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        // The frame says both, with a checksum that covers them.
        compressor.include_checksum(false)?;
        compressor.include_dictid(false)?;
        Ok(Self {
            collector_id,
            lineage: format!(",\"collector_id\":\"{collector_id}\",\"wal_seq\":").into_bytes(),
            block_bytes,
            compressor,
            raw: Vec::new(),
            counted: 0,
            packed: Vec::new(),
            frames: Vec::new(),
            unsynced_before: 0,
            first_wal_seq: 1,
            next_wal_seq: 1,
        })
    }

    /// Begins a group whose first event or reject gets `first_wal_seq`, behind
    /// `unsynced_before` bytes of frames that are not synced yet.
    pub fn begin(&mut self, first_wal_seq: i64, unsynced_before: usize) {
        self.raw.clear();
        self.frames.clear();
        self.counted = 0;
        self.unsynced_before = unsynced_before;
        self.first_wal_seq = first_wal_seq;
        self.next_wal_seq = first_wal_seq;
    }

    /// Adds one entry.
    pub fn entry(&mut self, entry: &Entry, now: Timestamp) -> io::Result<()> {
        match entry {
            Entry::Event(line) => self.counted(EVENT, line),
            Entry::Reject(line) => self.counted(REJECT, line),
            Entry::Heartbeat { closing } => {
                let line = WireRecord::Heartbeat(Heartbeat {
                    heartbeat_ts: now,
                    collector_id: self.collector_id.to_string().into(),
                    last_wal_seq: self.next_wal_seq - 1,
                    closing: *closing,
                })
                .encode();
                self.make_room(line.len())?;
                self.record_header(HEARTBEAT, line.len())?;
                self.raw.extend_from_slice(line.as_bytes());
                Ok(())
            }
        }
    }

    /// Adds one event, encoded without lineage.
    pub fn event(&mut self, line: &[u8]) -> io::Result<()> {
        self.counted(EVENT, line)
    }

    fn counted(&mut self, kind: u8, line: &[u8]) -> io::Result<()> {
        // The line's closing brace comes after the lineage.
        let open = line.strip_suffix(b"}").unwrap_or(line);
        let mut digits = itoa::Buffer::new();
        let number = digits.format(self.next_wal_seq).as_bytes();
        let len = open.len() + self.lineage.len() + number.len() + 1;
        self.make_room(len)?;
        self.record_header(kind, len)?;
        self.raw.extend_from_slice(open);
        self.raw.extend_from_slice(&self.lineage);
        self.raw.extend_from_slice(number);
        self.raw.push(b'}');
        self.counted += 1;
        self.next_wal_seq += 1;
        Ok(())
    }

    fn record_header(&mut self, kind: u8, len: usize) -> io::Result<()> {
        let len = u32::try_from(len).map_err(|_| too_large())?;
        self.raw.push(kind);
        self.raw.extend_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// A record that does not fit any more begins the next block.
    fn make_room(&mut self, line_len: usize) -> io::Result<()> {
        let len = RECORD_HEADER_LEN + line_len;
        if len > MAX_FRAME_RAW_BYTES {
            return Err(too_large());
        }
        if !self.raw.is_empty() && self.raw.len() + len > self.block_bytes {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> io::Result<()> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
        self.compressor.compress_to_buffer(&self.raw, &mut self.packed)?;
        let (codec, body) = if self.packed.len() < self.raw.len() {
            (CODEC_ZSTD, &self.packed)
        } else {
            (CODEC_NONE, &self.raw)
        };
        let since_sync = u32::try_from(self.unsynced_before + self.frames.len());
        append_frame(
            &mut self.frames,
            codec,
            body,
            u32::try_from(self.raw.len()).map_err(|_| too_large())?,
            self.counted,
            since_sync.map_err(|_| too_large())?,
            self.first_wal_seq,
        );
        self.raw.clear();
        self.counted = 0;
        self.first_wal_seq = self.next_wal_seq;
        Ok(())
    }

    /// Ends the group: its frames, and the first `wal_seq` after it.
    pub fn finish(&mut self) -> io::Result<(&[u8], i64)> {
        if !self.raw.is_empty() {
            self.close_block()?;
        }
        Ok((&self.frames, self.next_wal_seq))
    }
}

fn too_large() -> io::Error {
    io::Error::other("a record or a group of more than the format can hold")
}
