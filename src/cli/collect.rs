//! `clickmill collect`: the HTTP collector as a process of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use clickmill_collector::server::Server;
use clickmill_collector::sink::{KinesisSink, Sink};
use clickmill_collector::{BatchLimits, Collector};
use clickmill_delivery::LakeSink;
use clickmill_lake::Lake;

use super::EXIT_USAGE;
use crate::context::Context;

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const DEFAULT_SPOOL: &str = "./clickmill-spool";
/// How long the spool is emptied at the end; what is left is shipped at the next start.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// A stream takes small batches at once; large ones would only wait.
const KINESIS_BATCHES: BatchLimits = BatchLimits {
    max_events: 2_000,
    max_bytes: 8 * 1024 * 1024,
    max_wait: Duration::from_millis(200),
};

/// Take events over HTTP (Segment, RudderStack, Snowplow, GA4, JSON) and ship them to the lake or a stream
///
/// A 200 means that the event is on this machine's disk, in the spool; from
/// there it is shipped in the background, also after a crash or a restart on
/// the same --spool folder. On a disk that goes away with the machine, what was
/// not shipped yet goes with it.
#[derive(ClapArgs)]
#[group(id = "collect")]
#[command(after_help = "\
Examples:
  clickmill collect                                        any write key, this machine only
  clickmill collect --listen 0.0.0.0:8080 --write-key 9hbkJNpR
  clickmill collect --sink kinesis=clicks --write-key 9hbkJNpR --spool /var/lib/clickmill
  clickmill collect --listen 127.0.0.1:0                   a free port, printed at the start

Try it:
  curl -u 9hbkJNpR: http://127.0.0.1:8080/v1/track -d '{\"event\":\"Product Viewed\",\"anonymousId\":\"v1\"}'
  curl http://127.0.0.1:8080/health

Exit codes: 0 stopped and drained (or left in the spool, with a warning); 1 failed; 2 usage or configuration.")]
pub struct Args {
    /// Address and port; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// A write key that is taken; repeatable. Without any, every key is, on loopback addresses only
    #[arg(long = "write-key", value_name = "KEY")]
    write_keys: Vec<String>,

    /// Where events go: lake (the raw zone of --lake) or kinesis=STREAM [default: lake]
    #[arg(long, value_name = "SINK")]
    sink: Option<SinkChoice>,

    /// The folder that keeps events until they are shipped [default: ./clickmill-spool]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
}

/// `--sink`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkChoice {
    /// The raw zone of the lake.
    Lake,
    /// A Kinesis stream, by name.
    Kinesis(String),
}

impl FromStr for SinkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "lake" => Ok(Self::Lake),
            Some(("kinesis", stream)) if !stream.is_empty() => Ok(Self::Kinesis(stream.to_owned())),
            _ => Err(format!("`{text}` is no sink; give lake or kinesis=STREAM")),
        }
    }
}

impl SinkChoice {
    /// Constructs it, with the batches that suit it.
    pub async fn open(&self, lake: &str) -> anyhow::Result<(Arc<dyn Sink>, BatchLimits)> {
        match self {
            Self::Lake => {
                let lake = Lake::open(lake)
                    .await
                    .with_context(|| format!("cannot open the lake {lake}"))?;
                Ok((Arc::new(LakeSink::new(lake)), BatchLimits::default()))
            }
            Self::Kinesis(stream) => {
                let config = clickmill_lake::aws::sdk_config().await;
                let client = aws_sdk_kinesis::Client::new(&config);
                Ok((Arc::new(KinesisSink::new(&client, stream)), KINESIS_BATCHES))
            }
        }
    }

    fn describe(&self, lake: &str) -> String {
        match self {
            Self::Lake => format!("lake {lake}"),
            Self::Kinesis(stream) => format!("kinesis stream {stream}"),
        }
    }
}

/// Runs until ctrl-C or SIGTERM.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    // Before anything is announced: a signal from here on ends it in order.
    let stop = stop_signal()?;
    let opened = match Opened::new(&args, context).await? {
        Ok(opened) => opened,
        Err(usage) => return Ok(usage),
    };
    eprintln!("clickmill collect: {}", opened.describe(&context.lake));
    let Opened { collector, server, spool, .. } = opened;
    let served = server.run(stop).await;
    let drained = collector.shutdown(DRAIN_DEADLINE).await;
    served?;
    eprintln!("clickmill collect: {}", describe_drain(drained.left, &spool));
    Ok(ExitCode::SUCCESS)
}

/// A collector and its bound server, not serving yet.
pub struct Opened {
    pub collector: Collector,
    pub server: Server,
    pub spool: PathBuf,
    pub sink: SinkChoice,
}

impl Opened {
    /// Lays the flags over the configuration and opens what they say. The inner
    /// error is the exit code of a wrong setting, which has been explained.
    pub async fn new(args: &Args, context: &Context) -> anyhow::Result<Result<Self, ExitCode>> {
        let config = &context.config.collector;
        let sink = match (&args.sink, &config.sink) {
            (Some(sink), _) => sink.clone(),
            (None, Some(text)) => match text.parse() {
                Ok(sink) => sink,
                Err(error) => {
                    eprintln!("error: in [collector] of the configuration: {error}");
                    return Ok(Err(ExitCode::from(EXIT_USAGE)));
                }
            },
            (None, None) => SinkChoice::Lake,
        };
        let listen = match args.listen.or(config.listen) {
            Some(listen) => listen,
            None => DEFAULT_LISTEN.parse()?,
        };
        let keys = config.keys(args.write_keys.iter().map(String::as_str));
        if keys.is_any() && !listen.ip().is_loopback() {
            let error = clickmill_collector::server::ServerError::OpenToAll { address: listen };
            eprintln!("error: {error}");
            return Ok(Err(ExitCode::from(EXIT_USAGE)));
        }
        let options = match config.protocol_options() {
            Ok(options) => options,
            Err(error) => {
                eprintln!("error: in [collector.cookie] of the configuration: {error}");
                return Ok(Err(ExitCode::from(EXIT_USAGE)));
            }
        };
        let spool = args.spool.clone().or_else(|| config.spool.clone());
        let spool = spool.unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL));
        let (opened, limits) = sink.open(&context.lake).await?;
        let collector = Collector::builder(&spool)
            .sink(opened)
            .batches(config.batch_limits(limits))
            .spool(config.spool_options())
            .start()
            .await?;
        let server = Server::bind(collector.clone(), listen, keys).await?.with_options(options);
        Ok(Ok(Self { collector, server, spool, sink }))
    }

    /// Where it listens, keeps and sends events.
    pub fn describe(&self, lake: &str) -> String {
        format!(
            "listening on http://{}, spool {}, sink {}",
            self.server.local_addr(),
            self.spool.display(),
            self.sink.describe(lake)
        )
    }
}

/// What is left in the spool after a drain.
pub fn describe_drain(left: i64, spool: &std::path::Path) -> String {
    if left > 0 {
        format!(
            "stopped; {left} events are still in {} and are shipped at the next start on that \
             folder",
            spool.display()
        )
    } else {
        "stopped; everything is shipped".to_owned()
    }
}

/// Resolves at ctrl-C or SIGTERM.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_read_as_documented() {
        assert_eq!("lake".parse(), Ok(SinkChoice::Lake));
        assert_eq!("kinesis=clicks".parse(), Ok(SinkChoice::Kinesis("clicks".to_owned())));
        for wrong in ["", "kinesis", "kinesis=", "s3", "lake=x"] {
            assert!(wrong.parse::<SinkChoice>().is_err(), "{wrong}");
        }
    }
}
