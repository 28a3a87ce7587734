//! Raw objects -> `events`, `event_duplicates`, `rejects`.
//!
//! One pass: decode -> spread by visitor -> sort -> leave out extra copies ->
//! sessions -> files. The sort is what makes one pass enough: when it yields
//! its first row, every object has been decoded, so every copy is known.
//!
//! On-time events are appended. Where something late moves rows of the table
//! to another session, or an earlier copy displaces one ([`dedupe`]), the days of those
//! rows are rewritten and no others.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use clickmill_lake::raw::RawKind;
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{Change, DataFile, PartitionWriter, Sorted, Table};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{EVENT_DUPLICATES, EVENTS};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_expr::expressions::col as physical_col;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, execute_stream_partitioned};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::TryStreamExt as _;
use tokio::sync::OnceCell;

use super::context::{files_in, table_of};
use super::copies::{self, Held, Overtaken, RowKey, tally};
use super::query::sorted_by;
use super::refill::Refill;
use super::{JobContext, Output};
use crate::TransformError;
use crate::columns::Filler;
use crate::decode::columns::{OLD_COLUMN, ROW_COLUMN, staged_schema};
use crate::decode::raw::{Copy, LINE_BITS, RawPartition, SharedTally};
use crate::dedupe::{self, Reason, Verdict};
use crate::rejects;
use crate::sessionize::{LOOKBACK_DAYS, Moved, Row, SESSION_ORDER, Sessionizer};

const JOB: &str = "ingest";

/// What all streams of the pass share.
struct Shared {
    tally: SharedTally,
    /// Objects to decode.
    objects: usize,
    held: Held,
    /// Rows from this number on are of objects that are taken in again; `None` without a replay.
    replayed_from: Option<i64>,
    verdict: OnceCell<Judged>,
}

struct Judged {
    verdict: Verdict,
    overtaken: Overtaken,
}

/// What one stream gave.
#[derive(Default)]
struct Written {
    events: Vec<DataFile>,
    duplicates: Vec<RecordBatch>,
    moved: Vec<Moved>,
}

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let mut rejected = rejects::of_raw(context).await?;
    let own = Arc::new(Filler::new(&context.batch.columns, context.events));
    let objects: Vec<_> = context
        .batch
        .objects(RawKind::Events)
        .map(|(number, object)| (number, object.clone()))
        .collect();
    let base = context.base(&EVENTS).await?;
    let refill = Refill::of(context);
    let mut written = Written::default();
    let mut overtaken = Overtaken::default();
    if !objects.is_empty() {
        let base_files = base.as_ref().map(|table| table.files().to_vec()).unwrap_or_default();
        let mut context_from =
            context.batch.touched_days.first().map(|day| day.days() - LOOKBACK_DAYS);
        // A displaced row outside of the context needs a wider one: rare, and then done again.
        let shared = loop {
            let done = pass(context, &objects, &base_files, context_from, &own).await?;
            let judged = done.1.verdict.get();
            overtaken = judged.map(|judged| judged.overtaken.clone()).unwrap_or_default();
            let needed = overtaken.days.first().map(|day| day.days() - LOOKBACK_DAYS);
            if needed.is_none() || needed >= context_from {
                written = done.0;
                break done.1;
            }
            context_from = needed;
        };
        rejected.extend(std::mem::take(&mut tally(&shared.tally).rejects));
        count(&mut output, &written, &overtaken);
    }
    apply(context, base.as_ref(), written, &overtaken, refill.as_ref(), &mut output).await?;
    output.notices = own.notices();
    output.notices.extend(refill.iter().flat_map(Refill::notices));
    let rejects = rejects::change(context, JOB, rejected).await?;
    output.counts.insert("rejects", rejects.adds.iter().map(|file| file.rows).sum());
    output.changes.insert("rejects", rejects);
    Ok(output)
}

fn count(output: &mut Output, written: &Written, overtaken: &Overtaken) {
    output.counts.insert("events", written.events.iter().map(|file| file.rows).sum());
    let duplicates: usize = written.duplicates.iter().map(RecordBatch::num_rows).sum();
    output.counts.insert("event_duplicates", (duplicates + overtaken.displaced.len()) as u64);
}

/// The one pass over the new objects.
async fn pass(
    context: &JobContext<'_>,
    objects: &[(u32, clickmill_lake::landing::LandedObject)],
    base_files: &[DataFile],
    context_from: Option<i32>,
    own: &Arc<Filler>,
) -> Result<(Written, Arc<Shared>), TransformError> {
    let fail = TransformError::job(JOB);
    let session = context.session();
    let tally: SharedTally = SharedTally::default();
    let held = Held::read(context, &session, objects, base_files, &tally).await?;
    let shared = Arc::new(Shared {
        tally: Arc::clone(&tally),
        objects: objects.len(),
        held,
        replayed_from: (!context.batch.replayed.is_empty())
            .then(|| first_row(context.batch.raw.len())),
        verdict: OnceCell::new(),
    });

    let partitions = context.options.parallelism;
    let channels = &context.options.channels;
    let raw = RawPartition::spread(context.lake, objects.to_vec(), partitions, &tally, channels);
    let raw = raw.into_iter().map(|partition| Arc::new(partition) as _).collect();
    let staged = StreamingTable::try_new(staged_schema(), raw).map_err(&fail)?;
    let mut rows = session.read_table(Arc::new(staged)).map_err(&fail)?;
    let old: Vec<DataFile> =
        base_files.iter().filter(|file| file.dt.map(Date::days) >= context_from).cloned().collect();
    if !old.is_empty() {
        rows = rows.union(old_context(&session, old)?).map_err(&fail)?;
    }
    let plan = rows.create_physical_plan().await.map_err(&fail)?;
    // Put in after planning: the optimizer takes out a repartition that no
    // operator of its own asks for.
    let by_visitor = physical_col("visitor_id", &plan.schema()).map_err(&fail)?;
    let plan = RepartitionExec::try_new(plan, Partitioning::Hash(vec![by_visitor], partitions))
        .map_err(&fail)?;
    let plan: Arc<dyn ExecutionPlan> = Arc::new(plan);
    let sorted = sorted_by(plan, SESSION_ORDER).map_err(&fail)?;
    let streams = execute_stream_partitioned(sorted, session.task_ctx()).map_err(&fail)?;
    let workers = streams.into_iter().map(|stream| {
        let (lake, shared, own) = (context.lake.clone(), Arc::clone(&shared), Arc::clone(own));
        let sessionizer = Sessionizer::new(context.batch.sessions);
        tokio::spawn(async move { consume(&lake, stream, sessionizer, &shared, &own).await })
    });
    let mut all = Written::default();
    for worker in futures::future::join_all(workers).await {
        let written = worker.map_err(|source| TransformError::Worker { job: JOB, source })??;
        all.events.extend(written.events);
        all.duplicates.extend(written.duplicates);
        all.moved.extend(written.moved);
    }
    Ok((all, shared))
}

/// Rows of the table that sessions of new rows may join: narrow, the other columns NULL.
fn old_context(
    session: &SessionContext,
    files: Vec<DataFile>,
) -> Result<DataFrame, TransformError> {
    const NEEDED: &[&str] = &[
        "event_id",
        "app_id",
        "event_ts",
        "received_ts",
        "is_bot",
        "visitor_id",
        "session_id",
        "session_seq",
        "dt",
    ];
    let fail = TransformError::job(JOB);
    let rows = session.read_table(table_of(&EVENTS, files)).map_err(&fail)?;
    let columns: Vec<Expr> = staged_schema()
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            OLD_COLUMN => lit(true).alias(OLD_COLUMN),
            name if NEEDED.contains(&name) => col(format!("\"{name}\"")),
            name => datafusion::logical_expr::cast(
                lit(datafusion::common::ScalarValue::Null),
                field.data_type().clone(),
            )
            .alias(name),
        })
        .collect();
    rows.select(columns).map_err(&fail)
}

/// The row number that the first line of an object with this number in the batch is above.
fn first_row(object: usize) -> i64 {
    i64::try_from(object).unwrap_or(i64::MAX >> LINE_BITS) << LINE_BITS
}

/// One sorted stream into files.
async fn consume(
    lake: &clickmill_lake::Lake,
    mut stream: SendableRecordBatchStream,
    mut sessionizer: Sessionizer,
    shared: &Shared,
    own: &Filler,
) -> Result<Written, TransformError> {
    let mut written = Written::default();
    let mut writer = PartitionWriter::new(lake, own.spec(), Sorted::Yes);
    while let Some(batch) = stream.try_next().await.map_err(TransformError::job(JOB))? {
        // The sort has seen every row, so every copy of every event is in the tally.
        let judged = shared.verdict.get_or_try_init(|| async { judge(shared) }).await?;
        if let Some(extra) = extra_copies(&batch, &judged.verdict)? {
            written.duplicates.push(extra);
        }
        let done = sessionizer.push(&batch, |row| match row {
            Row::New { row } => {
                judged.verdict.extra.contains_key(&row) || judged.verdict.same.contains(&row)
            }
            Row::Old { app_id, event_id, received_ts } => {
                let key = || (app_id.to_owned(), event_id.to_owned(), received_ts);
                let displaced = &judged.overtaken.displaced;
                !displaced.is_empty() && displaced.contains_key(&key())
            }
        })?;
        written.moved.extend(done.moved);
        writer.write(&own.fill(&done.new_rows)?).await?;
    }
    written.events = writer.finish().await?;
    Ok(written)
}

fn judge(shared: &Shared) -> Result<Judged, TransformError> {
    let mut tally = tally(&shared.tally);
    if tally.objects_done != shared.objects {
        // The plan lost its sort or its repartition: going on would let copies through.
        return Err(TransformError::job(JOB)(DataFusionError::Internal(format!(
            "the first sorted row came after {} of {} objects",
            tally.objects_done, shared.objects
        ))));
    }
    let mut copies = std::mem::take(&mut tally.copies);
    let held = &shared.held;
    let mut same = HashSet::new();
    if let Some(from) = shared.replayed_from {
        let set_aside = held.set_aside.iter().map(|extra| extra.copy);
        let known: Vec<Copy> = held.kept.iter().copied().chain(set_aside).collect();
        same = dedupe::without_known(&mut copies, &known, |row| row >= from);
    }
    let verdict = dedupe::judge(&mut copies, &held.kept, &held.set_aside, &tally.collectors);
    let verdict = Verdict { same, ..verdict };
    let overtaken = held.overtaken(&verdict);
    Ok(Judged { verdict, overtaken })
}

/// The rows of a staged batch that are extra copies, as rows of `event_duplicates`.
fn extra_copies(
    batch: &RecordBatch,
    verdict: &Verdict,
) -> Result<Option<RecordBatch>, TransformError> {
    if verdict.extra.is_empty() {
        return Ok(None);
    }
    let rows = batch.column(batch.schema().index_of(ROW_COLUMN)?).as_primitive::<Int64Type>();
    let reasons: Vec<Option<Reason>> = (0..batch.num_rows())
        .map(|at| if rows.is_null(at) { None } else { verdict.extra.get(&rows.value(at)).copied() })
        .collect();
    copies::duplicates(batch, &reasons)
}

/// Turns what the pass gave into changes of the tables.
async fn apply(
    context: &JobContext<'_>,
    base: Option<&Table>,
    written: Written,
    overtaken: &Overtaken,
    refill: Option<&Refill<'_>>,
    output: &mut Output,
) -> Result<(), TransformError> {
    let Written { events, mut duplicates, moved } = written;
    let mut days = overtaken.days.clone();
    days.extend(moved.iter().map(|row| row.dt));
    days.extend(refill.iter().flat_map(|refill| refill.days));
    let mut change = Change { adds: events, removes: Vec::new() };
    if let Some(base) = base {
        let moved: HashMap<(&str, &str, i64), &Moved> = moved
            .iter()
            .map(|row| ((row.app_id.as_str(), row.event_id.as_str(), row.received_ts), row))
            .collect();
        // Day by day: what is held is bounded by one.
        for day in &days {
            let files = files_in(base, &BTreeSet::from([*day]));
            let refill = refill.filter(|refill| refill.days.contains(day));
            let rewritten = rewrite(context, &files, &moved, &overtaken.displaced, refill).await?;
            if refill.is_some() {
                let rows: u64 = rewritten.events.iter().map(|file| file.rows).sum();
                *output.counts.entry("backfilled").or_default() += rows;
            }
            change.removes.extend(files);
            change.adds.extend(rewritten.events);
            duplicates.extend(rewritten.duplicates);
        }
    }
    output.counts.insert("rewritten_days", days.len() as u64);
    output.changes.insert("events", change);

    let mut writer = PartitionWriter::new(context.lake, &EVENT_DUPLICATES, Sorted::No);
    for batch in &duplicates {
        writer.write(batch).await?;
    }
    let removes = overtaken.restate(context, &mut writer).await?;
    let adds = writer.finish().await?;
    output.changes.insert("event_duplicates", Change { adds, removes });
    Ok(())
}

/// Copies files of the table, with rows moved to their new session, displaced ones set aside, and
/// columns filled anew.
async fn rewrite(
    context: &JobContext<'_>,
    files: &[DataFile],
    moved: &HashMap<(&str, &str, i64), &Moved>,
    displaced: &HashMap<RowKey, Reason>,
    refill: Option<&Refill<'_>>,
) -> Result<Written, TransformError> {
    let fail = TransformError::job(JOB);
    let session = context.session();
    let rows = session.read_table(table_of(context.events, files.to_vec())).map_err(&fail)?;
    let plan = rows.create_physical_plan().await.map_err(&fail)?;
    let plan =
        Arc::new(datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec::new(plan));
    let sorted = sorted_by(plan, EVENTS.sort).map_err(&fail)?;
    let mut streams = execute_stream_partitioned(sorted, session.task_ctx()).map_err(&fail)?;
    let mut written = Written::default();
    let mut writer = PartitionWriter::new(context.lake, context.events, Sorted::Yes);
    for stream in &mut streams {
        while let Some(batch) = stream.try_next().await.map_err(&fail)? {
            let schema = batch.schema();
            let text = |name: &str| {
                Ok::<_, TransformError>(batch.column(schema.index_of(name)?).as_string::<i32>())
            };
            let (app_ids, event_ids, ids) =
                (text("app_id")?, text("event_id")?, text("session_id")?);
            let seqs = batch
                .column(schema.index_of("session_seq")?)
                .as_primitive::<arrow::datatypes::Int32Type>();
            let received = batch
                .column(schema.index_of("received_ts")?)
                .as_primitive::<TimestampMicrosecondType>();
            let key = |at: usize| (app_ids.value(at), event_ids.value(at), received.value(at));
            let gone: Vec<Option<Reason>> = (0..batch.num_rows())
                .map(|at| {
                    let (app_id, event_id, received_ts) = key(at);
                    displaced.get(&(app_id.to_owned(), event_id.to_owned(), received_ts)).copied()
                })
                .collect();
            if let Some(rows) = copies::duplicates(&batch, &gone)? {
                written.duplicates.push(rows);
            }
            let new_ids: StringArray = (0..batch.num_rows())
                .map(|at| match moved.get(&key(at)) {
                    Some(row) => Some(row.session_id.as_str()),
                    None => (!ids.is_null(at)).then(|| ids.value(at)),
                })
                .collect();
            let new_seqs: arrow::array::Int32Array = (0..batch.num_rows())
                .map(|at| match moved.get(&key(at)) {
                    Some(row) => Some(row.session_seq),
                    None => (!seqs.is_null(at)).then(|| seqs.value(at)),
                })
                .collect();
            let mut columns = batch.columns().to_vec();
            columns[schema.index_of("session_id")?] = Arc::new(new_ids);
            columns[schema.index_of("session_seq")?] = Arc::new(new_seqs);
            let stays: BooleanArray = gone.iter().map(|reason| Some(reason.is_none())).collect();
            let batch = RecordBatch::try_new(arrow_schema(context.events), columns)?;
            let mut batch = arrow::compute::filter_record_batch(&batch, &stays)?;
            if let Some(refill) = refill {
                batch = refill.fill(&batch)?;
            }
            writer.write(&batch).await?;
        }
    }
    written.events = writer.finish().await?;
    Ok(written)
}
