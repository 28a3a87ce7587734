//! Follows the spool behind its writer, frame by frame.

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::{
    FrameError, FrameHeader, Piece, SEGMENT_HEADER_LEN, SegmentHeader, decode_frame, piece_at,
};
use super::recover::segment_name;
use super::{Shared, SpoolError, io_error};
use crate::sink::SpoolRecord;

/// How much is read from the disk at once; a frame that is larger is read whole.
const READ_BYTES: usize = 1024 * 1024;

/// A place in the spool. It returns each durable record once.
pub(crate) struct SpoolReader {
    shared: Arc<Shared>,
    ordinal: u64,
    offset: u64,
}

/// Records that stood in one frame.
pub(crate) struct ReadFrame {
    /// The segment they stand in.
    pub ordinal: u64,
    pub records: Vec<SpoolRecord>,
}

impl SpoolReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ordinal: 0, offset: 0 }
    }

    /// The segment it is in.
    pub const fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// The next frames, up to about `READ_BYTES`; empty where the reader has
    /// caught up with the writer. Blocks.
    pub fn next_frames(&mut self) -> Result<VecDeque<ReadFrame>, SpoolError> {
        let mut frames = VecDeque::new();
        while let Some((len, end)) = self.advance() {
            self.read_segment(len, end, &mut frames)?;
            if !frames.is_empty() {
                break;
            }
        }
        Ok(frames)
    }

    /// Where to read: the current segment while it has more, else the next.
    /// Returns its durable length and the `wal_seq` at which the next begins.
    fn advance(&mut self) -> Option<(u64, i64)> {
        let state = self.shared.state();
        let end_of = |ordinal: u64| {
            state.segments.range(ordinal + 1..).next().map_or(i64::MAX, |(_, s)| s.first_wal_seq)
        };
        if let Some(current) = state.segments.get(&self.ordinal)
            && self.offset < current.len
        {
            return Some((current.len, end_of(self.ordinal)));
        }
        let (&ordinal, next) = state.segments.range(self.ordinal + 1..).next()?;
        self.ordinal = ordinal;
        self.offset = 0;
        Some((next.len, end_of(ordinal)))
    }

    fn read_segment(
        &mut self,
        len: u64,
        end: i64,
        frames: &mut VecDeque<ReadFrame>,
    ) -> Result<(), SpoolError> {
        let path = self.shared.dir.join(segment_name(self.ordinal));
        let read = |offset: u64, wanted: usize| {
            let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
            self.shared
                .disk
                .read_at(&path, offset, wanted.min(rest))
                .map_err(|e| io_error("read", &path, e))
        };
        let mut bytes = read(self.offset, READ_BYTES)?;
        if let Ok(header) = FrameHeader::decode(&bytes)
            && header.frame_len() > bytes.len()
        {
            bytes = read(self.offset, header.frame_len())?;
        }
        // A header that is damaged is stepped over like any damage: where its bytes are
        // gone, a frame may begin before its end.
        let has_header = self.offset == 0 && SegmentHeader::decode(&bytes).is_some();
        let mut at = if has_header { SEGMENT_HEADER_LEN } else { 0 };
        while at < bytes.len() {
            match decode_frame(&bytes[at..]) {
                Ok((header, frame)) => {
                    at += header.frame_len();
                    let mut records = frame.records;
                    records.retain(|record| record.wal_seq < end);
                    frames.push_back(ReadFrame { ordinal: self.ordinal, records });
                }
                // The frame goes on beyond what was read: next time.
                Err(FrameError::Short) if at > 0 => break,
                Err(_) => {
                    // Damage before `len`. Look through all that is left of the segment.
                    let from = self.offset + at as u64;
                    let rest = read(from, usize::MAX)?;
                    let (skipped, header) = match piece_at(&rest, 0) {
                        Piece::Damage { len, header } => (len, header),
                        // A right checksum around wrong content.
                        Piece::Frame(header) => (header.frame_len(), Some(header)),
                    };
                    let wal_seqs = header.and_then(|header| header.wal_seqs());
                    tracing::error!(
                        segment = self.ordinal,
                        offset = from,
                        bytes = skipped,
                        first_wal_seq = wal_seqs.map(|range| range.0),
                        last_wal_seq = wal_seqs.map(|range| range.1),
                        "stepping over damage in the spool"
                    );
                    self.offset = from + skipped.max(1) as u64;
                    return Ok(());
                }
            }
        }
        self.offset += at as u64;
        Ok(())
    }
}
