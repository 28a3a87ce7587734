//! Reads objects of the raw zone, in whichever form they are stored: JSON lines,
//! gzipped or plain, or Parquet. Their first bytes tell.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, Read};
use std::ops::Range;

use arrow::array::RecordBatch;
use bytes::Bytes;
use clickmill_schemas::{Event, Lineage, encode_whole};
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};

use super::columns::{OTHER, Row, Rows};
use crate::LakeError;

const GZIP: &[u8] = &[0x1f, 0x8b];
const PARQUET: &[u8] = b"PAR1";
const READ_BUFFER: usize = 256 << 10;
/// Rows of Parquet that are decoded at once.
const BATCH_ROWS: usize = 1_024;

/// A line of an object.
#[derive(Debug)]
pub enum Line<'a> {
    /// As it was landed, without its newline.
    Text(&'a [u8]),
    /// From columns: it need not be decoded again.
    Event(Box<Event<'a>>),
}

/// Every line of an object.
pub const ALL: &[Range<u64>] = std::slice::from_ref(&EVERY);
const EVERY: Range<u64> = 1..u64::MAX;

/// Calls `visit` with each of an object's `lines` and its number from 1, until it says `false`.
/// `lines` are ranges of such numbers, ascending and apart from each other
/// ([`crate::landing::LandedObject::lines`], [`ALL`]); `path` is for errors.
///
/// # Errors
/// [`LakeError::Corrupt`] where decompression or decoding fails; what `visit` fails with.
pub fn for_each<E: From<LakeError>>(
    bytes: &Bytes,
    path: &str,
    lines: &[Range<u64>],
    mut visit: impl FnMut(u32, Line<'_>) -> Result<bool, E>,
) -> Result<(), E> {
    if !bytes.starts_with(PARQUET) {
        return of_text(bytes, path, lines, |number, line| visit(number, Line::Text(line)));
    }
    let mut text = Vec::new();
    of_parquet(bytes, path, lines, None, |number, row| match row {
        Row::Line(line) => visit(number, Line::Text(line.as_bytes())),
        Row::Event(event, None) => visit(number, Line::Event(event)),
        Row::Event(event, other) => {
            // A version that knows one of the other keys reads it so.
            text.clear();
            encode_whole(&event, other, &mut text);
            visit(number, Line::Text(&text))
        }
    })
}

/// As [`for_each`], with every line as its text: of columns the canonical one.
///
/// # Errors
/// As [`for_each`].
pub fn for_each_line<E: From<LakeError>>(
    bytes: &Bytes,
    path: &str,
    lines: &[Range<u64>],
    mut visit: impl FnMut(u32, &[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let mut text = Vec::new();
    for_each(bytes, path, lines, |number, line| match line {
        Line::Text(line) => visit(number, line),
        Line::Event(event) => {
            text.clear();
            event.encode_to(&mut text);
            visit(number, &text)
        }
    })
}

/// Calls `visit` with the number and lineage of each of an object's `lines` (as for [`for_each`]).
/// Of Parquet only the columns that it needs are read.
///
/// # Errors
/// [`LakeError::Corrupt`] where decompression or decoding fails.
pub fn for_each_lineage(
    bytes: &Bytes,
    path: &str,
    lines: &[Range<u64>],
    mut visit: impl FnMut(u32, Lineage),
) -> Result<(), LakeError> {
    // Those that every event has, and those that are asked for.
    const COLUMNS: &[&str] = &[
        "event_id",
        "event_name",
        "source_protocol",
        "app_id",
        "event_ts",
        "received_ts",
        "collector_id",
        "wal_seq",
        "shard_id",
        "sequence_number",
        OTHER,
    ];
    if !bytes.starts_with(PARQUET) {
        return of_text(bytes, path, lines, |number, line| {
            visit(number, Lineage::of(line));
            Ok(true)
        });
    }
    of_parquet(bytes, path, lines, Some(COLUMNS), |number, row| {
        visit(
            number,
            match row {
                Row::Line(line) => Lineage::of(line.as_bytes()),
                Row::Event(event, _) => of_event(&event),
            },
        );
        Ok(true)
    })
}

/// The lineage of each of an object's `lines`, as [`for_each_lineage`] reads it.
///
/// # Errors
/// As [`for_each_lineage`].
pub fn lineage(bytes: &Bytes, path: &str, lines: &[Range<u64>]) -> Result<Vec<Lineage>, LakeError> {
    let mut found = Vec::new();
    for_each_lineage(bytes, path, lines, |_, line| found.push(line))?;
    Ok(found)
}

fn of_event(event: &Event<'_>) -> Lineage {
    let text = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
    Lineage {
        collector_id: text(&event.collector_id),
        wal_seq: event.wal_seq,
        received_ts: Some(event.received_ts()),
        shard_id: text(&event.shard_id),
        sequence_number: text(&event.sequence_number),
    }
}

fn of_text<E: From<LakeError>>(
    bytes: &[u8],
    path: &str,
    lines: &[Range<u64>],
    mut visit: impl FnMut(u32, &[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let reader: Box<dyn Read + '_> = if bytes.starts_with(GZIP) {
        Box::new(MultiGzDecoder::new(bytes))
    } else {
        Box::new(bytes)
    };
    let mut reader = BufReader::with_capacity(READ_BUFFER, reader);
    let mut line = Vec::with_capacity(4_096);
    let mut number = 0_u32;
    let mut ranges = lines.iter().peekable();
    // Nothing after the last of them is looked at.
    while let Some(range) = ranges.peek() {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|error| LakeError::Corrupt {
            path: path.to_owned(),
            reason: format!("line {} cannot be decompressed: {error}", number + 1),
        })?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        let is_wanted = range.contains(&u64::from(number));
        while ranges.next_if(|range| range.end <= u64::from(number) + 1).is_some() {}
        let text = line.trim_ascii();
        if is_wanted && !text.is_empty() && !visit(number, text)? {
            return Ok(());
        }
    }
    Ok(())
}

fn of_parquet<E: From<LakeError>>(
    bytes: &Bytes,
    path: &str,
    lines: &[Range<u64>],
    columns: Option<&[&str]>,
    mut visit: impl FnMut(u32, Row<'_>) -> Result<bool, E>,
) -> Result<(), E> {
    let corrupt = |reason: String| LakeError::Corrupt { path: path.to_owned(), reason };
    let unread = |number: u32, error: &dyn std::fmt::Display| {
        corrupt(format!("row {} cannot be decoded: {error}", number + 1))
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .map_err(|error| corrupt(format!("it is no Parquet that can be read: {error}")))?;
    let mask = match columns {
        Some(columns) => ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()),
        None => ProjectionMask::all(),
    };
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
    let wanted = lines.iter().map(|range| {
        let row = |line: u64| usize::try_from(line.saturating_sub(1)).unwrap_or(rows).min(rows);
        row(range.start)..row(range.end)
    });
    let wanted: Vec<Range<usize>> = wanted.filter(|range| !range.is_empty()).collect();
    let mut numbers = wanted.clone().into_iter().flatten();
    let selection = RowSelection::from_consecutive_ranges(wanted.into_iter(), rows);
    let batches = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .with_row_selection(selection)
        .build();
    let mut number = 0_u32;
    for batch in batches.map_err(|error| unread(number, &error))? {
        let batch: RecordBatch = batch.map_err(|error| unread(number, &error))?;
        let rows = Rows::of(&batch).map_err(corrupt)?;
        for row in 0..batch.num_rows() {
            let row = rows.row(row).map_err(|error| unread(number, &error))?;
            let at = numbers.next().and_then(|row| u32::try_from(row).ok());
            number = at.map_or(number, |row| row) + 1;
            if !visit(number, row)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
