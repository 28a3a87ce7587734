//! `clickmill demo`: see [`crate::demo`].

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::out::out;
use super::{EXIT_FAILED, EXIT_USAGE};
use crate::context::Context;
use crate::demo::{self, Options, Refused, Stream};

/// Run the whole pipeline on a simulated shop and check the result
///
/// A seeded shop sends clicks to the real collector over HTTP and exports its
/// orders and catalog as RDS and DynamoDB do. Delivery and ETL make tables of
/// them, the tables are held against the simulator's own log, and a report
/// answers five questions. Run it again on the same lake, and the next days
/// are added.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  clickmill demo                                  into ./lake
  clickmill demo --lake /tmp/shop --days 7 --seed 3
  clickmill demo --lake /tmp/shop --days 7        the week after
  AWS_ENDPOINT_URL=http://127.0.0.1:4567 clickmill demo --stream kinesis --lake s3://bucket/lake

Exit codes: 0 the tables agree with the log; 1 they do not, or something failed; 2 usage.")]
pub struct Args {
    /// Visitors who come in these days
    #[arg(long, default_value_t = 3_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    visitors: u64,

    /// Days to simulate: real ones, the first run's start 28 days ago
    #[arg(long, default_value_t = 14, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=demo::WINDOW_DAYS))]
    days: i64,

    /// The shop's seed: the same seed gives the same clicks and orders [default: 42, or the lake's own]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// What carries the clicks to the lake
    #[arg(long, value_enum, default_value_t = Stream::None)]
    stream: Stream,
}

/// Runs it; the report goes to stdout, progress to stderr.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let program = std::env::args().next().unwrap_or_else(|| "clickmill".to_owned());
    let options = Options {
        lake: context.lake.clone(),
        visitors: args.visitors,
        days: args.days,
        seed: args.seed,
        stream: args.stream,
        program,
    };
    match demo::run(options).await {
        Ok(outcome) => {
            out!("{}", outcome.text)?;
            if outcome.passed {
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!(
                "error: the tables do not agree with the simulator's log; \
                 the report says where, the log is in _clickmill/demo/truth of the lake"
            );
            Ok(ExitCode::from(EXIT_FAILED))
        }
        Err(error) if error.is::<Refused>() => {
            eprintln!("error: {error}");
            Ok(ExitCode::from(EXIT_USAGE))
        }
        Err(error) => Err(error),
    }
}
