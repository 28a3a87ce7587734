//! `clickmill deliver`: a Kinesis stream to the raw zone.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use clickmill_delivery::kinesis::{self, DeliverConfig, DeliverReport, Until};
use clickmill_lake::Lake;
use tokio_util::sync::CancellationToken;

use super::collect::stop_signal;
use crate::context::Context;

/// Deliver a Kinesis stream into the lake's raw zone, exactly once
///
/// Reads all shards at once and lands their records by a chain of commits in the
/// lake, which is also the checkpoint: kill it whenever you like, and start it
/// again, or a second one beside it. It starts at the oldest record.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  clickmill deliver --stream clicks --lake s3://shop-lake/clicks
  clickmill deliver --stream clicks --once        up to now, then end (before an ETL run)

Region, credentials and endpoints are the AWS SDKs' own: AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL_KINESIS, ...

Exit codes: 0 stopped or caught up, everything read is committed; 1 failed; 2 usage or configuration; \
3 records may have been trimmed from the stream before they were read (see the log).")]
pub struct Args {
    /// The stream's name
    #[arg(long, value_name = "NAME")]
    stream: String,

    /// End once every shard is read to its end as of now
    #[arg(long)]
    once: bool,

    /// Commit at the latest this many seconds after a record was read [default: 20]
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
}

/// Exit code where the stream may have lost records.
const EXIT_PARTIAL: u8 = 3;

/// Runs until caught up (`--once`), ctrl-C or SIGTERM.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let until = if args.once { Until::CaughtUp } else { Until::Cancelled };
    let mut settings = context.config.deliver.clone();
    settings.max_age_seconds = args.max_age.or(settings.max_age_seconds);
    let config = DeliverConfig::new(&args.stream, until).with_settings(&settings);

    let lake = Lake::open(&context.lake)
        .await
        .with_context(|| format!("cannot open the lake {}", context.lake))?;
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

    eprintln!("delivering {} to {}", args.stream, lake.url());
    let report = kinesis::run(&config, &lake, &client, &cancel).await?;
    eprintln!("{}", summary(&report));
    if report.possible_losses > 0 {
        return Ok(ExitCode::from(EXIT_PARTIAL));
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(report: &DeliverReport) -> String {
    let DeliverReport { commits, objects, events, rejects, heartbeats, possible_losses } = report;
    let mut text = format!(
        "landed {events} events, {rejects} rejects and {heartbeats} heartbeats \
         in {objects} objects, {commits} commits"
    );
    if *possible_losses > 0 {
        text.push_str(&format!("; records of {possible_losses} shards may be lost, see the log"));
    }
    text
}
