//! `clickmill up`: collector, delivery and scheduled ETL in one process.

use std::process::ExitCode;
use std::time::Duration;

use clickmill_delivery::firehose::RawLocation;
use clickmill_delivery::kinesis::{self, DeliverConfig, Leases, Until};
use clickmill_lake::Lake;
use clickmill_transform::sources::Notice;
use clickmill_transform::{DailyJobs, RunOptions, RunReport, Silent};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::collect::{self, DRAIN_DEADLINE, Opened, SinkChoice, describe_drain, stop_signal};
use crate::context::Context;

/// After a failed run the next one waits this many times longer, up to [`MAX_WAIT`].
const FAILURE_FACTOR: u32 = 2;
/// The longest wait between two runs.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Run the whole pipeline: collector, delivery and scheduled ETL
///
/// From a click to a row that SQL sees takes less than a minute. Ctrl-C (or
/// SIGTERM) drains: what was answered with 200 is in the tables when it ends.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill up                                             http://127.0.0.1:8080 -> ./lake
  clickmill up --listen 0.0.0.0:8080 --write-key 9hbkJNpR --lake /srv/lake
  clickmill up --sink kinesis=clicks --lake s3://shop-lake/clicks

Beside it, in another terminal:
  clickmill etl status
  clickmill sql -c 'SELECT event_name, count(*) FROM events GROUP BY event_name'")]
pub struct Args {
    #[command(flatten)]
    collect: collect::Args,

    /// Seconds between two ETL runs
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    etl_every: u64,
}

/// Runs until ctrl-C or SIGTERM.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let lake = Lake::open(&context.lake).await?;
    let opened = match Opened::new(&args.collect, context).await? {
        Ok(opened) => opened,
        Err(usage) => return Ok(usage),
    };
    eprintln!("clickmill up: {}", opened.describe(&context.lake));
    let options = RunOptions {
        // Runs follow each other by seconds; what looks back far would outweigh what is new.
        daily: DailyJobs::OncePerDay,
        ..context.config.run_options()?
    };

    let stop_etl = CancellationToken::new();
    let every = Duration::from_secs(args.etl_every);
    let etl = schedule(
        lake.clone(),
        options.clone(),
        context.config.raw.clone(),
        every,
        stop_etl.clone(),
    );
    let etl = tokio::spawn(etl);
    let stop_delivery = CancellationToken::new();
    let delivery = deliver(&opened.sink, &lake, context, &stop_delivery).await;

    // In the order of the data: no new clicks, the spool empty, the stream
    // read, and then a last run over what that landed.
    let Opened { collector, server, spool, sink } = opened;
    server.run(stop).await;
    eprintln!("clickmill up: draining");
    let drained = collector.shutdown(DRAIN_DEADLINE).await;
    stop_delivery.cancel();
    if let Some(delivery) = delivery {
        delivery.await??;
        catch_up(&sink, &lake, context).await?;
    }
    stop_etl.cancel();
    let mut said = etl.await?;
    let _ = super::etl::land_foreign(&lake, &context.config.raw).await;
    let report = clickmill_transform::run(&lake, &options, &Silent).await?;
    say(&report, &mut said);
    eprintln!("clickmill up: {}", describe_drain(drained.left, &spool));
    Ok(ExitCode::SUCCESS)
}

type Delivery = JoinHandle<Result<kinesis::DeliverReport, kinesis::DeliverError>>;

/// With a stream as the sink, its worker runs here, too.
async fn deliver(
    sink: &SinkChoice,
    lake: &Lake,
    context: &Context,
    stop: &CancellationToken,
) -> Option<Delivery> {
    let SinkChoice::Kinesis(stream) = sink else { return None };
    let settings = context.config.deliver.clone();
    let mut config = DeliverConfig::new(stream, Until::Cancelled).with_settings(&settings);
    let aws = clickmill_lake::aws::sdk_config().await;
    if let Some(leases) = &settings.leases {
        config.leases = Leases::new(leases, &aws);
    }
    let client = kinesis::client(&aws);
    let (lake, stop) = (lake.clone(), stop.clone());
    Some(tokio::spawn(async move { kinesis::run(&config, &lake, &client, &stop).await }))
}

/// Reads the stream to its end as of now: the collector has just emptied its spool into it.
async fn catch_up(sink: &SinkChoice, lake: &Lake, context: &Context) -> anyhow::Result<()> {
    let SinkChoice::Kinesis(stream) = sink else { return Ok(()) };
    let config = DeliverConfig::new(stream, Until::CaughtUp).with_settings(&context.config.deliver);
    let client = kinesis::client(&clickmill_lake::aws::sdk_config().await);
    kinesis::run(&config, lake, &client, &CancellationToken::new()).await?;
    Ok(())
}

/// Runs the ETL again and again, and answers what it has said. A failure is said and tried again:
/// nothing is lost meanwhile.
async fn schedule(
    lake: Lake,
    options: RunOptions,
    raw: Vec<RawLocation>,
    every: Duration,
    stop: CancellationToken,
) -> Said {
    let mut wait = every;
    let mut said = Said::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return said,
            () = tokio::time::sleep(wait) => {}
        }
        // A location that failed is in the log, and is tried again with the next run.
        let _ = super::etl::land_foreign(&lake, &raw).await;
        match clickmill_transform::run(&lake, &options, &Silent).await {
            Ok(report) => {
                wait = every;
                say(&report, &mut said);
            }
            Err(error) => {
                wait = (wait * FAILURE_FACTOR).min(MAX_WAIT);
                tracing::error!(
                    error = %anyhow::Error::from(error).chain().map(ToString::to_string).collect::<Vec<_>>().join(": "),
                    retry_in_seconds = wait.as_secs(),
                    "the ETL run failed; it is tried again"
                );
            }
        }
    }
}

/// Says what a run did, and of its notices those that the run before had not.
fn say(report: &RunReport, said: &mut Said) {
    for batch in &report.batches {
        let count =
            |name: &str| -> u64 { batch.jobs.iter().filter_map(|job| job.counts.get(name)).sum() };
        eprintln!(
            "clickmill up: batch {}: {} events, {} extra copies, {} rejects",
            batch.batch,
            count("events"),
            count("event_duplicates"),
            count("rejects")
        );
    }
    for notice in said.news(&report.notices, !report.batches.is_empty()) {
        eprintln!("note: {notice}");
    }
}

/// What need not be said again.
#[derive(Default)]
struct Said {
    /// Of the last run.
    last: Vec<Notice>,
    /// Of the last one that had a batch: one that found nothing to do looks at less.
    with_batch: Vec<Notice>,
}

impl Said {
    /// What was not said before. What went away and comes back is said again.
    fn news(&mut self, notices: &[Notice], has_batch: bool) -> Vec<Notice> {
        let is_new =
            |notice: &&Notice| !self.last.contains(notice) && !self.with_batch.contains(notice);
        let news = notices.iter().filter(is_new).cloned().collect();
        self.last = notices.to_vec();
        if has_batch {
            self.with_batch = notices.to_vec();
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use clickmill_transform::sources::Severity;

    use super::*;

    #[test]
    fn a_notice_is_said_when_it_comes_and_not_each_cycle() {
        let notice = |subject: &str| Notice {
            source: "shop".to_owned(),
            subject: subject.to_owned(),
            severity: Severity::Problem,
            problem: "it is left out".to_owned(),
            advice: "look".to_owned(),
        };
        let mut said = Said::default();
        let (batch, idle) = (true, false);
        let runs: [(bool, &[&str], &[&str]); 9] = [
            (batch, &["a"], &["a"]),
            (batch, &["a"], &[]),
            (batch, &["a", "b"], &["b"]),
            (batch, &["b"], &[]),
            (batch, &["a"], &["a"]),
            // An idle run says what it finds, and forgets nothing that a batch found.
            (idle, &["stale"], &["stale"]),
            (idle, &["stale"], &[]),
            (batch, &["a", "stale"], &[]),
            (batch, &["b"], &["b"]),
        ];
        for (has_batch, found, expected) in runs {
            let found: Vec<Notice> = found.iter().map(|subject| notice(subject)).collect();
            let news = said.news(&found, has_batch);
            let news: Vec<&str> = news.iter().map(|notice| notice.subject.as_str()).collect();
            assert_eq!(news, expected);
        }
    }
}
