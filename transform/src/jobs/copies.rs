//! Copies of events in the tables: what dedupe sees of them, and what becomes of them.
//!
//! Of `events` and `event_duplicates` a few narrow columns are read, of the rows received
//! within [`dedupe::WINDOW`] of what is new; files of other times are not opened. Rows of
//! `event_duplicates` are appended. Where a copy comes before one that was set aside, and
//! so gives it another reason, the rows of the day of its receipt are written again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use arrow::array::{Array as _, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{Date32Type, Int64Type, TimestampMicrosecondType};
use clickmill_lake::landing::LandedObject;
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{DataFile, PartitionWriter, Table};
use clickmill_schemas::tables::{EVENT_DUPLICATES, EVENTS, TableSpec};
use clickmill_schemas::{Date, Timestamp};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;

use super::JobContext;
use super::context::{files_in, table_of};
use crate::TransformError;
use crate::decode::hash;
use crate::decode::raw::{Copy, SharedTally, Tally};
use crate::dedupe::{self, Extra, Reason, Verdict};

const JOB: &str = "ingest";

/// Tells rows of `events` apart: `app_id`, `event_id`, and `received_ts`, since
/// copies received over a week apart are both there.
pub type RowKey = (String, String, i64);

/// What the tables hold within sight of a batch.
pub struct Held {
    /// Of `events`.
    pub kept: Vec<Copy>,
    /// And where each of them is.
    rows: Vec<(RowKey, Date)>,
    /// Of `event_duplicates`.
    pub set_aside: Vec<Extra>,
    /// Numbers the collectors of all of them.
    tally: SharedTally,
}

/// Rows of the tables that the copies of a batch come before.
#[derive(Clone, Default)]
pub struct Overtaken {
    /// Those of `events` that are none any more.
    pub displaced: HashMap<RowKey, Reason>,
    /// Their days.
    pub days: BTreeSet<Date>,
    /// Those of `event_duplicates` that have another reason now.
    restated: HashMap<Extra, Reason>,
    tally: SharedTally,
}

impl Held {
    /// Reads them.
    pub async fn read(
        context: &JobContext<'_>,
        session: &SessionContext,
        objects: &[(u32, LandedObject)],
        events: &[DataFile],
        tally: &SharedTally,
    ) -> Result<Self, TransformError> {
        let received = objects.iter().map(|(_, one)| (one.min_received_ts, one.max_received_ts));
        let ranges = dedupe::in_sight(received);
        let duplicates = context.base(&EVENT_DUPLICATES).await?;
        let duplicates = duplicates.as_ref().map(Table::files).unwrap_or_default();
        let mut held =
            Self { kept: vec![], rows: vec![], set_aside: vec![], tally: Arc::clone(tally) };
        for batch in received_in(session, &EVENTS, events, &ranges, "dt").await? {
            held.kept.extend(copies(&batch, tally)?);
            held.rows.extend(rows(&batch)?);
        }
        for batch in received_in(session, &EVENT_DUPLICATES, duplicates, &ranges, "reason").await? {
            held.set_aside.extend(extras(&batch, tally)?);
        }
        Ok(held)
    }

    /// What a verdict about new copies means for them.
    pub fn overtaken(&self, verdict: &Verdict) -> Overtaken {
        let mut overtaken = Overtaken { tally: Arc::clone(&self.tally), ..Overtaken::default() };
        for (at, reason) in &verdict.displaced {
            let (key, day) = &self.rows[*at];
            overtaken.displaced.insert(key.clone(), *reason);
            overtaken.days.insert(*day);
        }
        let restated = verdict.restated.iter();
        overtaken.restated = restated.map(|(at, reason)| (self.set_aside[*at], *reason)).collect();
        overtaken
    }
}

impl Overtaken {
    /// Writes the days of `event_duplicates` again in which a copy has another reason, by a
    /// writer of that table. Answers the files that they were in.
    pub async fn restate(
        &self,
        context: &JobContext<'_>,
        writer: &mut PartitionWriter,
    ) -> Result<Vec<DataFile>, TransformError> {
        if self.restated.is_empty() {
            return Ok(Vec::new());
        }
        let received = |extra: &Extra| Timestamp::from_micros(extra.copy.received_ts).ok();
        let days = self.restated.keys().filter_map(received).map(Timestamp::date).collect();
        let Some(table) = context.base(&EVENT_DUPLICATES).await? else { return Ok(Vec::new()) };
        let files = files_in(&table, &days);
        let fail = TransformError::job(JOB);
        let mut restated = self.restated.clone();
        let rows = context.session().read_table(table_of(&EVENT_DUPLICATES, files.clone()));
        let rows = rows.map_err(&fail)?;
        let mut rows = rows.execute_stream().await.map_err(&fail)?;
        while let Some(batch) = rows.try_next().await.map_err(&fail)? {
            // Of equal rows one is restated.
            let reasons: StringArray = extras(&batch, &self.tally)?
                .iter()
                .zip(text(&batch, "reason")?)
                .map(|(extra, stands)| restated.remove(extra).map(Reason::code).or(stands))
                .collect();
            let mut columns = batch.columns().to_vec();
            columns[batch.schema().index_of("reason")?] = Arc::new(reasons);
            writer.write(&RecordBatch::try_new(arrow_schema(&EVENT_DUPLICATES), columns)?).await?;
        }
        Ok(files)
    }
}

/// The rows received in the ranges: what dedupe needs of them, and a column more.
async fn received_in(
    session: &SessionContext,
    spec: &'static TableSpec,
    files: &[DataFile],
    ranges: &[(Timestamp, Timestamp)],
    more: &str,
) -> Result<Vec<RecordBatch>, TransformError> {
    if files.is_empty() || ranges.is_empty() {
        return Ok(Vec::new());
    }
    let fail = TransformError::job(JOB);
    session.register_table("held", table_of(spec, files.to_vec())).map_err(&fail)?;
    let within = |(from, to): &(Timestamp, Timestamp)| {
        format!("received_ts >= TIMESTAMP '{from}' AND received_ts <= TIMESTAMP '{to}'")
    };
    let sql = format!(
        "SELECT app_id, event_id, received_ts, collector_id, wal_seq, content_hash, shard_id, \
         sequence_number, {more} FROM held WHERE {}",
        ranges.iter().map(within).collect::<Vec<_>>().join(" OR ")
    );
    let batches = session.sql(&sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    session.deregister_table("held").map_err(&fail)?;
    Ok(batches)
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, TransformError> {
    Ok(batch.column(batch.schema().index_of(name)?).as_string())
}

fn some(column: &StringArray, at: usize) -> Option<&str> {
    column.is_valid(at).then(|| column.value(at))
}

/// Rows of either table as dedupe knows them.
fn copies(batch: &RecordBatch, tally: &SharedTally) -> Result<Vec<Copy>, TransformError> {
    let mut tally = self::tally(tally);
    let column = |name: &str| Ok::<_, TransformError>(batch.column(batch.schema().index_of(name)?));
    let (app_ids, event_ids) = (text(batch, "app_id")?, text(batch, "event_id")?);
    let collectors = text(batch, "collector_id")?;
    let (shards, numbers) = (text(batch, "shard_id")?, text(batch, "sequence_number")?);
    let received = column("received_ts")?.as_primitive::<TimestampMicrosecondType>();
    let places = column("wal_seq")?.as_primitive::<Int64Type>();
    let contents = column("content_hash")?.as_primitive::<Int64Type>();
    let copies = (0..batch.num_rows()).map(|at| Copy {
        identity: hash::identity(app_ids.value(at), event_ids.value(at)),
        received_ts: received.value(at),
        collector: tally.collector(some(collectors, at).unwrap_or_default()),
        wal_seq: if places.is_null(at) { 0 } else { places.value(at) },
        content: if contents.is_null(at) { 0 } else { contents.value(at) },
        carrier: hash::carrier(some(shards, at), some(numbers, at)),
        row: 0,
    });
    Ok(copies.collect())
}

/// Rows of `event_duplicates`.
fn extras(batch: &RecordBatch, tally: &SharedTally) -> Result<Vec<Extra>, TransformError> {
    let reasons = text(batch, "reason")?;
    let copies = copies(batch, tally)?.into_iter().enumerate();
    Ok(copies.map(|(at, copy)| Extra { copy, reason: Reason::parse(reasons.value(at)) }).collect())
}

/// Which rows of `events` they are, and their days.
fn rows(batch: &RecordBatch) -> Result<Vec<(RowKey, Date)>, TransformError> {
    let (app_ids, event_ids) = (text(batch, "app_id")?, text(batch, "event_id")?);
    let column = |name: &str| Ok::<_, TransformError>(batch.column(batch.schema().index_of(name)?));
    let received = column("received_ts")?.as_primitive::<TimestampMicrosecondType>();
    let days = column("dt")?.as_primitive::<Date32Type>();
    let key = |at: usize| {
        (app_ids.value(at).to_owned(), event_ids.value(at).to_owned(), received.value(at))
    };
    Ok((0..batch.num_rows()).map(|at| (key(at), Date::from_days(days.value(at)))).collect())
}

/// What is shared of the decoding.
pub fn tally(shared: &SharedTally) -> std::sync::MutexGuard<'_, Tally> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows with a reason, as rows of `event_duplicates`.
pub fn duplicates(
    batch: &RecordBatch,
    reasons: &[Option<Reason>],
) -> Result<Option<RecordBatch>, TransformError> {
    let chosen: BooleanArray = reasons.iter().map(|reason| Some(reason.is_some())).collect();
    if chosen.true_count() == 0 {
        return Ok(None);
    }
    let batch = arrow::compute::filter_record_batch(batch, &chosen)?;
    let reasons: StringArray = reasons.iter().flatten().map(|reason| Some(reason.code())).collect();
    let schema = arrow_schema(&EVENT_DUPLICATES);
    let received = batch
        .column(batch.schema().index_of("received_ts")?)
        .as_primitive::<TimestampMicrosecondType>();
    let days: arrow::array::Date32Array = received
        .iter()
        .map(|micros| Timestamp::from_micros(micros?).ok().map(|at| at.date().days()))
        .collect();
    let columns: Result<Vec<ArrayRef>, arrow::error::ArrowError> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "reason" => Ok(Arc::new(reasons.clone()) as ArrayRef),
            "dt" => Ok(Arc::new(days.clone()) as ArrayRef),
            name => Ok(Arc::clone(batch.column(batch.schema().index_of(name)?))),
        })
        .collect();
    Ok(Some(RecordBatch::try_new(schema, columns?)?))
}
