//! `clickmill audit`: is anything missing between the web server and the table?

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use clickmill_collector::spool::inspect::{SpoolReport, inspect};
use clickmill_lake::Lake;
use clickmill_schemas::{Date, Timestamp};
use clickmill_transform::audit::{
    AuditOptions, CollectorReport, Fate, Gap, Report, SpoolState, Verdict, Verify, audit,
};

use super::out::{self, out};
use super::{EXIT_FAILED, EXIT_PARTIAL, EXIT_USAGE};
use crate::context::Context;

/// Lines of a list that the text shows; --format json has all.
const MAX_SHOWN: usize = 20;
/// Characters of a collector's id in the text.
const ID_WIDTH: usize = 36;

/// Prove that nothing is missing between the web server and the tables, or say what is
///
/// Collectors number what they accept, and say in heartbeats how far they got;
/// commits say what each shard landed. The audit holds both against `events`,
/// `event_duplicates` and `rejects`, and finds for each missing number where it
/// lies: spool, stream, raw zone, quarantine or table, on its way or lost. It
/// reads only. docs/audit.md has the rules.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill audit                                           everything
  clickmill audit --from 2026-11-01 --to 2026-12-01         what was received in November
  clickmill audit --verify --format json                    and every raw object's checksum
  clickmill audit --spool /var/lib/clickmill                with a collector's spool that is at hand

Exit codes: 0 nothing is known to be missing; 1 something is missing, doubled or damaged; 2 usage; \
3 with --strict: nothing is known to be missing, but of some collector it is unknown how far it got.")]
pub struct Args {
    /// Received at this time or later: 2026-11-23 or 2026-11-23T17:40:00Z [default: the beginning]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<Timestamp>,

    /// Received before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<Timestamp>,

    /// Read every raw object and compare its CRC; without it, its length
    #[arg(long)]
    verify: bool,

    /// The folder of a collector's spool, running or not; repeatable
    #[arg(long, value_name = "DIR")]
    spool: Vec<PathBuf>,

    /// Minutes that a shard may lag behind the others: what is missing from a stream for
    /// no longer counts as on its way
    #[arg(long, value_name = "MINUTES", default_value_t = 15)]
    grace: u64,

    /// Exit with 3 where it is unknown how far a collector got
    #[arg(long)]
    strict: bool,

    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let date = Date::parse(text).map(Date::midnight);
    date.or_else(|_| Timestamp::parse(text)).map_err(|error| {
        format!("{error}; write a date, 2026-11-23, or a time with its zone, 2026-11-23T17:40:00Z")
    })
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    if args.from.zip(args.to).is_some_and(|(from, to)| from >= to) {
        eprintln!("error: --from is not before --to");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    if let Some(missing) = args.spool.iter().find(|dir| !dir.is_dir()) {
        eprintln!("error: there is no folder {}", missing.display());
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    // The spools first: what they ship meanwhile is then found in the lake.
    let mut spools = Vec::new();
    for dir in args.spool {
        spools.push(look(&dir).await?);
    }
    let lake = Lake::open(&context.lake).await?;
    let options = AuditOptions {
        from: args.from,
        to: args.to,
        verify: if args.verify { Verify::Checksums } else { Verify::Sizes },
        grace: Duration::from_secs(args.grace.saturating_mul(60)),
        spools,
    };
    let report = match audit(&lake, &options).await {
        Ok(report) => report,
        Err(error) => return super::etl::told(error),
    };
    match args.format {
        Format::Json => out!("{}", serde_json::to_string_pretty(&report)?)?,
        Format::Text => out::text(describe(&report))?,
    }
    Ok(match report.verdict {
        Verdict::Missing => ExitCode::from(EXIT_FAILED),
        Verdict::Unknown if args.strict => ExitCode::from(EXIT_PARTIAL),
        _ => ExitCode::SUCCESS,
    })
}

async fn look(dir: &Path) -> anyhow::Result<SpoolState> {
    let owned = dir.to_owned();
    let report = tokio::task::spawn_blocking(move || inspect(&owned)).await??;
    spool_state(&report)
        .with_context(|| format!("nothing in {} says whose spool it is: is it one?", dir.display()))
}

/// What the audit needs of a spool.
fn spool_state(report: &SpoolReport) -> Option<SpoolState> {
    let mut lost: Vec<(i64, i64)> =
        report.recovery.lost.iter().chain(&report.recovery.uncertain).copied().collect();
    lost.extend(report.segments.iter().flat_map(|s| &s.damaged).filter_map(|d| d.wal_seqs));
    lost.sort_unstable();
    let mut held: Vec<(i64, i64)> = Vec::new();
    for (first, last) in report.segments.iter().filter_map(|segment| segment.wal_seqs) {
        let mut next = first;
        for (from, to) in lost.iter().filter(|range| range.1 >= first && range.0 <= last) {
            if *from > next {
                held.push((next, from - 1));
            }
            next = next.max(to + 1);
        }
        if next <= last {
            held.push((next, last));
        }
    }
    Some(SpoolState {
        collector_id: report.collector_id.clone()?,
        running: report.in_use,
        last_wal_seq: report.recovery.last_wal_seq,
        shipped_wal_seq: report.shipped_wal_seq,
        held,
        lost,
    })
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    if report.collectors.is_empty() && report.shards.is_empty() {
        text.push_str("Nothing was received in this range.\n");
    }
    collectors(report, &mut text);
    shards(report, &mut text);
    let gaps = report.gaps.iter().map(|gap| {
        let fate = if gap.fate == Fate::Lost { "LOST" } else { "on its way" };
        let when = match (gap.received_after, gap.received_before) {
            (Some(after), Some(before)) => format!("; received {after} to {before}"),
            _ => String::new(),
        };
        let range = if gap.first == gap.last {
            gap.first.clone()
        } else {
            format!("{}-{}", gap.first, gap.last)
        };
        format!(
            "{}  {range}  {}  {fate} ({}): {}{when}",
            gap.source,
            gap.count,
            gap.place.text(),
            gap.detail
        )
    });
    list("Not in the tables (source, range, count):", gaps.collect(), &mut text);
    let objects = report.objects.iter().map(|object| {
        let taken = if object.taken { "a batch took it before" } else { "no batch has taken it" };
        format!("{}  {} records: {}; {taken}", object.path, object.records, object.problem)
    });
    list("Objects that are gone or damaged:", objects.collect(), &mut text);
    let chains = report
        .chains
        .iter()
        .map(|chain| format!("{}  commit {}: {}", chain.source, chain.ordinal, chain.problem));
    list("Broken landing chains:", chains.collect(), &mut text);
    let duplicates = report.duplicates.iter().map(|one| {
        let (first, last) = (one.first, one.last);
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let doubled = if one.doubled { "COUNTED TWICE, " } else { "" };
        let (id, place) = (&one.collector_id, one.place.text());
        format!("{id}  {range}  {}  {doubled}{place}: {}", one.count, one.detail)
    });
    list("Arrived more than once (collector, range, count):", duplicates.collect(), &mut text);
    if report.rows_without_lineage > 0 {
        text.push_str(&format!(
            "\n{} rows have no collector's number; shards' counts cover those from a stream.\n",
            report.rows_without_lineage
        ));
    }
    let verdict = match report.verdict {
        Verdict::Complete => "Complete: every number is accounted for.".to_owned(),
        Verdict::OnItsWay => "Nothing is missing; part of it is still on its way.".to_owned(),
        Verdict::Unknown => {
            let open = report.collectors.iter().filter(|one| one.unknown_after.is_some());
            let trimmed = report.shards.iter().filter(|one| one.possible_losses > 0);
            let mut text = "Nothing is known to be missing".to_owned();
            for (count, what) in [
                (open.count(), "collectors it is unknown how far they got"),
                (trimmed.count(), "shards records may have been trimmed before they were read"),
            ] {
                if count > 0 {
                    text.push_str(&format!("; of {count} {what}"));
                }
            }
            text + "."
        }
        Verdict::Missing => {
            let numbers: u64 = report.collectors.iter().map(|one| one.missing).sum();
            let lost = report.gaps.iter().filter(|gap| gap.fate == Fate::Lost);
            let shard = |gap: &&Gap| report.shards.iter().any(|one| one.source == gap.source);
            let records: u64 = lost.filter(shard).map(|gap| gap.count).sum();
            let doubled = report.duplicates.iter().filter(|one| one.doubled);
            let doubled = doubled.map(|one| one.count).sum::<u64>()
                + report.shards.iter().map(|one| one.doubled).sum::<u64>();
            let counts = [
                (numbers, "numbers of collectors"),
                (records, "records of streams"),
                (doubled, "counted twice"),
                (report.objects.len() as u64, "objects gone or damaged"),
                (report.chains.len() as u64, "broken chains"),
            ];
            let told = counts.iter().filter(|(count, _)| *count > 0);
            let told: Vec<String> = told.map(|(count, what)| format!("{count} {what}")).collect();
            format!("MISSING: {}; see the lists above.", told.join(", "))
        }
    };
    text.push_str(&format!("\n{verdict}\n"));
    text
}

fn collectors(report: &Report, text: &mut String) {
    if report.collectors.is_empty() {
        return;
    }
    text.push_str(&format!(
        "{:<ID_WIDTH$} {:>20} {:>11} {:>10} {:>8} {:>10} {:>8}  {}\n",
        "collector", "wal_seq", "events", "duplicates", "rejects", "on its way", "missing", "state"
    ));
    for one in &report.collectors {
        let range = match (one.first, one.last) {
            (Some(first), Some(last)) => format!("{first}-{last}"),
            _ => "-".to_owned(),
        };
        text.push_str(&format!(
            "{:<ID_WIDTH$} {range:>20} {:>11} {:>10} {:>8} {:>10} {:>8}  {}\n",
            one.collector_id,
            one.events,
            one.duplicates,
            one.rejects,
            one.on_its_way,
            one.missing,
            state(one),
        ));
    }
}

fn state(one: &CollectorReport) -> String {
    let unknown = one.unknown_after.as_ref().map(|unknown| {
        let at = unknown.at.map_or_else(String::new, |at| format!(" (heard of at {at})"));
        format!("unknown after {}{at}", unknown.wal_seq)
    });
    match (one.verdict, unknown) {
        (Verdict::Unknown, Some(unknown)) => unknown,
        (verdict, Some(unknown)) => format!("{}, {unknown}", verdict.text()),
        (verdict, None) => verdict.text().to_owned(),
    }
}

fn shards(report: &Report, text: &mut String) {
    if report.shards.is_empty() {
        return;
    }
    let width = report.shards.iter().map(|one| one.source.len()).max().unwrap_or(0).max(5);
    text.push_str(&format!(
        "\n{:<width$} {:>8} {:>11} {:>11} {:>10} {:>8}  {}\n",
        "shard", "commits", "landed", "rows", "on its way", "missing", "state"
    ));
    for one in &report.shards {
        let mut state = if one.missing > 0 { "MISSING" } else { "complete" }.to_owned();
        if one.missing == 0 && one.on_its_way > 0 {
            state = "on its way".to_owned();
        }
        if one.doubled > 0 {
            state = format!(
                "{}{} COUNTED TWICE",
                if one.missing > 0 { "MISSING, " } else { "" },
                one.doubled
            );
        }
        if one.closed {
            state.push_str(", closed");
        }
        if one.possible_losses > 0 {
            state.push_str(", may have been trimmed before it was read");
        }
        text.push_str(&format!(
            "{:<width$} {:>8} {:>11} {:>11} {:>10} {:>8}  {state}\n",
            one.source, one.commits, one.records, one.rows, one.on_its_way, one.missing,
        ));
    }
}

fn list(title: &str, lines: Vec<String>, text: &mut String) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("\n{title}\n"));
    for line in lines.iter().take(MAX_SHOWN) {
        text.push_str(&format!("  {line}\n"));
    }
    if lines.len() > MAX_SHOWN {
        let more = lines.len() - MAX_SHOWN;
        text.push_str(&format!("  and {more} more: --format json has all\n"));
    }
}
