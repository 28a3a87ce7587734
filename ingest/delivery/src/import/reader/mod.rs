//! Readers of the file formats. Each hands out one row after the other, with its
//! bytes, and holds one row (or one small Parquet batch) in memory.

mod csv;
mod jsonl;
mod parquet;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::{FileFormat, Mapping};
use super::error::ImportError;
use super::row::ReadRow;

pub(crate) use csv::{CsvReader, Records};
pub(crate) use jsonl::JsonlReader;
pub(crate) use parquet::ParquetReader;

/// Longest row in bytes: a quote that is never closed must not swallow a whole file.
pub const MAX_ROW_BYTES: usize = 1 << 20;
/// Most columns that a row may have.
pub(crate) const MAX_COLUMNS: usize = 10_000;
/// Bytes read at once.
const CHUNK_BYTES: usize = 128 << 10;

/// A source of rows. Row n is the n-th that it hands out, bad ones included.
pub(crate) trait RowReader {
    /// The next row, or `None` at the end.
    fn next_row(&mut self) -> Result<Option<ReadRow<'_>>, ImportError>;
}

/// Opens `path` as the mapping says, looking for `wanted` columns.
/// `shown` is its name for people; `read_bytes` counts what was read of the file.
pub(crate) fn open(
    path: &Path,
    shown: &str,
    mapping: &Mapping,
    wanted: &[String],
    read_bytes: &Arc<AtomicU64>,
) -> Result<Box<dyn RowReader>, ImportError> {
    match mapping.format {
        FileFormat::Csv => {
            let text = open_text(path, shown, read_bytes)?;
            Ok(Box::new(CsvReader::open(text, shown, &mapping.csv, wanted)?))
        }
        FileFormat::Jsonl => {
            let text = open_text(path, shown, read_bytes)?;
            Ok(Box::new(JsonlReader::open(text, shown, wanted)?))
        }
        FileFormat::Parquet => Ok(Box::new(ParquetReader::open(
            path,
            shown,
            Some(&mapping.event_ts),
            wanted,
            read_bytes,
        )?)),
    }
}

/// The file's text: decompressed, its encoding checked, its byte order mark taken off.
pub(crate) fn open_text(
    path: &Path,
    shown: &str,
    read_bytes: &Arc<AtomicU64>,
) -> Result<Box<dyn BufRead + Send>, ImportError> {
    let failed = |source| ImportError::Read { path: shown.to_owned(), source };
    let mut text = open_plain(path, read_bytes).map_err(failed)?;
    let shape =
        |reason: &str| ImportError::Shape { path: shown.to_owned(), reason: reason.to_owned() };
    let head = text.fill_buf().map_err(failed)?;
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(shape("it is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"));
    }
    if head.starts_with(b"PAR1") {
        return Err(shape("it is Parquet: set format = \"parquet\""));
    }
    if head.starts_with(b"PK\x03\x04") {
        return Err(shape("it is a zip archive; unpack it first"));
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        text.consume(3);
    }
    Ok(text)
}

/// The file's bytes, decompressed where its first bytes say gzip or zstd.
pub(crate) fn open_plain(
    path: &Path,
    read_bytes: &Arc<AtomicU64>,
) -> io::Result<Box<dyn BufRead + Send>> {
    let counted = Counted { inner: File::open(path)?, read: Arc::clone(read_bytes) };
    let mut file = BufReader::with_capacity(CHUNK_BYTES, counted);
    let head = file.fill_buf()?;
    if head.starts_with(b"\x1f\x8b") {
        let gunzip = flate2::bufread::MultiGzDecoder::new(file);
        return Ok(Box::new(BufReader::with_capacity(CHUNK_BYTES, gunzip)));
    }
    if head.starts_with(b"\x28\xb5\x2f\xfd") {
        let unzstd = zstd::stream::read::Decoder::with_buffer(file)?;
        return Ok(Box::new(BufReader::with_capacity(CHUNK_BYTES, unzstd)));
    }
    Ok(Box::new(file))
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// An error that names the columns that a file lacks, and those it has.
fn missing_columns(shown: &str, missing: &[&str], available: &[String]) -> ImportError {
    let list =
        |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let available: Vec<&str> = available.iter().map(String::as_str).collect();
    ImportError::Shape {
        path: shown.to_owned(),
        reason: format!(
            "it has no column {}; its columns are {}. Correct the mapping, or see `clickmill import events --infer`",
            list(missing),
            list(&available)
        ),
    }
}
