//! `clickmill sql`: ad-hoc queries over the newest snapshot.

use std::io::{BufWriter, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum;
use clickmill_lake::Lake;
use clickmill_query::output::{Format, Output, OutputError};
use clickmill_query::{QueryError, Session, SessionOptions};
use futures::TryStreamExt as _;

use super::etl::{human_bytes, parse_size};
use crate::context::Context;
use crate::memory::default_limit;

/// Ask the lake's tables in SQL
#[derive(clap::Args)]
#[command(after_help = "Examples:
  clickmill sql -c 'SELECT channel, count(*) FROM sessions GROUP BY channel'
  clickmill sql -c 'SHOW TABLES'
  clickmill sql -c \"SELECT properties->>'theme', count(*) FROM events GROUP BY 1\"
  clickmill sql -f report.sql --format csv > report.csv
  echo 'SELECT * FROM rejects' | clickmill sql --format ndjson
  clickmill sql --stats -c \"SELECT count(*) FROM events WHERE dt = '2026-11-23'\"

Tables and columns: docs/tables.md, or DESCRIBE events.
Answers go to stdout, everything else to stderr.")]
pub struct Args {
    /// The text of a query; several are separated by `;`
    #[arg(short = 'c', long = "command", value_name = "TEXT", conflicts_with = "file")]
    command: Option<String>,
    /// A file of queries; without -c and -f they come from stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "table")]
    format: FormatArg,
    /// Print time, bytes read from the object store, files and partitions pruned, on stderr
    #[arg(long)]
    stats: bool,
    /// What a query may hold in memory before it spills to disk (500MB, 2GB) [default: half of it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Table,
    Csv,
    Json,
    Ndjson,
    Parquet,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Table => Self::Table,
            FormatArg::Csv => Self::Csv,
            FormatArg::Json => Self::Json,
            FormatArg::Ndjson => Self::Ndjson,
            FormatArg::Parquet => Self::Parquet,
        }
    }
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let text = match (&args.command, &args.file) {
        (Some(command), _) => command.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the queries in {}", file.display()))?,
        (None, None) => {
            if std::io::stdin().is_terminal() {
                eprintln!("error: give a query with -c, a file with -f, or queries on stdin");
                return Ok(ExitCode::from(super::EXIT_USAGE));
            }
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
            text
        }
    };
    if args.format == FormatArg::Parquet && std::io::stdout().is_terminal() {
        eprintln!("error: Parquet is no text: redirect stdout to a file (> answer.parquet)");
        return Ok(ExitCode::from(super::EXIT_USAGE));
    }
    let statements = Session::statements(&text)?;
    if args.format == FormatArg::Parquet && statements.len() > 1 {
        eprintln!(
            "error: a Parquet file holds one answer, and there are {} queries",
            statements.len()
        );
        return Ok(ExitCode::from(super::EXIT_USAGE));
    }
    let lake = Lake::open(&context.lake).await?;
    let options = SessionOptions {
        memory_limit_bytes: args.memory_limit.or_else(default_limit),
        ..SessionOptions::default()
    };
    let session = Session::open_with(&lake, &options).await?;
    for statement in statements {
        let before = session.stats();
        let started = Instant::now();
        let rows = match answer(&session, &statement, args.format.into()).await {
            Ok(rows) => rows,
            Err(Failure::Gone) => return Ok(ExitCode::SUCCESS),
            Err(Failure::Other(error)) => return Err(error),
        };
        if args.stats {
            print_stats(&session, before, rows, started);
        }
    }
    Ok(ExitCode::SUCCESS)
}

enum Failure {
    /// The reader of stdout has seen enough.
    Gone,
    Other(anyhow::Error),
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        if error.is_broken_pipe() { Self::Gone } else { Self::Other(error.into()) }
    }
}

async fn answer(session: &Session, statement: &str, format: Format) -> Result<u64, Failure> {
    let mut stream =
        session.stream(statement).await.map_err(|error| Failure::Other(error.into()))?;
    let stdout = BufWriter::new(std::io::stdout());
    let mut output = Output::new(format, stream.schema(), stdout)?;
    let mut rows = 0;
    loop {
        let next = stream.try_next().await;
        let next = next.map_err(|error| Failure::Other(QueryError::Query(error).into()))?;
        let Some(batch) = next else { break };
        rows += batch.num_rows() as u64;
        output.write(&batch)?;
    }
    output.finish()?;
    Ok(rows)
}

fn print_stats(session: &Session, before: clickmill_query::ScanStats, rows: u64, started: Instant) {
    let now = session.stats();
    let scans = now.scans;
    let _ = writeln!(
        std::io::stderr(),
        "{rows} rows in {:.3} s; read {} from the object store in {} requests; \
         files pruned {}/{}, partitions pruned {}/{}{}",
        started.elapsed().as_secs_f64(),
        human_bytes(now.bytes_read - before.bytes_read),
        now.gets - before.gets,
        scans.files_pruned - before.scans.files_pruned,
        scans.files - before.scans.files,
        scans.partitions_pruned - before.scans.partitions_pruned,
        scans.partitions - before.scans.partitions,
        session.snapshot().map_or(String::new(), |seen| format!(" (snapshot {})", seen.batch)),
    );
}
