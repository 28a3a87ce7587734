//! The lines of an open object, in the form that it will be stored in.

use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use clickmill_schemas::WholeEvent;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as ParquetCompression, Encoding, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use serde::Deserialize;

use super::columns::{self, RowBuilder};
use crate::LakeError;
use crate::table::ZSTD_LEVEL;

/// gzip level: 3 costs half of 6's time for a twentieth more bytes on JSON lines.
const GZIP_LEVEL: u32 = 3;
/// Memory of one compressor beside what it has produced: windows, hash chains and
/// buffers of deflate, as zlib's manual gives them for its defaults (268 KiB) and
/// the buffer of 32 KiB before it.
pub const COMPRESSOR_BYTES: u64 = 300 << 10;
/// Lines are kept as they are until they are worth a compressor's memory.
const PLAIN_BYTES: usize = 128 << 10;
/// A row group is written when its lines have this many bytes. Between two of them the
/// writer holds no encoders: each of some 70 columns would have contexts of zstd of its own,
/// which no count of its memory shows.
pub(super) const ROW_GROUP_BYTES: usize = 8 << 20;
/// Lines become so many times smaller as columns, about.
const PACKED: usize = 8;
/// Memory of a row beside its texts: offsets, numbers and flags of [`columns::SCHEMA`].
const ROW_BYTES: usize = 512;
/// Memory of empty builders.
const BUILDERS_BYTES: usize = 32 << 10;
/// What a Parquet object says of who wrote it.
const CREATED_BY: &str = concat!("clickmill ", env!("CARGO_PKG_VERSION"));
/// Columns whose values hardly ever repeat: a dictionary of them is only work.
const UNIQUE: &[&str] = &[
    "event_id",
    "event_ts",
    "client_ts",
    "sent_ts",
    "received_ts",
    "clock_skew_ms",
    "properties",
    "wal_seq",
    "sequence_number",
    columns::OTHER,
];
/// Columns with a minimum and a maximum for each row group: those that a reader would look for.
const BOUNDED: &[&str] = &["event_name", "app_id", "event_ts", "received_ts"];

/// How objects of events are stored. Rejects and heartbeats are always JSON lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawFormat {
    /// JSON lines, gzip: `.json.gz`.
    #[default]
    Json,
    /// Parquet, zstd: `.parquet`. See [`columns`].
    Parquet,
}

impl RawFormat {
    /// What the names of its objects end in.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Json => "json.gz",
            Self::Parquet => "parquet",
        }
    }
}

impl FromStr for RawFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "parquet" => Ok(Self::Parquet),
            _ => Err(format!("`{text}` is no format of raw objects; give json or parquet")),
        }
    }
}

/// The lines of an open object.
pub(super) enum Body {
    /// Lines as they are: not many yet.
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Parquet(Box<Parquet>),
}

/// Columns in the making.
pub(super) struct Parquet {
    rows: RowBuilder,
    /// Bytes of the lines in `rows`.
    gathered: usize,
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl Body {
    pub fn new(format: RawFormat) -> Self {
        match format {
            RawFormat::Json => Self::Plain(Vec::new()),
            RawFormat::Parquet => Self::Parquet(Box::new(Parquet::new())),
        }
    }

    pub fn add(&mut self, line: &[u8]) -> Result<(), LakeError> {
        match self {
            Self::Plain(lines) => {
                lines.extend_from_slice(line);
                lines.push(b'\n');
                if lines.len() >= PLAIN_BYTES {
                    *self = Self::Gzip(Box::new(compressed(lines).map_err(LakeError::Compress)?));
                }
                Ok(())
            }
            Self::Gzip(gzip) => {
                let added = gzip.write_all(line).and_then(|()| gzip.write_all(b"\n"));
                added.map_err(LakeError::Compress)
            }
            Self::Parquet(parquet) => {
                parquet.rows.line(line);
                parquet.added(line.len()).map_err(failed)
            }
        }
    }

    /// Adds an event, whose line has so many bytes.
    pub fn add_event(&mut self, whole: &WholeEvent<'_>, bytes: usize) -> Result<(), LakeError> {
        if let Self::Parquet(parquet) = self {
            parquet.rows.event(whole);
            return parquet.added(bytes).map_err(failed);
        }
        let mut line = Vec::with_capacity(bytes);
        whole.encode_to(&mut line);
        self.add(&line)
    }

    /// A part of it is encoded: it cannot be encoded together with others.
    pub fn is_begun(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Gzip(_) => true,
            Self::Parquet(parquet) => parquet.writer.is_some(),
        }
    }

    /// The object's bytes.
    pub fn finish(self) -> Result<Vec<u8>, LakeError> {
        match self {
            Self::Plain(lines) => {
                compressed(&lines).and_then(GzEncoder::finish).map_err(LakeError::Compress)
            }
            Self::Gzip(gzip) => gzip.finish().map_err(LakeError::Compress),
            Self::Parquet(parquet) => parquet.finish().map_err(failed),
        }
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> u64 {
        match self {
            Self::Plain(lines) => lines.capacity() as u64,
            Self::Gzip(gzip) => gzip.get_ref().capacity() as u64 + COMPRESSOR_BYTES,
            Self::Parquet(parquet) => parquet.memory(),
        }
    }

    /// Bytes that the object would have now, about.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Self::Plain(lines) => lines.len() as u64,
            Self::Gzip(gzip) => gzip.get_ref().len() as u64,
            Self::Parquet(parquet) => parquet.stored_bytes(),
        }
    }
}

/// The bytes of an object with the lines of all, at least one. Where it is more, none is begun.
pub(super) fn encode(format: RawFormat, mut bodies: Vec<Body>) -> Result<Vec<u8>, LakeError> {
    if bodies.len() == 1
        && let Some(only) = bodies.pop()
    {
        return only.finish();
    }
    match format {
        RawFormat::Json => {
            let mut gzip = compressed(&[]).map_err(LakeError::Compress)?;
            for body in bodies {
                let Body::Plain(lines) = body else { return Err(mixed()) };
                gzip.write_all(&lines).map_err(LakeError::Compress)?;
            }
            gzip.finish().map_err(LakeError::Compress)
        }
        RawFormat::Parquet => {
            let mut all = Parquet::new();
            for body in bodies {
                let Body::Parquet(mut one) = body else { return Err(mixed()) };
                all.append(&mut one).map_err(failed)?;
            }
            all.finish().map_err(failed)
        }
    }
}

/// One object of the bytes of several, in their order.
pub(super) fn join(format: RawFormat, objects: Vec<Bytes>) -> Result<Vec<Bytes>, LakeError> {
    match (format, &*objects) {
        // Members of one gzip file.
        (RawFormat::Json, _) | (RawFormat::Parquet, [] | [_]) => Ok(objects),
        (RawFormat::Parquet, _) => {
            joined(objects).map(|bytes| vec![Bytes::from(bytes)]).map_err(failed)
        }
    }
}

/// Row groups are taken over as they are encoded.
fn joined(objects: Vec<Bytes>) -> Result<Vec<u8>, ParquetError> {
    let length = objects.iter().map(Bytes::len).sum();
    let mut writer: Option<SerializedFileWriter<Vec<u8>>> = None;
    for object in objects {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&object)?;
        let file = metadata.file_metadata();
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                // Among it Arrow's schema: the types as they were written.
                let properties = WriterProperties::builder()
                    .set_created_by(CREATED_BY.to_owned())
                    .set_key_value_metadata(file.key_value_metadata().cloned())
                    .build();
                let schema = file.schema_descr().root_schema_ptr();
                let out = Vec::with_capacity(length);
                writer.insert(SerializedFileWriter::new(out, schema, Arc::new(properties))?)
            }
        };
        for group in metadata.row_groups() {
            let mut out = writer.next_row_group()?;
            for column in group.columns() {
                let length = u64::try_from(column.compressed_size()).unwrap_or_default();
                let rows = u64::try_from(group.num_rows()).unwrap_or_default();
                out.append_column(
                    &object,
                    ColumnCloseResult {
                        bytes_written: length,
                        rows_written: rows,
                        metadata: column.clone(),
                        bloom_filter: None,
                        column_index: None,
                        offset_index: None,
                    },
                )?;
            }
            out.close()?;
        }
    }
    writer.map_or(Ok(Vec::new()), SerializedFileWriter::into_inner)
}

fn mixed() -> LakeError {
    let begun = io::Error::other("a body that is partly encoded stands beside others");
    LakeError::Compress(begun)
}

impl Parquet {
    fn new() -> Self {
        Self { rows: RowBuilder::new(), gathered: 0, writer: None }
    }

    /// A row more, whose line has so many bytes.
    fn added(&mut self, bytes: usize) -> Result<(), ParquetError> {
        self.gathered += bytes + 1;
        if self.gathered >= ROW_GROUP_BYTES { self.write() } else { Ok(()) }
    }

    /// The rows of another one, of which none are encoded.
    fn append(&mut self, other: &mut Self) -> Result<(), ParquetError> {
        if other.rows.rows() > 0 {
            let rows = other.rows.finish()?;
            self.writer()?.write(&rows)?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), ParquetError> {
        let rows = self.rows.finish()?;
        self.gathered = 0;
        let writer = self.writer()?;
        writer.write(&rows)?;
        writer.flush()
    }

    fn writer(&mut self) -> Result<&mut ArrowWriter<Vec<u8>>, ParquetError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let schema = Arc::clone(&columns::SCHEMA);
                ArrowWriter::try_new(Vec::new(), schema, Some(properties()))?
            }
        };
        Ok(self.writer.insert(writer))
    }

    fn finish(mut self) -> Result<Vec<u8>, ParquetError> {
        if self.rows.rows() > 0 {
            self.write()?;
        }
        // Nobody opens an object without a line for it.
        self.writer.map_or(Ok(Vec::new()), ArrowWriter::into_inner)
    }

    /// Texts in builders that grew by doubling, a row's offsets and flags, and what is encoded.
    fn memory(&self) -> u64 {
        let rows = self.gathered * 3 / 2 + self.rows.rows() * ROW_BYTES + BUILDERS_BYTES;
        let written = self.writer.as_ref().map_or(0, |writer| writer.inner().capacity());
        (rows + written) as u64
    }

    fn stored_bytes(&self) -> u64 {
        // Of rows that are not encoded yet, what they take by then.
        let written = self.writer.as_ref().map_or(0, ArrowWriter::bytes_written);
        (written + self.gathered / PACKED) as u64
    }
}

fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default();
    let mut properties = WriterProperties::builder()
        .set_compression(ParquetCompression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::None)
        // Of one record, or of records one after the other: most of a number is as before.
        .set_column_encoding(ColumnPath::from("sequence_number"), Encoding::DELTA_BYTE_ARRAY)
        .set_created_by(CREATED_BY.to_owned());
    for column in UNIQUE {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(*column), false);
    }
    for column in BOUNDED {
        let path = ColumnPath::from(*column);
        properties = properties.set_column_statistics_enabled(path, EnabledStatistics::Chunk);
    }
    properties.build()
}

fn failed(source: ParquetError) -> LakeError {
    LakeError::Write { path: "an object of the raw zone".to_owned(), source }
}

fn compressed(lines: &[u8]) -> io::Result<GzEncoder<Vec<u8>>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    gzip.write_all(lines)?;
    Ok(gzip)
}
