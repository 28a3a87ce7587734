//! One shard, from its checkpoint to its end.

use std::sync::Arc;
use std::time::Instant;

use clickmill_collector::sink::kpl;
use clickmill_lake::landing::{Chain, NewCommit, PossibleLoss, Source};
use clickmill_lake::raw::{RawKind, RawWriter};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;

use super::config::{DeliverConfig, Gathered, MIN_POLL, Until};
use super::decode::{self, StreamRecord};
use super::error::{DeliverError, Fault};
use super::feed::{Failed, Feed, Mode, Page, Position, Step, Tip};
use super::memory::Memory;
use super::monitor::Monitor;
use super::reader::{Failure, Reader, Stream, arrival};
use super::shards::Shard;
use super::{DeliverReport, loss};

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The shard is closed and drained; its chain is closed too.
    Drained,
    /// Nothing more for now, and that was asked for.
    CaughtUp,
    /// Cancelled; what was read is committed.
    Cancelled,
}

/// A shard's worker.
pub(super) struct Worker {
    pub config: DeliverConfig,
    pub lake: Lake,
    pub reader: Reader,
    pub stream: Stream,
    pub shard: Shard,
    /// Where to start without a checkpoint; `None`: at the oldest record.
    pub from: Option<Timestamp>,
    /// How its records come.
    pub mode: Mode,
    /// Bounds what all shards hold uncommitted.
    pub memory: Arc<Memory>,
    pub monitor: Arc<Monitor>,
    pub report: DeliverReport,
    /// Failures of the lake in a row.
    pub failures: u32,
    pub checked_for_loss: bool,
    /// When this worker last committed.
    pub landed_at: Option<Instant>,
}

/// Read, not committed.
struct Pending {
    writer: RawWriter,
    first: Option<String>,
    last: Option<String>,
    lines: u64,
    first_read: Instant,
    last_read: Instant,
    loss: Option<PossibleLoss>,
}

impl Worker {
    /// Reads and commits until the end. A failure of the lake, or a lost race,
    /// drops what is not committed and starts again from the chain.
    pub async fn run(mut self) -> (Shard, DeliverReport, Result<End, DeliverError>) {
        let began = Instant::now();
        loop {
            let source = match self.pass().await {
                Err(DeliverError::Lake { source, .. }) => *source,
                outcome => return (self.shard, self.report, outcome),
            };
            let subject = self.shard.id.clone();
            if let LakeError::LostRace { ordinal, .. } = source {
                // No failure: the other has landed what this one held, or a part of it.
                self.monitor.lost_race();
                tracing::info!(
                    shard = subject,
                    ordinal,
                    "another worker landed this; following it"
                );
                let random = uuid::Uuid::new_v4().as_u64_pair().0;
                if self.reader.pause(self.config.retry.wait(1, random)).await {
                    continue;
                }
                return (self.shard, self.report, Ok(End::Cancelled));
            }
            self.failures += 1;
            if !matches!(source, LakeError::Store { .. }) {
                let failed = Err(DeliverError::lake(subject, source));
                return (self.shard, self.report, failed);
            }
            let failure = Failure {
                operation: "landing",
                subject: &subject,
                fault: Fault::Passing,
                source: Box::new(source),
            };
            match self.reader.back_off(failure, self.failures, began).await {
                Ok(true) => {}
                Ok(false) => return (self.shard, self.report, Ok(End::Cancelled)),
                Err(error) => return (self.shard, self.report, Err(error)),
            }
        }
    }

    async fn pass(&mut self) -> Result<End, DeliverError> {
        self.memory.free(&self.shard.id);
        let source = Source::kinesis(&self.stream.name, self.stream.created, &self.shard.id)
            .map_err(|source| self.lake_error(source))?;
        let opened = Chain::open(&self.lake, source).await;
        let mut chain = opened.map_err(|source| self.lake_error(source))?;
        if chain.is_closed() {
            return Ok(End::Drained);
        }
        self.monitor.positioned(&self.shard.id, chain.position());
        let mut pending = self.pending(&chain);
        let Some(loss) = self.check_for_loss(&chain).await? else { return Ok(End::Cancelled) };
        pending.loss = loss;
        let position = Position::after(chain.position(), self.from);
        let mut feed = Feed::new(&self.mode, &self.reader, &self.stream, &self.shard, position);
        let (mut attempt, mut began) = (0, Instant::now());
        let mut tip = Tip::default();
        loop {
            if self.memory.is_told(&self.shard.id) || self.is_due(&pending) {
                pending = self.land_and_go_on(&mut chain, pending).await?;
            }
            if !self.memory.has_room() {
                // Those who hold most are landing; what this shard holds may become due meanwhile.
                if !self.reader.pause(MIN_POLL).await {
                    self.land(&mut chain, pending, Closing::No).await?;
                    return Ok(End::Cancelled);
                }
                continue;
            }
            let page = match feed.next(self.config.poll).await? {
                Step::Page(page) => page,
                Step::Nothing => continue,
                Step::Failed(Failed { operation, fault, source }) => {
                    if attempt == 0 {
                        began = Instant::now();
                    }
                    attempt += 1;
                    let failure = Failure { operation, subject: &self.shard.id, fault, source };
                    // What is held may become due meanwhile, so the wait is in this loop.
                    if !self.reader.back_off(failure, attempt, began).await? {
                        self.land(&mut chain, pending, Closing::No).await?;
                        return Ok(End::Cancelled);
                    }
                    continue;
                }
                Step::Cancelled => {
                    self.land(&mut chain, pending, Closing::No).await?;
                    return Ok(End::Cancelled);
                }
            };
            attempt = 0;
            self.take(&mut pending, &page).await?;
            if page.is_last {
                self.land(&mut chain, pending, Closing::Yes).await?;
                return Ok(End::Drained);
            }
            let caught_up = tip.is_reached(&page);
            drop(page);
            if caught_up && self.config.until == Until::CaughtUp && !self.shard.closed {
                self.land(&mut chain, pending, Closing::No).await?;
                return Ok(End::CaughtUp);
            }
            feed.rest(if caught_up { self.config.poll } else { MIN_POLL });
        }
    }

    async fn take(&mut self, pending: &mut Pending, page: &Page) -> Result<(), DeliverError> {
        let now = Instant::now();
        let mut bytes = 0;
        let data: Vec<&[u8]> = page.records.iter().map(|record| record.data().as_ref()).collect();
        let aggregates = kpl::decode_all(&data);
        for (record, aggregate) in page.records.iter().zip(&aggregates) {
            let record = StreamRecord {
                stream: &self.stream.name,
                shard_id: &self.shard.id,
                sequence_number: record.sequence_number(),
                arrived: arrival(record.approximate_arrival_timestamp()),
                data: record.data().as_ref(),
            };
            if pending.lines == 0 {
                pending.first_read = now;
            }
            pending.last_read = now;
            for line in decode::lines(&record, aggregate.as_ref(), self.config.format) {
                let pushed = line.push(&mut pending.writer, record.sequence_number).await;
                pushed.map_err(|source| self.lake_error(source))?;
                pending.lines += 1;
            }
            bytes += record.data.len() as u64;
            pending.first.get_or_insert_with(|| record.sequence_number.to_owned());
            pending.last = Some(record.sequence_number.to_owned());
        }
        self.monitor.read(&self.shard.id, page.records.len() as u64, bytes, page.behind);
        if pending.lines > 0 {
            self.memory.hold(&self.shard.id, pending.writer.memory(), pending.first_read);
            self.monitor.holds(self.memory.held());
        }
        Ok(())
    }

    fn is_due(&self, pending: &Pending) -> bool {
        let gathered = Gathered {
            lines: pending.lines,
            stored_bytes: pending.writer.stored_bytes(),
            since_first: pending.first_read.elapsed(),
            since_last: pending.last_read.elapsed(),
            since_commit: self.landed_at.map(|at| at.elapsed()),
        };
        self.config.cut.is_due(&gathered)
    }

    async fn land_and_go_on(
        &mut self,
        chain: &mut Chain,
        pending: Pending,
    ) -> Result<Pending, DeliverError> {
        self.land(chain, pending, Closing::No).await?;
        Ok(self.pending(chain))
    }

    /// Commits. Only then does anything count.
    async fn land(
        &mut self,
        chain: &mut Chain,
        pending: Pending,
        closing: Closing,
    ) -> Result<(), DeliverError> {
        let closed = closing == Closing::Yes;
        if pending.last.is_none() && pending.loss.is_none() && !closed {
            return Ok(());
        }
        let objects = pending.writer.finish().await;
        let objects = objects.map_err(|source| self.lake_error(source))?;
        let commit = NewCommit {
            first: pending.first,
            last: pending.last,
            closed,
            objects,
            possible_loss: pending.loss,
            committed_at: Timestamp::now(),
        };
        let commit = match chain.append(commit).await {
            Ok(commit) => commit,
            Err(source) => return Err(self.lake_error(source)),
        };
        self.failures = 0;
        self.landed_at = Some(Instant::now());
        self.memory.free(&self.shard.id);
        self.monitor.holds(self.memory.held());
        self.monitor.committed(&self.shard.id, commit);
        self.report.commits += 1;
        self.report.objects += commit.objects.len() as u64;
        for object in &commit.objects {
            match object.kind {
                RawKind::Events => self.report.events += object.records,
                RawKind::Rejects => self.report.rejects += object.records,
                RawKind::Heartbeats => self.report.heartbeats += object.records,
            }
        }
        tracing::debug!(
            shard = self.shard.id,
            ordinal = commit.ordinal,
            objects = commit.objects.len(),
            "committed"
        );
        Ok(())
    }

    /// Whether the stream dropped records before they were read. The outer `None` when cancelled.
    async fn check_for_loss(
        &mut self,
        chain: &Chain,
    ) -> Result<Option<Option<PossibleLoss>>, DeliverError> {
        let Some(last) = chain.last().filter(|_| !self.checked_for_loss) else {
            return Ok(Some(None));
        };
        let Some(position) = chain.position() else { return Ok(Some(None)) };
        let mut found = None;
        if loss::is_possible(last.committed_at, self.stream.retention, Timestamp::now()) {
            let Some(oldest) = self.reader.oldest(&self.shard.id).await? else { return Ok(None) };
            found = loss::judge(position, oldest);
        }
        self.checked_for_loss = true;
        if let Some(loss) = &found {
            self.report.possible_losses += 1;
            self.monitor.possible_loss();
            tracing::error!(
                stream = self.stream.name,
                shard = self.shard.id,
                after = loss.after,
                before = loss.before,
                "the stream's retention ended before its records were read: some after the \
                 checkpoint may be lost; compare with the collectors by `clickmill audit`, \
                 and lengthen the stream's retention"
            );
        }
        Ok(Some(found))
    }

    fn pending(&self, chain: &Chain) -> Pending {
        let now = Instant::now();
        Pending {
            writer: RawWriter::new(&self.lake, chain.source()).with_format(self.config.format),
            first: None,
            last: None,
            lines: 0,
            first_read: now,
            last_read: now,
            loss: None,
        }
    }

    fn lake_error(&self, source: LakeError) -> DeliverError {
        DeliverError::lake(&self.shard.id, source)
    }
}

/// Whether a commit ends its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Yes,
    No,
}
