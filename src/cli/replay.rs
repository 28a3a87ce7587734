//! `clickmill replay`: taking in again what was taken before.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Subcommand, ValueEnum};
use clickmill_delivery::kinesis::{self, DeliverConfig, Until};
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use clickmill_transform::Silent;
use clickmill_transform::replay::{self, RejectsReport, ReplayRange};
use tokio_util::sync::CancellationToken;

use super::EXIT_USAGE;
use super::audit::parse_time;
use super::collect::stop_signal;
use super::etl;
use super::out::out;
use crate::context::Context;

/// Take in again what was taken before: raw objects, records of a stream, or rejects after a fix
///
/// All can be run as often as one likes: what the tables hold already changes
/// nothing, however old it is.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Raw(RawArgs),
    Stream(StreamArgs),
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

/// Land records again that the stream still holds, where their raw objects or rows are gone
///
/// Reads what arrived in the range, by Kinesis' clock, from every shard, and lands it in
/// chains of its own; the next `etl run` makes rows of what the tables lack, and of nothing
/// else. What an earlier replay landed is left out, and so is what `clickmill deliver`
/// has yet to land. Of a delivery that began late, it lands what came before.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill replay stream clicks --from 2026-11-23T17:00:00Z --to 2026-11-23T18:00:00Z
  clickmill replay stream clicks --from 2026-11-23 && clickmill etl run

Exit codes: 0 done; 1 failed, run it again to go on; 2 usage.")]
struct StreamArgs {
    /// The stream's name
    #[arg(value_name = "STREAM")]
    stream: String,

    /// Arrived at this time or later: 2026-11-23 or 2026-11-23T17:40:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Timestamp,

    /// Arrived before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<Timestamp>,

    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
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
    let (from, to) = match &args.what {
        What::Raw(RawArgs { range, .. }) | What::Rejects(RejectsArgs { range }) => {
            (range.from, range.to)
        }
        What::Stream(args) => (Some(args.from), Some(args.to.unwrap_or_else(Timestamp::now))),
    };
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        eprintln!("error: --from is not before --to");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let lake = Lake::open(&context.lake).await?;
    match args.what {
        What::Raw(RawArgs { range, prefixes }) => {
            let replayed = ReplayRange { from, to, prefixes };
            return raw(&lake, context, &replayed, range.format).await;
        }
        What::Rejects(RejectsArgs { range }) => {
            rejects(&lake, &ReplayRange { from, to, prefixes: Vec::new() }, range.format).await?;
        }
        What::Stream(args) => stream(&lake, context, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn stream(lake: &Lake, context: &Context, args: &StreamArgs) -> anyhow::Result<()> {
    let config = DeliverConfig::new(&args.stream, Until::CaughtUp);
    let config = config.with_settings(&context.config.deliver);
    let range =
        kinesis::ReplayRange { from: args.from, to: args.to.unwrap_or_else(Timestamp::now) };
    let client = kinesis::client(&clickmill_lake::aws::sdk_config().await);
    let cancel = CancellationToken::new();
    let stop = stop_signal()?;
    tokio::spawn({
        let cancel = cancel.clone();
        async move {
            stop.await;
            cancel.cancel();
        }
    });
    let report = kinesis::replay(&config, range, lake, &client, &cancel).await?;
    if args.format == Format::Json {
        out!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        out!(
            "Of {} records in {} shards {} events and {} rejects were landed; {} records had been \
             landed by a replay before, {} are for `clickmill deliver` to land.",
            report.records,
            report.shards,
            report.events,
            report.rejects,
            report.landed_before,
            report.yet_to_come,
        )?;
        if report.events + report.rejects > 0 {
            out!("next: clickmill etl run")?;
        }
    }
    anyhow::ensure!(!cancel.is_cancelled(), "stopped before the end of the range: run it again");
    Ok(())
}

async fn raw(
    lake: &Lake,
    context: &Context,
    range: &ReplayRange,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let options = match context.config.run_options() {
        Ok(options) => options,
        Err(error) => return etl::told(error.into()),
    };
    let started = Instant::now();
    let report = match replay::raw(lake, &options, &Silent, range).await {
        Ok(report) => report,
        Err(error) => return etl::told(error),
    };
    if format == Format::Json {
        out!("{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let jobs = || report.batches.iter().flat_map(|batch| &batch.jobs);
    let count = |name: &str| -> u64 { jobs().filter_map(|job| job.counts.get(name)).sum() };
    out!(
        "Took in {} objects again or anew in {:.1} s: {} events, {} extra copies and {} rejects \
         were not in the tables.",
        report.batches.iter().map(|batch| batch.raw_objects).sum::<u64>(),
        started.elapsed().as_secs_f64(),
        count("events"),
        count("event_duplicates"),
        count("rejects"),
    )?;
    if report.batches.is_empty() {
        out!("No object that a batch took lies in this range: check the prefix and the times.")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn rejects(lake: &Lake, range: &ReplayRange, format: Format) -> anyhow::Result<()> {
    let report = replay::rejects(lake, range).await?;
    if format == Format::Json {
        out!("{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    let RejectsReport { looked_at, landed, landed_before, still_rejected } = report;
    out!(
        "Of {looked_at} rejects {landed} are events by now and were landed, {landed_before} had \
         been landed before, {still_rejected} are none."
    )?;
    if landed > 0 {
        out!("next: clickmill etl run")?;
    }
    Ok(())
}
