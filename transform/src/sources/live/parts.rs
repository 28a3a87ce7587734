//! Parts of a read: rows become files of the lake, a bounded number at a time.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use clickmill_lake::LakeError;
use flate2::Compression;
use flate2::write::GzEncoder;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use uuid::Uuid;

use super::super::fetch::LAKE;
use super::{InputFile, SourceError, Table};

/// A part is written when it has as many rows,
const PART_ROWS: usize = 50_000;
/// or as many bytes of text.
const PART_BYTES: usize = 32 * 1024 * 1024;

/// Rows of text, on their way to a Parquet file.
pub(super) struct TextRows {
    schema: Arc<Schema>,
    columns: Vec<StringBuilder>,
    rows: usize,
    bytes: usize,
}

#[cfg_attr(not(feature = "databases"), expect(dead_code, reason = "only databases give text"))]
impl TextRows {
    pub(super) fn new(columns: &[String]) -> Self {
        let field = |name: &String| Field::new(name, DataType::Utf8, true);
        Self {
            schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
            columns: columns.iter().map(|_| StringBuilder::new()).collect(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Adds a row, in the columns' order.
    pub(super) fn push<'r>(&mut self, row: impl Iterator<Item = Option<&'r str>>) {
        for (column, value) in self.columns.iter_mut().zip(row) {
            self.bytes += value.map_or(0, str::len);
            column.append_option(value);
        }
        self.rows += 1;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) const fn is_full(&self) -> bool {
        self.rows >= PART_ROWS || self.bytes >= PART_BYTES
    }

    /// Writes them as a part of read `number`, and begins the next.
    pub(super) async fn write(
        &mut self,
        table: &Table<'_>,
        number: i64,
    ) -> Result<InputFile, SourceError> {
        let fail = |error| table.live("cannot encode a part as Parquet", error);
        let columns = self.columns.iter_mut();
        let columns = columns.map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| table.live("cannot put rows together", error))?;
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let properties = WriterProperties::builder()
            .set_compression(ParquetCompression::ZSTD(ZstdLevel::default()))
            .build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), Arc::clone(&self.schema), Some(properties))
                .map_err(fail)?;
        writer.write(&batch).map_err(fail)?;
        let bytes = writer.into_inner().map_err(fail)?;
        put(table, number, "parquet", bytes, rows).await
    }
}

/// Lines of JSON, on their way to a gz file.
pub(super) struct JsonLines {
    text: GzEncoder<Vec<u8>>,
    rows: usize,
    bytes: usize,
}

impl JsonLines {
    pub(super) fn new() -> Self {
        Self { text: GzEncoder::new(Vec::new(), Compression::fast()), rows: 0, bytes: 0 }
    }

    /// Adds a line.
    pub(super) fn push(&mut self, line: &serde_json::Value) -> std::io::Result<()> {
        let mut line = line.to_string();
        line.push('\n');
        self.rows += 1;
        self.bytes += line.len();
        self.text.write_all(line.as_bytes())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) const fn is_full(&self) -> bool {
        self.rows >= PART_ROWS || self.bytes >= PART_BYTES
    }

    /// Writes them as a part of read `number`, and begins the next.
    pub(super) async fn write(
        &mut self,
        table: &Table<'_>,
        number: i64,
    ) -> Result<InputFile, SourceError> {
        let full = std::mem::replace(self, Self::new());
        let bytes = full.text.finish().map_err(|error| table.live("cannot compress", error))?;
        put(table, number, "json.gz", bytes, full.rows).await
    }
}

/// A name of its own for each attempt, so that nobody's part is written over.
async fn put(
    table: &Table<'_>,
    number: i64,
    extension: &str,
    bytes: Vec<u8>,
    rows: usize,
) -> Result<InputFile, SourceError> {
    let path: Path = table.data(number).join(format!("{}.{extension}", Uuid::now_v7()));
    let store = table.lake.store();
    let size = bytes.len() as u64;
    let fail = |operation, error| table.failed(LakeError::store(operation, &path, error));
    store.put(&path, PutPayload::from(bytes)).await.map_err(|e| fail("write", e))?;
    // As a reader will see it.
    let meta = store.head(&path).await.map_err(|e| fail("read", e))?;
    Ok(InputFile {
        location: LAKE.to_owned(),
        path: path.to_string(),
        etag: meta.e_tag.unwrap_or_default(),
        bytes: size,
        md5_base64: None,
        items: Some(rows as u64),
    })
}
