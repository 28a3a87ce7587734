//! `clickmill doctor`: what would hurt, before it does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use clickmill_delivery::doctor::{
    Finding, FirehoseFacts, GlueColumn, Rate, Reading, Severity, Source, firehose_facts,
    firehose_findings, glue_columns, glue_table_columns, lake_findings, landed, probe,
    stream_facts, stream_findings,
};
use clickmill_delivery::kinesis;
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use serde::Serialize;

use super::EXIT_FAILED;
use super::out::{self, out};
use crate::context::Context;

/// Look for what would hurt: settings of a stream, a delivery stream and the lake
///
/// Reads descriptions over the API and says of each setting whether it is well, and
/// how it is put right. In the lake it writes one small object and removes it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill doctor --lake s3://shop-lake/clicks            the lake alone
  clickmill doctor --stream clicks --every 24              read once a day by `deliver --once`
  clickmill doctor --stream clicks --readers 3 --events-per-second 500
  clickmill doctor --firehose clicks --events-per-second 500
  clickmill doctor --firehose clicks --glue-table table.json --format json

Region, credentials and endpoints are the AWS SDKs' own. Permissions: kinesis:DescribeStreamSummary, \
firehose:DescribeDeliveryStream, and glue:GetTable for a format conversion.

Exit codes: 0 nothing would lose data; 1 something would, or could not be looked at; 2 usage.")]
pub struct Args {
    /// A Kinesis stream's name
    #[arg(long, value_name = "NAME")]
    stream: Vec<String>,

    /// A delivery stream's name
    #[arg(long, value_name = "NAME")]
    firehose: Vec<String>,

    /// How often the stream is read, in hours, where `deliver --once` runs on a schedule
    #[arg(long, value_name = "HOURS")]
    every: Option<f64>,

    /// Applications that poll the stream, `deliver` among them [default: deliver, where the lake has
    /// anything of the stream, and each --firehose that reads it]
    #[arg(long, value_name = "N")]
    readers: Option<u32>,

    /// Events a second at the peak [default: the busiest hour of the last day, by the lake's commits]
    #[arg(long, value_name = "N")]
    events_per_second: Option<f64>,

    /// Bytes of an event as it is sent
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    event_bytes: f64,

    /// The table of a format conversion, as `aws glue get-table` prints it [default: Glue is asked]
    #[arg(long, value_name = "FILE")]
    glue_table: Option<PathBuf>,

    /// How it is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Serialize)]
struct Report<'a> {
    verdict: Severity,
    rate: Option<Rate>,
    findings: &'a [Finding],
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let columns = args.glue_table.as_deref().map(given_columns).transpose()?;
    let lake = Lake::open(&context.lake).await?;
    let facts = probe(&lake).await;
    let reachable = facts.unreachable.is_none();
    let mut findings = lake_findings(&facts);
    let aws = clickmill_lake::aws::sdk_config().await;
    let mut rate =
        args.events_per_second.map(|events| Rate { events, event_bytes: args.event_bytes });
    let mut deliveries = Vec::new();
    for name in &args.firehose {
        deliveries.push((name, firehose_facts(&aws_sdk_firehose::Client::new(&aws), name).await));
    }
    let reads = |facts: &FirehoseFacts, stream: &str| match &facts.source {
        Source::Kinesis(arn) => arn.rsplit('/').next() == Some(stream),
        _ => false,
    };
    for stream in &args.stream {
        let known = match reachable {
            true => landed(&lake, stream, Timestamp::now()).await?,
            false => Default::default(),
        };
        let measured = known.peak_events_per_second;
        rate = rate.or(measured.map(|events| Rate { events, event_bytes: args.event_bytes }));
        let age =
            known.last_commit.map(|at| (Timestamp::now().micros() - at.micros()) as f64 / 3.6e9);
        let known_pollers = u32::from(known.last_commit.is_some())
            + deliveries
                .iter()
                .filter_map(|(_, facts)| facts.as_ref().ok())
                .filter(|facts| reads(facts, stream))
                .count() as u32;
        let pollers = args.readers.or((known_pollers > 0).then_some(known_pollers));
        let reading = Reading { every_hours: args.every, age_hours: age, pollers };
        let largest = context.config.collector.kinesis.max_record_bytes.map(|bytes| bytes as u64);
        match stream_facts(&kinesis::client(&aws), stream).await {
            Ok(facts) => findings.extend(stream_findings(&facts, rate, reading, largest)),
            Err(error) => findings.push(unknown("kinesis", stream, &error)),
        }
    }
    for (name, facts) in deliveries {
        match facts {
            Ok(mut facts) => {
                if let Some(conversion) = &mut facts.conversion {
                    conversion.columns = match &columns {
                        Some(given) => Some(given.clone()),
                        None => match glue_table_columns(&aws, &conversion.table).await {
                            Ok(asked) => Some(asked),
                            Err(error) => {
                                let table = conversion.table.to_string();
                                findings.push(unknown("glue", &table, &error));
                                None
                            }
                        },
                    };
                }
                findings.extend(firehose_findings(&facts, rate, &context.config.raw));
            }
            Err(error) => findings.push(unknown("firehose", name, &error)),
        }
    }
    let verdict = findings.iter().map(|one| one.severity).max().unwrap_or(Severity::Ok);
    match args.format {
        Format::Json => {
            let report = Report { verdict, rate, findings: &findings };
            out!("{}", serde_json::to_string_pretty(&report)?)?;
        }
        Format::Text => out::text(describe(&findings))?,
    }
    Ok(if verdict == Severity::Loss { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// What cannot be looked at may be anything.
fn unknown(service: &str, name: &str, error: &dyn std::error::Error) -> Finding {
    Finding {
        subject: format!("{service} {name}"),
        rule: "described",
        severity: Severity::Loss,
        text: error.to_string(),
        fix: "check the name, the region and the permission to describe it".to_owned(),
    }
}

/// The columns in `aws glue get-table`'s answer.
fn given_columns(path: &Path) -> anyhow::Result<Vec<GlueColumn>> {
    let shown = path.display();
    let text = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    glue_columns(&text).with_context(|| format!("{shown} is not what `aws glue get-table` prints"))
}

fn describe(findings: &[Finding]) -> String {
    let mut text = String::new();
    for one in findings {
        let mark = match one.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARNING",
            Severity::Loss => "LOSS",
        };
        text.push_str(&format!("{mark:<8} {:<24} {:<16} {}\n", one.subject, one.rule, one.text));
        if !one.fix.is_empty() {
            text.push_str(&format!("{:<8} {:<24} {:<16} -> {}\n", "", "", "", one.fix));
        }
    }
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let (loss, warnings) = (count(Severity::Loss), count(Severity::Warning));
    text.push_str(&format!("\n{loss} would lose data, {warnings} warnings\n"));
    text
}
