//! One measured delivery: records in memory, through the production worker, to
//! committed raw objects. Prints one JSON object. `benches/run.py deliver` calls it.

mod stream;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Parser;
use clickmill_collector::sink::kpl;
use clickmill_delivery::kinesis::{self, DEFAULT_MEMORY, DeliverConfig, Until};
use clickmill_lake::Lake;
use clickmill_lake::landing::{commits_after, list_sources};
use clickmill_lake::raw::RawFormat;
use tokio_util::sync::CancellationToken;

use mimalloc::MiMalloc;
use stream::Stream;

/// As `clickmill`'s own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measure a delivery from a stream in memory
#[derive(Parser)]
struct Args {
    /// A file of events, one line each
    #[arg(long)]
    lines: PathBuf,

    /// A folder or bucket that has nothing of it yet
    #[arg(long)]
    lake: String,

    /// json or parquet
    #[arg(long)]
    format: RawFormat,

    /// How many shards the lines are dealt out to
    #[arg(long, default_value_t = 4)]
    shards: usize,

    /// Bytes of an aggregate; the KPL's default
    #[arg(long, default_value_t = 51_200)]
    aggregate_bytes: usize,

    /// Only what Kinesis asks for: the SDK's answers, and the aggregates apart
    #[arg(long)]
    protocol_only: bool,

    /// `memory_megabytes` of `[deliver]`
    #[arg(long)]
    memory_megabytes: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let lines = std::fs::read(&args.lines)
        .with_context(|| format!("cannot read {}", args.lines.display()))?;
    let bytes = lines.len();
    let stream = Stream::of_lines(&lines, args.shards, args.aggregate_bytes);
    drop(lines);
    let lake = Lake::open(&args.lake).await?;
    let client = kinesis::client(&stream.sdk_config());
    let mut config = DeliverConfig::new("bench", Until::CaughtUp);
    config.format = args.format;
    config.memory = args.memory_megabytes.map_or(DEFAULT_MEMORY, |megabytes| megabytes << 20);

    if args.protocol_only {
        return protocol_only(&client, args.shards, bytes).await;
    }
    // From memory, not from Kinesis.
    config.read_rate = u64::MAX;
    let before = Usage::now()?;
    let started = Instant::now();
    let report = kinesis::run(&config, &lake, &client, &CancellationToken::new()).await?;
    let wall = started.elapsed();
    let after = Usage::now()?;
    ensure!(report.rejects == 0, "{} of the lines do not decode", report.rejects);

    let (mut objects, mut stored) = (0, 0);
    for source in list_sources(&lake).await? {
        for commit in commits_after(&lake, &source, 0).await? {
            // Each object once, though several commits may name it.
            let stored_objects = commit.objects.iter().filter(|object| object.is_first());
            objects += stored_objects.clone().count();
            stored += stored_objects.map(|object| object.bytes).sum::<u64>();
        }
    }
    let out = serde_json::json!({
        "events": report.events,
        "bytes": bytes,
        "wall_seconds": wall.as_secs_f64(),
        "cpu_seconds": after.cpu_seconds - before.cpu_seconds,
        // Beyond the records, which are in memory all the time.
        "peak_bytes": after.peak_bytes.saturating_sub(before.resident_bytes),
        "commits": report.commits,
        "objects": objects,
        "stored_bytes": stored,
    });
    println!("{out}");
    Ok(())
}

/// Asks for every record, takes the aggregates apart, and leaves it at that.
async fn protocol_only(
    client: &aws_sdk_kinesis::Client,
    shards: usize,
    bytes: usize,
) -> anyhow::Result<()> {
    let (before, started) = (Usage::now()?, Instant::now());
    let (mut events, mut seen) = (0, 0);
    for shard in 0..shards {
        let mut iterator = Some(format!("{shard}/0"));
        while let Some(from) = iterator.take() {
            let page = client.get_records().shard_iterator(from).send().await?;
            let records = page.records().iter();
            let records: Vec<&[u8]> = records.map(|record| record.data().as_ref()).collect();
            for aggregate in kpl::decode_all(&records) {
                for record in aggregate.context("no aggregate")?.records() {
                    events += 1;
                    seen += record.data.len();
                }
            }
            let more = page.millis_behind_latest() != Some(0);
            iterator = page.next_shard_iterator().filter(|_| more).map(str::to_owned);
        }
    }
    ensure!(seen == bytes, "{seen} bytes came out of {bytes}");
    let (wall, after) = (started.elapsed(), Usage::now()?);
    let out = serde_json::json!({
        "events": events,
        "bytes": bytes,
        "wall_seconds": wall.as_secs_f64(),
        "cpu_seconds": after.cpu_seconds - before.cpu_seconds,
        "peak_bytes": after.peak_bytes.saturating_sub(before.resident_bytes),
        "commits": 0,
        "objects": 0,
        "stored_bytes": 0,
    });
    println!("{out}");
    Ok(())
}

/// What the kernel counts of this process.
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    peak_bytes: u64,
}

impl Usage {
    /// Reads it, and lets the peak begin anew.
    fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").context("needs Linux' /proc")?;
        // Behind the program's name; user and system time are the 14th and 15th field, in
        // hundredths of a second (USER_HZ).
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let kilobytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find(|line| line.starts_with(name)).context("a field")?;
            Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
        };
        let (resident, peak) = (kilobytes("VmRSS:")?, kilobytes("VmHWM:")?);
        std::fs::write("/proc/self/clear_refs", "5").context("the peak cannot be set back")?;
        Ok(Self {
            cpu_seconds: ticks / 100.0,
            resident_bytes: resident << 10,
            peak_bytes: peak << 10,
        })
    }
}
