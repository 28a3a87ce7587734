//! The production parts, wired together in this process: collector, delivery, ETL.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_kinesis::types::StreamStatus;
use clap::ValueEnum;
use clickmill_collector::server::{Server, WriteKeys};
use clickmill_collector::sink::{KinesisSink, Sink};
use clickmill_collector::{BatchLimits, Collector};
use clickmill_delivery::LakeSink;
use clickmill_delivery::kinesis::{self, DeliverConfig, DeliverError, DeliverReport, Until};
use clickmill_lake::Lake;
use clickmill_transform::sources::Notice;
use clickmill_transform::{RunOptions, Silent};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The application that the shop's events carry.
pub const APP_ID: &str = "household-shop";
/// The key that its clients send.
pub const WRITE_KEY: &str = "demo";
/// How long the spool may take to empty itself at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(300);
/// A new stream gets so many shards.
const SHARDS: i32 = 2;
/// How often, and how many times, a stream is asked whether it is ready.
const STREAM_POLL: Duration = Duration::from_millis(500);
const STREAM_POLLS: u32 = 240;
/// A stream takes small batches at once.
const STREAM_BATCHES: BatchLimits = BatchLimits {
    max_events: 2_000,
    max_bytes: 4 * 1_024 * 1_024,
    max_wait: Duration::from_millis(200),
};

/// What carries the clicks from the collector to the lake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// Nothing: the collector writes to the lake itself
    None,
    /// A Kinesis stream, created where it does not exist, and `clickmill deliver`'s worker
    Kinesis,
}

/// A running collector, and what delivers from it.
pub struct Pipeline {
    collector: Collector,
    address: SocketAddr,
    stop_server: CancellationToken,
    server: JoinHandle<()>,
    delivery: Option<Delivery>,
}

/// A stream and the worker that reads it while clicks come in.
struct Delivery {
    lake: Lake,
    client: aws_sdk_kinesis::Client,
    stream: String,
    stop: CancellationToken,
    worker: JoinHandle<Result<DeliverReport, DeliverError>>,
}

impl Pipeline {
    /// Starts the collector on a free loopback port, with its spool in the lake's folder.
    ///
    /// # Errors
    /// Where the spool is in use, the port not to be had, or the stream not to be created.
    pub async fn start(lake: &Lake, stream: Stream) -> anyhow::Result<Self> {
        let (sink, limits, delivery): (Arc<dyn Sink>, _, _) = match stream {
            Stream::None => (Arc::new(LakeSink::new(lake.clone())), BatchLimits::default(), None),
            Stream::Kinesis => {
                let delivery = Delivery::open(lake).await?;
                let sink = KinesisSink::new(&delivery.client, &delivery.stream);
                (Arc::new(sink), STREAM_BATCHES, Some(delivery))
            }
        };
        let collector = Collector::builder(spool(lake)).sink(sink).batches(limits).start().await?;
        let keys = WriteKeys::any().with(WRITE_KEY, APP_ID);
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(collector.clone(), any_port, keys).await?;
        let address = server.local_addr();
        let stop_server = CancellationToken::new();
        let server = tokio::spawn(server.run(stop_server.clone().cancelled_owned()));
        Ok(Self { collector, address, stop_server, server, delivery })
    }

    /// Where the clients send to.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops taking clicks and returns once all of them are in the raw zone.
    ///
    /// # Errors
    /// Where some are not; they are in the spool or the stream, and the next run delivers them.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.stop_server.cancel();
        self.server.await.context("the collector's server stopped")?;
        let drained = self.collector.shutdown(DRAIN_DEADLINE).await;
        if drained.left > 0 {
            let reason = self.collector.status().sink_error.unwrap_or_default();
            anyhow::bail!(
                "{} events are still in the collector's spool ({reason}); run the demo again to \
                 deliver them",
                drained.left
            );
        }
        match self.delivery {
            Some(delivery) => delivery.catch_up().await,
            None => Ok(()),
        }
    }
}

impl Delivery {
    async fn open(lake: &Lake) -> anyhow::Result<Self> {
        let config = clickmill_lake::aws::sdk_config().await;
        let client = kinesis::client(&config);
        // Each lake has a stream of its own: a shared one would bring another shop's clicks.
        let stream = format!("clickmill-demo-{}", fingerprint(lake));
        ensure_stream(&client, &stream).await?;
        let stop = CancellationToken::new();
        let worker = tokio::spawn({
            let (lake, client, stop) = (lake.clone(), client.clone(), stop.clone());
            let config = DeliverConfig::new(&stream, Until::Cancelled);
            async move { kinesis::run(&config, &lake, &client, &stop).await }
        });
        Ok(Self { lake: lake.clone(), client, stream, stop, worker })
    }

    /// Reads every shard to its end and lands what is there.
    async fn catch_up(self) -> anyhow::Result<()> {
        let failed = || format!("cannot deliver the stream {}", self.stream);
        self.stop.cancel();
        let before = self.worker.await.context("the delivery stopped")?.with_context(failed)?;
        let config = DeliverConfig::new(&self.stream, Until::CaughtUp);
        let rest = kinesis::run(&config, &self.lake, &self.client, &CancellationToken::new())
            .await
            .with_context(failed)?;
        anyhow::ensure!(
            before.possible_losses + rest.possible_losses == 0,
            "the stream {} dropped records before they were delivered; use a new --lake",
            self.stream
        );
        Ok(())
    }
}

async fn ensure_stream(client: &aws_sdk_kinesis::Client, stream: &str) -> anyhow::Result<()> {
    let created = client.create_stream().stream_name(stream).shard_count(SHARDS).send().await;
    if let Err(error) = created {
        let error = error.into_service_error();
        if !error.is_resource_in_use_exception() {
            return Err(error).with_context(|| {
                format!(
                    "cannot create the Kinesis stream {stream}: check AWS_REGION, credentials and \
                     AWS_ENDPOINT_URL_KINESIS"
                )
            });
        }
    }
    for _ in 0..STREAM_POLLS {
        let summary = client.describe_stream_summary().stream_name(stream).send().await;
        let status =
            summary.ok().and_then(|s| s.stream_description_summary).map(|s| s.stream_status);
        if status == Some(StreamStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(STREAM_POLL).await;
    }
    anyhow::bail!(
        "the Kinesis stream {stream} is not active after {:?}",
        STREAM_POLL * STREAM_POLLS
    )
}

/// Brings the tables up to date with everything that was delivered and exported.
/// Returns what a person should know about the inputs.
///
/// # Errors
/// Where a job fails.
pub async fn transform(lake: &Lake) -> anyhow::Result<Vec<Notice>> {
    let report = clickmill_transform::run(lake, &RunOptions::default(), &Silent)
        .await
        .context("the ETL failed; what it committed stays, and the next run goes on from there")?;
    Ok(report.notices)
}

/// The spool's folder. It stays between runs: one that was killed left its clicks there.
fn spool(lake: &Lake) -> PathBuf {
    match lake.local_path() {
        Some(root) => root.join("_clickmill/demo/spool"),
        None => std::env::temp_dir().join(format!("clickmill-demo-{}", fingerprint(lake))),
    }
}

fn fingerprint(lake: &Lake) -> String {
    let digest = Sha256::digest(lake.url().as_str().as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
