//! JSON lines: one object a line; blank lines are passed over and do not count.
//!
//! A wanted column is a key of the object, or, where there is no such key, a
//! path with dots into nested objects: `user.id`.

use std::borrow::Cow;
use std::fmt;
use std::io::BufRead;

use clickmill_schemas::RejectReason;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::super::error::ImportError;
use super::super::row::{Bad, Cell, ReadRow, Row, Slot};
use super::{MAX_ROW_BYTES, RowReader};

pub(crate) struct JsonlReader {
    text: Box<dyn BufRead + Send>,
    shown: String,
    wanted: Vec<String>,
    line: Vec<u8>,
}

impl JsonlReader {
    pub(crate) fn open(
        mut text: Box<dyn BufRead + Send>,
        shown: &str,
        wanted: &[String],
    ) -> Result<Self, ImportError> {
        let head = text
            .fill_buf()
            .map_err(|source| ImportError::Read { path: shown.to_owned(), source })?;
        if head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
            return Err(ImportError::Shape {
                path: shown.to_owned(),
                reason: "it is one JSON array, not one object a line; convert it: jq -c '.[]'"
                    .into(),
            });
        }
        Ok(Self { text, shown: shown.to_owned(), wanted: wanted.to_vec(), line: Vec::new() })
    }

    /// Reads the next line that is not blank; `Some(false)` where it is too long to keep.
    fn next_line(&mut self) -> Result<Option<bool>, ImportError> {
        loop {
            self.line.clear();
            let (mut fits, mut any) = (true, false);
            loop {
                let chunk = self
                    .text
                    .fill_buf()
                    .map_err(|source| ImportError::Read { path: self.shown.clone(), source })?;
                if chunk.is_empty() {
                    break;
                }
                any = true;
                let line_end = chunk.iter().position(|b| *b == b'\n');
                let part = &chunk[..line_end.unwrap_or(chunk.len())];
                let room = MAX_ROW_BYTES - self.line.len();
                fits &= part.len() <= room;
                self.line.extend_from_slice(&part[..part.len().min(room)]);
                let length = line_end.map_or(chunk.len(), |at| at + 1);
                self.text.consume(length);
                if line_end.is_some() {
                    break;
                }
            }
            if !any {
                return Ok(None);
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(fits));
            }
        }
    }
}

impl RowReader for JsonlReader {
    fn next_row(&mut self) -> Result<Option<ReadRow<'_>>, ImportError> {
        let Some(fits) = self.next_line()? else { return Ok(None) };
        let row = if fits {
            row(&self.line, &self.wanted)
        } else {
            Err(Bad::new(RejectReason::TooLarge, format!("longer than {MAX_ROW_BYTES} bytes")))
        };
        Ok(Some(ReadRow { row, bytes: Some(&self.line) }))
    }
}

fn row<'a>(line: &'a [u8], wanted: &[String]) -> Result<Row<'a>, Bad> {
    let malformed = |reason: String| Bad::new(RejectReason::Malformed, reason);
    let text = std::str::from_utf8(line).map_err(|e| malformed(format!("not UTF-8: {e}")))?;
    let object: Object<'a> = serde_json::from_str(text.trim())
        .map_err(|e| malformed(format!("not a JSON object: {e}")))?;
    let mut fields = Vec::with_capacity(object.0.len());
    for (name, value) in &object.0 {
        let cell = cell(value).map_err(malformed)?;
        fields.push((name.clone(), cell));
    }
    let mut slots = Vec::with_capacity(wanted.len());
    for path in wanted {
        slots.push(match fields.iter().rposition(|(name, _)| name == path) {
            Some(at) => Slot::Field(at),
            None => match nested(&object, path).map(cell) {
                Some(cell) => Slot::Nested(cell.map_err(malformed)?),
                None => Slot::Missing,
            },
        });
    }
    Ok(Row { fields, slots })
}

/// A JSON value as a cell.
pub(super) fn cell(value: &RawValue) -> Result<Cell<'_>, String> {
    let json = value.get();
    if json.starts_with('"') {
        let Text(text) = serde_json::from_str(json).map_err(|e| format!("a string: {e}"))?;
        return Ok(Cell::Text(text));
    }
    Ok(Cell::Json(Cow::Borrowed(json)))
}

fn nested<'a>(object: &Object<'a>, path: &str) -> Option<&'a RawValue> {
    let (first, rest) = path.split_once('.')?;
    let (_, value) = object.0.iter().rfind(|(name, _)| name == first)?;
    let inner: Object<'a> = serde_json::from_str(value.get()).ok()?;
    match inner.0.iter().rfind(|(name, _)| name == rest) {
        Some((_, value)) => Some(value),
        None => nested(&inner, rest),
    }
}

/// The pairs of an object, in order, duplicates included.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A text that borrows where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    pairs.push((name, value));
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
