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
use clickmill_collector::plan::PlanFile;
use clickmill_collector::server::{Edge, GeoIp, KeepNetwork, Options, Server, TailToken, Tls};
use clickmill_collector::sink::{FirehoseSink, KinesisSink, Sink};
use clickmill_collector::spool::volatile_file_system;
use clickmill_collector::{
    BatchLimits, Collector, CollectorConfig, Durability, Metrics, SettingError,
};
use clickmill_delivery::LakeSink;
use clickmill_lake::Lake;

use super::EXIT_USAGE;
use crate::context::Context;

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
pub const DEFAULT_SPOOL: &str = "./clickmill-spool";
/// How long the spool is emptied at the end; what is left is shipped at the next start.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// A stream takes small batches at once; large ones would only wait.
const STREAM_BATCHES: BatchLimits = BatchLimits {
    max_events: 10_000,
    max_bytes: 8 * 1024 * 1024,
    max_wait: Duration::from_millis(200),
};

/// Take events over HTTP (Segment, RudderStack, Snowplow, GA4, JSON) and ship them to the lake or a stream
///
/// A 200 means that the event is on this machine's disk, in the spool; from
/// there it is shipped in the background, also after a crash or a restart on
/// the same --spool folder. On a disk that goes away with the machine, what was
/// not shipped yet goes with it: there, --durability stream answers once the
/// sink has the event.
#[derive(ClapArgs)]
#[group(id = "collect")]
#[command(after_help = "\
Examples:
  clickmill collect                                        any write key, this machine only
  clickmill collect --listen 0.0.0.0:8080 --write-key 9hbkJNpR
  clickmill collect --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key privkey.pem --write-key 9hbkJNpR
  clickmill collect --sink kinesis=clicks --write-key 9hbkJNpR --spool /var/lib/clickmill
  clickmill collect --sink firehose=clicks-to-s3 --write-key 9hbkJNpR
  clickmill collect --listen 127.0.0.1:0                   a free port, printed at the start
  clickmill collect --plan tracking-plan.toml              flag what is not as planned

Try it:
  curl -u 9hbkJNpR: http://127.0.0.1:8080/v1/track -d '{\"event\":\"Product Viewed\",\"anonymousId\":\"v1\"}'
  curl http://127.0.0.1:8080/health
  clickmill tail                                           what arrives, in another terminal

Exit codes: 0 stopped and drained (or left in the spool, with a warning); 1 failed; 2 usage or configuration.")]
pub struct Args {
    /// Address and port; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// A write key that is taken; repeatable. Without any, every key is, on loopback addresses only
    #[arg(long = "write-key", value_name = "KEY")]
    write_keys: Vec<String>,

    /// Where events go: lake (the raw zone of --lake), kinesis=STREAM or firehose=STREAM [default: lake]
    #[arg(long, value_name = "SINK")]
    sink: Option<SinkChoice>,

    /// The server's certificate chain, PEM; it then speaks TLS only. Read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Where /metrics and the numbers of /health and /ready are shown; else to this machine only
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,

    /// A proxy or network whose X-Forwarded-For is believed; repeatable
    #[arg(long = "trusted-proxy", value_name = "NETWORK")]
    trusted_proxies: Vec<String>,

    /// A MaxMind database: events get country, region and city before the address is dropped
    #[arg(long, value_name = "FILE")]
    geoip: Option<PathBuf>,

    /// The folder that keeps events until they are shipped [default: ./clickmill-spool]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// What a 200 promises: fsync (on this disk), stream (in the sink) or memory (a power failure
    /// costs up to a second of events) [default: fsync]
    #[arg(long, value_name = "MODE", value_parser = durability)]
    durability: Option<Durability>,

    /// A tracking plan: events are checked against it and flagged, never dropped. Read again when it changes
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
}

/// `--sink`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkChoice {
    /// The raw zone of the lake.
    Lake,
    /// A Kinesis stream, by name.
    Kinesis(String),
    /// A Firehose delivery stream, by name.
    Firehose(String),
}

impl FromStr for SinkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "lake" => Ok(Self::Lake),
            Some(("kinesis", stream)) if !stream.is_empty() => Ok(Self::Kinesis(stream.to_owned())),
            Some(("firehose", stream)) if !stream.is_empty() => {
                Ok(Self::Firehose(stream.to_owned()))
            }
            _ => Err(format!("`{text}` is no sink; give lake, kinesis=STREAM or firehose=STREAM")),
        }
    }
}

impl SinkChoice {
    /// Constructs it, with the batches that suit it.
    pub async fn open(
        &self,
        context: &Context,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<(Arc<dyn Sink>, BatchLimits)> {
        let config = &context.config.collector;
        match self {
            Self::Lake => {
                let lake = Lake::open(&context.lake)
                    .await
                    .with_context(|| format!("cannot open the lake {}", context.lake))?;
                let format = context.config.deliver.format.unwrap_or_default();
                let sink = LakeSink::new(lake).with_format(format);
                Ok((Arc::new(sink), BatchLimits::default()))
            }
            Self::Kinesis(stream) => {
                let client = aws_sdk_kinesis::Client::new(&clickmill_lake::aws::sdk_config().await);
                let sink = KinesisSink::new(&client, stream, config.kinesis.limits());
                Ok((Arc::new(sink.counting(Arc::clone(metrics))), STREAM_BATCHES))
            }
            Self::Firehose(stream) => {
                let client =
                    aws_sdk_firehose::Client::new(&clickmill_lake::aws::sdk_config().await);
                let sink = FirehoseSink::new(&client, stream, config.firehose.limits());
                Ok((Arc::new(sink.counting(Arc::clone(metrics))), STREAM_BATCHES))
            }
        }
    }

    pub fn describe(&self, lake: &str) -> String {
        match self {
            Self::Lake => format!("lake {lake}"),
            Self::Kinesis(stream) => format!("kinesis stream {stream}"),
            Self::Firehose(stream) => format!("firehose stream {stream}"),
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
    server.run(stop).await;
    let drained = collector.shutdown(DRAIN_DEADLINE).await;
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
        let edge = match edge(args, config)? {
            Ok(edge) => edge,
            Err(error) => {
                eprintln!("error: {error}");
                return Ok(Err(ExitCode::from(EXIT_USAGE)));
            }
        };
        let spool = args.spool.clone().or_else(|| config.spool.clone());
        let spool = spool.unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL));
        let durability = args.durability.or(config.durability).unwrap_or_default();
        if let Some(advice) =
            volatile_file_system(&spool).and_then(|kind| advice(durability, &kind))
        {
            eprintln!("warning: {advice}");
        }
        let metrics = Arc::new(Metrics::default());
        let (opened, limits) = sink.open(context, &metrics).await?;
        let plan = match args.plan.as_ref().or(config.plan.as_ref()).map(PlanFile::open) {
            Some(Ok(plan)) => Some(plan),
            Some(Err(error)) => {
                eprintln!("error: {:#}", anyhow::Error::from(error));
                return Ok(Err(ExitCode::from(EXIT_USAGE)));
            }
            None => None,
        };
        let collector = Collector::builder(&spool)
            .sink(opened)
            .metrics(metrics)
            .batches(config.batch_limits(limits))
            .spool(config.spool_options())
            .durability(durability)
            .start()
            .await?;
        if let Some((file, plan)) = plan {
            collector.set_plan(Some(plan));
            tokio::spawn(file.follow(collector.clone()));
        }
        let server = Server::bind_edge(collector.clone(), listen, keys, edge).await?;
        let token = TailToken::create(&spool)
            .with_context(|| format!("cannot write the tail's token to {}", spool.display()))?;
        let server = server.with_options(Options { tail_token: Some(token), ..options });
        Ok(Ok(Self { collector, server, spool, sink }))
    }

    /// Where it listens, keeps and sends events.
    pub fn describe(&self, lake: &str) -> String {
        let admin = self.server.admin_addr();
        let admin = admin.map(|at| format!(", metrics on http://{at}/metrics")).unwrap_or_default();
        format!(
            "listening on {}://{}{admin}, spool {}, sink {}",
            if self.server.is_tls() { "https" } else { "http" },
            self.server.local_addr(),
            self.spool.display(),
            self.sink.describe(lake)
        )
    }
}

/// How the server stands towards the network. The inner error is a wrong setting.
fn edge(args: &Args, config: &CollectorConfig) -> anyhow::Result<Result<Edge, SettingError>> {
    let tls = match (&args.tls_cert, &args.tls_key, &config.tls) {
        (Some(cert), Some(key), _) => Some(Tls::open(cert, key)?),
        (_, _, Some(files)) => Some(Tls::open(&files.cert, &files.key)?),
        _ => None,
    };
    let geo = args.geoip.as_ref().or(config.geoip.as_ref()).map(GeoIp::open).transpose()?;
    let keep_network =
        if config.keep_truncated_ip { KeepNetwork::Truncated } else { KeepNetwork::Nothing };
    let settings = || {
        Ok(Edge {
            tls,
            geo,
            keep_network,
            connections: config.connection_limits(),
            trusted_proxies: config.trusted(args.trusted_proxies.iter().map(String::as_str))?,
            address_limit: config.address_limit()?,
            admin_listen: args.admin_listen.or(config.admin_listen),
            reload_every: None,
            stop_delay: Duration::from_millis(config.stop_delay_ms.unwrap_or(0)),
        })
    };
    Ok(settings())
}

/// `--durability`, by the names of the configuration.
fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "fsync" => Ok(Durability::Fsync),
        "stream" => Ok(Durability::Stream),
        "memory" => Ok(Durability::Memory),
        _ => Err("give fsync, stream or memory".to_owned()),
    }
}

/// What to say of a spool on a file system of this kind, which goes away.
fn advice(durability: Durability, kind: &str) -> Option<String> {
    match durability {
        Durability::Stream => None,
        Durability::Fsync | Durability::Memory => Some(format!(
            "the spool lies on {kind}, which goes away with this machine or container, and what \
             is not shipped by then with it: put --spool on a disk that stays, or use --durability \
             stream, which answers 200 once the sink has the event"
        )),
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
    fn a_spool_that_goes_away_is_warned_of_unless_the_sink_has_each_event_first() {
        let said = advice(Durability::Fsync, "overlay").expect("a warning");
        assert!(said.contains("overlay") && said.contains("--durability stream"), "{said}");
        assert!(advice(Durability::Memory, "tmpfs").is_some());
        assert_eq!(advice(Durability::Stream, "tmpfs"), None);
    }

    #[test]
    fn durabilities_are_read_as_documented() {
        assert_eq!(durability("fsync"), Ok(Durability::Fsync));
        assert_eq!(durability("stream"), Ok(Durability::Stream));
        assert_eq!(durability("memory"), Ok(Durability::Memory));
        assert!(durability("Fsync").is_err());
    }

    #[test]
    fn sinks_are_read_as_documented() {
        assert_eq!("lake".parse(), Ok(SinkChoice::Lake));
        assert_eq!("kinesis=clicks".parse(), Ok(SinkChoice::Kinesis("clicks".to_owned())));
        let firehose = Ok(SinkChoice::Firehose("clicks=s3".to_owned()));
        assert_eq!("firehose=clicks=s3".parse(), firehose);
        for wrong in ["", "firehose", "firehose=", "kinesis", "kinesis=", "s3", "lake=x"] {
            assert!(wrong.parse::<SinkChoice>().is_err(), "{wrong}");
        }
    }
}
