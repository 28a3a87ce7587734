//! A run: batches, one after the other, until everything is taken in.
//!
//! For each job of a batch: compute the changes of its tables, commit them in
//! order, each with the transaction (job, batch). A table that has the batch
//! already is passed over. When all are done, the snapshot says so. A run that
//! dies anywhere leaves the batch unfinished; the next one finishes it.
//!
//! A derived table whose checks say stop, and one whose job fails over the data, is held
//! back: it stays as it was, and takes in what it missed with a later batch.
//!
//! A run that finds nothing new makes no batch; it says which tables grew too old meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::error::ArrowError;
use clickmill_failpoint as failpoint;
use clickmill_lake::Lake;
use clickmill_lake::history::{self, Created, Series, Snapshot};
use clickmill_lake::landing::LandedObject;
use clickmill_lake::table::{Change, Committed, Table, spec_in_log};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::{TABLES, TableSpec};
use datafusion::common::DataFusionError;
use serde::{Deserialize, Serialize};

use crate::TransformError;
use crate::batch::{self, Batch, CHECKS, Plan};
use crate::columns::OwnColumns;
use crate::currency::CurrencyConfig;
use crate::decode::channels::ChannelRules;
use crate::jobs::{self, JobContext, Output};
use crate::quality::{self, QualityConfig, Verdict};
use crate::sessionize::SessionsConfig;
use crate::shop::{self, ShopJob};
use crate::sources::{self, Notice, SourcesConfig};
use crate::step::{Step, steps};

/// Version of the snapshot file's JSON.
const SNAPSHOT_VERSION: u32 = 1;
/// How often a race for the next batch may be lost.
const MAX_PLAN_ATTEMPTS: usize = 20;
/// How often a job is computed again because somebody changed what it replaces.
const MAX_JOB_ATTEMPTS: usize = 5;

/// When daily jobs run: those that look back far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DailyJobs {
    /// In every batch that has something new for them.
    #[default]
    Always,
    /// In the first such batch of a UTC day: for runs that follow each other closely.
    OncePerDay,
    /// Not in this run.
    Never,
}

/// `[attribution]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttributionConfig {
    /// How many days before an order its touches may lie. A change makes every order anew.
    pub lookback_days: u16,
}

impl Default for AttributionConfig {
    fn default() -> Self {
        Self { lookback_days: 30 }
    }
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The tables to bring up to date, with all that they are derived from; `None`: all.
    pub tables: Option<Vec<String>>,
    /// What queries may hold in memory before they spill to disk; `None`: no limit.
    pub memory_limit_bytes: Option<usize>,
    /// Streams that a query is spread over.
    pub parallelism: usize,
    /// Where the shop's exports are.
    pub sources: SourcesConfig,
    /// When daily jobs run.
    pub daily: DailyJobs,
    /// How sessions end.
    pub sessions: SessionsConfig,
    /// How orders are attributed.
    pub attribution: AttributionConfig,
    /// The shop's own columns of `events`. A change holds for events that are taken in from then
    /// on, and for days that [`crate::backfill`] makes again.
    pub columns: OwnColumns,
    /// How events get their channel. A change holds as one of `columns` does.
    pub channels: Arc<ChannelRules>,
    /// The currency to report in.
    pub currency: Option<CurrencyConfig>,
    /// The shop's own jobs.
    pub shop_jobs: Arc<[ShopJob]>,
    /// What must hold of tables.
    pub quality: Arc<QualityConfig>,
}

impl Default for RunOptions {
    fn default() -> Self {
        let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            tables: None,
            memory_limit_bytes: None,
            parallelism,
            sources: SourcesConfig::default(),
            daily: DailyJobs::default(),
            sessions: SessionsConfig::default(),
            attribution: AttributionConfig::default(),
            columns: OwnColumns::default(),
            channels: Arc::default(),
            currency: None,
            shop_jobs: Arc::from([]),
            quality: Arc::default(),
        }
    }
}

impl RunOptions {
    /// With another limit of memory, where there is one.
    #[must_use]
    pub fn with_memory_limit(self, bytes: Option<usize>) -> Self {
        Self { memory_limit_bytes: bytes.or(self.memory_limit_bytes), ..self }
    }

    /// Every table that a run can make.
    #[must_use]
    pub fn all_tables(&self) -> BTreeSet<String> {
        let mut tables = jobs::all_tables();
        tables.extend(self.shop_jobs.iter().map(|job| job.table.clone()));
        tables
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunReport {
    /// Its batches, in order; none where nothing was new.
    pub batches: Vec<BatchReport>,
    /// What a person should know about the inputs.
    pub notices: Vec<Notice>,
}

/// What a batch did.
#[derive(Clone, Debug, Serialize)]
pub struct BatchReport {
    /// Its number.
    pub batch: i64,
    /// Landed objects that it took in.
    pub raw_objects: u64,
    /// Their bytes, compressed.
    pub raw_bytes: u64,
    /// Exports that it took in.
    pub exports: u64,
    /// Its jobs, in order.
    pub jobs: Vec<JobReport>,
}

/// What a job did.
#[derive(Clone, Debug, Serialize)]
pub struct JobReport {
    /// The job.
    pub job: String,
    /// Rows that it wrote, and other counts.
    pub counts: BTreeMap<String, u64>,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
}

/// Hears how a run goes on.
pub trait Progress: Send + Sync {
    /// A job begins.
    fn job_started(&self, batch: i64, job: &str);
    /// A job's tables are committed.
    fn job_finished(&self, batch: i64, report: &JobReport);
}

/// Hears nothing.
pub struct Silent;

impl Progress for Silent {
    fn job_started(&self, _: i64, _: &str) {}
    fn job_finished(&self, _: i64, _: &JobReport) {}
}

/// Brings the lake's tables up to date.
///
/// # Errors
/// [`TransformError`]. What was committed stays; the next run finishes the batch.
pub async fn run(
    lake: &Lake,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<RunReport, TransformError> {
    check(lake, options).await?;
    let targets = match &options.tables {
        Some(tables) => jobs::with_upstream(tables, &options.shop_jobs)?,
        None => options.all_tables(),
    };
    let mut report = RunReport::default();
    if jobs::SOURCE_TABLES.iter().any(|table| targets.contains(*table)) {
        add_notices(&mut report.notices, sources::live::pull(lake, &options.sources).await);
    }
    let mut lost = 0;
    loop {
        match batch::next(lake, &targets, options).await? {
            Plan::Nothing(notices) => {
                add_notices(&mut report.notices, notices);
                // A batch has looked at its tables, as of just now.
                if report.batches.is_empty() {
                    let stale = quality::idle_notices(lake, options, &targets).await?;
                    add_notices(&mut report.notices, stale);
                }
                return Ok(report);
            }
            Plan::Lost if lost >= MAX_PLAN_ATTEMPTS => {
                return Err(TransformError::Contended { attempts: lost });
            }
            Plan::Lost => lost += 1,
            Plan::Run(batch, previous, notices) => {
                add_notices(&mut report.notices, notices);
                let done = run_batch(lake, options, progress, &batch, previous.as_ref()).await?;
                add_notices(&mut report.notices, done.1);
                report.batches.push(done.0);
            }
        }
    }
}

/// One more batch, of what is new and of what `amend` puts into it; none where that is nothing.
///
/// # Errors
/// [`TransformError`]. What was committed stays; the next run finishes the batch.
pub(crate) async fn amended(
    lake: &Lake,
    options: &RunOptions,
    progress: &dyn Progress,
    report: &mut RunReport,
    amend: impl AsyncFn(&mut Batch) -> Result<bool, TransformError>,
) -> Result<(), TransformError> {
    for _ in 0..MAX_PLAN_ATTEMPTS {
        let (previous, snapshot) = batch::last(lake).await?;
        let unfinished = previous.as_ref().map(|batch| batch.batch)
            > snapshot.as_ref().map(|snapshot| snapshot.batch);
        if !unfinished {
            let planned =
                batch::plan(lake, &options.all_tables(), options, previous.as_ref()).await?;
            let (mut batch, notices) = planned;
            if !amend(&mut batch).await? {
                return Ok(());
            }
            if batch::write_down(lake, &batch).await? == Created::Yes {
                let done = run_batch(lake, options, progress, &batch, snapshot.as_ref()).await?;
                add_notices(&mut report.notices, notices);
                add_notices(&mut report.notices, done.1);
                report.batches.push(done.0);
                return Ok(());
            }
        }
        // Another run began a batch: it is finished first.
        let theirs = run(lake, options, progress).await?;
        report.batches.extend(theirs.batches);
    }
    Err(TransformError::Contended { attempts: MAX_PLAN_ATTEMPTS })
}

/// Says what is wrong with the shop's columns, jobs and checks, before anything is begun.
///
/// # Errors
/// [`TransformError::UnfitColumn`], [`TransformError::ShopJob`], [`TransformError::UnknownTable`],
/// [`TransformError::UnfitCheck`]; [`TransformError::Lake`] where the lake does not answer.
pub async fn check(lake: &Lake, options: &RunOptions) -> Result<(), TransformError> {
    let events = options.columns.events(lake).await?;
    let shop = shop::compile(lake, &options.shop_jobs, events).await?;
    let shop: Vec<&'static TableSpec> = shop.iter().map(|job| job.spec).chain([events]).collect();
    quality::check_config(&options.quality, &shop)
}

fn add_notices(all: &mut Vec<Notice>, more: Vec<Notice>) {
    for notice in more {
        if !all.contains(&notice) {
            all.push(notice);
        }
    }
}

/// Computes and commits a batch.
async fn run_batch(
    lake: &Lake,
    options: &RunOptions,
    progress: &dyn Progress,
    batch: &Batch,
    previous: Option<&Snapshot>,
) -> Result<(BatchReport, Vec<Notice>), TransformError> {
    let context = JobContext::new(lake, batch, previous, options).await?;
    let mut report = BatchReport {
        batch: batch.batch,
        raw_objects: batch.stored_objects() as u64,
        raw_bytes: batch.raw.iter().chain(&batch.replayed).map(LandedObject::share).sum(),
        exports: batch.exports.len() as u64,
        jobs: Vec::new(),
    };
    let mut notices = Vec::new();
    let mut state = State {
        derived_from: previous.map(|before| before.derived_from.clone()).unwrap_or_default(),
        held_back: previous.map(|before| before.held_back.clone()).unwrap_or_default(),
    };
    let steps = steps(&context).await?;
    for step in &steps {
        progress.job_started(batch.batch, step.name);
        // Read before the job runs: what comes later belongs to the next batch.
        let taken = step.upstream_versions(&context).await?;
        let done = run_step(&context, step).await?;
        progress.job_finished(batch.batch, &done.report);
        report.jobs.push(done.report);
        add_notices(&mut notices, done.notices);
        for spec in step.tables.iter().filter(|_| step.is_derived()) {
            state.held_back.remove(spec.name);
            let mut taken = taken.clone();
            let of = match done.is_held_back {
                true => {
                    taken.insert(CHECKS.to_owned(), options.quality.fingerprint(spec.name));
                    &mut state.held_back
                }
                false => &mut state.derived_from,
            };
            of.insert(spec.name.to_owned(), taken);
        }
    }
    quality::record(&context, &steps).await?;
    finish(&context, state).await?;
    Ok((report, notices))
}

/// What a snapshot says of derived tables.
struct State {
    derived_from: BTreeMap<String, BTreeMap<String, u64>>,
    held_back: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What became of a step.
struct Done {
    report: JobReport,
    notices: Vec<Notice>,
    /// Nothing of it was committed.
    is_held_back: bool,
}

async fn run_step(context: &JobContext<'_>, step: &Step<'_>) -> Result<Done, TransformError> {
    let started = std::time::Instant::now();
    let report = JobReport { job: step.name.to_owned(), counts: BTreeMap::new(), elapsed_ms: 0 };
    let mut done = Done { report, notices: Vec::new(), is_held_back: false };
    for attempt in 1.. {
        if step.pending(context).await?.is_empty() {
            break;
        }
        // What an attempt that failed left out is not told of the next one.
        context.bounds().take_exceeded();
        let output = match step.run(context).await {
            Ok(mut output) => {
                if context.bounds().take_exceeded() {
                    output.notices.push(exceeded(step));
                }
                output
            }
            Err(TransformError::ShopJob(error)) => {
                let advice = "correct the job: it runs again when its text, its inputs or its checks changed";
                done.notices.push(held_back(step, &error.to_string(), advice));
                done.is_held_back = true;
                break;
            }
            // One table that cannot be made is no reason to have none.
            Err(TransformError::Job { source, .. })
                if step.is_derived() && is_over_data(&source) =>
            {
                let advice = "this is a defect of clickmill's: report it; the table catches up when \
                              what it is made from changes";
                done.notices.push(held_back(step, &source.strip_backtrace(), advice));
                done.is_held_back = true;
                break;
            }
            Err(error) => return Err(error),
        };
        failpoint::hit("etl.files_written");
        // Another run finished the batch, and may be in the next one already: then
        // what was read here can hold the next one's rows, under the number of this one.
        if history::newest(context.lake, Series::Snapshots).await? >= Some(context.batch.batch) {
            break;
        }
        done.report.counts = output.counts.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        match quality::judge(context, step, &output.changes, &mut done.notices).await? {
            Verdict::Commit => {}
            Verdict::HoldBack => {
                done.is_held_back = true;
                break;
            }
        }
        let Output { changes, notices, .. } = output;
        match commit(context, step, &changes).await {
            Ok(()) => {
                add_notices(&mut done.notices, notices);
                break;
            }
            // Somebody rewrote what this job replaces: compute it again from there.
            Err(TransformError::Lake(clickmill_lake::LakeError::Conflict { .. }))
                if attempt < MAX_JOB_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
    done.report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(done)
}

/// True where a query failed over the rows that it read, as it will again: a value out of range,
/// a cast. What fails for want of memory, disk or network is none of these.
fn is_over_data(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Execution(_) => true,
        DataFusionError::ArrowError(error, _) => matches!(
            **error,
            ArrowError::CastError(_)
                | ArrowError::ComputeError(_)
                // A decimal that does not fit.
                | ArrowError::InvalidArgumentError(_)
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::DivideByZero
        ),
        _ => false,
    }
}

fn exceeded(step: &Step<'_>) -> Notice {
    Notice {
        source: step.name.to_owned(),
        subject: tables_of(step),
        severity: sources::Severity::Problem,
        problem: "some amounts or numbers of pieces are beyond what a column holds (18 digits, 4 \
                  of them after the point; 10^12 pieces), and are left out"
            .to_owned(),
        advice: "look for absurd prices and quantities in what it is made from".to_owned(),
    }
}

fn tables_of(step: &Step<'_>) -> String {
    let tables: Vec<&str> = step.tables.iter().map(|spec| spec.name).collect();
    tables.join(", ")
}

fn held_back(step: &Step<'_>, problem: &str, advice: &str) -> Notice {
    Notice {
        source: step.name.to_owned(),
        subject: tables_of(step),
        severity: sources::Severity::Problem,
        problem: format!("{problem}; the table stays as it was"),
        advice: advice.to_owned(),
    }
}

async fn commit(
    context: &JobContext<'_>,
    step: &Step<'_>,
    changes: &BTreeMap<&'static str, Change>,
) -> Result<(), TransformError> {
    for spec in &step.tables {
        let change = changes.get(spec.name).filter(|change| !change.is_empty());
        let Some(change) = change else { continue };
        // Raw inputs were joined with the table as the batch fixed it, the rest with the newest.
        let base = match context.base(spec).await? {
            Some(base) if step.name == "ingest" => base,
            _ => context.current(spec).await?,
        };
        failpoint::hit("etl.before_commit");
        let committed = base.commit(change, step.name, context.batch.batch).await?;
        match committed {
            Committed::Before(version) => {
                tracing::info!(table = spec.name, version, "the batch was in the table already");
            }
            Committed::Now(_) => failpoint::hit("etl.committed"),
        }
    }
    Ok(())
}

async fn finish(context: &JobContext<'_>, state: State) -> Result<(), TransformError> {
    let (lake, batch) = (context.lake, context.batch);
    let mut tables = BTreeMap::new();
    let mut specs: Vec<&'static TableSpec> = TABLES.to_vec();
    // The shop's tables, also those whose job is gone: they stay as they are.
    let before = context.previous.map(|snapshot| &snapshot.tables);
    let known = before.into_iter().flat_map(BTreeMap::keys).map(String::as_str);
    let now = batch.shop_jobs.iter().map(|job| job.table.as_str());
    let shop: BTreeSet<&str> =
        known.chain(now).filter(|name| TableSpec::find(name).is_none()).collect();
    for name in shop {
        specs.extend(spec_in_log(lake, name).await?);
    }
    for spec in specs {
        if let Some(table) = Table::open(lake, spec).await? {
            tables.insert(spec.name.to_owned(), table.version());
        }
    }
    let snapshot = Snapshot {
        version: SNAPSHOT_VERSION,
        batch: batch.batch,
        created_at: Timestamp::now(),
        tables,
        derived_from: state.derived_from,
        held_back: state.held_back,
    };
    // Another run may have finished the same batch: its snapshot is as good.
    failpoint::hit("etl.before_snapshot");
    let created = history::create(lake, Series::Snapshots, batch.batch, &snapshot).await?;
    failpoint::hit("etl.snapshot_written");
    match created {
        Created::Yes | Created::No => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_rows_are_to_blame_for_holds_a_table_back() {
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        let wrapped = arrow(ArrowError::DivideByZero).context("in a plan");
        for error in [
            arrow(ArrowError::CastError("too large".to_owned())),
            arrow(ArrowError::InvalidArgumentError("100 is too large to store".to_owned())),
            DataFusionError::Execution("out of range".to_owned()),
            wrapped,
        ] {
            assert!(is_over_data(&error), "{error}");
        }
        let lost = std::io::Error::other("connection reset");
        for error in [
            DataFusionError::ResourcesExhausted("no memory".to_owned()),
            DataFusionError::IoError(std::io::Error::other("disk full")),
            DataFusionError::External(Box::new(lost)),
            arrow(ArrowError::ExternalError("a file ends early".into())),
            DataFusionError::Internal("a bug".to_owned()),
        ] {
            assert!(!is_over_data(&error), "{error}");
        }
    }
}
