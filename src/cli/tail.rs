//! `clickmill tail`: a running collector's events as they arrive.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use clickmill_collector::server::{TAIL_PATH, TailToken};
use clickmill_collector::tail::TailFilter;

use super::EXIT_USAGE;
use super::tail_line::{self, Colours, Shown};
use crate::context::Context;

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Watch a running collector's events and rejects as they arrive
///
/// One line an event: time (UTC), protocol, name, visitor, and what it is
/// about; below it what the tracking plan says, or why input was rejected. It
/// shows visitors' data, so it needs the token that the collector leaves in its
/// spool's folder (tail.token, a new one at each start). It never slows the
/// collector: a reader that is too slow loses lines and is told how many.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  clickmill tail                                           beside `clickmill collect`
  clickmill tail --visitor 3f0c1a2b                        what one browser sends
  clickmill tail --event purchase --format json | jq .total
  clickmill tail --rejects                                 only what was no event
  clickmill tail --violations                              only what the tracking plan flags
  clickmill tail --url http://10.0.0.5:8080 --token \"$(ssh collector cat /var/lib/clickmill/tail.token)\"

Exit codes: 0 the collector stopped, --count was reached, or ctrl-C; 1 no collector there; 2 usage or no token.")]
pub struct Args {
    /// The collector
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    url: String,

    /// The collector's spool, for the token in it [default: ./clickmill-spool]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// The token itself, for a collector on another machine; --spool is not read then
    #[arg(long, value_name = "TOKEN", env = "CLICKMILL_TAIL_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// Only events of the visitor or customer with this id
    #[arg(long, value_name = "ID")]
    visitor: Option<String>,

    /// Only events of this name, canonical (purchase) or as sent (Order Completed)
    #[arg(long, value_name = "NAME")]
    event: Option<String>,

    /// Only what came by this protocol: segment, rudderstack, snowplow, ga4, native
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,

    /// Only rejects
    #[arg(long, conflicts_with_all = ["visitor", "event", "violations"])]
    rejects: bool,

    /// Only events that violate the tracking plan
    #[arg(long)]
    violations: bool,

    /// The form of the lines
    #[arg(long, value_enum, default_value = "table")]
    format: FormatArg,

    /// End after so many events and rejects
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// No colours, also on a terminal
    #[arg(long, env = "NO_COLOR", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    no_color: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Lines of at most 80 characters
    Table,
    /// The records as the collector stores them, one JSON object a line
    Json,
}

/// Runs until the collector ends, or `--count`, or ctrl-C.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let token = match token(&args, context) {
        Ok(token) => token,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let stop = super::collect::stop_signal()?;
    tokio::select! {
        ended = watch(&args, &token) => ended,
        () = stop => Ok(ExitCode::SUCCESS),
    }
}

/// From the command line, or from the spool.
fn token(args: &Args, context: &Context) -> anyhow::Result<TailToken> {
    if let Some(token) = &args.token {
        return Ok(TailToken::new(token));
    }
    let spool = args.spool.clone().or_else(|| context.config.collector.spool.clone());
    let spool = spool.unwrap_or_else(|| PathBuf::from(super::collect::DEFAULT_SPOOL));
    TailToken::read(&spool).with_context(|| {
        format!(
            "no token in {}; is that the spool of a running collector (--spool DIR)? For one on \
             another machine give --token",
            spool.display()
        )
    })
}

async fn watch(args: &Args, token: &TailToken) -> anyhow::Result<ExitCode> {
    let filter = TailFilter {
        visitor: args.visitor.clone(),
        event: args.event.clone(),
        protocol: args.protocol.clone(),
        rejects: args.rejects,
        violations: args.violations,
    };
    let url = args.url.trim_end_matches('/');
    let request = reqwest::Client::new()
        .get(format!("{url}{TAIL_PATH}"))
        .header("authorization", token.bearer())
        .query(&filter);
    let answer = request.send().await.with_context(|| format!("no collector answers at {url}"))?;
    let status = answer.status();
    if !status.is_success() {
        let text = answer.text().await.unwrap_or_default();
        let message = serde_json::from_str::<serde_json::Value>(&text).ok();
        let message = message.as_ref().and_then(|answer| answer["message"].as_str());
        anyhow::bail!("{url} answers {status}: {}", message.unwrap_or("is it a collector?"));
    }
    let terminal = io::stdout().is_terminal();
    let colours = if terminal && !args.no_color { Colours::Ansi } else { Colours::None };
    let mut printer = Printer { format: args.format, colours, left: args.count };
    let mut lines = Lines::new(answer);
    while let Some(line) = lines.next().await.context("the collector broke off")? {
        match printer.print(&line) {
            Ok(true) => {}
            Ok(false) => return Ok(ExitCode::SUCCESS),
            // Who reads our output has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        }
    }
    eprintln!("clickmill tail: the collector stopped");
    Ok(ExitCode::SUCCESS)
}

struct Printer {
    format: FormatArg,
    colours: Colours,
    left: Option<u64>,
}

impl Printer {
    /// False once enough is printed.
    fn print(&mut self, line: &[u8]) -> io::Result<bool> {
        match tail_line::read(line) {
            Shown::Nothing => return Ok(true),
            Shown::Note(note) => {
                eprintln!("clickmill tail: {note}");
                return Ok(true);
            }
            Shown::Record(record) => {
                let mut out = io::stdout().lock();
                match self.format {
                    FormatArg::Json => {
                        out.write_all(line)?;
                        out.write_all(b"\n")?;
                    }
                    FormatArg::Table => {
                        for text in tail_line::lines(&record, self.colours) {
                            writeln!(out, "{text}")?;
                        }
                    }
                }
                out.flush()?;
            }
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(self.left != Some(0))
    }
}

/// The answer's lines, however it is cut.
struct Lines {
    answer: reqwest::Response,
    /// What is read and not given out; up to `searched` without a newline.
    buffer: Vec<u8>,
    searched: usize,
}

impl Lines {
    const fn new(answer: reqwest::Response) -> Self {
        Self { answer, buffer: Vec::new(), searched: 0 }
    }

    async fn next(&mut self) -> reqwest::Result<Option<Vec<u8>>> {
        loop {
            let newline = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = newline {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.answer.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
