//! One row of a shop's file, whatever the file's format.

use std::borrow::Cow;

use clickmill_schemas::{RejectReason, Timestamp};

/// A row: its columns in order, and where the columns that the mapping asked for are.
#[derive(Debug, Default)]
pub(crate) struct Row<'a> {
    /// Every top-level column.
    pub fields: Vec<(Cow<'a, str>, Cell<'a>)>,
    /// For each wanted column, in the order in which they were asked for.
    pub slots: Vec<Slot<'a>>,
}

/// Where a wanted column is.
#[derive(Debug)]
pub(crate) enum Slot<'a> {
    /// Nowhere in this row.
    Missing,
    /// At this index of [`Row::fields`].
    Field(usize),
    /// Inside a nested JSON value, which as a whole stays in `properties`.
    Nested(Cell<'a>),
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    /// No value: an empty CSV field, Parquet's null, an absent key.
    Missing,
    /// A text.
    Text(Cow<'a, str>),
    /// Anything else that JSON can say, verbatim: a number, true, null, an object.
    Json(Cow<'a, str>),
    /// A timestamp that carries its zone.
    Instant(Timestamp),
    /// A timestamp without a zone: microseconds since 1970-01-01 by some local clock.
    Local(i64),
}

/// A row that is no event, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    pub reason: RejectReason,
    pub detail: String,
}

impl Bad {
    pub(crate) fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What a reader hands out.
pub(crate) struct ReadRow<'a> {
    /// The row, or why it is none.
    pub row: Result<Row<'a>, Bad>,
    /// Its bytes as they stand in the file; none in Parquet, where [`Row::to_json`] stands for them.
    pub bytes: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// The row as a JSON object.
    pub(crate) fn to_json(&self) -> String {
        let mut json = String::from("{");
        for (name, cell) in &self.fields {
            if *cell != Cell::Missing {
                if json.len() > 1 {
                    json.push(',');
                }
                push_json_string(name, &mut json);
                json.push(':');
                cell.push_json(&mut json);
            }
        }
        json.push('}');
        json
    }

    /// The value of the wanted column number `slot`.
    pub(crate) fn cell(&self, slot: usize) -> &Cell<'a> {
        match self.slots.get(slot) {
            Some(Slot::Field(at)) => self.fields.get(*at).map_or(&Cell::Missing, |(_, cell)| cell),
            Some(Slot::Nested(cell)) => cell,
            Some(Slot::Missing) | None => &Cell::Missing,
        }
    }
}

impl Cell<'_> {
    /// The value as text; `Err` for a JSON array or object.
    pub(crate) fn text(&self) -> Result<Option<Cow<'_, str>>, ()> {
        match self {
            Self::Missing => Ok(None),
            Self::Text(text) => Ok(Some(Cow::Borrowed(text))),
            Self::Json(json) if json.starts_with(['{', '[']) => Err(()),
            Self::Json(json) => Ok(Some(Cow::Borrowed(json))),
            Self::Instant(at) => Ok(Some(Cow::Owned(at.to_string()))),
            Self::Local(_) => Ok(Some(Cow::Owned(self.local_text()))),
        }
    }

    /// Appends the value as JSON; nothing for [`Cell::Missing`].
    pub(crate) fn push_json(&self, out: &mut String) {
        match self {
            Self::Missing => {}
            Self::Text(text) => push_json_string(text, out),
            Self::Json(json) => out.push_str(json),
            Self::Instant(at) => push_json_string(&at.to_string(), out),
            Self::Local(_) => push_json_string(&self.local_text(), out),
        }
    }

    fn local_text(&self) -> String {
        let Self::Local(micros) = self else { return String::new() };
        match Timestamp::from_micros(*micros) {
            Ok(at) => at.to_string().trim_end_matches('Z').to_owned(),
            Err(_) => micros.to_string(),
        }
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn push_json_string(text: &str, out: &mut String) {
    // A string always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}
