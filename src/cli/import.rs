//! `clickmill import`: a shop's existing history into the raw zone.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use clickmill_delivery::import::{ImportError, Mapping, Progress, Summary, import_events, infer};
use clickmill_lake::Lake;

use super::out;
use super::{EXIT_PARTIAL, EXIT_USAGE};
use crate::context::Context;

/// How often the progress line is written anew.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Files, and objects with rejects, that the summary names; the rest is counted.
const MAX_NAMED: usize = 10;

/// Bring a shop's existing history into the lake
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Events(EventsArgs),
}

/// Import events from CSV, JSON lines or Parquet files, gzip and zstd included
///
/// A mapping in clickmill.toml, [import.NAME], says which column means what;
/// --infer proposes one. A row that does not fit goes to the lake's rejects with
/// its reason and bytes. Importing the same file again changes nothing, and an
/// import that was interrupted goes on where it stopped.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill import events --infer history.csv.gz >> clickmill.toml    propose a mapping
  clickmill import events --mapping history history.csv.gz
  clickmill import events --mapping history exports/2025/ 'more/**/*.csv' s3://bucket/old/
  clickmill import events --mapping history --strict --format json history.csv.gz

Exit codes: 0 every row is in the lake, as an event or as a reject; 1 failed, run it again to go on;
2 usage or mapping; 3 with --strict, rows were rejected. docs/import.md has the mapping.")]
struct EventsArgs {
    /// The mapping: [import.NAME] of clickmill.toml
    #[arg(long, value_name = "NAME", required_unless_present = "infer")]
    mapping: Option<String>,

    /// Look at a file and print a mapping for it, to be pasted into clickmill.toml
    #[arg(long, value_name = "PATH", conflicts_with_all = ["mapping", "paths", "strict"])]
    infer: Option<String>,

    /// Exit with 3 where rows were rejected
    #[arg(long)]
    strict: bool,

    /// How the summary is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Files, folders, globs, file:// or s3:// URLs
    #[arg(value_name = "PATH", required_unless_present = "infer")]
    paths: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let What::Events(args) = args.what;
    if let Some(path) = &args.infer {
        out::text(infer(path).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(mapping) = find_mapping(args.mapping.as_deref().unwrap_or_default(), context) else {
        return Ok(ExitCode::from(EXIT_USAGE));
    };
    let lake = Lake::open(&context.lake).await?;
    let progress = Arc::new(Progress::default());
    let outcome = {
        let line = ProgressLine::start(Arc::clone(&progress));
        let outcome = import_events(&lake, mapping, &args.paths, &progress).await;
        line.stop().await;
        outcome
    };
    let summary = match outcome {
        Ok(summary) => summary,
        Err(error @ (ImportError::Shape { .. } | ImportError::NoFiles { .. })) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            return Ok(ExitCode::from(EXIT_USAGE));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)?,
        Format::Text => print_summary(&mut out, &summary, context)?,
    }
    let partial = args.strict && summary.rejected > 0;
    Ok(if partial { ExitCode::from(EXIT_PARTIAL) } else { ExitCode::SUCCESS })
}

/// The mapping, or an explanation on stderr.
fn find_mapping<'a>(name: &str, context: &'a Context) -> Option<&'a Mapping> {
    let mapping = context.config.import.get(name);
    if mapping.is_none() {
        let known: Vec<&str> = context.config.import.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "it has no [import.NAME] at all".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        eprintln!(
            "error: the configuration has no [import.{name}]; {known}. \
             `clickmill import events --infer PATH` proposes one for a file"
        );
    }
    mapping
}

fn print_summary(
    out: &mut impl Write,
    summary: &Summary,
    context: &Context,
) -> std::io::Result<()> {
    writeln!(out, "rows read  {:>12}", summary.rows)?;
    writeln!(out, "taken      {:>12}", summary.taken)?;
    writeln!(out, "rejected   {:>12}", summary.rejected)?;
    for (reason, rejected) in &summary.rejected_now {
        writeln!(out, "  {reason:<16} {:>5}", rejected.rows)?;
        if let Some(first) = &rejected.first {
            writeln!(out, "    first: {} row {}: {}", first.path, first.row, first.detail)?;
        }
    }
    let earlier = summary.rows - summary.landed_now;
    if earlier > 0 {
        writeln!(out, "{earlier} of these rows were imported before and stay as they are")?;
    }
    let objects: Vec<&String> = summary.files.iter().flat_map(|f| &f.reject_objects).collect();
    if !objects.is_empty() {
        writeln!(out, "rejects are in {}", context.lake)?;
        for object in objects.iter().take(MAX_NAMED) {
            writeln!(out, "  {object}")?;
        }
        if objects.len() > MAX_NAMED {
            writeln!(out, "  and {} more", objects.len() - MAX_NAMED)?;
        }
    }
    for file in summary.files.iter().filter(|f| f.under_other_mapping).take(MAX_NAMED) {
        writeln!(
            out,
            "note: {} was imported with another mapping before; of a row that was taken then, \
             the earlier event stays and this one counts as its duplicate",
            file.path
        )?;
    }
    if summary.landed_now > 0 {
        writeln!(out, "next: clickmill etl run --lake {}", context.lake)?;
    }
    Ok(())
}

/// One line on stderr, written over and over; nothing where stderr is no terminal.
struct ProgressLine {
    task: Option<tokio::task::JoinHandle<()>>,
}

impl ProgressLine {
    fn start(progress: Arc<Progress>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { task: None };
        }
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROGRESS_EVERY).await;
                eprint!(
                    "\r\x1b[2K{:3.0} %  {} rows, {} rejected",
                    progress.fraction() * 100.0,
                    progress.rows(),
                    progress.rejected()
                );
            }
        });
        Self { task: Some(task) }
    }

    async fn stop(self) {
        if let Some(task) = self.task {
            task.abort();
            // Aborted, as asked.
            let _ = task.await;
            eprint!("\r\x1b[2K");
        }
    }
}
