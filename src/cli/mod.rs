//! The verbs, one file each.

mod audit;
mod backfill;
mod collect;
mod deliver;
mod demo;
mod doctor;
mod etl;
mod import;
mod out;
mod replay;
mod spool;
mod sql;
mod tail;
mod tail_line;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clickmill_failpoint::Failpoint;

use crate::config::Config;
use crate::context::Context;

/// Turns an online shop's clicks into tables that answer questions.
#[derive(Parser)]
#[command(name = "clickmill", version, about, propagate_version = true)]
struct Cli {
    /// Configuration file [default: ./clickmill.toml where it exists]
    #[arg(long, global = true, env = "CLICKMILL_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,

    /// The lake: a folder, file:///..., or s3://bucket/prefix [default: ./lake]
    #[arg(long, global = true, env = "CLICKMILL_LAKE", value_name = "URL")]
    lake: Option<String>,

    /// For the tests: die at a named point, or at its nth hit
    #[arg(
        long,
        global = true,
        hide = true,
        env = "CLICKMILL_FAILPOINT",
        value_name = "NAME[:NTH]"
    )]
    failpoint: Option<Failpoint>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Audit(audit::Args),
    Collect(collect::Args),
    Deliver(deliver::Args),
    Demo(demo::Args),
    Doctor(doctor::Args),
    Etl(etl::Args),
    Import(import::Args),
    Replay(replay::Args),
    Spool(spool::Args),
    Sql(sql::Args),
    Tail(tail::Args),
    Up(up::Args),
}

/// Exit codes, as documented: 0 ok, 1 the work failed, 2 usage or configuration, 3 partial.
pub const EXIT_FAILED: u8 = 1;
pub const EXIT_USAGE: u8 = 2;
pub const EXIT_PARTIAL: u8 = 3;

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_logging();
    if let Some(point) = cli.failpoint {
        clickmill_failpoint::arm(point);
    }
    let config = match Config::load(cli.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let context = Context::new(config, cli.lake);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let outcome: anyhow::Result<ExitCode> = runtime.block_on(async {
        match cli.verb {
            Verb::Audit(args) => audit::run(args, &context).await,
            Verb::Collect(args) => collect::run(args, &context).await,
            Verb::Deliver(args) => deliver::run(args, &context).await,
            Verb::Demo(args) => demo::run(args, &context).await,
            Verb::Doctor(args) => doctor::run(args, &context).await,
            Verb::Etl(args) => etl::run(args, &context).await,
            Verb::Import(args) => import::run(args, &context).await,
            Verb::Replay(args) => replay::run(args, &context).await,
            Verb::Spool(args) => spool::run(args, &context).await,
            Verb::Sql(args) => sql::run(args, &context).await,
            Verb::Tail(args) => tail::run(args, &context).await,
            Verb::Up(args) => up::run(args, &context).await,
        }
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CLICKMILL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,clickmill=info,deltalake_core=error,buoyant_kernel=off,buoyant_kernel_engine=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
