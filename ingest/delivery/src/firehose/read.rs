//! An object's bytes to lines, in chunks, on a thread of its own.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use bytes::Bytes;
use clickmill_schemas::Timestamp;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::mpsc;

use super::lines::{Origin, of_piece, undecodable};
use super::split::{Piece, Splitter};
use super::{MAX_LINE_BYTES, rows};

/// Lines that are handed over at once.
const CHUNK_LINES: usize = 1_024;
/// Chunks that wait.
const CHUNKS: usize = 4;
/// Rows of Parquet that are decoded at once.
const BATCH_ROWS: usize = 1_024;
/// Of an object that cannot be read to its end, a reject keeps this much of its beginning.
const KEPT_BYTES: usize = 64 << 10;
const GZIP: &[u8] = &[0x1f, 0x8b];
const PARQUET: &[u8] = b"PAR1";
const READ_BUFFER: usize = 256 << 10;

/// An object, and what its lines are to say of it.
pub(super) struct File {
    pub location: String,
    pub key: String,
    pub etag: String,
    pub modified: Timestamp,
    /// Of Parquet: our column = theirs.
    pub columns: BTreeMap<String, String>,
    pub bytes: Bytes,
}

/// The lines of a file. They end early where nobody takes them.
pub(super) fn lines(file: File) -> mpsc::Receiver<Vec<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut out = Out { file: &file, chunk: Vec::new(), number: 0, sender };
        out.read();
        out.flush();
    });
    receiver
}

struct Out<'a> {
    file: &'a File,
    chunk: Vec<Vec<u8>>,
    /// Pieces so far.
    number: u64,
    sender: mpsc::Sender<Vec<Vec<u8>>>,
}

impl Out<'_> {
    fn read(&mut self) {
        let bytes = self.file.bytes.clone();
        if bytes.starts_with(PARQUET) {
            return self.parquet(bytes);
        }
        let reader: Box<dyn Read> = if bytes.starts_with(GZIP) {
            Box::new(MultiGzDecoder::new(bytes.as_ref()))
        } else {
            Box::new(bytes.as_ref())
        };
        let reader = BufReader::with_capacity(READ_BUFFER, reader);
        let mut splitter = Splitter::new(reader, MAX_LINE_BYTES);
        loop {
            match splitter.next_piece() {
                Ok(Some(Piece::Value(piece) | Piece::Other(piece))) => self.piece(&piece),
                Ok(None) => return,
                Err(error) => return self.damaged(&format!("it cannot be decompressed: {error}")),
            }
        }
    }

    fn parquet(&mut self, bytes: Bytes) {
        let opened = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
        let batches = match opened {
            Ok(batches) => batches,
            Err(error) => {
                return self.damaged(&format!("it is no Parquet that can be read: {error}"));
            }
        };
        for batch in batches {
            let objects = batch.and_then(|batch| rows::objects(&batch, &self.file.columns));
            match objects {
                Ok(objects) => objects.iter().for_each(|object| self.piece(object.as_bytes())),
                Err(error) => return self.damaged(&format!("its rows cannot be decoded: {error}")),
            }
        }
    }

    fn origin(&self) -> Origin<'_> {
        Origin {
            location: &self.file.location,
            key: &self.file.key,
            etag: &self.file.etag,
            modified: self.file.modified,
            number: self.number,
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        self.number += 1;
        let lines = of_piece(self.origin(), piece);
        self.push(lines);
    }

    /// The rest of the file is one reject; the object itself stays where it is.
    fn damaged(&mut self, problem: &str) {
        self.number += 1;
        let kept = &self.file.bytes[..self.file.bytes.len().min(KEPT_BYTES)];
        let detail = format!(
            "after {} records {problem}. The first {} of its {} bytes are kept; the object is still there",
            self.number - 1,
            kept.len(),
            self.file.bytes.len()
        );
        let line = undecodable(self.origin(), None, kept, &detail);
        self.push(vec![line]);
    }

    fn push(&mut self, lines: Vec<Vec<u8>>) {
        self.chunk.extend(lines);
        if self.chunk.len() >= CHUNK_LINES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // Where nobody takes them, who reads has failed and says so itself.
        let _ = self.sender.blocking_send(std::mem::take(&mut self.chunk));
    }
}
