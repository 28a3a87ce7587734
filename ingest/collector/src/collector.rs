//! The [`Collector`]: what a web server embeds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clickmill_schemas::{Event, Reject, WireRecord};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::shipper::{BatchLimits, Shipper, SinkHealth};
use crate::sink::Sink;
use crate::spool::{
    AppendError, Appended, Entry, Recovery, Spool, SpoolError, SpoolOptions, SpoolStatus,
};

/// An encoded event or reject is no larger than this: with its lineage and key
/// it fits a record of Kinesis (1 MiB).
pub const MAX_LINE_BYTES: usize = 1_000_000;
/// How often a collector says that it lives.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);

/// Takes events, keeps them in a spool on disk, and ships them in the background.
///
/// Clones share one collector. Call [`Collector::shutdown`] before the runtime
/// ends; without it nothing that was acknowledged is lost either, but it is
/// shipped only after the next start on the same folder.
///
/// ```
/// use std::time::Duration;
/// use clickmill_collector::{Collector, Event, EventTime, Timestamp};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let dir = folder.path();
/// let collector = Collector::builder(dir).start().await?;
///
/// let now = Timestamp::now();
/// let time = EventTime::resolve(Some(now), None, now);
/// let mut event = Event::new("01JD-0001", "add_to_cart", "native", "shop", time);
/// event.user_id = Some("customer-7".into());
///
/// collector.track(&event)?; // never blocks
/// let at = collector.track_durable(&event).await?; // on disk when it returns
/// assert_eq!(at.first_wal_seq, 2);
///
/// collector.shutdown(Duration::from_secs(10)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Collector(Arc<Inner>);

struct Inner {
    spool: Arc<Spool>,
    metrics: Arc<Metrics>,
    health: SinkHealth,
    /// Stops the heartbeats.
    closing: CancellationToken,
    /// Tells the shipper that the spool is closed.
    drain: CancellationToken,
    shipper: Mutex<Option<JoinHandle<()>>>,
}

/// Settings of a [`Collector`], then [`CollectorBuilder::start`].
#[must_use]
pub struct CollectorBuilder {
    dir: PathBuf,
    sink: Option<Arc<dyn Sink>>,
    spool: SpoolOptions,
    limits: BatchLimits,
    heartbeat_every: Duration,
    metrics: Arc<Metrics>,
}

/// Why a collector does not start.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Its spool does not open.
    #[error("cannot open the collector's spool")]
    Spool(#[from] SpoolError),
    /// The thread that opens the spool did not end well.
    #[error("opening the spool was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Why an event was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrackError {
    /// Its encoding is over [`MAX_LINE_BYTES`].
    #[error("the event is {bytes} bytes when encoded; at most {MAX_LINE_BYTES} are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The spool does not take it.
    #[error("the event was not stored: {0}")]
    Spool(#[from] AppendError),
}

/// How a collector is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorStatus {
    /// The spool's random id.
    pub collector_id: String,
    /// The spool's numbers.
    pub spool: SpoolStatus,
    /// What the sink last refused with, until it takes something again.
    pub sink_error: Option<String>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Events and rejects that are on disk but not shipped: the next start on
    /// the same folder ships them.
    pub left: i64,
}

/// A decoded or rejected piece of input, encoded but without lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoded(Entry);

impl Collector {
    /// A collector with its spool in `dir`, which is created where it does not
    /// exist. One folder serves one collector at a time.
    pub fn builder(dir: impl AsRef<Path>) -> CollectorBuilder {
        CollectorBuilder {
            dir: dir.as_ref().to_owned(),
            sink: None,
            spool: SpoolOptions::default(),
            limits: BatchLimits::default(),
            heartbeat_every: HEARTBEAT_EVERY,
            metrics: Arc::default(),
        }
    }

    /// Hands the event over and returns at once: it is *not yet on disk*. The
    /// hand-off is bounded; where the disk does not keep up, this refuses.
    ///
    /// # Errors
    /// [`TrackError::Spool`] with `Busy`, `Full` or `Closed`, or `TooLarge`.
    pub fn track(&self, event: &Event<'_>) -> Result<(), TrackError> {
        Ok(self.0.spool.append_later(vec![Encoded::event(event)?.0])?)
    }

    /// Returns once the event is on disk, where neither a crash nor a power
    /// failure loses it.
    ///
    /// # Errors
    /// [`TrackError`]; then the event was not taken.
    pub async fn track_durable(&self, event: &Event<'_>) -> Result<Appended, TrackError> {
        Ok(self.0.spool.append(vec![Encoded::event(event)?.0]).await?)
    }

    /// As [`Collector::track_durable`], all or none.
    pub(crate) async fn append(&self, input: Vec<Encoded>) -> Result<Appended, AppendError> {
        self.0.spool.append(input.into_iter().map(|encoded| encoded.0).collect()).await
    }

    /// Refuses new events, writes a closing heartbeat, and ships what is left
    /// for at most `deadline`. What it does not get out stays in the spool.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        let inner = &self.0;
        inner.closing.cancel();
        if let Err(error) = inner.spool.append(vec![Entry::Heartbeat { closing: true }]).await
            && !matches!(error, AppendError::Closed)
        {
            tracing::warn!(%error, "no closing heartbeat");
        }
        let spool = Arc::clone(&inner.spool);
        if let Err(error) = tokio::task::spawn_blocking(move || spool.close()).await {
            tracing::error!(%error, "closing the spool panicked");
        }
        inner.drain.cancel();
        let shipper = inner.shipper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut shipper) = shipper
            && tokio::time::timeout(deadline, &mut shipper).await.is_err()
        {
            shipper.abort();
            // Let it go of the spool before its folder is used again.
            let _ = shipper.await;
        }
        let status = inner.spool.status();
        Drained { left: status.last_wal_seq - status.shipped_wal_seq }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> CollectorStatus {
        CollectorStatus {
            collector_id: self.0.spool.collector_id(),
            spool: self.0.spool.status(),
            sink_error: self.0.health.get(),
        }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// What opening the spool found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        self.0.spool.recovery()
    }
}

impl CollectorBuilder {
    /// Where the records go. Without one they stay in the spool.
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// When a batch is sent.
    pub const fn batches(mut self, limits: BatchLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The spool's sizes.
    pub const fn spool(mut self, options: SpoolOptions) -> Self {
        self.spool = options;
        self
    }

    /// How often it writes a heartbeat; [`HEARTBEAT_EVERY`] by default.
    pub const fn heartbeat_every(mut self, every: Duration) -> Self {
        self.heartbeat_every = every;
        self
    }

    /// Where it counts: for who constructs a sink that counts, too. Otherwise
    /// it has its own, see [`Collector::metrics`].
    pub fn metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Opens the spool, recovers what a crash left, and starts shipping.
    ///
    /// # Errors
    /// [`CollectorError`] where the spool is in use or cannot be read or written.
    pub async fn start(self) -> Result<Collector, CollectorError> {
        let (dir, options) = (self.dir, self.spool);
        let spool = tokio::task::spawn_blocking(move || Spool::open(&dir, options)).await??;
        let spool = Arc::new(spool);
        let (health, closing, drain) =
            (SinkHealth::default(), CancellationToken::new(), CancellationToken::new());
        let shipper = self.sink.map(|sink| {
            let shipper =
                Shipper::new(Arc::clone(&spool), sink, self.limits, health.clone(), drain.clone());
            tokio::spawn(shipper.run())
        });
        tokio::spawn(heartbeats(Arc::downgrade(&spool), self.heartbeat_every, closing.clone()));
        let shipper = Mutex::new(shipper);
        Ok(Collector(Arc::new(Inner {
            spool,
            metrics: self.metrics,
            health,
            closing,
            drain,
            shipper,
        })))
    }
}

/// The first comes after one period: a collector that just started has nothing
/// to say that its first event does not.
async fn heartbeats(spool: std::sync::Weak<Spool>, every: Duration, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let Some(spool) = spool.upgrade() else { return };
        if let Err(error) = spool.append_later(vec![Entry::Heartbeat { closing: false }]) {
            tracing::warn!(%error, "no heartbeat this time");
        }
    }
}

impl Encoded {
    pub fn event(event: &Event<'_>) -> Result<Self, TrackError> {
        // Lineage is the spool's to add; what an event brought along would stand there twice.
        let line = if event.collector_id.is_some() || event.wal_seq.is_some() {
            let mut event = event.clone();
            event.collector_id = None;
            event.wal_seq = None;
            event.encode()
        } else {
            event.encode()
        };
        if line.len() > MAX_LINE_BYTES {
            return Err(TrackError::TooLarge { bytes: line.len() });
        }
        Ok(Self(Entry::Event(line.into_bytes())))
    }

    pub fn reject(reject: Reject<'_>) -> Self {
        Self(Entry::Reject(WireRecord::Reject(reject).encode().into_bytes()))
    }
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("status", &self.status()).finish_non_exhaustive()
    }
}
