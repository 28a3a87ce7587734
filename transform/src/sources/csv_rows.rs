//! Separated values, row by row: a row that has not as many fields as the
//! header, or is not text, is one reject and no more.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, StringBuilder};
use clickmill_schemas::{Reject, RejectReason};
use csv::ByteRecord;

use super::changes::{self, ChangeColumns, ChangeReader};
use super::config::{CsvLayout, Encoding};
use super::fetch::Fault;
use super::process::Processor;
use super::reader::Halt;
use super::rows::{Changes, Input};
use super::{BATCH_ROWS, Export, InputFile, SourceChunk};

/// One row's bytes, at most: an unclosed quote must not eat the memory.
const MAX_ROW_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of the rows in one chunk, about.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// Decodes a whole file.
pub(super) fn decode(
    processor: &mut Processor,
    layout: &CsvLayout,
    text: impl Read,
    file: &InputFile,
    send: &mut dyn FnMut(SourceChunk) -> Result<(), Halt>,
) -> Result<(), Halt> {
    let since_row = Arc::new(AtomicU64::new(0));
    let text = Bounded { inner: text, since_row: Arc::clone(&since_row) };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(u8::try_from(layout.delimiter).unwrap_or(b','))
        .from_reader(text);
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| {
        since_row.store(0, Ordering::Relaxed);
        reader.read_byte_record(record).map_err(|e| Fault::Damaged(e.to_string()))
    };
    let mut names = layout.names.clone();
    if layout.header {
        if !next(&mut record)? {
            return Ok(());
        }
        if names.is_empty() {
            names = record.iter().map(|field| header(field, layout.encoding)).collect();
        }
    }
    let wanted = processor.plan().resolve(&names).map_err(Halt::Unfit)?;
    let marks = Marks::new(processor.export(), layout, &names).map_err(Fault::Damaged)?;
    let mut rows = Rows {
        layout,
        fields: names.len(),
        wanted,
        marks,
        records: Vec::new(),
        malformed: Vec::new(),
        bytes: 0,
    };
    let mut number = 0;
    loop {
        match next(&mut record) {
            Ok(true) => {}
            Ok(false) => return send(rows.flush(processor, file)?),
            // What was read before the damage stays.
            Err(fault) => {
                send(rows.flush(processor, file)?)?;
                return Err(fault.into());
            }
        }
        number += 1;
        rows.push(processor, file, number, &record);
        if rows.is_full() {
            send(rows.flush(processor, file)?)?;
        }
    }
}

/// Where rows of change capture say what they are.
struct Marks {
    reader: ChangeReader,
    columns: ChangeColumns,
    /// Without a header the operation is a field before those that have names;
    /// a load may lack it.
    is_first_field: bool,
}

impl Marks {
    /// `None` where rows are no changes. The error is for the user's eyes.
    fn new(export: &Export, layout: &CsvLayout, names: &[String]) -> Result<Option<Self>, String> {
        let Some(changes) = &export.changes else { return Ok(None) };
        let reader = ChangeReader::new(&export.content)?;
        if layout.header {
            let columns = changes::columns_of(changes, &export.content, names)?;
            return Ok(Some(Self { reader, columns, is_first_field: false }));
        }
        let time = changes.time_column.as_ref();
        let time = time.and_then(|time| names.iter().position(|name| name == time));
        let columns = ChangeColumns { operation: None, time };
        Ok(Some(Self { reader, columns, is_first_field: true }))
    }

    /// How many fields stand before the first that has a name.
    fn shift(&self, fields: usize, record: &ByteRecord) -> usize {
        usize::from(self.is_first_field && record.len() == fields + 1)
    }

    fn read(&self, changes: &mut Changes, record: &ByteRecord, shift: usize) {
        let text = |at: usize| record.get(at).and_then(|field| std::str::from_utf8(field).ok());
        let operation = match self.is_first_field {
            true => (shift == 1).then(|| text(0)).flatten(),
            false => self.columns.operation.and_then(text),
        };
        let time = self.columns.time.and_then(|at| text(at + shift));
        self.reader.push(changes, operation, time);
    }
}

/// The rows of the chunk in the making.
struct Rows<'a> {
    layout: &'a CsvLayout,
    /// How many have names.
    fields: usize,
    wanted: Vec<Option<usize>>,
    marks: Option<Marks>,
    /// Each with its number, and how many fields stand before the first that has a name.
    records: Vec<(u64, usize, ByteRecord)>,
    malformed: Vec<Reject<'static>>,
    bytes: usize,
}

impl Rows<'_> {
    fn push(&mut self, processor: &Processor, file: &InputFile, number: u64, record: &ByteRecord) {
        self.bytes += record.as_slice().len();
        let expected = self.fields;
        let shift = self.marks.as_ref().map_or(0, |marks| marks.shift(expected, record));
        let problem = if record.len() != expected + shift {
            Some(format!(
                "the row has {} fields, the header {expected}; is there a delimiter without quotes?",
                record.len()
            ))
        } else if self.layout.encoding == Encoding::Utf8
            && record.iter().any(|field| std::str::from_utf8(field).is_err())
        {
            Some("the row is not UTF-8; if the file is older, set encoding = \"latin1\"".to_owned())
        } else {
            None
        };
        match problem {
            None => self.records.push((number, shift, record.clone())),
            Some(problem) => self.malformed.push(processor.reject(
                file,
                &format!("row {number}"),
                RejectReason::Malformed,
                problem,
                &encoded(record, self.layout),
            )),
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() + self.malformed.len() >= BATCH_ROWS || self.bytes >= CHUNK_BYTES
    }

    fn flush(&mut self, processor: &mut Processor, file: &InputFile) -> Result<SourceChunk, Halt> {
        let records = std::mem::take(&mut self.records);
        let column = |at: usize| {
            let mut builder = StringBuilder::with_capacity(records.len(), records.len() * 16);
            let null = self.layout.null.as_deref().map(str::as_bytes);
            for (_, shift, record) in &records {
                let field = record.get(at + shift).filter(|field| Some(*field) != null);
                match (field, self.layout.encoding) {
                    (Some(field), Encoding::Utf8) => match std::str::from_utf8(field) {
                        Ok(text) => builder.append_value(text),
                        // Never: `push` checked every field.
                        Err(_) => builder.append_null(),
                    },
                    (Some(field), Encoding::Latin1) => builder.append_value(latin1(field)),
                    (None, _) => builder.append_null(),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        };
        let changes = self.marks.as_ref().map(|marks| {
            let mut changes = Changes::default();
            for (_, shift, record) in &records {
                marks.read(&mut changes, record, *shift);
            }
            changes
        });
        let input = Input {
            arrays: self.wanted.iter().map(|at| at.map(column)).collect(),
            rows: records.len(),
            number: &|row| records[row].0,
            file,
            raw: &|row| encoded(&records[row].2, self.layout),
            changes,
        };
        self.bytes = 0;
        Ok(processor.rows(&input, std::mem::take(&mut self.malformed))?)
    }
}

/// A row as a CSV would have it: the fields' bytes are the original's, the quotes may not be.
fn encoded(record: &ByteRecord, layout: &CsvLayout) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .flexible(true)
        .delimiter(u8::try_from(layout.delimiter).unwrap_or(b','))
        .from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_byte_record(record);
    writer.into_inner().unwrap_or_default()
}

fn header(field: &[u8], encoding: Encoding) -> String {
    let text = match encoding {
        Encoding::Utf8 => String::from_utf8_lossy(field).into_owned(),
        Encoding::Latin1 => latin1(field),
    };
    text.trim_start_matches('\u{feff}').trim().to_owned()
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Refuses to go on where one row takes more than [`MAX_ROW_BYTES`].
struct Bounded<R> {
    inner: R,
    since_row: Arc<AtomicU64>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let taken = self.inner.read(buffer)?;
        if self.since_row.fetch_add(taken as u64, Ordering::Relaxed) > MAX_ROW_BYTES {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "a row has more than 16 MiB; is a quote not closed?",
            ));
        }
        Ok(taken)
    }
}
