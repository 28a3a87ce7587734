//! `clickmill spool`: look at a collector's spool, check it, send it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use clickmill_collector::sink::{RecordKind, Sink, SinkBatch, SpoolRecord};
use clickmill_collector::spool::DamagedRange;
use clickmill_collector::spool::inspect::{Records, SegmentReport, SpoolReport, inspect};
use clickmill_collector::{BatchLimits, Timestamp};
use serde_json::{Value, json};

use super::collect::{DEFAULT_SPOOL, SinkChoice};
use super::out::{self, out};
use super::{EXIT_FAILED, EXIT_USAGE};
use crate::context::Context;

/// Look at a collector's spool, check it, or send what it holds again
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Inspect(InspectArgs),
    Fsck(FsckArgs),
    Replay(ReplayArgs),
}

/// Show a spool's segments: ranges, counts, ages, and what is not shipped
///
/// Reads only: it takes no lock, also beside a running collector, where it shows
/// a moment's state.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill spool inspect                                  ./clickmill-spool
  clickmill spool inspect --spool /var/lib/clickmill --format json

Exit codes: 0 shown, whatever it holds; 1 cannot be read; 2 usage.")]
struct InspectArgs {
    #[command(flatten)]
    at: At,
}

/// Check every byte of a spool and say what is damaged, and where
///
/// Reads only, also beside a running collector. There is nothing to repair by
/// hand: a collector steps over damage by itself and ships the rest; a torn tail,
/// which no client was promised, it cuts off at its start.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill spool fsck --spool /var/lib/clickmill
  clickmill spool fsck --format json

Exit codes: 0 intact; 1 damaged, or cannot be read; 2 usage. docs/spool.md says what damage costs.")]
struct FsckArgs {
    #[command(flatten)]
    at: At,
}

/// Send what a spool holds to a sink, again
///
/// For a spool whose collector is gone, or records that a sink lost. The spool
/// is read only, and its checkpoint stays as it is. The lake, which knows what
/// it has, gets what comes after that; a stream gets everything, and transform
/// takes each event once.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill spool replay --spool /mnt/rescued --lake s3://shop-lake/clicks
  clickmill spool replay --sink kinesis=clicks
  clickmill spool replay --sink kinesis=clicks --from 120000 --to 125000

Exit codes: 0 everything in the range that the spool holds is in the sink; 1 failed, or part of it is \
lost to damage; 2 usage.")]
struct ReplayArgs {
    /// The spool's folder [default: ./clickmill-spool]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// Where to: lake (the raw zone of --lake) or kinesis=STREAM [default: lake]
    #[arg(long, value_name = "SINK", default_value = "lake", hide_default_value = true)]
    sink: SinkChoice,

    /// The first wal_seq [default: the oldest there is]
    #[arg(long, value_name = "WAL_SEQ", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,

    /// The last wal_seq [default: the newest there is]
    #[arg(long, value_name = "WAL_SEQ", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
}

#[derive(clap::Args)]
struct At {
    /// The spool's folder [default: ./clickmill-spool]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Inspect(InspectArgs { at }) => {
            let Some(report) = look(&at, context).await? else {
                return Ok(ExitCode::from(EXIT_USAGE));
            };
            match at.format {
                Format::Text => out::text(describe(&report, Timestamp::now()))?,
                Format::Json => out!("{}", to_json(&report))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Fsck(FsckArgs { at }) => {
            let Some(report) = look(&at, context).await? else {
                return Ok(ExitCode::from(EXIT_USAGE));
            };
            match at.format {
                Format::Text => out::text(verdict(&report))?,
                Format::Json => out!("{}", to_json(&report))?,
            }
            let failed = report.is_damaged();
            Ok(if failed { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
        }
        What::Replay(args) => replay(args, context).await,
    }
}

fn folder(flag: Option<&PathBuf>, context: &Context) -> PathBuf {
    let folder = flag.or(context.config.collector.spool.as_ref()).cloned();
    folder.unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL))
}

/// `None` where the folder is no spool, which has been explained.
async fn look(at: &At, context: &Context) -> anyhow::Result<Option<SpoolReport>> {
    let dir = folder(at.spool.as_ref(), context);
    if !dir.is_dir() {
        eprintln!("error: there is no folder {}; name the spool's with --spool", dir.display());
        return Ok(None);
    }
    Ok(Some(tokio::task::spawn_blocking(move || inspect(&dir)).await??))
}

/// The text of `inspect`.
fn describe(report: &SpoolReport, now: Timestamp) -> String {
    let recovery = &report.recovery;
    let mut text = format!(
        "collector  {}{}\nlast       wal_seq {}\nshipped    wal_seq {}, {} not shipped\n",
        report.collector_id.as_deref().unwrap_or("unknown"),
        if report.in_use { ", running" } else { ", not running" },
        recovery.last_wal_seq,
        report.shipped_wal_seq,
        report.backlog(),
    );
    if report.segments.is_empty() {
        text.push_str("no segments\n");
        return text;
    }
    text.push_str("\n   segment  first wal_seq   last wal_seq     events  rejects      bytes   ratio      age\n");
    for segment in &report.segments {
        let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        text.push_str(&format!(
            "{:>10}  {:>13}  {:>13}  {:>9}  {:>7}  {:>9}  {:>6}  {:>7}{}\n",
            segment.ordinal,
            number(segment.wal_seqs.map(|range| range.0)),
            number(segment.wal_seqs.map(|range| range.1)),
            segment.events,
            segment.rejects,
            segment.bytes,
            ratio(segment),
            segment.created.map_or_else(|| "-".to_owned(), |created| age(created, now)),
            if segment.damaged.is_empty() && !segment.header_damaged { "" } else { "  damaged" },
        ));
    }
    if report.is_damaged() {
        text.push_str("\ndamaged: clickmill spool fsck says where\n");
    }
    text
}

/// Bytes of lines to bytes of the file.
fn ratio(segment: &SegmentReport) -> String {
    format!("{:.2}", segment.line_bytes as f64 / segment.bytes.max(1) as f64)
}

/// Since `created`; a clock that was set back makes none.
fn age(created: Timestamp, now: Timestamp) -> String {
    let seconds = (now.micros() - created.micros()).max(0) / 1_000_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The text of `fsck`: one line a finding, then the verdict.
fn verdict(report: &SpoolReport) -> String {
    let mut text = String::new();
    for segment in &report.segments {
        if segment.header_damaged {
            text.push_str(&format!(
                "segment {} offset 0: its header is damaged; its frames are read all the same\n",
                segment.ordinal
            ));
        }
        for damage in &segment.damaged {
            let DamagedRange { segment, offset, len, wal_seqs } = damage;
            let held = match wal_seqs {
                Some((first, last)) => format!("wal_seq {first} to {last}"),
                None => "a frame's header, too: the ranges below say what is missing".to_owned(),
            };
            text.push_str(&format!(
                "segment {segment} offset {offset}: {len} bytes damaged, {held}\n"
            ));
        }
        if segment.tail_bytes > 0 {
            text.push_str(&format!(
                "segment {}: {} bytes after its last frame, {} (no damage)\n",
                segment.ordinal,
                segment.tail_bytes,
                if report.in_use { "perhaps being written" } else { "a torn write" },
            ));
        }
    }
    for (first, last) in &report.recovery.lost {
        text.push_str(&format!("lost: wal_seq {first} to {last}\n"));
    }
    for (first, last) in &report.recovery.uncertain {
        text.push_str(&format!(
            "missing: wal_seq {first} to {last}, from the last write before a crash: lost, or never \
             acknowledged\n"
        ));
    }
    if report.collector_id.is_none() && !report.segments.is_empty() {
        text.push_str("collector_id: unreadable, and no segment says it\n");
    }
    let records: u64 = report.segments.iter().map(|s| s.events + s.rejects).sum();
    text.push_str(&format!(
        "{}: {} segments, {records} events and rejects read\n",
        if report.is_damaged() { "DAMAGED" } else { "intact" },
        report.segments.len(),
    ));
    text
}

fn to_json(report: &SpoolReport) -> Value {
    let ranges = |ranges: &[(i64, i64)]| -> Vec<Value> {
        ranges.iter().map(|(first, last)| json!([first, last])).collect()
    };
    let damaged = |damage: &DamagedRange| {
        json!({
            "segment": damage.segment,
            "offset": damage.offset,
            "bytes": damage.len,
            "first_wal_seq": damage.wal_seqs.map(|range| range.0),
            "last_wal_seq": damage.wal_seqs.map(|range| range.1),
        })
    };
    let segment = |segment: &SegmentReport| {
        json!({
            "segment": segment.ordinal,
            "bytes": segment.bytes,
            "line_bytes": segment.line_bytes,
            "created": segment.created.map(|created| created.to_string()),
            "first_wal_seq": segment.wal_seqs.map(|range| range.0),
            "last_wal_seq": segment.wal_seqs.map(|range| range.1),
            "frames": segment.frames,
            "events": segment.events,
            "rejects": segment.rejects,
            "heartbeats": segment.heartbeats,
            "header_damaged": segment.header_damaged,
            "damaged": segment.damaged.iter().map(damaged).collect::<Vec<_>>(),
            "tail_bytes": segment.tail_bytes,
        })
    };
    json!({
        "collector_id": report.collector_id,
        "in_use": report.in_use,
        "last_wal_seq": report.recovery.last_wal_seq,
        "shipped_wal_seq": report.shipped_wal_seq,
        "backlog": report.backlog(),
        "damaged": report.is_damaged(),
        "lost": ranges(&report.recovery.lost),
        "uncertain": ranges(&report.recovery.uncertain),
        "segments": report.segments.iter().map(segment).collect::<Vec<_>>(),
    })
}

async fn replay(args: ReplayArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let (from, to) = (args.from.unwrap_or(1), args.to.unwrap_or(i64::MAX));
    let dir = folder(args.spool.as_ref(), context);
    if !dir.is_dir() || from > to {
        eprintln!(
            "error: {}",
            if from > to {
                "--from is after --to".to_owned()
            } else {
                format!("there is no folder {}; name the spool's with --spool", dir.display())
            }
        );
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let mut records = tokio::task::spawn_blocking(move || Records::open(&dir)).await??;
    let Some(collector_id) = records.collector_id().map(str::to_owned) else {
        eprintln!("the spool is empty");
        return Ok(ExitCode::SUCCESS);
    };
    let (sink, limits) = args.sink.open(context, &Arc::default()).await?;
    let has = sink.resume_after(&collector_id).await.context("cannot ask the sink what it has")?;
    let in_order = has.unwrap_or(0) + 1;
    if args.sink == SinkChoice::Lake && from > in_order {
        // What is left out now would look landed for ever.
        eprintln!(
            "error: the lake takes a spool's records in order, and lacks those from wal_seq \
             {in_order} on: leave --from out"
        );
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let after = (in_order - 1).max(from - 1);
    let recovery = records.recovery();
    let touched = |(first, last): &&(i64, i64)| *last > after && *first <= to;
    let missing: Vec<(i64, i64)> =
        recovery.lost.iter().chain(&recovery.uncertain).filter(touched).copied().collect();
    let mut replay = Replay {
        sink: &*sink,
        limits,
        collector_id,
        sent_to: after,
        sent: 0,
        batch: Vec::new(),
        batch_bytes: 0,
    };
    loop {
        let (back, segment) = tokio::task::spawn_blocking(move || {
            let segment = records.next_segment();
            (records, segment)
        })
        .await?;
        records = back;
        let Some(segment) = segment? else { break };
        // Heartbeats speak of their moment, which is over.
        let wanted = segment.into_iter().filter(|record| {
            record.kind != RecordKind::Heartbeat && record.wal_seq > after && record.wal_seq <= to
        });
        for record in wanted {
            replay.push(record).await?;
        }
    }
    replay.flush().await?;
    eprintln!(
        "clickmill spool replay: {} events and rejects to {}{}",
        replay.sent,
        args.sink.describe(&context.lake),
        has.map_or_else(String::new, |has| format!("; it had everything up to wal_seq {has}")),
    );
    for (first, last) in &missing {
        eprintln!("warning: wal_seq {first} to {last} are missing from the spool");
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

struct Replay<'a> {
    sink: &'a dyn Sink,
    limits: BatchLimits,
    collector_id: String,
    /// The highest `wal_seq` that the sink has or was not to get.
    sent_to: i64,
    sent: u64,
    batch: Vec<SpoolRecord>,
    batch_bytes: usize,
}

/// Times that a batch is tried where the sink's refusal may pass.
const ATTEMPTS: u32 = 8;
/// Before the first of them, doubled with each.
const FIRST_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

impl Replay<'_> {
    async fn push(&mut self, record: SpoolRecord) -> anyhow::Result<()> {
        self.batch_bytes += record.line.len();
        self.batch.push(record);
        if self.batch.len() >= self.limits.max_events || self.batch_bytes >= self.limits.max_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let records = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let Some(last) = records.last().map(|record| record.wal_seq) else { return Ok(()) };
        let count = records.len() as u64;
        let batch = SinkBatch {
            collector_id: self.collector_id.clone(),
            first_wal_seq: self.sent_to + 1,
            last_wal_seq: last,
            records,
        };
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.sink.send(batch.clone()).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() && attempt < ATTEMPTS => {
                    tracing::warn!(%error, attempt, "the sink refused; trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => {
                    let at = self.sent_to + 1;
                    return Err(anyhow::Error::new(error).context(format!(
                        "stopped before wal_seq {at}; run it again with --from {at}"
                    )));
                }
            }
        }
        self.sent_to = last;
        self.sent += count;
        Ok(())
    }
}
