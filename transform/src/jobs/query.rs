//! Runs a query and writes its rows into a table's files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, Date32Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Date32Type, Field, Schema};
use arrow::row::{OwnedRow, RowConverter, SortField};
use clickmill_lake::schema::{MONEY, arrow_schema};
use clickmill_lake::table::{Change, DataFile, PartitionWriter, Sorted, Table};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{PARTITION_COLUMN, TableSpec};
use datafusion::catalog::MemTable;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, cast, col};
use datafusion::physical_expr::expressions::col as physical_col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties as _, execute_stream_partitioned,
};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::TryStreamExt as _;

use super::context::{files_in, table_of};
use super::{JobContext, Output};
use crate::TransformError;

/// Into how many writers the rows of a query go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// One: one file a partition. For small tables.
    One,
    /// One for each core.
    Many,
}

/// Registers a table of dates under `name`, with the one column `dt`.
///
/// # Errors
/// [`TransformError::Job`].
pub fn register_days(
    session: &SessionContext,
    job: &'static str,
    name: &str,
    days: &BTreeSet<Date>,
) -> Result<(), TransformError> {
    let schema = Arc::new(Schema::new(vec![Field::new("dt", DataType::Date32, false)]));
    let column = Date32Array::from_iter_values(days.iter().map(|day| day.days()));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column)])?;
    let table = MemTable::try_new(schema, vec![vec![batch]]).map_err(TransformError::job(job))?;
    session.register_table(name, Arc::new(table)).map_err(TransformError::job(job))?;
    Ok(())
}

/// The first day of the month of a date, in SQL. `date_trunc` goes through nanoseconds, which
/// neither 0001-01-01 nor 9999-12-31 fits.
pub fn month_of(day: &str) -> String {
    format!(
        "make_date(CAST(date_part('year', {day}) AS INT), CAST(date_part('month', {day}) AS INT), 1)"
    )
}

/// A date in SQL.
pub fn date_literal(day: Date) -> String {
    format!("DATE '{day}'")
}

/// The dates in the first column of a query.
///
/// # Errors
/// [`TransformError::Job`].
pub async fn dates(
    session: &SessionContext,
    job: &'static str,
    sql: &str,
) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(job);
    let batches = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let mut days = BTreeSet::new();
    for batch in &batches {
        let column = batch
            .column(0)
            .as_primitive_opt::<Date32Type>()
            .ok_or_else(|| fail(DataFusionError::Internal(format!("no dates come from {sql}"))))?;
        days.extend(column.iter().flatten().map(Date::from_days));
    }
    Ok(days)
}

/// Replaces `days` of `table` by the rows of `sql`.
///
/// # Errors
/// [`TransformError`].
pub async fn replace_days(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    table: &Table,
    days: &BTreeSet<Date>,
    sql: &str,
    spread: Spread,
) -> Result<Change, TransformError> {
    if days.is_empty() {
        return Ok(Change::default());
    }
    let rows = session.sql(sql).await.map_err(TransformError::job(job))?;
    let adds = write(context, job, table.spec(), rows, spread).await?;
    Ok(Change { adds, removes: files_in(table, days) })
}

/// Replaces those of `days` in which the rows of `sql` are not the ones that are there; the
/// others keep their files. So a job may name more days than it must.
///
/// The rows of days that are there already are held in memory twice, old and new: this is for
/// facts, which are few against events.
///
/// # Errors
/// [`TransformError`].
pub async fn replace_differing_days(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    table: &Table,
    days: &BTreeSet<Date>,
    sql: &str,
) -> Result<Change, TransformError> {
    if days.is_empty() {
        return Ok(Change::default());
    }
    let rows = session.sql(sql).await.map_err(TransformError::job(job))?;
    replace_differing_rows(context, job, session, table, days, rows).await
}

/// As [`replace_differing_days`], of rows at hand.
///
/// # Errors
/// [`TransformError`].
pub async fn replace_differing_rows(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    table: &Table,
    days: &BTreeSet<Date>,
    rows: DataFrame,
) -> Result<Change, TransformError> {
    let fail = TransformError::job(job);
    let held = files_in(table, days);
    if held.is_empty() {
        let adds = write(context, job, table.spec(), rows, Spread::One).await?;
        return Ok(Change { adds, removes: held });
    }
    let new = in_columns(context, table.spec(), rows)?.collect().await.map_err(&fail)?;
    let old = session.read_table(table_of(table.spec(), held)).map_err(&fail)?;
    let old = in_columns(context, table.spec(), old)?.collect().await.map_err(&fail)?;
    let (new_days, old_days) = (rows_by_day(table.spec(), &new)?, rows_by_day(table.spec(), &old)?);
    let differs = |day: &&Date| new_days.get(*day) != old_days.get(*day);
    let differing: BTreeSet<Date> =
        new_days.keys().chain(old_days.keys()).filter(differs).copied().collect();
    if differing.is_empty() {
        return Ok(Change::default());
    }
    let mut kept = Vec::new();
    for batch in &new {
        let dt = batch.column(batch.num_columns() - 1).as_primitive::<Date32Type>();
        let chosen: BooleanArray = dt
            .values()
            .iter()
            .map(|day| Some(differing.contains(&Date::from_days(*day))))
            .collect();
        kept.push(arrow::compute::filter_record_batch(batch, &chosen)?);
    }
    let mut change = Change { adds: Vec::new(), removes: files_in(table, &differing) };
    // Where every row has gone, there is not even a batch without rows.
    if !kept.is_empty() {
        let rows = session.read_batches(kept).map_err(&fail)?;
        change.adds = write(context, job, table.spec(), rows, Spread::One).await?;
    }
    Ok(change)
}

/// True where both give the same rows, whatever their order. They are held in memory: this is
/// for tables without days.
///
/// # Errors
/// [`TransformError`].
pub async fn same_rows(
    context: &JobContext<'_>,
    spec: &'static TableSpec,
    one: DataFrame,
    other: DataFrame,
) -> Result<bool, TransformError> {
    let schema = arrow_schema(spec);
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let mut sides: Vec<Vec<OwnedRow>> = Vec::new();
    for rows in [one, other] {
        let batches = in_columns(context, spec, rows)?.collect().await;
        let mut side = Vec::new();
        for batch in &batches.map_err(TransformError::job(spec.name))? {
            side.extend(converter.convert_columns(batch.columns())?.iter().map(|row| row.owned()));
        }
        side.sort_unstable();
        sides.push(side);
    }
    Ok(sides[0] == sides[1])
}

/// The rows of each day, comparable and in one order.
fn rows_by_day(
    spec: &'static TableSpec,
    batches: &[RecordBatch],
) -> Result<BTreeMap<Date, Vec<OwnedRow>>, TransformError> {
    let schema = arrow_schema(spec);
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let mut days: BTreeMap<Date, Vec<OwnedRow>> = BTreeMap::new();
    for batch in batches {
        let rows = converter.convert_columns(batch.columns())?;
        let dt = batch.column(batch.num_columns() - 1).as_primitive::<Date32Type>();
        for (row, day) in rows.iter().zip(dt.values()) {
            days.entry(Date::from_days(*day)).or_default().push(row.owned());
        }
    }
    for rows in days.values_mut() {
        rows.sort_unstable();
    }
    Ok(days)
}

/// Registers under `name` what a change put in and took out of `columns`: rows that are in the
/// files it adds and not in those it removes, and the other way round. `sql` may filter them
/// (`WHERE ...`).
///
/// # Errors
/// [`TransformError::Job`].
pub async fn register_changed(
    session: &SessionContext,
    job: &'static str,
    name: &str,
    spec: &'static TableSpec,
    change: &Change,
    columns: &str,
    filter: &str,
) -> Result<(), TransformError> {
    let fail = TransformError::job(job);
    for (side, files) in [("new", &change.adds), ("old", &change.removes)] {
        let table = table_of(spec, files.clone());
        session.register_table(format!("{name}_{side}"), table).map_err(&fail)?;
    }
    let side = |side: &str| format!("SELECT {columns} FROM {name}_{side} {filter}");
    let (new, old) = (side("new"), side("old"));
    // Without removed files there is nothing to subtract.
    let sql = match change.removes.is_empty() {
        true => format!("CREATE VIEW {name} AS {new}"),
        false => {
            format!("CREATE VIEW {name} AS ({new} EXCEPT {old}) UNION ALL ({old} EXCEPT {new})")
        }
    };
    session.sql(&sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    Ok(())
}

/// Writes the rows of a query, cast to the table's columns by name and sorted as it wants.
///
/// # Errors
/// [`TransformError`].
pub async fn write(
    context: &JobContext<'_>,
    job: &'static str,
    spec: &'static TableSpec,
    rows: DataFrame,
    spread: Spread,
) -> Result<Vec<DataFile>, TransformError> {
    let fail = TransformError::job(job);
    let session = context.session();
    let plan = in_columns(context, spec, rows)?.create_physical_plan().await.map_err(&fail)?;
    let plan: Arc<dyn ExecutionPlan> = match spread {
        Spread::Many => plan,
        Spread::One if plan.output_partitioning().partition_count() == 1 => plan,
        Spread::One => {
            use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
            Arc::new(CoalescePartitionsExec::new(plan))
        }
    };
    // Day by day: the writer gets whole stretches of a day, and not some rows of each in turn.
    let day = spec.partitioned.then_some(PARTITION_COLUMN);
    let order: Vec<&str> = day.into_iter().chain(spec.sort.iter().copied()).collect();
    let sorted = sorted_by(plan, &order).map_err(&fail)?;
    let streams = execute_stream_partitioned(sorted, session.task_ctx()).map_err(&fail)?;
    let writers = streams.into_iter().map(|stream| {
        let lake = context.lake.clone();
        tokio::spawn(async move { write_stream(&lake, job, spec, stream).await })
    });
    let mut files = Vec::new();
    for written in futures::future::join_all(writers).await {
        files.extend(written.map_err(|source| TransformError::Worker { job, source })??);
    }
    Ok(files)
}

/// The columns of a table, each cast to its type where it has another. A sum that an amount's
/// column cannot hold is NULL, and the run tells it.
fn in_columns(
    context: &JobContext<'_>,
    spec: &'static TableSpec,
    rows: DataFrame,
) -> Result<DataFrame, TransformError> {
    let schema = arrow_schema(spec);
    let columns: Vec<Expr> = schema
        .fields()
        .iter()
        .map(|field| {
            let found = rows.schema().field_with_unqualified_name(field.name());
            let column = col(format!("\"{}\"", field.name()));
            match found.ok().map(|found| found.data_type()) {
                Some(found) if found == field.data_type() => column,
                Some(DataType::Decimal128(..)) if *field.data_type() == MONEY => {
                    context.bounds().money().call(vec![column]).alias(field.name())
                }
                _ => cast(column, field.data_type().clone()).alias(field.name()),
            }
        })
        .collect();
    rows.select(columns).map_err(TransformError::job(spec.name))
}

/// Sorts each partition of a plan by itself.
///
/// # Errors
/// [`DataFusionError`] where the plan has no such column.
pub fn sorted_by(
    plan: Arc<dyn ExecutionPlan>,
    columns: &[&str],
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let schema = plan.schema();
    let options = SortOptions { descending: false, nulls_first: true };
    let by: Result<Vec<_>, DataFusionError> = columns
        .iter()
        .map(|name| Ok(PhysicalSortExpr::new(physical_col(name, &schema)?, options)))
        .collect();
    Ok(match LexOrdering::new(by?) {
        Some(ordering) => Arc::new(SortExec::new(ordering, plan).with_preserve_partitioning(true)),
        None => plan,
    })
}

async fn write_stream(
    lake: &clickmill_lake::Lake,
    job: &'static str,
    spec: &'static TableSpec,
    mut stream: SendableRecordBatchStream,
) -> Result<Vec<DataFile>, TransformError> {
    let schema = arrow_schema(spec);
    let mut writer = PartitionWriter::new(lake, spec, Sorted::ByDay);
    while let Some(batch) = stream.try_next().await.map_err(TransformError::job(job))? {
        // Checks that no column which must have a value holds NULL.
        let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())
            .map_err(|error| TransformError::job(job)(DataFusionError::from(error)))?;
        writer.write(&batch).await?;
    }
    Ok(writer.finish().await?)
}

/// For a table without partitions: replaces all of it by the rows of `sql` over `sources`,
/// where one of these changed.
///
/// # Errors
/// [`TransformError`].
pub async fn replace_all(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    spec: &'static TableSpec,
    sources: &[&'static TableSpec],
    sql: &str,
) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let mut is_stale = false;
    for source in sources {
        is_stale |= !context.change_of(source, spec).await?.is_empty();
        let files = context.current(source).await?.files().to_vec();
        let table = table_of(source, files);
        session.register_table(source.name, table).map_err(TransformError::job(job))?;
    }
    if is_stale {
        let table = context.current(spec).await?;
        let rows = session.sql(sql).await.map_err(TransformError::job(job))?;
        let adds = write(context, job, spec, rows, Spread::One).await?;
        output.add(spec.name, Change { adds, removes: table.files().to_vec() });
    }
    Ok(output)
}
