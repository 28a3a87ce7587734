//! A run: batches, one after the other, until everything is taken in.
//!
//! For each job of a batch: compute the changes of its tables, commit them in
//! order, each with the transaction (job, batch). A table that has the batch
//! already is passed over. When all are done, the snapshot says so. A run that
//! dies anywhere leaves the batch unfinished; the next one finishes it.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_failpoint as failpoint;
use clickmill_lake::Lake;
use clickmill_lake::history::{self, Created, Series, Snapshot};
use clickmill_lake::table::{Change, Committed, Table};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::{TABLES, TableSpec};
use serde::{Deserialize, Serialize};

use crate::TransformError;
use crate::batch::{self, Batch, Plan};
use crate::jobs::{self, JOBS, Job, JobContext};
use crate::sources::{Notice, SourcesConfig};

/// Version of the snapshot file's JSON.
const SNAPSHOT_VERSION: u32 = 1;
/// How often a race for the next batch may be lost.
pub(crate) const MAX_PLAN_ATTEMPTS: usize = 20;
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttributionConfig {
    /// How many days before an order its touches may lie. A change holds for orders that are
    /// computed from then on.
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
    /// How orders are attributed.
    pub attribution: AttributionConfig,
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
            attribution: AttributionConfig::default(),
        }
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
    let targets = match &options.tables {
        Some(tables) => jobs::with_upstream(tables)?,
        None => jobs::all_tables(),
    };
    let mut report = RunReport::default();
    let mut lost = 0;
    loop {
        match batch::next(lake, &targets, options.daily, &options.sources).await? {
            Plan::Nothing(notices) => {
                add_notices(&mut report.notices, notices);
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

pub(crate) fn add_notices(all: &mut Vec<Notice>, more: Vec<Notice>) {
    for notice in more {
        if !all.contains(&notice) {
            all.push(notice);
        }
    }
}

/// Computes and commits a batch.
pub(crate) async fn run_batch(
    lake: &Lake,
    options: &RunOptions,
    progress: &dyn Progress,
    batch: &Batch,
    previous: Option<&Snapshot>,
) -> Result<(BatchReport, Vec<Notice>), TransformError> {
    let context = JobContext::new(lake, batch, previous, options)?;
    let mut report = BatchReport {
        batch: batch.batch,
        raw_objects: (batch.raw.len() + batch.replayed.len()) as u64,
        raw_bytes: batch.raw.iter().chain(&batch.replayed).map(|object| object.bytes).sum(),
        exports: batch.exports.len() as u64,
        jobs: Vec::new(),
    };
    let mut notices = Vec::new();
    let mut derived_from: BTreeMap<String, BTreeMap<String, u64>> =
        previous.map(|snapshot| snapshot.derived_from.clone()).unwrap_or_default();
    for job in JOBS {
        if !job.tables.iter().any(|table| *table != "rejects" && batch.targets.contains(*table)) {
            continue;
        }
        progress.job_started(batch.batch, job.name);
        // Read before the job runs: what comes later belongs to the next batch.
        let taken = upstream_versions(&context, job).await?;
        let (done, found) = run_job(&context, job).await?;
        progress.job_finished(batch.batch, &done);
        report.jobs.push(done);
        add_notices(&mut notices, found);
        for table in job.tables.iter().filter(|_| !job.upstream.is_empty()) {
            derived_from.insert((*table).to_owned(), taken.clone());
        }
    }
    finish(lake, batch, derived_from).await?;
    Ok((report, notices))
}

async fn upstream_versions(
    context: &JobContext<'_>,
    job: &Job,
) -> Result<BTreeMap<String, u64>, TransformError> {
    let mut versions = BTreeMap::new();
    for spec in job.upstream.iter().filter_map(|name| TableSpec::find(name)) {
        let table = context.current(spec).await?;
        versions.insert(spec.name.to_owned(), table.version());
    }
    Ok(versions)
}

async fn run_job(
    context: &JobContext<'_>,
    job: &Job,
) -> Result<(JobReport, Vec<Notice>), TransformError> {
    let started = std::time::Instant::now();
    let mut report = JobReport { job: job.name.to_owned(), counts: BTreeMap::new(), elapsed_ms: 0 };
    let mut notices = Vec::new();
    for attempt in 1.. {
        if pending(context, job).await?.is_empty() {
            break;
        }
        let output = (job.run)(context).await?;
        failpoint::hit("etl.files_written");
        // Another run finished the batch, and may be in the next one already: then
        // what was read here can hold the next one's rows, under the number of this one.
        if history::newest(context.lake, Series::Snapshots).await? >= Some(context.batch.batch) {
            break;
        }
        report.counts = output.counts.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        notices = output.notices;
        match commit(context, job, &output.changes).await {
            Ok(()) => break,
            // Somebody rewrote what this job replaces: compute it again from there.
            Err(TransformError::Lake(clickmill_lake::LakeError::Conflict { .. }))
                if attempt < MAX_JOB_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
    report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((report, notices))
}

/// The tables of a job that do not have the batch yet.
async fn pending(
    context: &JobContext<'_>,
    job: &Job,
) -> Result<BTreeSet<&'static str>, TransformError> {
    let mut pending = BTreeSet::new();
    for spec in job.tables.iter().filter_map(|name| TableSpec::find(name)) {
        let table = context.current(spec).await?;
        if table.batch(job.name).await?.is_none_or(|applied| applied < context.batch.batch) {
            pending.insert(spec.name);
        }
    }
    Ok(pending)
}

async fn commit(
    context: &JobContext<'_>,
    job: &Job,
    changes: &BTreeMap<&'static str, Change>,
) -> Result<(), TransformError> {
    for name in job.tables {
        let Some(change) = changes.get(name).filter(|change| !change.is_empty()) else { continue };
        let Some(spec) = TableSpec::find(name) else { continue };
        // Raw inputs were joined with the table as the batch fixed it, the rest with the newest.
        let base = match context.base(spec).await? {
            Some(base) if job.name == "ingest" => base,
            _ => context.current(spec).await?,
        };
        failpoint::hit("etl.before_commit");
        let committed = base.commit(change, job.name, context.batch.batch).await?;
        failpoint::hit("etl.committed");
        if let Committed::Before(version) = committed {
            tracing::info!(table = name, version, "the batch was in the table already");
        }
    }
    Ok(())
}

async fn finish(
    lake: &Lake,
    batch: &Batch,
    derived_from: BTreeMap<String, BTreeMap<String, u64>>,
) -> Result<(), TransformError> {
    let mut tables = BTreeMap::new();
    for spec in TABLES {
        if let Some(table) = Table::open(lake, spec).await? {
            tables.insert(spec.name.to_owned(), table.version());
        }
    }
    let snapshot = Snapshot {
        version: SNAPSHOT_VERSION,
        batch: batch.batch,
        created_at: Timestamp::now(),
        tables,
        derived_from,
    };
    // Another run may have finished the same batch: its snapshot is as good.
    failpoint::hit("etl.before_snapshot");
    let created = history::create(lake, Series::Snapshots, batch.batch, &snapshot).await?;
    failpoint::hit("etl.snapshot_written");
    match created {
        Created::Yes | Created::No => Ok(()),
    }
}
