//! `clickmill`: the one binary. Parse, configure, construct, run, exit.

mod cli;
mod config;
mod context;
mod demo;
mod memory;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A tenth less CPU time than the system's for a collector and a delivery, whose
/// events are many small texts; for ETL there is no difference.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
