//! `clickmill etl backfill`: days of `events` made again by the configuration of now.

use std::process::ExitCode;
use std::time::Instant;

use clickmill_lake::Lake;
use clickmill_schemas::Date;
use clickmill_transform::RunOptions;
use clickmill_transform::backfill::{self, BackfillRange};

use super::EXIT_USAGE;
use super::etl::{ReportArgs, ReportFormat, Terminal, counted, parse_size, refused, told};
use super::out::out;

/// Give events of before the values that [columns] says now, and their channel
///
/// Takes in what is new first. Of the days in the range, those are written again whose
/// rows differ; what does not differ stays as it is, so it can be run as often as one likes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  clickmill etl backfill                                    every day that there is
  clickmill etl backfill --from 2026-10-01 --to 2026-10-31  a month
  clickmill etl backfill --channels                         channels by [channels] of now, too

Exit codes: 0 done; 1 failed, run it again to go on; 2 usage.")]
pub struct Args {
    /// The first day (UTC) [default: of the table]
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    from: Option<Date>,
    /// The last day, included [default: of the table]
    #[arg(long, value_name = "DAY", value_parser = parse_day)]
    to: Option<Date>,
    /// Also decide channels anew; sessions and all that follows from channels is made again
    #[arg(long)]
    channels: bool,
    /// What queries may hold in memory before they spill to disk (500MB, 2GB) [default: half of it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,
    #[command(flatten)]
    report: ReportArgs,
}

pub async fn run(args: Args, configured: RunOptions, lake: &Lake) -> anyhow::Result<ExitCode> {
    let Args { from, to, channels, memory_limit, report: format } = args;
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        eprintln!("error: --from is after --to");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let options = configured.with_memory_limit(memory_limit);
    if options.columns.is_empty() && !channels {
        eprintln!(
            "error: there is nothing to fill: the configuration has no [columns], and --channels \
             was not given"
        );
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    if let Some(exit) = refused(lake, &options).await? {
        return Ok(exit);
    }
    let started = Instant::now();
    let range = BackfillRange { from, to, channels };
    let done = backfill::run(lake, &options, &Terminal::new(), range).await;
    let report = match done {
        Ok(report) => report,
        Err(error) => return told(error),
    };
    for notice in &report.notices {
        eprintln!("note: {notice}");
    }
    if format.format == ReportFormat::Json {
        out!("{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    match counted(&report, "backfilled") {
        0 => out!("Nothing to do: the events of these days have what the configuration says.")?,
        rows => out!(
            "{rows} events in the days that differed were written again in {:.1} s.",
            started.elapsed().as_secs_f64()
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A UTC date.
fn parse_day(text: &str) -> Result<Date, String> {
    Date::parse(text).map_err(|_| format!("`{text}` is no day such as 2026-11-23"))
}
