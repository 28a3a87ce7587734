//! What the collector's benchmark needs beside the collector: a load generator,
//! a bare HTTP server that only reads, and the disk's own speed.
//!
//! `load` keeps a number of connections busy with Segment batches of ten events.
//! Closed: each connection sends its next request when the answer is there, which
//! finds the highest rate. Open (`--rate`): requests are due at fixed times and
//! latency counts from when a request was due, so that a stall is not hidden by
//! the requests that it kept from being sent.

mod bare;
mod body;
mod disk;
mod load;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Load for the collector's benchmark")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer 200 to every request once its body is read
    Bare {
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Send batches and print what came back as a line of JSON
    Load {
        /// The server
        #[arg(long)]
        to: SocketAddr,
        /// Connections
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// How long
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Requests a second over all connections; without it as many as are answered
        #[arg(long)]
        rate: Option<f64>,
        /// Stop after so many requests, whatever the time
        #[arg(long)]
        requests: Option<u64>,
    },
    /// Write and fdatasync, and print bytes a second as a line of JSON
    Disk {
        /// The folder
        folder: PathBuf,
    },
    /// Print one body
    Body,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Bare { listen } => bare::serve(listen).await,
        Verb::Load { to, connections, seconds, rate, requests } => {
            let plan = load::Plan {
                to,
                connections,
                time: Duration::from_secs_f64(seconds),
                rate,
                requests,
            };
            println!("{}", load::run(plan).await?);
            Ok(())
        }
        Verb::Disk { folder } => {
            println!("{}", disk::measure(&folder)?);
            Ok(())
        }
        Verb::Body => {
            println!("{}", body::Body::new(0).text());
            Ok(())
        }
    }
}
