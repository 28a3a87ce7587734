//! Reads landed objects of the raw zone as a stream of batches.
//!
//! Objects are checked against the length and CRC of their commit before
//! anything of them is believed. A line that does not decode becomes a reject
//! with its bytes; the lines around it go on.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clickmill_lake::Lake;
use clickmill_lake::landing::LandedObject;
use clickmill_lake::raw::read::{Line, for_each};
use clickmill_schemas::{Event, Lineage, Reject, RejectReason, WireRecord};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::PartitionStream;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use uuid::Uuid;

use super::channels::ChannelRules;
use super::columns::{EventColumns, RowId, staged_schema};
use super::hash;
use crate::TransformError;

/// Rows in a batch.
const BATCH_ROWS: usize = 8_192;
/// Batches decoded ahead of who reads them.
const CHANNEL_BATCHES: usize = 2;
/// A line longer than this cannot be an event: the collector takes 32 KB.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// Bits of a row id that count lines in an object.
pub const LINE_BITS: u32 = 32;
/// Namespace of ids for lines that no reader can decode: the same line, the same id.
const UNDECODABLE: Uuid = Uuid::from_u128(0x3c1f_6a52_8f0b_4e6e_9d43_51f2_7cf4_a2b7);

/// What dedupe needs of one copy of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Hash of (`app_id`, `event_id`).
    pub identity: u128,
    /// Microseconds.
    pub received_ts: i64,
    /// Index into [`Tally::collectors`].
    pub collector: u32,
    /// 0 where there is none.
    pub wal_seq: i64,
    /// See [`hash::content`].
    pub content: i64,
    /// Of the shard's sequence number, or whatever carried it: see [`hash::carrier`].
    pub carrier: u64,
    /// The row in the batch.
    pub row: i64,
}

/// What decoding saw besides the rows that it streamed.
#[derive(Debug, Default)]
pub struct Tally {
    /// Every copy of every event.
    pub copies: Vec<Copy>,
    /// Collector ids by number.
    pub collectors: Vec<String>,
    collector_numbers: HashMap<String, u32>,
    /// Lines that did not decode.
    pub rejects: Vec<Reject<'static>>,
    /// Objects that were decoded to their end.
    pub objects_done: usize,
}

impl Tally {
    /// The number of a collector.
    pub fn collector(&mut self, id: &str) -> u32 {
        if let Some(number) = self.collector_numbers.get(id) {
            return *number;
        }
        let number = u32::try_from(self.collectors.len()).unwrap_or(u32::MAX);
        self.collectors.push(id.to_owned());
        self.collector_numbers.insert(id.to_owned(), number);
        number
    }
}

/// Shared by the partitions of one scan.
pub type SharedTally = Arc<Mutex<Tally>>;

/// A stored object with what is to be read of it: several commits may name lines of one.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// In the order of their lines, each with what the caller calls it; at least one.
    sections: Vec<(T, LandedObject)>,
}

impl<T> Stored<T> {
    /// Puts together what names one stored object, in the order in which each is met first.
    pub fn of(objects: impl IntoIterator<Item = (T, LandedObject)>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (name, object) in objects {
            match places.get(&object.path) {
                Some(place) => all[*place].sections.push((name, object)),
                None => {
                    places.insert(object.path.clone(), all.len());
                    all.push(Self { sections: vec![(name, object)] });
                }
            }
        }
        for stored in &mut all {
            stored.sections.sort_by_key(|(_, object)| object.lines().start);
        }
        all
    }

    /// One of what names it: path, kind, length and checksum are of the whole.
    pub fn object(&self) -> &LandedObject {
        &self.sections[0].1
    }

    /// What names it, in the order of their lines.
    pub fn sections(&self) -> &[(T, LandedObject)] {
        &self.sections
    }

    /// The lines that are named.
    #[must_use]
    pub fn lines(&self) -> Vec<Range<u64>> {
        self.sections.iter().map(|(_, object)| object.lines()).collect()
    }

    /// The place of the section with this line, which is not before that at `place`.
    #[must_use]
    pub fn place(&self, mut place: usize, line: u32) -> usize {
        let line = u64::from(line);
        while place + 1 < self.sections.len() && self.sections[place].1.lines().end <= line {
            place += 1;
        }
        place
    }

    /// Its bytes, if they are those that were committed.
    ///
    /// # Errors
    /// [`TransformError::Raw`] where it is missing, cut short or changed.
    pub async fn fetch(&self, lake: &Lake) -> Result<Bytes, TransformError> {
        fetch(lake, self.object()).await
    }

    /// Whether so many lines were found.
    ///
    /// # Errors
    /// [`TransformError::Raw`] where the commits name others.
    pub fn check(&self, found: u64) -> Result<(), TransformError> {
        let named: u64 = self.sections.iter().map(|(_, object)| object.records).sum();
        if found == named {
            return Ok(());
        }
        let path = self.object().path.clone();
        let reason = format!(
            "it has {found} of the {named} lines that its commits name, though its checksum is \
             right: whoever landed it counted wrong, and nothing of it was taken; report it with \
             these commits, or restore them from a backup"
        );
        Err(TransformError::Raw { path, reason })
    }

    /// Bytes of what is named.
    fn share(&self) -> u64 {
        self.sections.iter().map(|(_, object)| object.share()).sum()
    }
}

/// Some objects, read one after the other.
#[derive(Clone)]
pub struct RawPartition {
    /// Where they are.
    pub lake: Lake,
    /// With their numbers in the batch.
    pub objects: Vec<Stored<u32>>,
    /// Where to note what was seen.
    pub tally: SharedTally,
    /// How events get their channel.
    pub channels: Arc<ChannelRules>,
    /// [`staged_schema`].
    pub schema: SchemaRef,
}

impl RawPartition {
    /// Spreads objects over partitions, so that each has about the same bytes.
    #[must_use]
    pub fn spread(
        lake: &Lake,
        objects: Vec<(u32, LandedObject)>,
        partitions: usize,
        tally: &SharedTally,
        channels: &Arc<ChannelRules>,
    ) -> Vec<Self> {
        let mut by_size = Stored::of(objects);
        by_size.sort_by_key(|stored| std::cmp::Reverse(stored.share()));
        let mut groups: Vec<(u64, Vec<Stored<u32>>)> = vec![(0, Vec::new()); partitions.max(1)];
        for stored in by_size {
            if let Some(least) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
                least.0 += stored.share();
                least.1.push(stored);
            }
        }
        let schema = staged_schema();
        groups
            .into_iter()
            .map(|(_, objects)| Self {
                lake: lake.clone(),
                objects,
                tally: Arc::clone(tally),
                channels: Arc::clone(channels),
                schema: Arc::clone(&schema),
            })
            .collect()
    }
}

impl fmt::Debug for RawPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawPartition").field("objects", &self.objects.len()).finish()
    }
}

impl PartitionStream for RawPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder =
            RecordBatchReceiverStream::builder(Arc::clone(&self.schema), CHANNEL_BATCHES);
        let (partition, sender) = (self.clone(), builder.tx());
        builder.spawn(async move {
            // Handed from object to object: it knows the user agents of those before.
            let mut columns = EventColumns::new(Arc::clone(&partition.channels));
            for stored in &partition.objects {
                let bytes = stored.fetch(&partition.lake).await.map_err(external)?;
                let (tally, sender) = (Arc::clone(&partition.tally), sender.clone());
                let stored = stored.clone();
                let decoding = tokio::task::spawn_blocking(move || {
                    let decoded = decode(&bytes, &stored, &mut columns, &tally, |batch| {
                        sender.blocking_send(Ok(batch)).is_ok()
                    });
                    (decoded, columns)
                });
                let (decoded, known) =
                    decoding.await.map_err(|error| DataFusionError::External(Box::new(error)))?;
                decoded.map_err(external)?;
                columns = known;
            }
            Ok(())
        });
        builder.build()
    }
}

fn external(error: TransformError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

async fn fetch(lake: &Lake, object: &LandedObject) -> Result<Bytes, TransformError> {
    let path = Path::from(object.path.as_str());
    let fail = |reason: String| TransformError::Raw { path: object.path.clone(), reason };
    let got = lake.store().get(&path).await.map_err(|error| fail(error.to_string()))?;
    let bytes = got.bytes().await.map_err(|error| fail(error.to_string()))?;
    let crc = format!("{:08x}", crc32c::crc32c(&bytes));
    if bytes.len() as u64 != object.bytes || crc != object.crc32c {
        return Err(fail(format!(
            "it has {} bytes and CRC-32C {crc}, its commit says {} and {}: it was changed or cut \
             short; restore it from a backup or an earlier object version",
            bytes.len(),
            object.bytes,
            object.crc32c
        )));
    }
    Ok(bytes)
}

fn decode(
    bytes: &Bytes,
    stored: &Stored<u32>,
    columns: &mut EventColumns,
    tally: &SharedTally,
    mut send: impl FnMut(RecordBatch) -> bool,
) -> Result<(), TransformError> {
    let mut copies = Vec::with_capacity(BATCH_ROWS);
    let mut last_collector = (String::new(), None);
    let (mut place, mut found, mut is_whole) = (0, 0, true);
    for_each(bytes, &stored.object().path, &stored.lines(), |line_number, line| {
        found += 1;
        place = stored.place(place, line_number);
        let (object_number, object) = &stored.sections[place];
        let event = match line {
            Line::Event(event) => event,
            Line::Text(line) => match decode_event(line) {
                Ok(event) => event,
                Err(problem) => {
                    let reject = undecodable(object, line_number, line, &problem);
                    tally.lock().unwrap_or_else(PoisonError::into_inner).rejects.push(reject);
                    return Ok(true);
                }
            },
        };
        let collector_id = event.collector_id.as_deref().unwrap_or_default();
        if last_collector.1.is_none() || last_collector.0 != collector_id {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            last_collector = (collector_id.to_owned(), Some(tally.collector(collector_id)));
        }
        let row = (i64::from(*object_number) << LINE_BITS) | i64::from(line_number);
        let content = columns.append(&event, RowId(row));
        copies.push(Copy {
            identity: hash::identity(&event.app_id, &event.event_id),
            received_ts: event.received_ts().micros(),
            collector: last_collector.1.unwrap_or_default(),
            wal_seq: event.wal_seq.unwrap_or_default(),
            content,
            carrier: hash::carrier(event.shard_id.as_deref(), event.sequence_number.as_deref()),
            row,
        });
        if columns.rows() < BATCH_ROWS {
            return Ok(true);
        }
        tally.lock().unwrap_or_else(PoisonError::into_inner).copies.append(&mut copies);
        is_whole = send(columns.finish()?);
        Ok::<_, TransformError>(is_whole)
    })?;
    if is_whole {
        stored.check(found)?;
    }
    {
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.copies.append(&mut copies);
        tally.objects_done += stored.sections.len();
    }
    if columns.rows() > 0 {
        send(columns.finish()?);
    }
    Ok(())
}

fn decode_event(line: &[u8]) -> Result<Box<Event<'_>>, String> {
    if line.len() > MAX_LINE_BYTES {
        return Err(format!("the line has {} bytes, more than {MAX_LINE_BYTES}", line.len()));
    }
    match WireRecord::decode(line) {
        Ok(WireRecord::Event(event)) => Ok(event),
        Ok(_) => Err("the line is no event but stands in an object of events".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The reject of a line that no reader of ours can decode: the same line gives the same id.
#[must_use]
pub fn undecodable(
    object: &LandedObject,
    line_number: u32,
    line: &[u8],
    problem: &str,
) -> Reject<'static> {
    let origin = format!("{}:{line_number}", object.path);
    // A number that a collector gave out is then accounted for.
    let lineage = Lineage::of(line);
    let text = |text: Option<String>| text.map(std::borrow::Cow::Owned);
    Reject {
        reject_id: Uuid::new_v5(&UNDECODABLE, origin.as_bytes()).to_string().into(),
        received_ts: object.max_received_ts,
        protocol: "raw".into(),
        reason: RejectReason::Undecodable,
        detail: problem.to_owned().into(),
        origin: origin.into(),
        app_id: None,
        bytes_base64: BASE64.encode(line).into(),
        collector_id: text(lineage.collector_id),
        wal_seq: lineage.wal_seq,
        shard_id: text(lineage.shard_id),
        sequence_number: text(lineage.sequence_number),
    }
}
