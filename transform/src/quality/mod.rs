//! Data quality: what a shop declares that must hold of tables, looked at before they commit.
//!
//! A check that fails is told; what becomes of the table is the check's `on_failure`:
//! - `warn`: it is committed all the same.
//! - `stop`, of a derived table: it is held back. It stays as it was, the rest of the batch
//!   goes on, and a later batch takes in what it missed.
//! - `stop`, of a table that is read from raw objects or exports: the run ends before anything
//!   of that job is committed. The batch waits: nothing that it takes in is lost.
//!
//! Results go to the table `quality_results`, also those that end a run. They are told apart by
//! batch and attempt: a batch that a check stopped is attempted again. Where an attempt finds what
//! the one before it found, as the runs of `clickmill up` do again and again, it writes nothing.
//!
//! Time alone fails a check of freshness: it is looked at where nothing is new, too.

mod config;
mod freshness;
mod look;
mod reconcile;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::error::ArrowError;
use clickmill_lake::Lake;
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{Change, PartitionWriter, Sorted, Table};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::{QUALITY_RESULTS, TableSpec};

pub use config::{Check, OnFailure, QualityConfig, Rule};
pub use freshness::Stale;
pub(crate) use freshness::stale;
use look::{Found, look};

use crate::TransformError;
use crate::jobs::{JobContext, files_in, table_of};
use crate::run::RunOptions;
use crate::sources::{Notice, Severity};
use crate::step::Step;

/// The application of the Delta transactions that write results.
const JOB: &str = "quality";
/// The application of those that write what stopped a run. Their version is the batch times
/// [`MAX_ATTEMPTS`], plus the attempt.
const STOPPED: &str = "quality-attempts";
/// Attempts at a batch that are written down; one that only repeats another is none.
const MAX_ATTEMPTS: i64 = 1_000;

/// What becomes of a step's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are committed.
    Commit,
    /// They are not; the tables catch up later.
    HoldBack,
}

/// What a check found.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    check: Check,
    found: Found,
    status: &'static str,
}

/// Outcomes by table and the check's place in its list.
pub(crate) type Outcomes = BTreeMap<(&'static str, usize), Outcome>;

/// Refuses checks of tables and columns that are not there, in ours and in those of `shop`.
///
/// # Errors
/// [`TransformError::UnknownTable`], [`TransformError::UnfitCheck`].
pub(crate) fn check_config(
    config: &QualityConfig,
    shop: &[&'static TableSpec],
) -> Result<(), TransformError> {
    for table in config.tables() {
        let own = shop.iter().copied().find(|spec| spec.name == table);
        let Some(spec) = own.or_else(|| TableSpec::find(table)) else {
            let shop = shop.iter().filter(|spec| TableSpec::find(spec.name).is_none());
            let known = clickmill_schemas::tables::TABLES.iter().chain(shop);
            let known: Vec<&str> = known.map(|spec| spec.name).collect();
            return Err(TransformError::UnknownTable {
                name: table.to_owned(),
                known: known.join(", "),
            });
        };
        for (at, check) in config.of(table).iter().enumerate() {
            check.fits(spec).map_err(|problem| TransformError::UnfitCheck {
                table: table.to_owned(),
                number: at + 1,
                problem,
            })?;
        }
    }
    Ok(())
}

/// Looks at the tables of a step as they would be after its changes.
///
/// # Errors
/// [`TransformError::Quality`] where a check stops a table that cannot catch up later.
pub(crate) async fn judge(
    context: &JobContext<'_>,
    step: &Step<'_>,
    changes: &BTreeMap<&'static str, Change>,
    notices: &mut Vec<Notice>,
) -> Result<Verdict, TransformError> {
    let mut stopped: Option<(&'static str, Vec<String>)> = None;
    for spec in &step.tables {
        if context.options.quality.of(spec.name).is_empty() {
            continue;
        }
        let table = context.current(spec).await?;
        let none = Change::default();
        let change = changes.get(spec.name).unwrap_or(&none);
        for (number, outcome) in look_at(context, &table, change).await? {
            let failed = format!("{}: {}", outcome.check.rule.name(), outcome.found.detail);
            match outcome.status {
                "stopped" => {
                    stopped.get_or_insert_with(|| (spec.name, Vec::new())).1.push(failed);
                }
                "warned" => notices.push(notice(spec.name, failed, advice(&outcome.check.rule))),
                _ => {}
            }
            context.note(spec.name, number, outcome);
        }
    }
    let Some((table, problems)) = stopped else { return Ok(Verdict::Commit) };
    let problem = problems.join("; ");
    if step.is_derived() {
        let advice = "it takes in what it missed once its inputs or checks changed";
        notices.push(notice(table, format!("{problem}; the table stays as it was"), advice));
        return Ok(Verdict::HoldBack);
    }
    record_stopped(context).await?;
    Err(TransformError::Quality { table, problem })
}

/// What to say of tables that are older than their freshness checks allow, where no batch does.
///
/// # Errors
/// [`TransformError`] where a table cannot be read.
pub(crate) async fn idle_notices(
    lake: &Lake,
    options: &RunOptions,
    tables: &BTreeSet<String>,
) -> Result<Vec<Notice>, TransformError> {
    let stale = stale(lake, options, tables, Timestamp::now()).await?;
    let say = |one: Stale| notice(&one.table, format!("freshness: {}", one.problem), STALE_ADVICE);
    Ok(stale.into_iter().map(say).collect())
}

/// What to do about a table that grows old.
const STALE_ADVICE: &str = "look at what brings its rows";

fn advice(rule: &Rule) -> &'static str {
    match rule {
        Rule::Freshness(..) => STALE_ADVICE,
        _ => "look at the rows",
    }
}

fn notice(table: &str, problem: String, advice: &str) -> Notice {
    Notice {
        source: JOB.to_owned(),
        subject: table.to_owned(),
        severity: Severity::Problem,
        problem,
        advice: advice.to_owned(),
    }
}

/// What the checks of a table find; where nothing changed, those that time alone fails.
async fn look_at(
    context: &JobContext<'_>,
    table: &Table,
    change: &Change,
) -> Result<Vec<(usize, Outcome)>, TransformError> {
    let mut outcomes = Vec::new();
    for (at, check) in context.options.quality.of(table.spec().name).iter().enumerate() {
        if change.is_empty() && !matches!(check.rule, Rule::Freshness(..)) {
            continue;
        }
        let found = look(context, table, change, &check.rule).await?;
        let status = match (found.passed, check.on_failure) {
            (true, _) => "passed",
            (false, OnFailure::Stop) if !change.is_empty() => "stopped",
            (false, _) => "warned",
        };
        outcomes.push((at, Outcome { check: check.clone(), found, status }));
    }
    Ok(outcomes)
}

/// Writes down what the checks of the batch found. Of tables that an earlier attempt
/// committed, this looks at them as they are: they are what they would have become.
///
/// # Errors
/// [`TransformError`].
pub(crate) async fn record(
    context: &JobContext<'_>,
    steps: &[Step<'_>],
) -> Result<(), TransformError> {
    for spec in steps.iter().flat_map(|step| &step.tables) {
        if context.options.quality.of(spec.name).is_empty() || context.is_noted(spec.name) {
            continue;
        }
        let table = context.current(spec).await?;
        let change = table.since(context.base(spec).await?.as_ref());
        // It is there already: nothing of it is to be added once more.
        let whole = Change { adds: change.adds, removes: Vec::new() };
        for (number, outcome) in look::at_committed(context, &table, &whole).await? {
            context.note(spec.name, number, outcome);
        }
    }
    let results = context.current(&QUALITY_RESULTS).await?;
    let outcomes = context.outcomes();
    if outcomes.is_empty() || results.batch(JOB).await? >= Some(context.batch.batch) {
        return Ok(());
    }
    let attempt = stopped_attempts(context, &results).await? + 1;
    let change = written(context, &outcomes, attempt).await?;
    results.commit(&change, JOB, context.batch.batch).await?;
    Ok(())
}

/// Writes down what ends the run, but for what the attempt before this one found, too.
async fn record_stopped(context: &JobContext<'_>) -> Result<(), TransformError> {
    let results = context.current(&QUALITY_RESULTS).await?;
    let outcomes = context.outcomes();
    let before = stopped_attempts(context, &results).await?;
    let attempt = before + 1;
    if attempt >= MAX_ATTEMPTS || found_by(context, &results, before).await? == texts(&outcomes) {
        return Ok(());
    }
    let change = written(context, &outcomes, attempt).await?;
    results.commit(&change, STOPPED, context.batch.batch * MAX_ATTEMPTS + attempt).await?;
    Ok(())
}

/// How many attempts at the batch were stopped, and are written down.
async fn stopped_attempts(
    context: &JobContext<'_>,
    results: &Table,
) -> Result<i64, TransformError> {
    let last = results.batch(STOPPED).await?.unwrap_or_default();
    let is_ours = last / MAX_ATTEMPTS == context.batch.batch;
    Ok(if is_ours { last % MAX_ATTEMPTS } else { 0 })
}

/// What an attempt at the batch found, as [`texts`] says it.
async fn found_by(
    context: &JobContext<'_>,
    results: &Table,
    attempt: i64,
) -> Result<BTreeSet<String>, TransformError> {
    let fail = TransformError::job(JOB);
    let session = context.session();
    let files = files_in(results, &BTreeSet::from([context.batch.created_at.date()]));
    let files = table_of(&QUALITY_RESULTS, files);
    session.register_table("results", files).map_err(&fail)?;
    let sql = format!(
        "SELECT concat(table_name, ' ', CAST(check_number AS VARCHAR), ' ', check_name, ' ', status, \
         ' ', detail) FROM results WHERE batch = {} AND attempt = {attempt}",
        context.batch.batch
    );
    let batches = session.sql(&sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let lines = batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter());
    Ok(lines.flatten().map(str::to_owned).collect())
}

/// What checks found, one text each: the same where it is the same at another time.
fn texts(outcomes: &Outcomes) -> BTreeSet<String> {
    let text = |((table, number), outcome): (&(&str, usize), &Outcome)| {
        let Outcome { check, found, status } = outcome;
        format!("{table} {} {} {status} {}", number + 1, check.rule.name(), found.detail)
    };
    outcomes.iter().map(text).collect()
}

async fn written(
    context: &JobContext<'_>,
    outcomes: &Outcomes,
    attempt: i64,
) -> Result<Change, TransformError> {
    let mut writer = PartitionWriter::new(context.lake, &QUALITY_RESULTS, Sorted::No);
    writer.write(&rows(context, outcomes, attempt)?).await?;
    Ok(Change { adds: writer.finish().await?, removes: Vec::new() })
}

fn rows(
    context: &JobContext<'_>,
    outcomes: &Outcomes,
    attempt: i64,
) -> Result<RecordBatch, ArrowError> {
    let count = outcomes.len();
    let texts = |of: &dyn Fn(&Outcome) -> Option<String>| -> ArrayRef {
        Arc::new(outcomes.values().map(of).collect::<StringArray>())
    };
    let numbers = |of: &dyn Fn(&Outcome) -> Option<f64>| -> ArrayRef {
        Arc::new(outcomes.values().map(of).collect::<Float64Array>())
    };
    let at = context.batch.created_at;
    let places = outcomes.keys().map(|(_, number)| i32::try_from(number + 1).unwrap_or(i32::MAX));
    RecordBatch::try_new(
        arrow_schema(&QUALITY_RESULTS),
        vec![
            Arc::new(Int64Array::from(vec![context.batch.batch; count])),
            Arc::new(outcomes.keys().map(|(table, _)| Some(*table)).collect::<StringArray>()),
            Arc::new(Int32Array::from_iter_values(places)),
            texts(&|outcome| Some(outcome.check.rule.name().to_owned())),
            texts(&|outcome| {
                let columns = outcome.check.rule.columns();
                (!columns.is_empty()).then(|| columns.join(", "))
            }),
            texts(&|outcome| Some(outcome.status.to_owned())),
            numbers(&|outcome| outcome.found.observed),
            numbers(&|outcome| outcome.found.allowed),
            texts(&|outcome| Some(outcome.found.detail.clone())),
            Arc::new(Int32Array::from(vec![i32::try_from(attempt).unwrap_or(i32::MAX); count])),
            Arc::new(
                TimestampMicrosecondArray::from(vec![at.micros(); count]).with_timezone("UTC"),
            ),
            Arc::new(Date32Array::from(vec![at.date().days(); count])),
        ],
    )
}
