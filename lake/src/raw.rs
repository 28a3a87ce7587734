//! The raw zone: immutable objects of JSON lines, by arrival hour.
//!
//! `raw/<events|rejects|heartbeats>/dt=YYYY-MM-DD/hour=HH/<source>-<first>-<last>.json.gz`;
//! date and hour are those of `received_ts` in UTC, `<source>` is the chain's
//! [`Source::stem`], `<first>` and `<last>` the positions of its first and last
//! line. Where that name is taken (an attempt before a crash left it behind)
//! eight random hex digits follow: `...-<last>.<8 hex>.json.gz`. An object that
//! exists is never written again.
//!
//! [`RawWriter`] holds at most [`MAX_OPEN_OBJECTS`] objects in memory, compressed
//! once they are worth it; a crash loses none that was committed, since only
//! [`crate::landing`] makes objects count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use clickmill_schemas::{Date, Timestamp};
use flate2::Compression;
use flate2::write::GzEncoder;
use memchr::{memchr, memmem};
use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::LakeError;
use crate::landing::{LandedObject, Source};
use crate::store::Lake;

/// An object is cut when its lines reach this many bytes before compression.
pub const OBJECT_BYTES: u64 = 128 << 20;
/// Objects being written at once; beyond it the largest is cut.
pub const MAX_OPEN_OBJECTS: usize = 64;
/// gzip level: 3 costs half of 6's time for a twentieth more bytes on JSON lines.
const GZIP_LEVEL: u32 = 3;
/// Memory of one compressor beside what it has produced: windows, hash chains and
/// buffers of deflate, as zlib's manual gives them for its defaults (268 KiB) and
/// the buffer of 32 KiB before it.
pub const COMPRESSOR_BYTES: u64 = 300 << 10;
/// Lines are kept as they are until they are worth a compressor's memory.
const PLAIN_BYTES: usize = 128 << 10;
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
    stem: String,
    object_bytes: u64,
    open: BTreeMap<Partition, OpenObject>,
    finished: Vec<LandedObject>,
    lines: u32,
}

/// An hour of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Partition {
    kind: RawKind,
    date: Date,
    hour: u8,
}

struct OpenObject {
    body: Body,
    bytes_in: u64,
    records: u64,
    first: String,
    last: String,
    event_dates: BTreeSet<Date>,
    min_received_ts: Timestamp,
    max_received_ts: Timestamp,
}

/// The lines of an open object.
enum Body {
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

impl RawWriter {
    /// A writer for the next commit of `source`.
    #[must_use]
    pub fn new(lake: &Lake, source: &Source) -> Self {
        Self {
            store: Arc::clone(lake.store()),
            stem: source.stem(),
            object_bytes: OBJECT_BYTES,
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

    /// Memory that the open objects take, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.open.values().map(|object| object.body.memory()).sum()
    }

    /// Bytes that the open objects would have if they were cut now, about.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.open.values().map(|object| object.body.stored_bytes()).sum()
    }

    /// Adds a line that stands at `position` of its source.
    ///
    /// # Errors
    /// [`LakeError::Store`] where a full object could not be written. The writer
    /// is then of no more use: drop it, and start again from the chain.
    pub async fn push(&mut self, line: RawLine<'_>, position: &str) -> Result<(), LakeError> {
        let partition = Partition {
            kind: line.kind,
            date: line.received_ts.date(),
            hour: line.received_ts.hour(),
        };
        if !self.open.contains_key(&partition) && self.open.len() >= MAX_OPEN_OBJECTS {
            let largest = self.open.iter().max_by_key(|(_, object)| object.bytes_in);
            if let Some(largest) = largest.map(|(partition, _)| *partition) {
                self.cut(largest).await?;
            }
        }
        let object = self
            .open
            .entry(partition)
            .or_insert_with(|| OpenObject::new(line.received_ts, position));
        object.add(&line, position)?;
        if object.bytes_in >= self.object_bytes {
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
        while let Some(partition) = self.open.keys().next().copied() {
            self.cut(partition).await?;
        }
        self.finished.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.finished)
    }

    async fn cut(&mut self, partition: Partition) -> Result<(), LakeError> {
        let Some(object) = self.open.remove(&partition) else { return Ok(()) };
        let bytes = Bytes::from(object.body.finish().map_err(LakeError::Compress)?);
        let crc32c = format!("{:08x}", crc32c::crc32c(&bytes));
        let name = format!("{}-{}-{}", self.stem, object.first, object.last);
        let mut path = partition.folder().join(format!("{name}.json.gz"));
        let length = bytes.len() as u64;
        let create = || PutOptions::from(PutMode::Create);
        clickmill_failpoint::hit("raw.before_put");
        let mut put = self.store.put_opts(&path, bytes.clone().into(), create()).await;
        if let Err(Error::AlreadyExists { .. }) = put {
            // An attempt that never committed, or this one, repeated inside the
            // client. Either way nobody may count on what lies there.
            let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
            path = partition.folder().join(format!("{name}.{:08x}.json.gz", random >> 32));
            put = self.store.put_opts(&path, bytes.into(), create()).await;
        }
        let put = put.map_err(|error| LakeError::store("write", &path, error))?;
        clickmill_failpoint::hit("raw.put");
        self.finished.push(LandedObject {
            path: path.to_string(),
            kind: partition.kind,
            records: object.records,
            bytes: length,
            crc32c,
            etag: put.e_tag,
            event_dates: object.event_dates.into_iter().collect(),
            min_received_ts: object.min_received_ts,
            max_received_ts: object.max_received_ts,
        });
        Ok(())
    }
}

impl Partition {
    fn folder(self) -> Path {
        Path::from(format!("raw/{}/dt={}/hour={:02}", self.kind, self.date, self.hour))
    }
}

impl OpenObject {
    fn new(received_ts: Timestamp, first: &str) -> Self {
        Self {
            body: Body::Plain(Vec::new()),
            bytes_in: 0,
            records: 0,
            first: first.to_owned(),
            last: first.to_owned(),
            event_dates: BTreeSet::new(),
            min_received_ts: received_ts,
            max_received_ts: received_ts,
        }
    }

    fn add(&mut self, line: &RawLine<'_>, position: &str) -> Result<(), LakeError> {
        self.body.add(line.bytes).map_err(LakeError::Compress)?;
        self.bytes_in += line.bytes.len() as u64 + 1;
        self.records += 1;
        if self.last != position {
            position.clone_into(&mut self.last);
        }
        self.event_dates.extend(line.event_date);
        self.min_received_ts = self.min_received_ts.min(line.received_ts);
        self.max_received_ts = self.max_received_ts.max(line.received_ts);
        Ok(())
    }
}

impl Body {
    fn add(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(lines) => {
                lines.extend_from_slice(line);
                lines.push(b'\n');
                if lines.len() >= PLAIN_BYTES {
                    *self = Self::Gzip(Box::new(compressed(lines)?));
                }
                Ok(())
            }
            Self::Gzip(gzip) => gzip.write_all(line).and_then(|()| gzip.write_all(b"\n")),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(lines) => compressed(&lines)?.finish(),
            Self::Gzip(gzip) => gzip.finish(),
        }
    }

    fn memory(&self) -> u64 {
        match self {
            Self::Plain(lines) => lines.capacity() as u64,
            Self::Gzip(gzip) => gzip.get_ref().capacity() as u64 + COMPRESSOR_BYTES,
        }
    }

    fn stored_bytes(&self) -> u64 {
        match self {
            Self::Plain(lines) => lines.len() as u64,
            Self::Gzip(gzip) => gzip.get_ref().len() as u64,
        }
    }
}

fn compressed(lines: &[u8]) -> io::Result<GzEncoder<Vec<u8>>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    gzip.write_all(lines)?;
    Ok(gzip)
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
