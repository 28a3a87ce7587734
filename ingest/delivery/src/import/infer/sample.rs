//! The first rows of a file whose format is not known yet.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clickmill_schemas::values::{MoneyFormat, parse_integer};

use super::super::config::{CsvShape, FileFormat};
use super::super::error::ImportError;
use super::super::reader::{JsonlReader, ParquetReader, Records, RowReader, open_plain, open_text};
use super::super::row::Cell;
use super::{SAMPLE_ROWS, guess, words};

/// Delimiters that are tried, in the order of preference.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Records that decide which delimiter it is.
const DELIMITER_RECORDS: usize = 200;

/// What was seen.
pub(super) struct Sample {
    pub format: FileFormat,
    pub delimiter: u8,
    pub has_header: bool,
    pub columns: Vec<Column>,
    pub rows: usize,
}

/// A column and its values that are not empty.
#[derive(Default)]
pub(super) struct Column {
    pub name: String,
    pub values: Vec<String>,
    /// A Parquet timestamp: `Some(true)` where it carries a zone.
    pub timestamp: Option<bool>,
    /// Some value is a JSON array or object.
    pub nested: bool,
}

pub(super) fn take(path: &Path, shown: &str, read: &Arc<AtomicU64>) -> Result<Sample, ImportError> {
    let failed = |source| ImportError::Read { path: shown.to_owned(), source };
    let mut plain = open_plain(path, read).map_err(failed)?;
    let head = plain.fill_buf().map_err(failed)?;
    if head.starts_with(b"PAR1") {
        let reader = ParquetReader::open(path, shown, None, &[], read)?;
        return from_rows(FileFormat::Parquet, reader);
    }
    let mut text = open_text(path, shown, read)?;
    let head = text.fill_buf().map_err(failed)?;
    if matches!(head.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'[')) {
        return from_rows(FileFormat::Jsonl, JsonlReader::open(text, shown, &[])?);
    }
    from_csv(path, shown, read)
}

fn from_rows(format: FileFormat, mut reader: impl RowReader) -> Result<Sample, ImportError> {
    let mut columns: Vec<Column> = Vec::new();
    let mut rows = 0;
    while rows < SAMPLE_ROWS {
        let Some(read_row) = reader.next_row()? else { break };
        rows += 1;
        let Ok(row) = read_row.row else { continue };
        for (name, cell) in &row.fields {
            let at = columns.iter().position(|c| c.name == *name).unwrap_or_else(|| {
                columns.push(Column { name: name.to_string(), ..Column::default() });
                columns.len() - 1
            });
            let column = &mut columns[at];
            match cell {
                Cell::Instant(_) => column.timestamp = Some(true),
                Cell::Local(_) => column.timestamp = Some(false),
                _ => {}
            }
            match cell.text() {
                Ok(Some(text)) if !text.is_empty() && text != "null" => {
                    column.values.push(text.into_owned());
                }
                Ok(_) => {}
                Err(()) => column.nested = true,
            }
        }
    }
    Ok(Sample { format, delimiter: b',', has_header: true, columns, rows })
}

fn from_csv(path: &Path, shown: &str, read: &Arc<AtomicU64>) -> Result<Sample, ImportError> {
    let records = |delimiter, at_most| -> Result<Vec<Vec<String>>, ImportError> {
        let shape = CsvShape { delimiter, quote: Some(b'"'), columns: None };
        let mut records = Records::new(open_text(path, shown, read)?, shown, &shape);
        let mut out = Vec::new();
        while out.len() < at_most && records.next(None)?.is_some() {
            if let Ok(fields) = records.fields() {
                out.push(fields.into_iter().map(str::to_owned).collect());
            }
        }
        Ok(out)
    };
    let mut best = (0, b',');
    for delimiter in DELIMITERS {
        let counts: Vec<usize> =
            records(delimiter, DELIMITER_RECORDS)?.iter().map(Vec::len).collect();
        let Some(usual) = guess::most_frequent(&counts) else { continue };
        let regular = counts.iter().filter(|count| **count == usual).count();
        // Nearly every record must have the same number of fields.
        if usual > 1 && regular * 10 >= counts.len() * 9 && usual > best.0 {
            best = (usual, delimiter);
        }
    }
    let delimiter = best.1;
    let mut rows = records(delimiter, SAMPLE_ROWS + 1)?;
    let has_header = is_header(&rows);
    let names: Vec<String> = match rows.first() {
        Some(first) if has_header => first
            .iter()
            .enumerate()
            .map(|(at, name)| match name.trim() {
                "" => format!("column_{}", at + 1),
                name => name.to_owned(),
            })
            .collect(),
        Some(first) => (1..=first.len()).map(|at| format!("column_{at}")).collect(),
        None => Vec::new(),
    };
    if has_header {
        rows.remove(0);
    }
    rows.truncate(SAMPLE_ROWS);
    let columns = names
        .into_iter()
        .enumerate()
        .map(|(at, name)| {
            let values = rows.iter().filter_map(|row| row.get(at)).filter(|v| !v.is_empty());
            Column { name, values: values.cloned().collect(), ..Column::default() }
        })
        .collect();
    Ok(Sample { format: FileFormat::Csv, delimiter, has_header, columns, rows: rows.len() })
}

/// Whether the first record names columns: its texts differ from each other, none
/// is a value, and they are known words or stand over values.
fn is_header(rows: &[Vec<String>]) -> bool {
    let Some((first, rest)) = rows.split_first() else { return false };
    let is_value = |text: &str| {
        parse_integer(text).is_ok()
            || MoneyFormat::default().read(text).is_ok()
            || guess::time_format(&[text.to_owned()]).is_some()
    };
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    if distinct.len() != first.len() || first.iter().any(|text| is_value(text)) {
        return false;
    }
    let known = first.iter().any(|text| words::role_of(text).is_some());
    let over_values = (0..first.len()).any(|at| {
        let below: Vec<&String> =
            rest.iter().filter_map(|row| row.get(at)).filter(|v| !v.is_empty()).collect();
        !below.is_empty() && below.iter().filter(|v| is_value(v)).count() * 10 >= below.len() * 9
    });
    known || over_values
}
