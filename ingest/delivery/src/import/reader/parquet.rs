//! Parquet. Numbers keep their exact text, decimals included; timestamps are
//! instants where the file gives them a zone, else local times; nested values
//! become JSON.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use clickmill_schemas::Timestamp;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::super::config::EventTimeColumn;
use super::super::error::ImportError;
use super::super::row::{Cell, ReadRow, Row, Slot};
use super::{MAX_COLUMNS, RowReader, missing_columns};

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1_024;

pub(crate) struct ParquetReader {
    batches: ParquetRecordBatchReader,
    shown: String,
    columns: Vec<String>,
    slots: Vec<usize>,
    /// The current batch, column by column.
    cells: Vec<Vec<Cell<'static>>>,
    next: usize,
    rows: usize,
    /// For progress: the file's bytes are counted in proportion to its rows.
    bytes_per_row: f64,
    read_bytes: Arc<AtomicU64>,
}

impl ParquetReader {
    pub(crate) fn open(
        path: &Path,
        shown: &str,
        time: Option<&EventTimeColumn>,
        wanted: &[String],
        read_bytes: &Arc<AtomicU64>,
    ) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read { path: shown.to_owned(), source };
        let not_parquet = |source| ImportError::Parquet { path: shown.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(not_parquet)?;
        let schema = Arc::clone(builder.schema());
        let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let shape = |reason: String| ImportError::Shape { path: shown.to_owned(), reason };
        if columns.len() > MAX_COLUMNS {
            return Err(shape(format!("it has more than {MAX_COLUMNS} columns")));
        }
        let find = |name: &String| columns.iter().position(|column| column == name);
        let missing: Vec<&str> =
            wanted.iter().filter(|name| find(name).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(missing_columns(shown, &missing, &columns));
        }
        let is_no_time = |time: &&EventTimeColumn| {
            let field = schema.fields().iter().find(|field| *field.name() == time.column);
            time.format.is_none() && field.is_some_and(|field| !field.data_type().is_temporal())
        };
        if let Some(time) = time.filter(is_no_time) {
            return Err(shape(format!(
                "column `{}` is not a timestamp: event_ts needs a format to read it",
                time.column
            )));
        }
        let rows = builder.metadata().file_metadata().num_rows().max(1);
        let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(not_parquet)?;
        Ok(Self {
            batches,
            shown: shown.to_owned(),
            slots: wanted.iter().filter_map(find).collect(),
            columns,
            cells: Vec::new(),
            next: 0,
            rows: 0,
            bytes_per_row: bytes as f64 / rows as f64,
            read_bytes: Arc::clone(read_bytes),
        })
    }

    fn load(&mut self) -> Result<bool, ImportError> {
        let failed = |source| ImportError::Arrow { path: self.shown.clone(), source };
        let Some(batch) = self.batches.next().transpose().map_err(failed)? else {
            return Ok(false);
        };
        let schema = batch.schema();
        self.cells = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| cells(field, column))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        (self.next, self.rows) = (0, batch.num_rows());
        let bytes = (batch.num_rows() as f64 * self.bytes_per_row) as u64;
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(true)
    }
}

impl RowReader for ParquetReader {
    fn next_row(&mut self) -> Result<Option<ReadRow<'_>>, ImportError> {
        while self.next >= self.rows {
            if !self.load()? {
                return Ok(None);
            }
        }
        let at = self.next;
        self.next += 1;
        let fields = self
            .columns
            .iter()
            .zip(&mut self.cells)
            .map(|(name, column)| {
                let cell = column
                    .get_mut(at)
                    .map_or(Cell::Missing, |cell| std::mem::replace(cell, Cell::Missing));
                (Cow::Borrowed(name.as_str()), cell)
            })
            .collect();
        let slots = self.slots.iter().map(|at| Slot::Field(*at)).collect();
        Ok(Some(ReadRow { row: Ok(Row { fields, slots }), bytes: None }))
    }
}

/// A column's values.
fn cells(field: &FieldRef, column: &ArrayRef) -> Result<Vec<Cell<'static>>, ArrowError> {
    let rows = 0..column.len();
    match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
            let column = cast(column, &micros)?;
            let column = column.as_primitive::<TimestampMicrosecondType>();
            let has_zone = zone.is_some();
            Ok(column.iter().map(|micros| time_cell(micros, has_zone)).collect())
        }
        DataType::Date32 | DataType::Date64 => {
            let column = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let column = column.as_primitive::<TimestampMicrosecondType>();
            Ok(column.iter().map(|micros| micros.map_or(Cell::Missing, Cell::Local)).collect())
        }
        DataType::Utf8 => {
            let column = column.as_string::<i32>();
            Ok(column.iter().map(text_cell).collect())
        }
        DataType::LargeUtf8 | DataType::Utf8View => {
            let column = cast(column, &DataType::Utf8)?;
            Ok(column.as_string::<i32>().iter().map(text_cell).collect())
        }
        _ => {
            let options = EncoderOptions::default();
            let mut encoder = make_encoder(field, column.as_ref(), &options)?;
            let mut json = Vec::new();
            rows.map(|row| {
                if encoder.is_null(row) {
                    return Ok(Cell::Missing);
                }
                json.clear();
                encoder.encode(row, &mut json);
                json_cell(&json)
            })
            .collect()
        }
    }
}

fn time_cell(micros: Option<i64>, has_zone: bool) -> Cell<'static> {
    match micros {
        None => Cell::Missing,
        Some(micros) if !has_zone => Cell::Local(micros),
        Some(micros) => match Timestamp::from_micros(micros) {
            Ok(at) => Cell::Instant(at),
            // Beyond year 9999: a number that no time format will take.
            Err(_) => Cell::Json(Cow::Owned(micros.to_string())),
        },
    }
}

fn text_cell(text: Option<&str>) -> Cell<'static> {
    text.map_or(Cell::Missing, |text| Cell::Text(Cow::Owned(text.to_owned())))
}

fn json_cell(json: &[u8]) -> Result<Cell<'static>, ArrowError> {
    if json.first() == Some(&b'"') {
        let text: String =
            serde_json::from_slice(json).map_err(|e| ArrowError::JsonError(e.to_string()))?;
        return Ok(Cell::Text(Cow::Owned(text)));
    }
    Ok(Cell::Json(Cow::Owned(String::from_utf8_lossy(json).into_owned())))
}
