//! Runs a query and writes its rows into a table's files.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, Date32Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Date32Type, Field, Schema};
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{Change, DataFile, PartitionWriter, Sorted, Table};
use clickmill_schemas::Date;
use clickmill_schemas::tables::TableSpec;
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

use super::JobContext;
use super::context::files_in;
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
    let schema = arrow_schema(spec);
    let columns: Vec<Expr> = schema
        .fields()
        .iter()
        .map(|field| {
            let same = rows
                .schema()
                .field_with_unqualified_name(field.name())
                .is_ok_and(|found| found.data_type() == field.data_type());
            let column = col(format!("\"{}\"", field.name()));
            if same { column } else { cast(column, field.data_type().clone()).alias(field.name()) }
        })
        .collect();
    let session = context.session();
    let plan = rows.select(columns).map_err(&fail)?.create_physical_plan().await.map_err(&fail)?;
    let plan: Arc<dyn ExecutionPlan> = match spread {
        Spread::Many => plan,
        Spread::One if plan.output_partitioning().partition_count() == 1 => plan,
        Spread::One => {
            use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
            Arc::new(CoalescePartitionsExec::new(plan))
        }
    };
    let sorted = sorted_by(plan, spec.sort).map_err(&fail)?;
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
    let mut writer = PartitionWriter::new(lake, spec, Sorted::Yes);
    while let Some(batch) = stream.try_next().await.map_err(TransformError::job(job))? {
        // Checks that no column which must have a value holds NULL.
        let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())?;
        writer.write(&batch).await?;
    }
    Ok(writer.finish().await?)
}
