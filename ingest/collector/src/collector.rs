//! The [`Collector`]: what a web server embeds.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clickmill_schemas::{Event, Reject, WireRecord};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::shipper::{BatchLimits, Shipper, SinkHealth};
use crate::sink::Sink;
use crate::spool::disk::OsDisk;
use crate::spool::{
    AppendError, Appended, Entry, OverflowPolicy, Recovery, Spool, SpoolError, SpoolOptions,
    SpoolStatus, SyncPolicy,
};

/// A first guess at a line, to allocate once.
const USUAL_LINE_BYTES: usize = 1024;
/// A thread keeps its buffer for encoding up to this.
const KEPT_LINE_BYTES: usize = 64 * 1024;
/// An encoded event or reject is no larger than this: with its lineage and key
/// it fits a record of Kinesis (1 MiB).
pub const MAX_LINE_BYTES: usize = 1_000_000;
/// With [`Durability::Memory`], what a power failure can cost: events of this
/// time, and at most [`MAX_UNSYNCED_BYTES`](crate::spool::MAX_UNSYNCED_BYTES) on disk.
pub const MEMORY_LOSS_WINDOW: Duration = Duration::from_secs(1);
/// With [`Durability::Stream`], how long the sink is waited for. After that the
/// caller is told to send again; the event stays in the spool and is shipped.
pub const STREAM_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// With [`Durability::Stream`], a batch waits no longer than this: somebody
/// waits for its answer.
pub const STREAM_MAX_WAIT: Duration = Duration::from_millis(200);
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

/// What [`Collector::track_durable`], and the server's 200, promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The event is on this machine's disk, written and synced. For disks that
    /// outlive the machine.
    #[default]
    Fsync,
    /// The sink has it. It is in the spool as well, so that an outage of the
    /// sink loses nothing that a retry would not bring back. For disks that go
    /// away with the machine or container.
    Stream,
    /// It is written to the spool, but the sync comes up to
    /// [`MEMORY_LOSS_WINDOW`] later. It survives a killed process; a power
    /// failure or a crash of the machine loses what was not synced.
    Memory,
}

struct Inner {
    spool: Arc<Spool>,
    durability: Durability,
    stream_within: Duration,
    overflow: OverflowPolicy,
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
    durability: Durability,
    stream_within: Duration,
    overflow: OverflowPolicy,
    metrics: Arc<Metrics>,
}

/// Why a collector does not start.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Its spool does not open.
    #[error("cannot open the collector's spool")]
    Spool(#[from] SpoolError),
    /// [`Durability::Stream`] without anything to stream to.
    #[error("durability `stream` answers once the sink has an event: give a sink, or use `fsync`")]
    NoSink,
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
            durability: Durability::default(),
            stream_within: STREAM_ANSWER_WITHIN,
            overflow: OverflowPolicy::default(),
            metrics: Arc::default(),
        }
    }

    /// Hands the event over and returns at once: it is *not yet on disk*. The
    /// hand-off is bounded; where the disk does not keep up, or is full, the
    /// builder's [`OverflowPolicy`] says what happens, and
    /// [`SpoolStatus::dropped`] counts it. Costs the encoding and a copy, about
    /// a microsecond in all, and no I/O.
    ///
    /// # Errors
    /// [`TrackError::Spool`] with `Busy`, `Full` (both with
    /// [`OverflowPolicy::Refuse`] only), `Closed` or `TooLarge`;
    /// [`TrackError::TooLarge`].
    pub fn track(&self, event: &Event<'_>) -> Result<(), TrackError> {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            encode_event(event, line)?;
            let outcome = self.0.spool.track(line, self.0.overflow);
            if line.capacity() > KEPT_LINE_BYTES {
                *line = Vec::new();
            }
            Ok(outcome?)
        })
    }

    /// Returns once the event is as safe as the builder's [`Durability`] says:
    /// by default on disk, where neither a crash nor a power failure loses it.
    ///
    /// # Errors
    /// [`TrackError`]; then the event was not taken. With
    /// [`AppendError::NotShipped`] it was, and may be sent again all the same:
    /// the copies have one `event_id`.
    pub async fn track_durable(&self, event: &Event<'_>) -> Result<Appended, TrackError> {
        Ok(self.append(vec![Encoded::event(event)?]).await?)
    }

    /// As [`Collector::track_durable`], all or none.
    pub(crate) async fn append(&self, input: Vec<Encoded>) -> Result<Appended, AppendError> {
        let entries = input.into_iter().map(|encoded| encoded.0).collect();
        let appended = self.0.spool.append(entries).await?;
        if self.0.durability == Durability::Stream {
            let last = appended.next_wal_seq - 1;
            let mut shipped = self.0.spool.shipped();
            let taken = shipped.wait_for(|shipped| *shipped >= last);
            let within = self.0.stream_within;
            match tokio::time::timeout(within, taken).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(AppendError::Closed),
                Err(_) => return Err(AppendError::NotShipped { within }),
            }
        }
        Ok(appended)
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

    /// What an answer promises; [`Durability::Fsync`] by default.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// With [`Durability::Stream`], how long the sink is waited for;
    /// [`STREAM_ANSWER_WITHIN`] by default.
    pub const fn stream_answer_within(mut self, within: Duration) -> Self {
        self.stream_within = within;
        self
    }

    /// What [`Collector::track`] does with an event that there is no room for;
    /// [`OverflowPolicy::Refuse`] by default.
    pub const fn overflow(mut self, policy: OverflowPolicy) -> Self {
        self.overflow = policy;
        self
    }

    /// Opens the spool, recovers what a crash left, and starts shipping.
    ///
    /// # Errors
    /// [`CollectorError`] where the spool is in use or cannot be read or written,
    /// or [`Durability::Stream`] has no sink.
    pub async fn start(self) -> Result<Collector, CollectorError> {
        let Self { dir, sink, spool: mut options, mut limits, metrics, .. } = self;
        let (durability, overflow) = (self.durability, self.overflow);
        let stream_within = self.stream_within;
        match durability {
            Durability::Fsync => {}
            Durability::Memory => options.sync = SyncPolicy::Within(MEMORY_LOSS_WINDOW),
            Durability::Stream if sink.is_none() => return Err(CollectorError::NoSink),
            Durability::Stream => limits.max_wait = limits.max_wait.min(STREAM_MAX_WAIT),
        }
        let counted = Arc::clone(&metrics);
        let opening = move || Spool::open_with(Arc::new(OsDisk), &dir, options, counted);
        let spool = tokio::task::spawn_blocking(opening).await??;
        let spool = Arc::new(spool);
        let (health, closing, drain) =
            (SinkHealth::default(), CancellationToken::new(), CancellationToken::new());
        let shipper = sink.map(|sink| {
            let shipper =
                Shipper::new(Arc::clone(&spool), sink, limits, health.clone(), drain.clone())
                    .counting(Arc::clone(&metrics));
            tokio::spawn(shipper.run())
        });
        tokio::spawn(heartbeats(Arc::downgrade(&spool), self.heartbeat_every, closing.clone()));
        let shipper = Mutex::new(shipper);
        let inner = Inner {
            spool,
            durability,
            stream_within,
            overflow,
            metrics,
            health,
            closing,
            drain,
            shipper,
        };
        Ok(Collector(Arc::new(inner)))
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

/// Appends the event's line, without lineage, to `line`.
fn encode_event(event: &Event<'_>, line: &mut Vec<u8>) -> Result<(), TrackError> {
    let before = line.len();
    // Lineage is the spool's to add; what an event brought along would stand there twice.
    if event.collector_id.is_some() || event.wal_seq.is_some() {
        let mut event = event.clone();
        event.collector_id = None;
        event.wal_seq = None;
        event.encode_to(line);
    } else {
        event.encode_to(line);
    }
    let bytes = line.len() - before;
    if bytes > MAX_LINE_BYTES {
        return Err(TrackError::TooLarge { bytes });
    }
    Ok(())
}

impl Encoded {
    pub fn event(event: &Event<'_>) -> Result<Self, TrackError> {
        let mut line = Vec::with_capacity(USUAL_LINE_BYTES);
        encode_event(event, &mut line)?;
        Ok(Self(Entry::Event(line)))
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

#[cfg(test)]
#[path = "collector_tests.rs"]
mod tests;
