//! `clickmill`: the one binary. Parse, configure, construct, run, exit.

mod cli;
mod config;
mod context;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
