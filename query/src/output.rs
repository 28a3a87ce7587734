//! The forms in which an answer is printed.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;

/// A form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// RFC 4180, with a header; NULL is an empty field.
    Csv,
    /// One JSON array of objects; NULL keys are written.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// A Parquet file.
    Parquet,
}

/// Writes batches in a form, as they come.
pub enum Output<W: Write + Send> {
    /// Tables need all rows to find the widths of their columns.
    Table(W, SchemaRef, Vec<RecordBatch>),
    /// See [`Format::Csv`].
    Csv(Box<arrow::csv::Writer<W>>, SchemaRef, bool),
    /// See [`Format::Json`].
    Json(Box<arrow::json::ArrayWriter<W>>),
    /// See [`Format::Ndjson`].
    Ndjson(Box<arrow::json::LineDelimitedWriter<W>>),
    /// See [`Format::Parquet`].
    Parquet(Box<parquet::arrow::ArrowWriter<W>>),
}

/// An answer could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The rows do not go into the form.
    #[error("the rows cannot be written in this format: {0}")]
    Format(#[from] ArrowError),
    /// They do not go into Parquet.
    #[error("the rows cannot be written as Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Writing failed.
    #[error("cannot write the answer: {0}")]
    Write(#[from] std::io::Error),
}

impl OutputError {
    /// True where the reader has gone (`clickmill sql ... | head`).
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        let text = self.to_string();
        match self {
            Self::Write(error) => error.kind() == std::io::ErrorKind::BrokenPipe,
            _ => text.contains("Broken pipe"),
        }
    }
}

impl<W: Write + Send> Output<W> {
    /// Begins an answer.
    ///
    /// # Errors
    /// [`OutputError::Parquet`] where the schema has no Parquet form.
    pub fn new(format: Format, schema: SchemaRef, to: W) -> Result<Self, OutputError> {
        Ok(match format {
            Format::Table => Self::Table(to, schema, Vec::new()),
            Format::Csv => {
                let writer = arrow::csv::WriterBuilder::new().with_header(true).build(to);
                Self::Csv(Box::new(writer), schema, true)
            }
            Format::Json => {
                let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                Self::Json(Box::new(builder.build(to)))
            }
            Format::Ndjson => {
                let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                Self::Ndjson(Box::new(builder.build(to)))
            }
            Format::Parquet => {
                Self::Parquet(Box::new(parquet::arrow::ArrowWriter::try_new(to, schema, None)?))
            }
        })
    }

    /// Writes some rows.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        match self {
            Self::Table(_, _, batches) => batches.push(batch.clone()),
            Self::Csv(writer, _, empty) => {
                *empty = false;
                writer.write(&flat(batch)?)?;
            }
            Self::Json(writer) => writer.write(batch)?,
            Self::Ndjson(writer) => writer.write(batch)?,
            Self::Parquet(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn finish(self) -> Result<(), OutputError> {
        match self {
            Self::Table(mut to, schema, mut batches) => {
                batches.insert(0, RecordBatch::new_empty(schema));
                let options = FormatOptions::default().with_display_error(true);
                let table =
                    arrow::util::pretty::pretty_format_batches_with_options(&batches, &options)?;
                writeln!(to, "{table}")?;
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                writeln!(to, "{rows} row{}", if rows == 1 { "" } else { "s" })?;
                to.flush()?;
            }
            Self::Csv(mut writer, schema, empty) => {
                if empty {
                    writer.write(&flat(&RecordBatch::new_empty(schema))?)?;
                }
                writer.into_inner().flush()?;
            }
            Self::Json(mut writer) => {
                writer.finish()?;
                let mut to = writer.into_inner();
                writeln!(to)?;
                to.flush()?;
            }
            Self::Ndjson(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Self::Parquet(writer) => {
                writer.into_inner()?.flush()?;
            }
        }
        Ok(())
    }
}

/// CSV has no nested values: they go in as text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    let nested = |data_type: &DataType| data_type.is_nested();
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| nested(field.data_type())) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !nested(field.data_type()) {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let options = FormatOptions::default();
        let formatter = arrow::util::display::ArrayFormatter::try_new(column, &options)?;
        let texts: StringArray = (0..column.len())
            .map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()))
            .collect();
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        columns.push(Arc::new(texts));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
