//! One process among the workers of a stream: which shards it reads, from the
//! stream's creation to its deletion.
//!
//! Everything turns around one loop, [`Supervisor::supervise`]. A [`turn`] shows a
//! sign of life, looks at the lease table, settles what ended, lets go of what
//! others took, and takes what is due to it. Shards and the listing of the
//! stream run beside it, so that neither a slow lake nor a slow stream keeps
//! this worker from showing that it lives.

mod turn;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use clickmill_lake::Lake;
use clickmill_lake::landing::Beginning;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::DeliverReport;
use super::config::{DeliverConfig, Leases, Retrieval, Until};
use super::error::DeliverError;
use super::feed::Mode;
use super::feed::consumer::Consumer;
use super::gather::Gather;
use super::lease::LeaseTable;
use super::lease::dynamodb::DynamoDbTable;
use super::lease::lake::LakeTable;
use super::lease::plan::{Pulses, Taking};
use super::lease::solo::SoloTable;
use super::memory::{concurrent_reads, encoders, gathered};
use super::monitor::Monitor;
use super::reader::{self, Reader, Stream};
use super::shards::Shard;
use super::worker::{End, Worker};

/// Several shards that end at once are settled by one look at the table.
const GATHER: Duration = Duration::from_millis(100);
/// A worker that ends tries for so long to free its leases; others wait for their expiry else.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shards taken in one turn: it must not last longer than a sign of life may be late.
pub(super) const MAX_TAKES: usize = 64;

/// One stream, from its creation to its deletion.
pub(super) struct Supervisor<'a> {
    config: &'a DeliverConfig,
    lake: &'a Lake,
    stream: Stream,
    beginning: Beginning,
    /// The shards': cancelled when one of them fails.
    reader: Reader,
    /// Still good then.
    describer: &'a Reader,
    mode: Mode,
    gather: Arc<Gather>,
    monitor: Arc<Monitor>,
    report: &'a mut DeliverReport,
    me: String,
    table: Box<dyn LeaseTable>,
    pulses: Pulses,
    tasks: JoinSet<Task>,
    /// Those of `tasks` that read a shard, with what stops them.
    running: BTreeMap<String, CancellationToken>,
    /// How shards ended whose leases are still this worker's.
    ended: Vec<(String, End)>,
    /// Chains that this process has seen closed.
    drained: HashSet<String>,
    /// Chains may be there of shards that are listed no more.
    seeks_expired: bool,
    /// Shards that were listed, and are no more.
    vanished: BTreeMap<String, Shard>,
    /// Read to their end for now, and left, with [`Until::CaughtUp`].
    caught_up: HashSet<String>,
    listed: Option<Vec<Shard>>,
    listing: bool,
    list_at: Instant,
    turn_at: Instant,
    /// Turns that failed in a row.
    failures: u32,
    failing_since: Instant,
}

/// Why a stream is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// It was deleted and created anew under its name.
    Replaced,
}

/// What runs beside the loop.
enum Task {
    Shard { shard: String, report: DeliverReport, result: Result<End, DeliverError> },
    Listing(Result<Listing, DeliverError>),
}

enum Listing {
    Shards(Vec<Shard>),
    Replaced,
    Cancelled,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Goes,
    /// There is more to take; a sign of life comes before it.
    GoesAtOnce,
    CaughtUp,
}

impl<'a> Supervisor<'a> {
    pub fn new(
        config: &'a DeliverConfig,
        lake: &'a Lake,
        stream: Stream,
        beginning: Beginning,
        describer: &'a Reader,
        report: &'a mut DeliverReport,
    ) -> Result<Self, DeliverError> {
        let me = config.worker.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let table = lease_table(&config.leases, lake, &stream, &me);
        let now = Instant::now();
        let reader = Reader { cancel: describer.cancel.child_token(), ..describer.clone() };
        let mode = match &config.retrieval {
            Retrieval::Polling => Mode::Polling {
                reads: Arc::new(Semaphore::new(concurrent_reads(config.memory))),
                page_records: config.page_records,
            },
            Retrieval::FanOut { consumer, aws } => {
                let consumer = Consumer::new(consumer, aws, config.memory, &reader, &stream);
                Mode::FanOut(Arc::new(consumer))
            }
        };
        let stem = format!("{}-{}-shared", stream.name, stream.created);
        let (limit, encoders) = (gathered(config.memory), encoders(config.memory));
        let gather = Gather::new(lake, stem, config.cut, limit, encoders)
            .map_err(|source| DeliverError::lake(&stream.name, source))?;
        Ok(Self {
            config,
            lake,
            stream,
            beginning,
            reader,
            describer,
            mode,
            gather: Arc::new(gather),
            monitor: Arc::clone(&describer.monitor),
            report,
            me,
            table,
            pulses: Pulses::default(),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            ended: Vec::new(),
            drained: HashSet::new(),
            seeks_expired: false,
            vanished: BTreeMap::new(),
            caught_up: HashSet::new(),
            listed: None,
            listing: false,
            list_at: now,
            turn_at: now,
            failures: 0,
            failing_since: now,
        })
    }

    /// Until cancelled, caught up where that was asked for, or the stream is replaced. Then
    /// everything that was read is committed and the leases are free.
    pub async fn run(mut self) -> Result<Ended, DeliverError> {
        tracing::info!(stream = self.stream.name, worker = self.me, "delivering");
        // What denies a consumer is said before anything is taken.
        if let Mode::FanOut(consumer) = &self.mode {
            consumer.arn().await?;
        }
        let outcome = self.supervise().await;
        // Whatever the reason: the shards commit what they hold before this returns.
        self.reader.cancel.cancel();
        let mut undrained = None;
        while let Some(task) = self.tasks.join_next().await {
            if let Task::Shard { shard, report, result } = task? {
                self.report.add(report);
                self.ended(&shard);
                match result {
                    Ok(end) => self.ended.push((shard, end)),
                    Err(error) => {
                        tracing::error!(
                            shard,
                            error = reader::chain(&error),
                            "what was read could not be committed; the next start reads it again"
                        );
                        undrained.get_or_insert(error);
                    }
                }
            }
        }
        match timeout(RELEASE_TIMEOUT, self.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = reader::chain(&error),
                "the leases could not be freed; others take them when they expire"
            ),
            Err(_) => tracing::warn!("the leases could not be freed in time; they will expire"),
        }
        match outcome {
            // An iterator of a stream that was replaced since is refused.
            Err(DeliverError::NoStream { .. } | DeliverError::Refused { .. })
                if is_replaced(self.describer, &self.stream).await? =>
            {
                Ok(Ended::Replaced)
            }
            Ok(ended) => undrained.map_or(Ok(ended), Err),
            Err(error) => Err(error),
        }
    }

    async fn supervise(&mut self) -> Result<Ended, DeliverError> {
        let cancel = self.reader.cancel.clone();
        loop {
            if !self.listing && self.is_listing_due() {
                self.list();
            }
            let wake = if self.listing { self.turn_at } else { self.turn_at.min(self.list_at) };
            tokio::select! {
                () = cancel.cancelled() => return Ok(Ended::Done),
                Some(task) = self.tasks.join_next() => {
                    if let Some(ended) = self.settle(task?)? {
                        return Ok(ended);
                    }
                }
                () = sleep_until(wake) => {}
            }
            if self.listed.is_none() {
                // Nothing is known to turn around before the first listing.
                self.turn_at = Instant::now() + GATHER;
            }
            if self.turn_at > Instant::now() {
                continue;
            }
            let turned = tokio::select! {
                () = cancel.cancelled() => return Ok(Ended::Done),
                turned = self.turn() => turned,
            };
            match turned {
                Ok(Turn::CaughtUp) => return Ok(Ended::Done),
                Ok(turn) => {
                    self.failures = 0;
                    self.turn_at = Instant::now();
                    if turn == Turn::Goes {
                        self.turn_at += self.config.lease.beat();
                    }
                }
                Err(error) => self.put_off(error)?,
            }
        }
    }

    fn is_listing_due(&self) -> bool {
        self.listing || self.list_at <= Instant::now()
    }

    /// Lists the stream's shards, beside everything else.
    fn list(&mut self) {
        let (reader, describer) = (self.reader.clone(), self.describer.clone());
        let known = self.listed.is_some().then(|| self.stream.clone());
        self.listing = true;
        self.tasks.spawn(async move {
            let listing = async {
                if let Some(stream) = known
                    && is_replaced(&describer, &stream).await?
                {
                    return Ok(Listing::Replaced);
                }
                Ok(reader.shards().await?.map_or(Listing::Cancelled, Listing::Shards))
            };
            Task::Listing(listing.await)
        });
    }

    /// Takes in what a task came to.
    fn settle(&mut self, task: Task) -> Result<Option<Ended>, DeliverError> {
        match task {
            Task::Listing(listing) => {
                self.listing = false;
                self.list_at = Instant::now() + self.config.discover;
                match listing? {
                    Listing::Replaced => return Ok(Some(Ended::Replaced)),
                    Listing::Cancelled => return Ok(Some(Ended::Done)),
                    Listing::Shards(shards) => {
                        self.table.know(&shards);
                        let news = self.listed.as_ref() != Some(&shards);
                        self.seeks_expired |= self.listed.is_none();
                        let stays: HashSet<&str> =
                            shards.iter().map(|shard| shard.id.as_str()).collect();
                        for gone in self.listed.iter().flatten() {
                            if !stays.contains(gone.id.as_str()) {
                                self.vanished.insert(gone.id.clone(), gone.clone());
                                self.seeks_expired = true;
                            }
                        }
                        self.listed = Some(shards);
                        if news || self.config.until == Until::CaughtUp {
                            self.turn_at = Instant::now();
                        }
                    }
                }
            }
            Task::Shard { shard, report, result } => {
                self.report.add(report);
                self.ended(&shard);
                let end = result?;
                tracing::debug!(shard, ?end, "a shard's worker ended");
                match end {
                    End::Drained | End::Expired => {
                        self.drained.insert(shard.clone());
                        // It was closed, so it has children; the last listing may not know them.
                        self.list_at = Instant::now();
                    }
                    End::CaughtUp => {
                        self.caught_up.insert(shard.clone());
                    }
                    End::Cancelled => {}
                }
                self.ended.push((shard, end));
                self.turn_at = self.turn_at.min(Instant::now() + GATHER);
            }
        }
        Ok(None)
    }

    fn ended(&mut self, shard: &str) {
        self.running.remove(shard);
        self.monitor.end(shard);
    }

    fn start(&mut self, shard: Shard, taking: Taking) {
        let stop = self.reader.cancel.child_token();
        self.running.insert(shard.id.clone(), stop.clone());
        self.monitor.begin(&shard.id);
        let wait = match taking {
            Taking::Free => Duration::ZERO,
            Taking::Steal => self.config.lease.handover(),
        };
        tracing::debug!(shard = shard.id, ?taking, "took a shard");
        let worker = Worker {
            config: self.config.clone(),
            lake: self.lake.clone(),
            reader: Reader { cancel: stop, ..self.reader.clone() },
            stream: self.stream.clone(),
            shard,
            beginning: self.beginning.clone(),
            mode: self.mode.clone(),
            gather: Arc::clone(&self.gather),
            monitor: Arc::clone(&self.monitor),
            report: DeliverReport::default(),
            failures: 0,
            stopping: self.reader.cancel.clone(),
            held: None,
            through: None,
        };
        self.tasks.spawn(async move {
            if !worker.reader.pause(wait).await {
                let shard = worker.shard.id;
                return Task::Shard { shard, report: worker.report, result: Ok(End::Cancelled) };
            }
            let (shard, report, result) = worker.run().await;
            Task::Shard { shard: shard.id, report, result }
        });
    }

    /// After a turn that failed: the next one is later. The shards go on meanwhile.
    fn put_off(&mut self, error: DeliverError) -> Result<(), DeliverError> {
        if !error.is_passing() {
            return Err(error);
        }
        if self.failures == 0 {
            self.failing_since = Instant::now();
        }
        self.failures += 1;
        if self.config.retry.is_exhausted(self.failures) {
            return Err(DeliverError::GaveUp {
                operation: "sharing the stream's shards",
                subject: self.stream.name.clone(),
                attempts: self.failures,
                elapsed: self.failing_since.elapsed(),
                source: Box::new(error),
            });
        }
        let random = uuid::Uuid::new_v4().as_u64_pair().0;
        let wait = self.config.retry.wait(self.failures, random);
        tracing::warn!(
            error = reader::chain(&error),
            attempt = self.failures,
            "the lease table cannot be read or changed; reading goes on without it, retrying"
        );
        self.turn_at = Instant::now() + wait;
        Ok(())
    }
}

/// The table that the configuration names, for the worker `me`.
pub(super) fn lease_table(
    leases: &Leases,
    lake: &Lake,
    stream: &Stream,
    me: &str,
) -> Box<dyn LeaseTable> {
    match leases {
        Leases::None => Box::new(SoloTable::new(me)),
        Leases::Lake => {
            let folder = format!("{}-{}", stream.name, stream.created);
            Box::new(LakeTable::new(lake.store(), &folder, me))
        }
        Leases::DynamoDb { client, table } => Box::new(DynamoDbTable::new(client, table, me)),
    }
}

async fn is_replaced(reader: &Reader, stream: &Stream) -> Result<bool, DeliverError> {
    let now = reader.describe().await?;
    Ok(now.is_some_and(|now| now.created != stream.created))
}
