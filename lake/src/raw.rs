//! The raw zone: immutable objects of JSON lines or Parquet, by arrival hour.
//!
//! `raw/<events|rejects|heartbeats>/dt=YYYY-MM-DD/hour=HH/<source>-<first>-<last>.<json.gz|parquet>`;
//! date and hour are those of `received_ts` in UTC, `<source>` is the chain's
//! [`Source::stem`], `<first>` and `<last>` the positions of its first and last
//! line. Where that name is taken (an attempt before a crash left it behind)
//! eight random hex digits follow: `...-<last>.<8 hex>.json.gz`. An object that
//! exists is never written again. Objects of both formats stand side by side: [`read`]
//! reads them, [`columns`] says what Parquet holds.
//!
//! [`RawWriter`] holds at most [`MAX_OPEN_OBJECTS`] objects in memory, compressed
//! once they are worth it; a crash loses none that was committed, since only
//! [`crate::landing`] makes objects count.

mod body;
pub mod columns;
pub mod pack;
mod piece;
pub mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use clickmill_schemas::{Date, Timestamp, WholeEvent};
use memchr::{memchr, memmem};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

pub use body::{COMPRESSOR_BYTES, RawFormat};
use piece::Partition;
pub use piece::Piece;

use crate::LakeError;
use crate::landing::{LandedObject, Source};
use crate::store::Lake;

/// An object is cut when its lines reach this many bytes before compression.
pub const OBJECT_BYTES: u64 = 128 << 20;
/// Objects being written at once; beyond it the largest is cut.
pub const MAX_OPEN_OBJECTS: usize = 64;
/// Other tasks get their turn after this many lines.
const YIELD_LINES: u32 = 256;

/// What the lines of an object are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawKind {
    /// Decoded events.
    Events,
    /// Input that could not be decoded.
    Rejects,
    /// Collectors' signs of life.
    Heartbeats,
}

impl RawKind {
    /// Its folder's name below `raw/`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Rejects => "rejects",
            Self::Heartbeats => "heartbeats",
        }
    }
}

impl fmt::Display for RawKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An encoded wire line with what the raw zone needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// What it is.
    pub kind: RawKind,
    /// When it was received.
    pub received_ts: Timestamp,
    /// The UTC date of `event_ts`, for an event.
    pub event_date: Option<Date>,
    /// The line, without its newline.
    pub bytes: &'a [u8],
}

impl<'a> RawLine<'a> {
    /// Reads times off an encoded line. It must be JSON and have the times of
    /// its kind; other fields are not looked at.
    ///
    /// # Errors
    /// [`LakeError::Line`] where they are not there, or the line holds a newline.
    pub fn parse(line: &'a [u8]) -> Result<Self, LakeError> {
        #[derive(Deserialize)]
        struct Times {
            event_ts: Option<Timestamp>,
            received_ts: Option<Timestamp>,
            heartbeat_ts: Option<Timestamp>,
        }
        if line.contains(&b'\n') {
            return Err(broken("it holds a newline"));
        }
        let times: Times =
            serde_json::from_slice(line).map_err(|error| LakeError::Line(error.to_string()))?;
        let kind = kind_of(line);
        let received_ts = match kind {
            RawKind::Heartbeats => times.heartbeat_ts,
            RawKind::Events | RawKind::Rejects => times.received_ts,
        };
        Self::of(line, kind, times.event_ts, received_ts)
    }

    /// As [`RawLine::parse`], for a line that `clickmill_schemas` encoded and whose
    /// bytes a checksum has guarded since: nothing but its times is read.
    ///
    /// # Errors
    /// [`LakeError::Line`] where they are not there, or the line holds a newline.
    pub fn encoded(line: &'a [u8]) -> Result<Self, LakeError> {
        // The times stand before the first value that can hold other keys, and
        // inside of a string the quotes of a key would be escaped.
        let time = |key: &[u8]| {
            let from = memmem::find(line, key)? + key.len();
            let text = line.get(from..)?;
            let text = text.get(..memchr(b'"', text)?)?;
            Timestamp::parse(std::str::from_utf8(text).ok()?).ok()
        };
        if memchr(b'\n', line).is_some() {
            return Err(broken("it holds a newline"));
        }
        match kind_of(line) {
            kind @ RawKind::Heartbeats => Self::of(line, kind, None, time(b"{\"heartbeat_ts\":\"")),
            kind @ RawKind::Rejects => Self::of(line, kind, None, time(b",\"received_ts\":\"")),
            kind @ RawKind::Events => {
                Self::of(line, kind, time(b",\"event_ts\":\""), time(b",\"received_ts\":\""))
            }
        }
    }

    fn of(
        bytes: &'a [u8],
        kind: RawKind,
        event_ts: Option<Timestamp>,
        received_ts: Option<Timestamp>,
    ) -> Result<Self, LakeError> {
        let event_date = match kind {
            RawKind::Events => Some(event_ts.ok_or_else(|| broken("it has no event_ts"))?.date()),
            RawKind::Rejects | RawKind::Heartbeats => None,
        };
        let received_ts = received_ts.ok_or_else(|| broken("it has no received_ts"))?;
        Ok(Self { kind, received_ts, event_date, bytes })
    }
}

/// By the first key, which tells a wire line's kind.
fn kind_of(line: &[u8]) -> RawKind {
    if line.starts_with(b"{\"reject_id\"") {
        RawKind::Rejects
    } else if line.starts_with(b"{\"heartbeat_ts\"") {
        RawKind::Heartbeats
    } else {
        RawKind::Events
    }
}

fn broken(reason: &str) -> LakeError {
    LakeError::Line(reason.to_owned())
}

/// Writes lines into raw objects, for one commit of one chain.
pub struct RawWriter {
    store: Arc<dyn ObjectStore>,
    stem: Arc<str>,
    object_bytes: u64,
    format: RawFormat,
    open: BTreeMap<Partition, Piece>,
    finished: Vec<LandedObject>,
    lines: u32,
}

impl RawWriter {
    /// A writer for the next commit of `source`.
    #[must_use]
    pub fn new(lake: &Lake, source: &Source) -> Self {
        Self {
            store: Arc::clone(lake.store()),
            stem: source.stem().into(),
            object_bytes: OBJECT_BYTES,
            format: RawFormat::default(),
            open: BTreeMap::new(),
            finished: Vec::new(),
            lines: 0,
        }
    }

    /// Cuts objects at another size, in bytes before compression.
    #[must_use]
    pub fn with_object_bytes(mut self, object_bytes: u64) -> Self {
        self.object_bytes = object_bytes.max(1);
        self
    }

    /// Stores events in another format.
    #[must_use]
    pub fn with_format(mut self, format: RawFormat) -> Self {
        self.format = format;
        self
    }

    /// Memory that the open objects take, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.open.values().map(Piece::memory).sum()
    }

    /// Bytes that the open objects would have if they were cut now, about.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.open.values().map(Piece::stored_bytes).sum()
    }

    /// Adds a line that stands at `position` of its source.
    ///
    /// # Errors
    /// [`LakeError::Store`] where a full object could not be written. The writer
    /// is then of no more use: drop it, and start again from the chain.
    pub async fn push(&mut self, line: RawLine<'_>, position: &str) -> Result<(), LakeError> {
        // Columns hold text: a line that is none keeps its bytes in an object of lines.
        let is_text = line.kind == RawKind::Events && std::str::from_utf8(line.bytes).is_ok();
        let format = if is_text { self.format } else { RawFormat::Json };
        let partition = Partition::of(line.kind, line.received_ts, format);
        let object = self.object(partition, position).await?;
        object.body.add(line.bytes)?;
        object.note(line.received_ts, line.event_date, line.bytes.len(), position);
        self.added(partition).await
    }

    /// As [`RawWriter::push`], of an event that is decoded, and whose line has so many `bytes`.
    ///
    /// # Errors
    /// As [`RawWriter::push`].
    pub async fn push_event(
        &mut self,
        whole: &WholeEvent<'_>,
        bytes: usize,
        position: &str,
    ) -> Result<(), LakeError> {
        let received_ts = whole.event.received_ts();
        let partition = Partition::of(RawKind::Events, received_ts, self.format);
        let object = self.object(partition, position).await?;
        object.body.add_event(whole, bytes)?;
        object.note(received_ts, Some(whole.event.event_ts().date()), bytes, position);
        self.added(partition).await
    }

    /// The open object of a partition.
    async fn object(
        &mut self,
        partition: Partition,
        position: &str,
    ) -> Result<&mut Piece, LakeError> {
        if !self.open.contains_key(&partition) && self.open.len() >= MAX_OPEN_OBJECTS {
            let largest = self.open.iter().max_by_key(|(_, piece)| piece.bytes_in);
            if let Some(largest) = largest.map(|(partition, _)| *partition) {
                self.cut(largest).await?;
            }
        }
        let stem = &self.stem;
        Ok(self.open.entry(partition).or_insert_with(|| Piece::new(partition, stem, position)))
    }

    /// After each line.
    async fn added(&mut self, partition: Partition) -> Result<(), LakeError> {
        let is_full = |piece: &Piece| piece.bytes_in >= self.object_bytes;
        if self.open.get(&partition).is_some_and(is_full) {
            self.cut(partition).await?;
        }
        self.lines += 1;
        if self.lines.is_multiple_of(YIELD_LINES) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes what is open. The objects, in the order of their paths, are for the commit.
    ///
    /// # Errors
    /// [`LakeError::Store`], as [`RawWriter::push`].
    pub async fn finish(mut self) -> Result<Vec<LandedObject>, LakeError> {
        let open: Vec<Partition> = self.open.keys().copied().collect();
        for partition in open {
            self.cut(partition).await?;
        }
        self.finished.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.finished)
    }

    /// Takes what is open, unwritten: for an object that others share ([`pack`]). The writer goes
    /// on with the next lines.
    #[must_use]
    pub fn pieces(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.open).into_values().collect()
    }

    async fn cut(&mut self, partition: Partition) -> Result<(), LakeError> {
        let Some(Piece { body, run, .. }) = self.open.remove(&partition) else { return Ok(()) };
        if run.records == 0 {
            return Ok(());
        }
        let bytes = Bytes::from(body.finish()?);
        let crc = crc32c::crc32c(&bytes);
        let name = format!("{}-{}-{}", run.stem, run.first, run.last);
        let stored = partition.put(&*self.store, &name, bytes.into(), crc).await?;
        self.finished.extend(stored.landed(run, None));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lines_times_are_read_off_it() {
        let event = br#"{"event_id":"e","event_ts":"2026-11-22T23:59:59.000000Z","received_ts":"2026-11-23T00:00:01.000000Z"}"#;
        let line = RawLine::parse(event).expect("parses");
        assert_eq!(line.kind, RawKind::Events);
        assert_eq!(line.event_date.expect("date").to_string(), "2026-11-22");
        assert_eq!(line.received_ts.to_string(), "2026-11-23T00:00:01.000000Z");
        let heartbeat = br#"{"heartbeat_ts":"2026-11-23T00:00:01.000000Z","collector_id":"c"}"#;
        assert_eq!(RawLine::parse(heartbeat).expect("parses").kind, RawKind::Heartbeats);
    }

    #[test]
    fn an_encoded_line_is_read_as_if_it_were_parsed() {
        for line in include_str!("../../schemas/tests/golden/v1.ndjson").lines() {
            let parsed = RawLine::parse(line.as_bytes()).expect("parses");
            assert_eq!(RawLine::encoded(line.as_bytes()).expect("reads"), parsed);
        }
        // Keys of the same names inside of values mislead neither.
        let line = br#"{"event_id":",\"event_ts\":\"2020-01-01T00:00:00Z","event_ts":"2026-11-22T23:59:59.000000Z","received_ts":"2026-11-23T00:00:01.000000Z","properties":{"a":1,"event_ts":"2020-01-01T00:00:00Z","received_ts":"2020-01-01T00:00:00Z"}}"#;
        let parsed = RawLine::parse(line).expect("parses");
        assert_eq!(RawLine::encoded(line).expect("reads"), parsed);
        assert_eq!(parsed.event_date.expect("date").to_string(), "2026-11-22");
    }

    #[test]
    fn a_line_without_its_times_is_refused() {
        for line in [
            "",
            "{",
            "{}",
            r#"{"event_id":"e","received_ts":"2026-11-23T00:00:01Z"}"#,
            r#"{"reject_id":"e","event_ts":"2026-11-23T00:00:01Z"}"#,
            "{\"heartbeat_ts\":\n\"2026-11-23T00:00:01Z\"}",
        ] {
            assert!(RawLine::parse(line.as_bytes()).is_err(), "{line}");
            assert!(RawLine::encoded(line.as_bytes()).is_err(), "{line}");
        }
    }
}
