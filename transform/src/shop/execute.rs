//! Runs a job in a batch: which days, over which files, and what of its table changes.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::datatypes::Date32Type;
use clickmill_lake::table::{Change, Table};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{PARTITION_COLUMN, TableSpec};
use datafusion::common::{DataFusionError, JoinType};
use datafusion::prelude::{DataFrame, SessionContext, col};

use super::compile::query;
use super::compile::register_json;
use super::{Compiled, Mode};
use crate::TransformError;
use crate::jobs::{
    JobContext, Output, Spread, files_in, register_days, replace_differing_rows, same_rows,
    table_of, touched_days, widened, write,
};

/// Computes the change of a job's table.
///
/// # Errors
/// [`TransformError::ShopJob`] where the query fails over the data, others where the lake does.
pub(crate) async fn run(
    context: &JobContext<'_>,
    one: &Compiled,
) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let change = match one.job.mode {
        Mode::Append => append(context, one).await?,
        Mode::ReplacePartitions => replace_partitions(context, one).await?,
        Mode::Full => full(context, one).await?,
    };
    output.add(one.spec.name, change);
    Ok(output)
}

/// True where the batch before ran another text, or none.
fn is_new(context: &JobContext<'_>, one: &Compiled) -> bool {
    context.taken_definition(one.spec.name) != Some(one.job.fingerprint())
}

/// A query that fails over the data is the shop's to mend; memory and stores are not.
fn failed(one: &Compiled) -> impl Fn(DataFusionError) -> TransformError {
    move |error| match error.find_root() {
        DataFusionError::ResourcesExhausted(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ParquetError(_)
        | DataFusionError::External(_) => TransformError::Job { job: one.name, source: error },
        _ => one.job.wrong(1, error.strip_backtrace()).into(),
    }
}

/// A session in which a shop's query can run.
fn session(context: &JobContext<'_>) -> Result<SessionContext, TransformError> {
    let mut session = context.session();
    register_json(&mut session)?;
    Ok(session)
}

async fn rows(one: &Compiled, session: &SessionContext) -> Result<DataFrame, TransformError> {
    query(session, &one.job).await.map_err(failed(one))
}

/// Everything of these tables.
async fn register_whole(
    context: &JobContext<'_>,
    one: &Compiled,
    session: &SessionContext,
    specs: &[&'static TableSpec],
) -> Result<(), TransformError> {
    for spec in specs {
        let files = context.current(spec).await?.files().to_vec();
        session
            .register_table(spec.name, table_of(spec, files))
            .map_err(TransformError::job(one.name))?;
    }
    Ok(())
}

/// The rows that a query gives, computed once: they are looked at more than once.
async fn computed(one: &Compiled, rows: DataFrame) -> Result<DataFrame, TransformError> {
    rows.cache().await.map_err(failed(one))
}

async fn full(context: &JobContext<'_>, one: &Compiled) -> Result<Change, TransformError> {
    let mut is_stale = is_new(context, one);
    for spec in &one.depends {
        is_stale |= !context.change_of(spec, one.spec).await?.is_empty();
    }
    if !is_stale {
        return Ok(Change::default());
    }
    let session = session(context)?;
    register_whole(context, one, &session, &one.depends).await?;
    register_whole(context, one, &session, &one.looks_up).await?;
    let rows = computed(one, rows(one, &session).await?).await?;
    let table = context.current(one.spec).await?;
    if one.spec.partitioned {
        let mut days = days_of(one, &rows).await?;
        days.extend(table.days());
        return replace_differing_rows(context, one.name, &session, &table, &days, rows).await;
    }
    if is_same(context, one, &session, &table, &rows).await? {
        return Ok(Change::default());
    }
    let adds = write(context, one.name, one.spec, rows, Spread::One).await?;
    Ok(Change { adds, removes: table.files().to_vec() })
}

/// True where the table has these rows already.
async fn is_same(
    context: &JobContext<'_>,
    one: &Compiled,
    session: &SessionContext,
    table: &Table,
    rows: &DataFrame,
) -> Result<bool, TransformError> {
    if table.files().is_empty() {
        return Ok(false);
    }
    let fail = TransformError::job(one.name);
    let held = session.read_table(table_of(one.spec, table.files().to_vec())).map_err(&fail)?;
    same_rows(context, one.spec, rows.clone(), held).await
}

async fn replace_partitions(
    context: &JobContext<'_>,
    one: &Compiled,
) -> Result<Change, TransformError> {
    let fail = TransformError::job(one.name);
    let back = i32::from(one.job.lookback_days);
    let table = context.current(one.spec).await?;
    let mut touched = BTreeSet::new();
    let mut all = is_new(context, one);
    let mut there = BTreeSet::new();
    for spec in &one.depends {
        let change = context.change_of(spec, one.spec).await?;
        if spec.partitioned {
            touched.extend(touched_days(&change));
            there.extend(context.current(spec).await?.days());
        } else {
            // It says nothing of days.
            all |= !change.is_empty();
        }
    }
    // A row of a day looks back: so a day touches those after it.
    let mut days = widened(&touched, 0, back);
    if all {
        days.extend(widened(&there, 0, back));
        days.extend(table.days());
    }
    if days.is_empty() {
        return Ok(Change::default());
    }
    let read = widened(&days, back, 0);
    let session = session(context)?;
    for spec in &one.depends {
        let current = context.current(spec).await?;
        let files = match spec.partitioned {
            true => files_in(&current, &read),
            false => current.files().to_vec(),
        };
        session.register_table(spec.name, table_of(spec, files)).map_err(&fail)?;
    }
    register_whole(context, one, &session, &one.looks_up).await?;
    let rows = computed(one, rows(one, &session).await?).await?;
    if let Some(day) = days_of(one, &rows).await?.into_iter().find(|day| !read.contains(day)) {
        let problem = format!(
            "the query gives rows of {day} from other days' rows: let `dt` be the inputs' own, or \
             raise `lookback` ({back} days now)"
        );
        return Err(one.job.wrong(one.job.line_of("mode"), problem).into());
    }
    register_days(&session, one.name, "__days", &days)?;
    let wanted = session.table("__days").await.map_err(&fail)?;
    let dt = [PARTITION_COLUMN];
    let rows = rows.join(wanted, JoinType::LeftSemi, &dt, &dt, None).map_err(&fail)?;
    replace_differing_rows(context, one.name, &session, &table, &days, rows).await
}

/// The days in the rows of a query.
async fn days_of(one: &Compiled, rows: &DataFrame) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(one.name);
    let days = rows.clone().select(vec![col(PARTITION_COLUMN)]).map_err(&fail)?;
    let batches = days.distinct().map_err(&fail)?.collect().await.map_err(&fail)?;
    let mut found = BTreeSet::new();
    for batch in &batches {
        let column = batch.column(0).as_primitive::<Date32Type>();
        for day in column {
            let Some(day) = day else {
                let problem = "the query gives rows without a `dt`: every partition needs a date";
                return Err(one.job.wrong(one.job.line_of("partition"), problem).into());
            };
            found.insert(Date::from_days(day));
        }
    }
    Ok(found)
}

async fn append(context: &JobContext<'_>, one: &Compiled) -> Result<Change, TransformError> {
    let fail = TransformError::job(one.name);
    let source = one.depends[0];
    let change = context.change_of(source, one.spec).await?;
    if change.adds.is_empty() {
        return Ok(Change::default());
    }
    let session = session(context)?;
    if change.removes.is_empty() {
        let table = table_of(source, change.adds);
        session.register_table(source.name, table).map_err(&fail)?;
    } else {
        // Rewritten files have rows that were there before: those are not new.
        let added = session.read_table(table_of(source, change.adds)).map_err(&fail)?;
        let removed = session.read_table(table_of(source, change.removes)).map_err(&fail)?;
        let key = source.key;
        let new = added.join(removed, JoinType::LeftAnti, key, key, None).map_err(&fail)?;
        session.register_table(source.name, new.into_view()).map_err(&fail)?;
    }
    register_whole(context, one, &session, &one.looks_up).await?;
    let rows = computed(one, rows(one, &session).await?).await?;
    if one.spec.partitioned {
        days_of(one, &rows).await?;
    }
    let adds = write(context, one.name, one.spec, rows, Spread::One).await?;
    Ok(Change { adds, removes: Vec::new() })
}
