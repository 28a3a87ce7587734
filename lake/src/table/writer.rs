//! Writes the rows of one stream into Parquet files, one for each partition.
//!
//! Files are garbage until [`super::Table::commit`] names them: an attempt that
//! dies leaves files that no reader sees. Names are unique to the attempt.
//!
//! Rows keep their order, so a stream that is sorted gives sorted files.
//! Memory is bounded: when the encoders of all open partitions together hold
//! more than [`MAX_BUFFERED_BYTES`], the fullest one closes its row group. An
//! open partition costs some megabytes of its own, whatever it holds: where rows
//! come day by day ([`Sorted::ByDay`]), one is open at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Date32Type, SchemaRef};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{PARTITION_COLUMN, TableSpec};
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::files::DataFile;
use super::stats::Collector;
use super::upload::FileUpload;
use crate::{Lake, LakeError, schema};

/// A file that reached this size is closed and a new one begun.
pub const MAX_FILE_BYTES: usize = 256 * 1024 * 1024;
/// Encoded and unflushed bytes over all open partitions, and again over those being closed.
const MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;
/// What is held is counted again after so many bytes of rows: with hundreds of open
/// partitions counting costs more than writing.
const COUNT_EVERY_BYTES: usize = 4 * 1024 * 1024;
/// What an open partition may hold before any rows: its encoders' own buffers.
const OPEN_FILE_BYTES: usize = 64 * 1024;
/// Files that are closed, and so made durable, at the same time.
const CLOSE_CONCURRENCY: usize = 16;
/// Rows of a row group: small enough that a scan of one visitor skips most of a file.
const ROW_GROUP_ROWS: usize = 256 * 1024;
/// zstd level 1: within 5 % of level 3's size on clickstream text, at half its time.
pub(crate) const ZSTD_LEVEL: i32 = 1;

/// One writer over all partitions of a table.
pub struct PartitionWriter {
    lake: Lake,
    spec: &'static TableSpec,
    file_schema: SchemaRef,
    properties: WriterProperties,
    sorted: Sorted,
    open: BTreeMap<Option<Date>, OpenFile>,
    /// Each with the bytes that it held when it was begun.
    closing: JoinSet<(usize, Result<DataFile, LakeError>)>,
    /// Bytes of all of them.
    closing_bytes: usize,
    /// Bytes that came since the held ones were counted.
    uncounted: usize,
    done: Vec<DataFile>,
}

/// Whether the rows come in the table's sort order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sorted {
    /// They do, in each partition; the files are tagged so.
    Yes,
    /// They do, and one partition after the other.
    ByDay,
    /// They do not.
    No,
}

struct OpenFile {
    path: String,
    writer: AsyncArrowWriter<FileUpload>,
    stats: Collector,
}

impl PartitionWriter {
    /// A writer that has written nothing yet.
    #[must_use]
    pub fn new(lake: &Lake, spec: &'static TableSpec, sorted: Sorted) -> Self {
        let level = ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(concat!("clickmill ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        Self {
            lake: lake.clone(),
            spec,
            file_schema: schema::file_schema(spec),
            properties,
            sorted,
            open: BTreeMap::new(),
            closing: JoinSet::new(),
            closing_bytes: 0,
            uncounted: 0,
            done: Vec::new(),
        }
    }

    /// Writes rows with the table's schema, `dt` included.
    ///
    /// # Errors
    /// [`LakeError::Write`] where encoding or storing fails.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !self.spec.partitioned {
            return self.write_partition(None, batch.clone()).await;
        }
        let dt = batch
            .column_by_name(PARTITION_COLUMN)
            .and_then(|column| column.as_primitive_opt::<Date32Type>())
            .ok_or_else(|| self.unfit("rows without a dt of type Date32"))?;
        let days = dt.values();
        let mut first = 0;
        if days.iter().all(|day| *day == days[first]) {
            return self.write_partition(Some(Date::from_days(days[0])), batch.clone()).await;
        }
        let mut rows_of_day: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        while first < days.len() {
            rows_of_day.entry(days[first]).or_default().push(first as u32);
            first += 1;
        }
        for (day, rows) in rows_of_day {
            let part = take_record_batch(batch, &UInt32Array::from(rows))
                .map_err(|error| self.unfit(&error.to_string()))?;
            self.write_partition(Some(Date::from_days(day)), part).await?;
        }
        Ok(())
    }

    /// Closes every file; they are durable when this returns.
    ///
    /// # Errors
    /// [`LakeError::Write`] where encoding or storing fails.
    pub async fn finish(mut self) -> Result<Vec<DataFile>, LakeError> {
        for (dt, file) in std::mem::take(&mut self.open) {
            self.close(dt, file).await?;
        }
        while !self.closing.is_empty() {
            self.closed().await?;
        }
        self.done.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.done)
    }

    /// Begins to close a file, beside as many others as memory allows.
    async fn close(&mut self, dt: Option<Date>, file: OpenFile) -> Result<(), LakeError> {
        let held = file.writer.memory_size();
        while self.closing.len() >= CLOSE_CONCURRENCY
            || (self.closing_bytes + held > MAX_BUFFERED_BYTES && !self.closing.is_empty())
        {
            self.closed().await?;
        }
        self.closing_bytes += held;
        let (spec, sorted) = (self.spec, self.sorted);
        self.closing.spawn(async move { (held, close(spec, sorted, dt, file).await) });
        Ok(())
    }

    /// Waits for the next file that is closed.
    async fn closed(&mut self) -> Result<(), LakeError> {
        let Some(closed) = self.closing.join_next().await else { return Ok(()) };
        let (held, file) = closed.map_err(|source| self.unfit(&source.to_string()))?;
        self.closing_bytes -= held;
        self.done.push(file?);
        Ok(())
    }

    async fn write_partition(
        &mut self,
        dt: Option<Date>,
        batch: RecordBatch,
    ) -> Result<(), LakeError> {
        let columns = batch.columns()[..self.file_schema.fields().len()].to_vec();
        let batch = RecordBatch::try_new(Arc::clone(&self.file_schema), columns)
            .map_err(|error| self.unfit(&error.to_string()))?;
        if !self.open.contains_key(&dt) {
            if self.sorted == Sorted::ByDay {
                for (dt, file) in std::mem::take(&mut self.open) {
                    self.close(dt, file).await?;
                }
            }
            let file = self.create(dt)?;
            self.open.insert(dt, file);
            self.uncounted += OPEN_FILE_BYTES;
        }
        let Some(file) = self.open.get_mut(&dt) else { return Ok(()) };
        file.stats.update(&batch);
        self.uncounted += batch.get_array_memory_size();
        let written = file.writer.write(&batch).await;
        let full = file.writer.bytes_written() >= MAX_FILE_BYTES;
        written.map_err(|source| self.failed(dt, source))?;
        if full && let Some(file) = self.open.remove(&dt) {
            self.close(dt, file).await?;
        }
        self.bound_memory().await
    }

    async fn bound_memory(&mut self) -> Result<(), LakeError> {
        if self.uncounted < COUNT_EVERY_BYTES {
            return Ok(());
        }
        self.uncounted = 0;
        let held = |open: &BTreeMap<_, OpenFile>| -> usize {
            open.values().map(|file| file.writer.memory_size()).sum()
        };
        while held(&self.open) > MAX_BUFFERED_BYTES {
            let fullest = self.open.iter_mut().max_by_key(|(_, file)| file.writer.memory_size());
            let Some((dt, file)) = fullest else { break };
            // What encoders hold without rows cannot be flushed.
            if file.writer.in_progress_rows() == 0 {
                break;
            }
            let dt = *dt;
            let flushed = file.writer.flush().await;
            flushed.map_err(|source| self.failed(dt, source))?;
        }
        Ok(())
    }

    fn create(&self, dt: Option<Date>) -> Result<OpenFile, LakeError> {
        let name = format!("part-{}.parquet", Uuid::now_v7());
        let path = match dt {
            Some(dt) => format!("{PARTITION_COLUMN}={dt}/{name}"),
            None => name,
        };
        let location = object_store::path::Path::from(format!("tables/{}/{path}", self.spec.name));
        let sink = FileUpload::new(self.lake.store(), location);
        let properties = Some(self.properties.clone());
        let writer = AsyncArrowWriter::try_new(sink, Arc::clone(&self.file_schema), properties)
            .map_err(|source| self.failed(dt, source))?;
        Ok(OpenFile { path, writer, stats: Collector::new(self.spec) })
    }

    fn failed(&self, dt: Option<Date>, source: ParquetError) -> LakeError {
        failed(self.spec, dt, source)
    }

    fn unfit(&self, reason: &str) -> LakeError {
        let source = ParquetError::General(reason.to_owned());
        LakeError::Write { path: format!("tables/{}", self.spec.name), source }
    }
}

/// Closes a file; it is durable then.
async fn close(
    spec: &'static TableSpec,
    sorted: Sorted,
    dt: Option<Date>,
    mut file: OpenFile,
) -> Result<DataFile, LakeError> {
    file.writer.finish().await.map_err(|source| failed(spec, dt, source))?;
    Ok(DataFile {
        path: file.path,
        dt,
        bytes: file.writer.bytes_written() as u64,
        rows: file.stats.rows(),
        stats: file.stats.to_json(),
        sorted_by: (sorted != Sorted::No).then(|| spec.sort.join(",")),
    })
}

fn failed(spec: &TableSpec, dt: Option<Date>, source: ParquetError) -> LakeError {
    let partition = dt.map_or_else(String::new, |dt| format!("/{PARTITION_COLUMN}={dt}"));
    LakeError::Write { path: format!("tables/{}{partition}", spec.name), source }
}
