//! `clickmill deliver`: a Kinesis stream to the raw zone.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::header::CONTENT_TYPE;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use clickmill_delivery::kinesis::{
    self, Begin, DeliverConfig, DeliverReport, LeaseSetting, Leases, Monitor, Retrieval,
    RetrievalMode, ShardPhase, ShardState, Status, Until, WorkerName,
};
use clickmill_lake::Lake;
use clickmill_lake::raw::RawFormat;
use tokio_util::sync::CancellationToken;

use super::collect::stop_signal;
use super::etl::human_bytes;
use super::out::{self, out};
use super::{EXIT_PARTIAL, EXIT_USAGE};
use crate::context::Context;

/// Deliver a Kinesis stream into the lake's raw zone, exactly once
///
/// Lands the records of the stream's shards by chains of commits in the lake,
/// which are also the checkpoints: kill it whenever you like, and start it again.
/// Workers on one stream and lake share the shards by themselves: start as many
/// as you like. The first one starts at the oldest record, or where --from says.
#[derive(ClapArgs)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  clickmill --lake s3://shop-lake/clicks deliver --stream clicks
  clickmill deliver --stream clicks --once        up to now, then end (before an ETL run)
  clickmill deliver --stream clicks --from 2026-11-23T00:00:00Z
  clickmill deliver --stream clicks --format parquet
  clickmill deliver --stream clicks --leases dynamodb=clickmill-clicks
  clickmill deliver --stream clicks --retrieval-mode fan_out=clickmill-shop
  clickmill deliver --stream clicks --state /var/lib/clickmill
  clickmill deliver --stream clicks --metrics-listen 127.0.0.1:9108
  clickmill deliver status --stream clicks        who reads what, and how far behind

With --once it reads every shard itself, whoever else does, so that all of them are landed when it ends; \
with --once --leases lake, what other workers read is left to them.

With fan_out=CONSUMER the stream's records are pushed to a consumer of that name, apart from all other readers; it is registered where it does not exist, and never removed: AWS charges for it by the hour and shard until you do (aws kinesis deregister-stream-consumer).

Region, credentials and endpoints are the AWS SDKs' own: AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL_KINESIS, ...

Exit codes: 0 stopped or caught up, everything read is committed; 1 failed; 2 usage or configuration; \
3 records may have been trimmed from the stream before they were read (see the log).")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// The stream's name
    #[arg(long, value_name = "NAME", required = true)]
    stream: Option<String>,

    /// End once every shard is read to its end as of now
    #[arg(long)]
    once: bool,

    /// Commit at the latest this many seconds after a record was read [default: 20]
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,

    /// How raw objects of events are stored: json (JSON lines, gzip) or parquet (zstd). All that
    /// reads them reads both, side by side [default: json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<RawFormat>,

    /// Where to begin a stream that this lake has nothing of yet: trim_horizon (its oldest
    /// record), latest, or a time as 2026-11-23 or 2026-11-23T17:40:00Z. Checkpoints always win
    /// [default: trim_horizon]
    #[arg(long, value_name = "WHERE")]
    from: Option<Begin>,

    /// Where workers say which shards they read: lake, dynamodb=TABLE (in the KCL's
    /// layout) or none (this one reads all) [default: lake; none with --once]
    #[arg(long, value_name = "WHERE")]
    leases: Option<LeaseSetting>,

    /// How records come: polling (2 MB/s a shard, shared with all that poll) or fan_out=CONSUMER
    /// (enhanced fan-out: 2 MB/s a shard for this consumer alone, at a price) [default: polling]
    #[arg(long, value_name = "MODE")]
    retrieval_mode: Option<RetrievalMode>,

    /// A folder on this machine that keeps the worker's name: killed and started again, it goes on
    /// with its own shards at once, without waiting for --leases to expire [default: a new name]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Serve Prometheus metrics at http://ADDRESS/metrics; they name the stream and its shards
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

#[derive(Subcommand)]
enum Command {
    Status(StatusArgs),
}

/// Show who reads each shard, how far it has landed and how far behind that is
///
/// Reads the stream's shards, the chains of commits and the leases; changes nothing.
/// It takes one read of each shard from the stream's quota.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  clickmill --lake s3://shop-lake/clicks deliver status --stream clicks
  clickmill deliver status --stream clicks --format json

Exit codes: 0 shown; 1 failed; 2 usage or configuration.")]
struct StatusArgs {
    /// The stream's name
    #[arg(long, value_name = "NAME")]
    stream: String,

    /// Where the workers' leases are: lake, dynamodb=TABLE or none [default: lake]
    #[arg(long, value_name = "WHERE")]
    leases: Option<LeaseSetting>,

    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// One JSON object
    Json,
}

/// How often progress is shown on a terminal.
const PROGRESS: Duration = Duration::from_secs(1);

/// Runs until caught up (`--once`), ctrl-C or SIGTERM.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    if let Some(Command::Status(args)) = args.command {
        return status(args, context).await;
    }
    let Some(stream) = args.stream else { return Ok(ExitCode::from(EXIT_USAGE)) };
    let until = if args.once { Until::CaughtUp } else { Until::Cancelled };
    let mut settings = context.config.deliver.clone();
    settings.max_age_seconds = args.max_age.or(settings.max_age_seconds);
    settings.format = args.format.or(settings.format);
    let mut config = DeliverConfig::new(&stream, until).with_settings(&settings);
    config.from = args.from.unwrap_or_default();
    let aws = clickmill_lake::aws::sdk_config().await;
    if let Some(leases) = args.leases.or(settings.leases) {
        config.leases = Leases::new(&leases, &aws);
    }
    if let Some(mode) = args.retrieval_mode.or(settings.retrieval_mode) {
        config.retrieval = Retrieval::new(&mode, &aws);
    }
    let lake = open(context).await?;
    // Held until the end: the name is this process' as long as it lives.
    let name = match args.state.as_ref().or(settings.state.as_ref()) {
        Some(folder) => {
            Some(WorkerName::claim(folder, &stream, lake.url().as_str()).with_context(|| {
                format!(
                    "cannot keep the worker's name in {}; give --state a folder",
                    folder.display()
                )
            })?)
        }
        None => None,
    };
    config.worker = name.as_ref().map(|name| name.as_str().to_owned());
    let client = kinesis::client(&aws);
    let monitor = Arc::new(Monitor::default());
    let cancel = CancellationToken::new();
    let done = CancellationToken::new();
    let stop = stop_signal()?;
    tokio::spawn({
        let cancel = cancel.clone();
        async move {
            stop.await;
            cancel.cancel();
        }
    });
    if let Some(address) = args.metrics_listen {
        serve_metrics(address, &stream, &monitor, &done).await?;
    }
    let mut progress = None;
    if std::io::stderr().is_terminal() {
        progress = Some(tokio::spawn(show_progress(Arc::clone(&monitor), done.clone())));
    }

    eprintln!("delivering {stream} to {}", lake.url());
    let outcome = kinesis::run_watched(&config, &lake, &client, &cancel, &monitor).await;
    done.cancel();
    if let Some(progress) = progress {
        // It clears its line.
        progress.await?;
    }
    let report = outcome?;
    eprintln!("{}", summary(&report));
    if report.possible_losses > 0 {
        return Ok(ExitCode::from(EXIT_PARTIAL));
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(context: &Context) -> anyhow::Result<Lake> {
    Lake::open(&context.lake)
        .await
        .with_context(|| format!("cannot open the lake {}", context.lake))
}

/// Listens, and serves in the background until `done`.
async fn serve_metrics(
    address: SocketAddr,
    stream: &str,
    monitor: &Arc<Monitor>,
    done: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics"))?;
    eprintln!("metrics at http://{}/metrics", listener.local_addr()?);
    let (stream, monitor) = (stream.to_owned(), Arc::clone(monitor));
    let scrape = move || {
        let text = monitor.state().prometheus(&stream);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(scrape));
    let done = done.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(done).await {
            tracing::warn!(%error, "metrics are served no more");
        }
    });
    Ok(())
}

/// One line, rewritten, on a terminal: how far behind, and how fast.
async fn show_progress(monitor: Arc<Monitor>, done: CancellationToken) {
    let mut before = monitor.state();
    loop {
        tokio::select! {
            () = done.cancelled() => break,
            () = tokio::time::sleep(PROGRESS) => {}
        }
        let now = monitor.state();
        let behind = now.shards.values().filter_map(ShardState::millis_behind_now).max();
        let behind = behind.map_or_else(|| "-".to_owned(), |millis| duration(millis / 1_000));
        eprint!(
            "\r\x1b[2K{} of {} shards, {behind} behind, {} records ({}/s), {:.1} MB ({:.1} MB/s)",
            now.shards.len(),
            now.readable,
            now.records,
            now.records - before.records,
            now.bytes as f64 / 1e6,
            (now.bytes - before.bytes) as f64 / 1e6,
        );
        let _ = std::io::stderr().flush();
        before = now;
    }
    eprint!("\r\x1b[2K");
    let _ = std::io::stderr().flush();
}

async fn status(args: StatusArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let settings = &context.config.deliver;
    let mut config = DeliverConfig::new(&args.stream, Until::CaughtUp).with_settings(settings);
    let aws = clickmill_lake::aws::sdk_config().await;
    let leases = args.leases.or(settings.leases.clone()).unwrap_or(LeaseSetting::Lake);
    config.leases = Leases::new(&leases, &aws);
    let status = kinesis::status(&config, &open(context).await?, &kinesis::client(&aws)).await?;
    match args.format {
        Format::Json => out!("{}", serde_json::to_string_pretty(&status)?)?,
        Format::Table => out::text(table(&status))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What fits into 80 columns; the JSON has the rest.
fn table(status: &Status) -> String {
    let mut text = format!(
        "{:<20} {:<8} {:<8} {:>8} {:>9} {:>8} {:>8}\n",
        "shard", "state", "worker", "behind", "lines", "lines/s", "object"
    );
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for shard in &status.shards {
        let owner = shard.owner.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{:<20} {:<8} {:<8} {:>8} {:>9} {:>8} {:>8}\n",
            shard.shard,
            phase(shard.state),
            owner.chars().take(8).collect::<String>(),
            or_none(shard.millis_behind.map(|millis| duration(millis / 1_000))),
            or_none(shard.lines_behind.map(|lines| format!("~{lines}"))),
            or_none(shard.lines_per_second.map(|rate| format!("{rate:.1}"))),
            or_none(shard.object_bytes.map(human_bytes)),
        ));
    }
    let began = match (status.begun_at, status.from) {
        (None, _) => "nothing of it was delivered into this lake yet".to_owned(),
        (Some(_), None) => "delivery began at its oldest record".to_owned(),
        (Some(_), Some(from)) => format!("delivery began at {from}"),
    };
    text.push_str(&format!(
        "\n{}: {} shards, {} workers; {began}\n",
        status.stream,
        status.shards.len(),
        status.workers.len(),
    ));
    let retried = status.retries.iter().filter(|(_, retries)| **retries > 0);
    let retried: Vec<String> = retried
        .map(|(worker, retries)| {
            format!("{} {retries}", worker.chars().take(8).collect::<String>())
        })
        .collect();
    if !retried.is_empty() {
        text.push_str("Requests that workers tried again since they started:\n");
        for some in retried.chunks(5) {
            text.push_str(&format!("  {}\n", some.join(", ")));
        }
    }
    if let Some(table) = &status.missing_lease_table {
        text.push_str(&format!(
            "There is no table {table} in DynamoDB, so who reads is not known: give --leases as the \
             workers have it.\n"
        ));
    }
    text
}

fn phase(state: ShardPhase) -> &'static str {
    match state {
        ShardPhase::Leased => "leased",
        ShardPhase::Free => "free",
        ShardPhase::Waiting => "waiting",
        ShardPhase::Drained => "drained",
        ShardPhase::Expired => "expired",
    }
}

fn duration(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
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

#[cfg(test)]
mod tests {
    use clickmill_delivery::kinesis::ShardStatus;

    use super::*;

    #[test]
    fn a_status_is_a_line_for_each_shard() {
        let shard = |state, owner: Option<&str>, millis_behind| ShardStatus {
            shard: "shardId-000000000000".to_owned(),
            state,
            owner: owner.map(str::to_owned),
            checkpoint: Some("4959".to_owned()),
            commits: 12,
            committed_at: None,
            millis_behind,
            lines_behind: millis_behind.map(|_| 1_350_000),
            lines_per_second: millis_behind.map(|_| 150.04),
            stored_bytes_per_second: None,
            object_bytes: Some(3_200_000),
        };
        let worker = "0b9c6f52-3f4e-4f0a-9d57-6f1f6a0c1e01";
        let status = Status {
            stream: "clicks".to_owned(),
            begun_at: Some(clickmill_schemas::Timestamp::now()),
            from: None,
            retries: [("worker-1".to_owned(), 3)].into(),
            missing_lease_table: None,
            workers: vec![worker.to_owned()],
            shards: vec![
                shard(ShardPhase::Drained, None, None),
                shard(ShardPhase::Leased, Some(worker), Some(9_000_000)),
            ],
        };
        let text = table(&status);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["shardId-000000000000", "drained", "-", "-", "-", "-", "3.2", "MB"]);
        let leased = "shardId-000000000000 leased 0b9c6f52 2.5 h ~1350000 150.0 3.2 MB";
        assert_eq!(words[2], leased.split(' ').collect::<Vec<_>>());
        assert!(text.ends_with(
            "clicks: 2 shards, 1 workers; delivery began at its oldest record\n\
             Requests that workers tried again since they started:\n  worker-1 3\n"
        ));
    }
}
