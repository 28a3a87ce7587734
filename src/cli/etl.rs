//! `clickmill etl`: brings the tables up to date, plans, tells what ran.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use clickmill_delivery::firehose::{self, FirehoseError, LocationReport, RawLocation};
use clickmill_lake::Lake;
use clickmill_lake::history::{self, Series, Snapshot};
use clickmill_lake::landing::LandedObject;
use clickmill_lake::table::spec_in_log;
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::{TABLES, TableSpec};
use clickmill_transform::batch::{self, Batch};
use clickmill_transform::sources::live::{self, LiveTable};
use clickmill_transform::sources::{Notice, Severity};
use clickmill_transform::status::{self, SourceStatus};
use clickmill_transform::{
    DailyJobs, JobReport, Progress, RunOptions, RunReport, TransformError, jobs,
};

use super::backfill;
use super::out::out;
use crate::context::Context;

/// Bring the lake's tables up to date
#[derive(clap::Args)]
#[command(after_help = "Examples:
  clickmill etl run                          everything that is new, into every table
  clickmill etl run --tables sessions        sessions, and what they are derived from
  clickmill etl run --memory-limit 2GB       spill to disk beyond that
  clickmill etl run --daily once             what looks back far only once a day: for a tight cron
  clickmill etl plan                         what the next run would take in
  clickmill etl backfill --from 2026-10-01   the shop's own [columns], for days of before
  clickmill etl status --format json         how fresh tables and sources are, for a program")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take in what is new, once: what landed, what Firehose delivered ([[raw]]), and exports
    Run(RunArgs),
    /// Say what the next run would take in; writes nothing
    Plan(ReportArgs),
    /// Give events of before the values that [columns] says now, and their channel
    Backfill(backfill::Args),
    /// Say how fresh each table and source is and what the last batch did
    Status(ReportArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// Only these tables and what they are derived from
    #[arg(long, value_delimiter = ',', value_name = "TABLE,...")]
    tables: Option<Vec<String>>,
    /// What queries may hold in memory before they spill to disk (500MB, 2GB) [default: half of it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,
    /// When the daily jobs run, those that look back far: identity, lifetime values, ...
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    daily: Daily,
    /// Where the work runs: this machine
    #[arg(long, default_value = "local", value_parser = ["local"])]
    engine: String,
    /// Exit with 3 where an input was left out, rows were rejected or a check failed
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Daily {
    /// With every run that has something new for them
    Always,
    /// With the first one of a day (UTC): for runs every few minutes
    Once,
    /// Not in this run
    Never,
}

impl From<Daily> for DailyJobs {
    fn from(daily: Daily) -> Self {
        match daily {
            Daily::Always => Self::Always,
            Daily::Once => Self::OncePerDay,
            Daily::Never => Self::Never,
        }
    }
}

#[derive(clap::Args)]
pub(super) struct ReportArgs {
    /// The form of the report on stdout
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: ReportFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReportFormat {
    Text,
    Json,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let lake = Lake::open(&context.lake).await?;
    let options = match context.config.run_options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(super::EXIT_USAGE));
        }
    };
    match args.command {
        Command::Run(args) => run_once(args, context, options, &lake).await,
        Command::Plan(args) => plan(args, options, &lake).await,
        Command::Backfill(args) => backfill::run(args, options, &lake).await,
        Command::Status(args) => status(args, options, &lake).await,
    }
}

async fn run_once(
    args: RunArgs,
    context: &Context,
    configured: RunOptions,
    lake: &Lake,
) -> anyhow::Result<ExitCode> {
    debug_assert_eq!(args.engine, "local");
    let options = RunOptions {
        tables: args.tables,
        daily: args.daily.into(),
        ..configured.with_memory_limit(args.memory_limit)
    };
    if let Some(exit) = refused(lake, &options).await? {
        return Ok(exit);
    }
    let started = Instant::now();
    let (landed, failed) = land_foreign(lake, &context.config.raw).await;
    let report = match clickmill_transform::run(lake, &options, &Terminal::new()).await {
        Ok(report) => report,
        Err(error) => return told(error),
    };
    for notice in &report.notices {
        eprintln!("note: {notice}");
    }
    match args.report.format {
        ReportFormat::Json => {
            let whole = WholeReport { landed: &landed, report: &report };
            out!("{}", serde_json::to_string_pretty(&whole)?)?;
        }
        ReportFormat::Text => print_run(&report, started)?,
    }
    // Everything else is done by now; the next run tries the location again.
    if let Some(error) = failed {
        return Err(error.into());
    }
    let rejected: u64 = counted(&report, "rejects");
    let noted = landed.iter().any(|one| !one.left_out.is_empty() || !one.overwritten.is_empty());
    let is_problem = |notice: &Notice| notice.severity == Severity::Problem;
    if args.strict && (rejected > 0 || noted || report.notices.iter().any(is_problem)) {
        return Ok(ExitCode::from(super::EXIT_PARTIAL));
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code where the tables asked for, the shop's jobs or its checks are wrong.
pub(super) async fn refused(lake: &Lake, options: &RunOptions) -> anyhow::Result<Option<ExitCode>> {
    let known =
        options.tables.as_ref().map(|wanted| jobs::with_upstream(wanted, &options.shop_jobs));
    let checked = match known {
        Some(Err(error)) => Err(error),
        _ => clickmill_transform::check(lake, options).await,
    };
    match checked {
        Ok(()) => Ok(None),
        Err(error) => told(error).map(Some),
    }
}

/// The exit code where what was asked for or configured is wrong; any other error as it is.
pub(super) fn told(error: TransformError) -> anyhow::Result<ExitCode> {
    if !error.is_usage() {
        return Err(error.into());
    }
    eprintln!("error: {error}");
    Ok(ExitCode::from(super::EXIT_USAGE))
}

#[derive(serde::Serialize)]
struct WholeReport<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    landed: &'a [LocationReport],
    #[serde(flatten)]
    report: &'a RunReport,
}

/// Lands what Firehose delivered since, and says what was; the first location that
/// failed does not keep the others, or the run, from going on.
pub(super) async fn land_foreign(
    lake: &Lake,
    locations: &[RawLocation],
) -> (Vec<LocationReport>, Option<FirehoseError>) {
    let (mut landed, mut failed) = (Vec::new(), None);
    for location in locations {
        match firehose::land(lake, location, Timestamp::now()).await {
            Ok(report) => {
                for key in &report.overwritten {
                    eprintln!(
                        "note: {}/{key} was overwritten since it was taken: it is taken again, and \
                         what was in it before stays",
                        report.location.trim_end_matches('/')
                    );
                }
                for text in &report.left_out {
                    eprintln!("note: left out: {text}");
                }
                landed.push(report);
            }
            Err(error) => {
                tracing::error!(error = %describe(&error), "a location was not taken in");
                failed.get_or_insert(error);
            }
        }
    }
    (landed, failed)
}

fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(super) fn counted(report: &RunReport, name: &str) -> u64 {
    let jobs = report.batches.iter().flat_map(|batch| &batch.jobs);
    jobs.filter_map(|job| job.counts.get(name)).sum()
}

fn print_run(report: &RunReport, started: Instant) -> anyhow::Result<()> {
    if report.batches.is_empty() {
        out!("Nothing new: every table is up to date.")?;
        return Ok(());
    }
    let mut totals: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
    for job in report.batches.iter().flat_map(|batch| &batch.jobs) {
        for (name, count) in &job.counts {
            *totals.entry(name).or_default() += count;
        }
    }
    let raw: u64 = report.batches.iter().map(|batch| batch.raw_objects).sum();
    let bytes: u64 = report.batches.iter().map(|batch| batch.raw_bytes).sum();
    let exports: u64 = report.batches.iter().map(|batch| batch.exports).sum();
    out!(
        "Took in {raw} raw objects ({}) and {exports} exports in {:.1} s; rows written:",
        human_bytes(bytes),
        started.elapsed().as_secs_f64()
    )?;
    for (name, count) in totals.iter().filter(|(name, _)| **name != "rewritten_days") {
        out!("  {name:<22} {count:>12}")?;
    }
    Ok(())
}

async fn plan(args: ReportArgs, options: RunOptions, lake: &Lake) -> anyhow::Result<ExitCode> {
    let (previous, snapshot) = batch::last(lake).await?;
    let unfinished = previous.as_ref().map(|batch| batch.batch)
        > snapshot.as_ref().map(|snapshot| snapshot.batch);
    if let Some(exit) = refused(lake, &options).await? {
        return Ok(exit);
    }
    let (next, notices) =
        batch::plan(lake, &options.all_tables(), &options, previous.as_ref()).await?;
    let live = live::tables(lake, &options.sources).await?;
    if args.format == ReportFormat::Json {
        out!("{}", serde_json::to_string_pretty(&WholePlan { batch: &next, live: &live })?)?;
    } else {
        if unfinished {
            out!("Batch {} was begun and not finished: the next run finishes it.", next.batch - 1)?;
        }
        let bytes: u64 = next.raw.iter().map(LandedObject::share).sum();
        out!(
            "Batch {} would take in {} raw objects ({}) and {} exports.",
            next.batch,
            next.stored_objects(),
            human_bytes(bytes),
            next.exports.len()
        )?;
        let days: Vec<String> = next.touched_days.iter().map(ToString::to_string).collect();
        if !days.is_empty() {
            out!("Days with events in it: {}", days.join(", "))?;
        }
        print_live(&live)?;
        for job in &next.shop_jobs {
            let inputs = job.depends.join(", ");
            let mode = job.mode.name();
            let when = match next.is_behind(&job.table, snapshot.as_ref(), &options.quality) {
                true => "it runs",
                false => "it runs if its inputs change",
            };
            out!("Job {} -> {} ({mode}, from {inputs}): {when}", job.file, job.table)?;
        }
    }
    for notice in &notices {
        eprintln!("note: {notice}");
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(serde::Serialize)]
struct WholePlan<'a> {
    #[serde(flatten)]
    batch: &'a Batch,
    /// What is read live, before the batch is put together.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    live: &'a [LiveTable],
}

fn print_live(tables: &[LiveTable]) -> anyhow::Result<()> {
    let now = Timestamp::now();
    for table in tables {
        let when = match (table.unfinished, table.read_at, table.due_at) {
            (true, ..) => "it goes on with a read that was cut off".to_owned(),
            (_, Some(read), Some(due)) if due > now => format!("not before {due}; read at {read}"),
            (_, Some(read), _) => format!("it reads it again; read at {read}"),
            _ => "it reads it for the first time".to_owned(),
        };
        out!("Live {}/{}: {when}", table.source, table.dataset)?;
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Status {
    batch: Option<i64>,
    finished_at: Option<Timestamp>,
    unfinished_batch: Option<i64>,
    newest_event_received_at: Option<Timestamp>,
    /// From the receipt of the newest event to the snapshot that shows it, milliseconds.
    click_to_row_ms: Option<i64>,
    sources: Vec<SourceStatus>,
    tables: Vec<TableStatus>,
}

#[derive(serde::Serialize)]
struct TableStatus {
    table: String,
    /// It was held back by a check, or its job failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held_back: bool,
    /// It is older than its checks of freshness allow: how old, and how old it may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stale: Vec<String>,
    version: u64,
    rows: u64,
    files: usize,
    bytes: u64,
}

async fn status(args: ReportArgs, options: RunOptions, lake: &Lake) -> anyhow::Result<ExitCode> {
    let status = gather_status(lake, &options).await?;
    if args.format == ReportFormat::Json {
        out!("{}", serde_json::to_string_pretty(&status)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(batch), Some(finished_at)) = (status.batch, status.finished_at) else {
        out!("No batch has run yet: `clickmill etl run` takes in what is there.")?;
        return Ok(ExitCode::SUCCESS);
    };
    let ago = (Timestamp::now().micros() - finished_at.micros()) / 1_000_000;
    out!("Batch {batch} finished {ago} s ago, at {finished_at}.")?;
    if let Some(unfinished) = status.unfinished_batch {
        out!("Batch {unfinished} was begun and not finished: the next run finishes it.")?;
    }
    if let (Some(received), Some(delay)) = (status.newest_event_received_at, status.click_to_row_ms)
    {
        out!(
            "Newest event: received at {received}, in the tables {:.1} s later.",
            delay as f64 / 1_000.0
        )?;
    }
    print_sources(&status.sources)?;
    out!("\n{:<22} {:>12} {:>7} {:>10} {:>8}", "table", "rows", "files", "size", "version")?;
    for table in &status.tables {
        out!(
            "{:<22} {:>12} {:>7} {:>10} {:>8}{}",
            table.table,
            table.rows,
            table.files,
            human_bytes(table.bytes),
            table.version,
            if table.held_back { "  held back: see `etl run`" } else { "" }
        )?;
        for problem in &table.stale {
            out!("{:<22} stale: {problem}", "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_sources(sources: &[SourceStatus]) -> anyhow::Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    out!(
        "\n{:<28} {:>8} {:>12} {:>10} {:>10}  data of",
        "source",
        "exports",
        "rows",
        "deletes",
        "rejects"
    )?;
    for source in sources {
        let name = format!("{}/{}", source.source, source.dataset);
        let ago = human_age((Timestamp::now().micros() - source.newest.micros()) / 1_000_000);
        out!(
            "{name:<28} {:>8} {:>12} {:>10} {:>10}  {} ({ago} ago)",
            source.exports,
            source.rows_taken,
            source.rows_deleted,
            source.rows_rejected,
            source.newest
        )?;
        if let Some(until) = source.complete_until.filter(|until| *until < source.newest) {
            out!("{:<28} complete until {until}: an export is missing after it", "")?;
        }
        if source.overlaps > 0 {
            out!("{:<28} {} windows overlap others, which changes nothing", "", source.overlaps)?;
        }
        if !source.has_beginning {
            out!("{:<28} incomplete: there was no full export or load", "")?;
        }
    }
    Ok(())
}

/// `5 s`, `12 min`, `30 h`, `9 d`.
fn human_age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

async fn gather_status(lake: &Lake, options: &RunOptions) -> anyhow::Result<Status> {
    let newest = history::newest(lake, Series::Snapshots).await?;
    let newest_batch = history::newest(lake, Series::Batches).await?;
    let mut status = Status {
        batch: newest,
        finished_at: None,
        unfinished_batch: newest_batch.filter(|batch| Some(*batch) > newest),
        newest_event_received_at: None,
        click_to_row_ms: None,
        sources: Vec::new(),
        tables: Vec::new(),
    };
    let Some(number) = newest else { return Ok(status) };
    let snapshot: Snapshot = history::read(lake, Series::Snapshots, number).await?;
    status.finished_at = Some(snapshot.created_at);
    let batch: Batch = history::read(lake, Series::Batches, number).await?;
    let events = batch.raw.iter().filter(|object| !object.event_dates.is_empty());
    status.newest_event_received_at = events.map(|object| object.max_received_ts).max();
    status.click_to_row_ms = status
        .newest_event_received_at
        .map(|received| (snapshot.created_at.micros() - received.micros()) / 1_000);
    status.sources = status::of_sources(lake, &snapshot, &batch).await?;
    let mut specs = TABLES.to_vec();
    for name in snapshot.tables.keys().filter(|name| TableSpec::find(name).is_none()) {
        specs.extend(spec_in_log(lake, name).await?);
    }
    let stale = status::stale_tables(lake, options, Timestamp::now()).await?;
    for spec in specs {
        let table = history::open_table(lake, Some(&snapshot), spec)
            .await
            .with_context(|| format!("reading the table {}", spec.name))?;
        let Some(table) = table else { continue };
        let stale = stale.iter().filter(|stale| stale.table == spec.name);
        status.tables.push(TableStatus {
            table: spec.name.to_owned(),
            held_back: snapshot.held_back.contains_key(spec.name),
            stale: stale.map(|stale| stale.problem.clone()).collect(),
            version: table.version(),
            rows: table.rows(),
            files: table.files().len(),
            bytes: table.files().iter().map(|file| file.bytes).sum(),
        });
    }
    Ok(status)
}

/// One line that is rewritten on a terminal; a line a job elsewhere.
pub struct Terminal {
    rewrites: bool,
    started: Mutex<Instant>,
}

impl Terminal {
    pub fn new() -> Self {
        let rewrites = std::io::stderr().is_terminal();
        Self { rewrites, started: Mutex::new(Instant::now()) }
    }
}

impl Progress for Terminal {
    fn job_started(&self, batch: i64, job: &str) {
        if let Ok(mut started) = self.started.lock() {
            *started = Instant::now();
        }
        if self.rewrites {
            eprint!("\r\x1b[2Kbatch {batch}: {job} ...");
        }
    }

    fn job_finished(&self, batch: i64, report: &JobReport) {
        let rows: u64 = report
            .counts
            .iter()
            .filter(|(name, _)| *name != "rewritten_days")
            .map(|(_, count)| count)
            .sum();
        let clear = if self.rewrites { "\r\x1b[2K" } else { "" };
        eprintln!(
            "{clear}batch {batch}: {:<16} {rows:>12} rows {:>8.1} s",
            report.job,
            report.elapsed_ms as f64 / 1_000.0
        );
    }
}

/// `500MB`, `2GB`, `1.5GiB`, or plain bytes.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "T" | "TB" => 1e12,
        "KIB" => 1024.0,
        "MIB" => 1024.0 * 1024.0,
        "GIB" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("`{other}` is no unit of size; use MB, GB, MiB or GiB")),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * unit) as usize),
        _ => Err(format!("`{text}` is no size such as 500MB or 2GB")),
    }
}

/// A size for people: three digits and a unit.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}
