//! CSV, by `csv-core`: quotes with newlines in them, any one-byte delimiter, any line end.
//!
//! A row whose number of fields is not that of the header is rejected. Where such
//! a row spans lines, or one has an odd number of quotes, a stray quote is the
//! likely cause: only its first line is rejected, and reading goes on at the next.
//! Likewise for a row longer than [`MAX_ROW_BYTES`].

use std::borrow::Cow;
use std::io::{BufRead, Read};
use std::ops::Range;

use clickmill_schemas::RejectReason;
use csv_core::ReadRecordResult;

use super::super::config::CsvShape;
use super::super::error::ImportError;
use super::super::row::{Bad, Cell, ReadRow, Row, Slot};
use super::{CHUNK_BYTES, MAX_COLUMNS, MAX_ROW_BYTES, RowReader, missing_columns};

pub(crate) struct CsvReader {
    records: Records,
    columns: Vec<String>,
    /// For each wanted column, its index.
    slots: Vec<usize>,
}

impl CsvReader {
    pub(crate) fn open(
        text: Box<dyn BufRead + Send>,
        shown: &str,
        shape: &CsvShape,
        wanted: &[String],
    ) -> Result<Self, ImportError> {
        let mut records = Records::new(text, shown, shape);
        let columns = match &shape.columns {
            Some(columns) => columns.clone(),
            // An empty file has no header, and no row that would miss it.
            None => match records.next(None)? {
                Some(_) => records.names()?,
                None => wanted.to_vec(),
            },
        };
        let find = |name: &String| columns.iter().position(|column| column == name);
        let missing: Vec<&str> =
            wanted.iter().filter(|name| find(name).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(missing_columns(shown, &missing, &columns));
        }
        let slots = wanted.iter().filter_map(find).collect();
        Ok(Self { records, columns, slots })
    }
}

impl RowReader for CsvReader {
    fn next_row(&mut self) -> Result<Option<ReadRow<'_>>, ImportError> {
        let Some(record) = self.records.next(Some(self.columns.len()))? else { return Ok(None) };
        let row = match record {
            Ok(()) => self.records.fields().map(|fields| Row {
                fields: self
                    .columns
                    .iter()
                    .zip(fields)
                    .map(|(name, text)| {
                        let cell = match text {
                            "" => Cell::Missing,
                            text => Cell::Text(Cow::Borrowed(text)),
                        };
                        (Cow::Borrowed(name.as_str()), cell)
                    })
                    .collect(),
                slots: self.slots.iter().map(|at| Slot::Field(*at)).collect(),
            }),
            Err(bad) => Err(bad),
        };
        Ok(Some(ReadRow { row, bytes: Some(self.records.bytes()) }))
    }
}

/// Splits a text into records, keeping the bytes of the current one.
pub(crate) struct Records {
    text: Box<dyn BufRead + Send>,
    shown: String,
    core: csv_core::Reader,
    quote: Option<u8>,
    /// A window of the text; `at` is where the next record starts, `end` what is filled.
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    at_eof: bool,
    /// The current record: its bytes in `buffer`, its fields end to end in `output`.
    current: Range<usize>,
    output: Vec<u8>,
    ends: Vec<usize>,
    fields: usize,
}

impl Records {
    pub(crate) fn new(text: Box<dyn BufRead + Send>, shown: &str, shape: &CsvShape) -> Self {
        let mut builder = csv_core::ReaderBuilder::new();
        builder.delimiter(shape.delimiter);
        match shape.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        Self {
            text,
            shown: shown.to_owned(),
            core: builder.build(),
            quote: shape.quote,
            buffer: vec![0; CHUNK_BYTES],
            at: 0,
            end: 0,
            at_eof: false,
            current: 0..0,
            output: vec![0; 4096],
            ends: vec![0; 64],
            fields: 0,
        }
    }

    /// Moves to the next record. `Some(Err)` is a row that is none; its bytes are there.
    pub(crate) fn next(
        &mut self,
        expected_fields: Option<usize>,
    ) -> Result<Option<Result<(), Bad>>, ImportError> {
        let mut start = self.at;
        let mut at = start;
        let (mut written, mut fields) = (0, 0);
        loop {
            if at == self.end && !self.at_eof {
                if at - start > MAX_ROW_BYTES {
                    return self.reject_first_line(
                        start,
                        Bad::new(
                            RejectReason::TooLarge,
                            format!("longer than {MAX_ROW_BYTES} bytes; is a quote left open?"),
                        ),
                    );
                }
                at -= self.fill(start)?;
                start = 0;
            }
            let (result, read, wrote, ended) = self.core.read_record(
                &self.buffer[at..self.end],
                &mut self.output[written..],
                &mut self.ends[fields..],
            );
            at += read;
            written += wrote;
            fields += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if self.ends.len() > MAX_COLUMNS => {
                    return self.reject_first_line(
                        start,
                        Bad::new(
                            RejectReason::Malformed,
                            format!("more than {MAX_COLUMNS} fields"),
                        ),
                    );
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        self.at = at;
        self.fields = fields;
        self.current = trim_line_ends(&self.buffer, start..at);
        let Some(expected) = expected_fields else { return Ok(Some(Ok(()))) };
        let spans_lines = self.bytes().contains(&b'\n');
        let bad = if fields != expected {
            format!("{fields} fields where {expected} are expected")
        } else if spans_lines && self.has_open_quote() {
            "a quote is opened and not closed".to_owned()
        } else {
            return Ok(Some(Ok(())));
        };
        let bad = Bad::new(RejectReason::Malformed, bad);
        if spans_lines { self.reject_first_line(start, bad) } else { Ok(Some(Err(bad))) }
    }

    /// Closed quotes, doubled ones included, come in pairs.
    fn has_open_quote(&self) -> bool {
        let Some(quote) = self.quote else { return false };
        self.bytes().iter().filter(|b| **b == quote).count() % 2 == 1
    }

    /// The bytes of the current record, without its line end.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.current.clone()]
    }

    /// Its fields.
    pub(crate) fn fields(&self) -> Result<Vec<&str>, Bad> {
        let mut from = 0;
        let mut fields = Vec::with_capacity(self.fields);
        for (at, end) in self.ends[..self.fields].iter().enumerate() {
            let text = std::str::from_utf8(&self.output[from..*end]).map_err(|_| {
                Bad::new(
                    RejectReason::Malformed,
                    format!(
                        "field {} is not UTF-8; if the file is Latin-1, convert it: iconv -f LATIN1 -t UTF-8",
                        at + 1
                    ),
                )
            })?;
            fields.push(text);
            from = *end;
        }
        Ok(fields)
    }

    /// The current record as column names.
    fn names(&self) -> Result<Vec<String>, ImportError> {
        let shape = |reason: String| ImportError::Shape { path: self.shown.clone(), reason };
        let fields = self.fields().map_err(|bad| shape(bad.detail))?;
        let names: Vec<String> = fields
            .iter()
            .enumerate()
            .map(|(at, name)| match name.trim() {
                "" => format!("column_{}", at + 1),
                name => name.to_owned(),
            })
            .collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(shape(format!(
                    "two columns are called `{name}`; rename one, or take the header off and set header = false and columns"
                )));
            }
        }
        Ok(names)
    }

    /// Makes the first line of what starts at `start` the current record, and goes on after it.
    fn reject_first_line(
        &mut self,
        start: usize,
        bad: Bad,
    ) -> Result<Option<Result<(), Bad>>, ImportError> {
        self.core.reset();
        let is_line_end = |b: &u8| matches!(b, b'\n' | b'\r');
        let first = self.buffer[start..self.end].iter().position(|b| !is_line_end(b));
        let first = start + first.unwrap_or(0);
        if let Some(length) = self.buffer[first..self.end].iter().position(is_line_end) {
            self.current = first..first + length;
            self.at = first + length + 1;
            return Ok(Some(Err(bad)));
        }
        // One endless line: its beginning is kept, the rest passed over.
        let kept = self.buffer[first..self.end.min(first + MAX_ROW_BYTES)].to_vec();
        loop {
            let failed = |source| ImportError::Read { path: self.shown.clone(), source };
            let chunk = self.text.fill_buf().map_err(failed)?;
            let line_end = chunk.iter().position(is_line_end);
            let (length, done) = (line_end.map_or(chunk.len(), |at| at + 1), chunk.is_empty());
            self.text.consume(length);
            if done || line_end.is_some() {
                break;
            }
        }
        self.current = 0..kept.len();
        self.at = kept.len();
        self.end = kept.len();
        self.buffer[..kept.len()].copy_from_slice(&kept);
        Ok(Some(Err(bad)))
    }

    /// Moves what starts at `start` to the front and reads more behind it.
    /// Returns by how much everything moved.
    fn fill(&mut self, start: usize) -> Result<usize, ImportError> {
        self.buffer.copy_within(start..self.end, 0);
        self.end -= start;
        if self.buffer.len() - self.end < CHUNK_BYTES / 2 {
            self.buffer.resize(self.buffer.len() + CHUNK_BYTES, 0);
        }
        let read = self
            .text
            .read(&mut self.buffer[self.end..])
            .map_err(|source| ImportError::Read { path: self.shown.clone(), source })?;
        self.at_eof = read == 0;
        self.end += read;
        Ok(start)
    }
}

fn trim_line_ends(buffer: &[u8], range: Range<usize>) -> Range<usize> {
    let is_line_end = |b: &u8| matches!(b, b'\n' | b'\r');
    let text = &buffer[range.clone()];
    let front = text.iter().take_while(|b| is_line_end(b)).count();
    let back = text[front..].iter().rev().take_while(|b| is_line_end(b)).count();
    range.start + front..range.end - back
}
