//! `clickmill replay`: taking in again what was taken before.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Subcommand, ValueEnum};
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use clickmill_transform::Silent;
use clickmill_transform::replay::{self, RejectsReport, ReplayRange};

use super::EXIT_USAGE;
use super::audit::parse_time;
use crate::context::Context;

/// Take in again what was taken before: raw objects, or rejects after a fix
///
/// Both can be run as often as one likes: what the tables hold already changes
/// nothing, however old it is.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Raw(RawArgs),
    Rejects(RejectsArgs),
}

/// Make rows again from raw objects, where they are missing from the tables
///
/// Finishes what is new first, then takes the objects of the range in again. A row
/// that is in events or event_duplicates with the same lineage stays as it is; one
/// that is missing comes back, and derived tables follow.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill replay raw --from 2026-11-23 --to 2026-11-24        what was received on a day
  clickmill replay raw raw/events/dt=2026-11-23/hour=17/        an hour's objects
  clickmill audit && echo nothing is missing                    before and after

Exit codes: 0 done; 1 failed, run it again to go on; 2 usage. docs/audit.md says when it helps.")]
struct RawArgs {
    #[command(flatten)]
    range: RangeArgs,

    /// Beginnings of paths in the lake [default: everything in the range of time]
    #[arg(value_name = "PREFIX")]
    prefixes: Vec<String>,
}

/// Decode rejects again, and land those that are events by now
///
/// For lines that an older release, or Firehose, could not take: bytes of a reject
/// that decode as an event are landed in the raw zone, once; the next `etl run` takes
/// them in. Bytes of HTTP requests and of imported rows are no such lines: send
/// requests again, and import again with the mapping put right.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill replay rejects && clickmill etl run
  clickmill replay rejects --from 2026-11-23 --format json

Exit codes: 0 done; 1 failed, run it again to go on; 2 usage.")]
struct RejectsArgs {
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(clap::Args)]
struct RangeArgs {
    /// Received at this time or later: 2026-11-23 or 2026-11-23T17:40:00Z [default: the beginning]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<Timestamp>,

    /// Received before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<Timestamp>,

    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (range, prefixes) = match &args.what {
        What::Raw(args) => (&args.range, args.prefixes.clone()),
        What::Rejects(args) => (&args.range, Vec::new()),
    };
    if range.from.zip(range.to).is_some_and(|(from, to)| from >= to) {
        eprintln!("error: --from is not before --to");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let lake = Lake::open(&context.lake).await?;
    let (format, range) = (range.format, ReplayRange { from: range.from, to: range.to, prefixes });
    match args.what {
        What::Raw(_) => raw(&lake, context, &range, format).await?,
        What::Rejects(_) => rejects(&lake, &range, format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn raw(
    lake: &Lake,
    context: &Context,
    range: &ReplayRange,
    format: Format,
) -> anyhow::Result<()> {
    let options = context.config.run_options()?;
    let started = Instant::now();
    let report = replay::raw(lake, &options, &Silent, range).await?;
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let jobs = || report.batches.iter().flat_map(|batch| &batch.jobs);
    let count = |name: &str| -> u64 { jobs().filter_map(|job| job.counts.get(name)).sum() };
    println!(
        "Took in {} objects again or anew in {:.1} s: {} events, {} extra copies and {} rejects \
         were not in the tables.",
        report.batches.iter().map(|batch| batch.raw_objects).sum::<u64>(),
        started.elapsed().as_secs_f64(),
        count("events"),
        count("event_duplicates"),
        count("rejects"),
    );
    Ok(())
}

async fn rejects(lake: &Lake, range: &ReplayRange, format: Format) -> anyhow::Result<()> {
    let report = replay::rejects(lake, range).await?;
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let RejectsReport { looked_at, landed, landed_before, still_rejected } = report;
    println!(
        "Of {looked_at} rejects {landed} are events by now and were landed, {landed_before} had \
         been landed before, {still_rejected} are none."
    );
    if landed > 0 {
        println!("next: clickmill etl run");
    }
    Ok(())
}
