//! Taking in again what was taken before: raw objects after rows were lost, and rejects
//! after a fix. Both are idempotent. Records of a stream are landed again by
//! `clickmill_delivery::kinesis::replay`; their chains are taken as replayed (see `batch`).
//!
//! - [`raw`]: a batch names the objects once more, as *replayed*. Of a replayed
//!   object a copy whose whole lineage (event, receipt, collector, number, carrier) is
//!   in `events` or `event_duplicates` already is that row, and changes nothing, however
//!   old it is; what is not there becomes a row again. Derived tables follow as always.
//! - [`rejects`]: rejects whose bytes are a line of the wire are decoded again; those that
//!   are events now are landed by the chain `replay/rejects`, which remembers them by id.
//!   The reject stays where it is.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clickmill_lake::history::{self, Series};
use clickmill_lake::landing::{
    Chain, LandedObject, NewCommit, REPLAYED_REJECTS, Source, TakenFile, list_sources, survey,
};
use clickmill_lake::raw::{RawKind, RawLine, RawWriter};
use clickmill_lake::table::{LakeTable, Table, register_store};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::tables::REJECTS;
use clickmill_schemas::{RawJson, Timestamp, WireRecord, append_lineage};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::TransformError;
use crate::batch::{Batch, MAX_BATCH_BYTES};
use crate::decode::raw::Stored;
use crate::run::{self, Progress, RunOptions, RunReport};

/// Rejects that one commit takes.
const COMMIT_REJECTS: usize = 100_000;

/// What to take in again. Where several are given, all must hold.
#[derive(Clone, Debug, Default)]
pub struct ReplayRange {
    /// Received at this time or later.
    pub from: Option<Timestamp>,
    /// Received before this time.
    pub to: Option<Timestamp>,
    /// Beginnings of paths in the lake; none: all.
    pub prefixes: Vec<String>,
}

impl ReplayRange {
    fn holds(&self, object: &LandedObject) -> bool {
        let window = crate::audit::Window { from: self.from, to: self.to };
        window.overlaps(object.min_received_ts, object.max_received_ts)
            && (self.prefixes.is_empty()
                || self.prefixes.iter().any(|prefix| object.path.starts_with(prefix)))
    }
}

/// Takes raw objects in again that batches took before; what is new is taken in first.
///
/// # Errors
/// [`TransformError`]. What was committed stays; run it again to go on.
pub async fn raw(
    lake: &Lake,
    options: &RunOptions,
    progress: &dyn Progress,
    range: &ReplayRange,
) -> Result<RunReport, TransformError> {
    let mut report = run::run(lake, options, progress).await?;
    for group in groups(taken(lake, range).await?) {
        run::amended(lake, options, progress, &mut report, async |batch| {
            batch.replay(&group);
            Ok(true)
        })
        .await?;
    }
    Ok(report)
}

/// The objects of the range that a batch took.
async fn taken(lake: &Lake, range: &ReplayRange) -> Result<Vec<LandedObject>, TransformError> {
    let Some(newest) = history::newest(lake, Series::Batches).await? else { return Ok(Vec::new()) };
    let batch: Batch = history::read(lake, Series::Batches, newest).await?;
    let mut objects = Vec::new();
    for source in list_sources(lake).await? {
        let bookmark = batch.bookmarks.get(source.as_str()).copied().unwrap_or(0);
        // A hole in the chain does not keep the rest from being taken in again.
        let chain = survey(lake, &source, None).await?;
        let commits = chain.commits.into_iter().filter(|commit| commit.ordinal <= bookmark);
        objects.extend(
            commits
                .flat_map(|commit| commit.objects)
                .filter(|object| object.kind != RawKind::Heartbeats && range.holds(object)),
        );
    }
    Ok(objects)
}

/// Objects that one batch takes each, in the order of receipt; what is stored as one object stays
/// together.
fn groups(objects: Vec<LandedObject>) -> Vec<Vec<LandedObject>> {
    let mut stored: Vec<Vec<LandedObject>> = Stored::of(objects.into_iter().map(|one| ((), one)))
        .into_iter()
        .map(|stored| stored.sections().iter().map(|((), object)| object.clone()).collect())
        .collect();
    let received = |sections: &Vec<LandedObject>| {
        let first = sections.iter().map(|object| object.min_received_ts).min();
        (first, sections.first().map(|object| object.path.clone()))
    };
    stored.sort_by_cached_key(received);
    let mut groups: Vec<Vec<LandedObject>> = Vec::new();
    let mut bytes = 0;
    for sections in stored {
        let size: u64 = sections.iter().map(LandedObject::share).sum();
        match groups.last_mut() {
            Some(group) if bytes + size <= MAX_BATCH_BYTES => {
                bytes += size;
                group.extend(sections);
            }
            _ => {
                bytes = size;
                groups.push(sections);
            }
        }
    }
    groups
}

/// What became of rejects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RejectsReport {
    /// Rejects in the range.
    pub looked_at: u64,
    /// Landed as events now; `etl run` takes them in.
    pub landed: u64,
    /// Landed by an earlier replay.
    pub landed_before: u64,
    /// Still no events, or bytes that were never a line of the wire.
    pub still_rejected: u64,
}

/// Lands the rejects whose bytes decode as an event by now.
///
/// # Errors
/// [`TransformError`]. What was committed stays, and is not landed again.
pub async fn rejects(lake: &Lake, range: &ReplayRange) -> Result<RejectsReport, TransformError> {
    let source: Source = REPLAYED_REJECTS.parse()?;
    let mut report = RejectsReport::default();
    let mut chain = Chain::open(lake, source.clone()).await?;
    let known = survey(lake, &source, None).await?;
    let mut landed: HashSet<String> =
        known.commits.into_iter().flat_map(|c| c.files).map(|file| file.key).collect();
    let mut pending: Vec<(String, Vec<u8>)> = Vec::new();
    let Some(table) = Table::open(lake, &REJECTS).await? else { return Ok(report) };
    let session = SessionContext::new_with_config(SessionConfig::new());
    let fail = TransformError::job("replay");
    register_store(&session.runtime_env(), lake)?;
    let rows = session.read_table(std::sync::Arc::new(LakeTable::new(&table))).map_err(&fail)?;
    let columns = ["reject_id", "received_ts", "bytes_base64"];
    let rows = rows.select_columns(&columns).map_err(&fail)?;
    let mut rows = rows.execute_stream().await.map_err(&fail)?;
    let window = crate::audit::Window { from: range.from, to: range.to };
    while let Some(batch) = rows.try_next().await.map_err(&fail)? {
        for row in decode(&batch)? {
            let (id, received, bytes) = row;
            if !window.contains(received) {
                continue;
            }
            report.looked_at += 1;
            if landed.contains(&id) {
                report.landed_before += 1;
                continue;
            }
            match as_event(&id, &bytes) {
                Some(line) => {
                    landed.insert(id.clone());
                    pending.push((id, line));
                }
                None => report.still_rejected += 1,
            }
            if pending.len() >= COMMIT_REJECTS {
                report.landed += land(lake, &mut chain, &mut pending).await?;
            }
        }
    }
    report.landed += land(lake, &mut chain, &mut pending).await?;
    Ok(report)
}

/// Id, receipt in microseconds, and bytes of each row.
fn decode(
    batch: &arrow::record_batch::RecordBatch,
) -> Result<Vec<(String, i64, Vec<u8>)>, TransformError> {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{DataType, TimestampMicrosecondType};
    let text = |at: usize| arrow::compute::cast(batch.column(at), &DataType::Utf8);
    let (ids, bytes) = (text(0)?, text(2)?);
    let received = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    let (ids, bytes) = (ids.as_string::<i32>(), bytes.as_string::<i32>());
    Ok((0..batch.num_rows())
        .map(|at| {
            // What is no base64 was never a line.
            let content = BASE64.decode(bytes.value(at)).unwrap_or_default();
            (ids.value(at).to_owned(), received.value(at), content)
        })
        .collect())
}

/// The line of an event, where the bytes are one; its carrier is the reject.
fn as_event(reject_id: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let Ok(WireRecord::Event(event)) = WireRecord::decode(bytes) else { return None };
    if event.shard_id.is_some() || event.sequence_number.is_some() {
        return Some(event.encode().into_bytes());
    }
    let mut line = event.encode().into_bytes();
    let text = |value: &str| RawJson::from_value(&value).ok();
    let (shard, number) = (text("replay:rejects")?, text(reject_id)?);
    append_lineage(&mut line, &[("shard_id", shard), ("sequence_number", number)]);
    Some(line)
}

async fn land(
    lake: &Lake,
    chain: &mut Chain,
    pending: &mut Vec<(String, Vec<u8>)>,
) -> Result<u64, TransformError> {
    let lines = std::mem::take(pending);
    if lines.is_empty() {
        return Ok(0);
    }
    let position =
        chain.position().map_or(Ok(0), str::parse::<u64>).map_err(|_| LakeError::Corrupt {
            path: chain.source().folder().to_string(),
            reason: "its position is no number".to_owned(),
        });
    let first: u64 = position? + 1;
    let mut writer = RawWriter::new(lake, chain.source());
    let mut files = Vec::with_capacity(lines.len());
    for (number, (id, line)) in (first..).zip(&lines) {
        writer.push(RawLine::parse(line)?, &number.to_string()).await?;
        let (key, bytes) = (id.clone(), line.len() as u64);
        files.push(TakenFile { key, etag: String::new(), bytes, records: 1 });
    }
    let new = NewCommit {
        first: Some(first.to_string()),
        last: Some((first + lines.len() as u64 - 1).to_string()),
        closed: false,
        objects: writer.finish().await?,
        possible_loss: None,
        read_through: None,
        committed_at: Timestamp::now(),
    };
    chain.append_with(new, files).await?;
    Ok(lines.len() as u64)
}
