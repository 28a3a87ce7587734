//! One shard, from its checkpoint to its end.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_collector::sink::kpl;
use clickmill_lake::landing::{Beginning, Chain, NewCommit, PossibleLoss, Source};
use clickmill_lake::raw::{RawKind, RawWriter};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use tokio_util::sync::CancellationToken;

use super::config::{DeliverConfig, Gathered, MIN_POLL, Until};
use super::decode::{self, StreamRecord};
use super::error::{DeliverError, Fault};
use super::feed::{Failed, Feed, Mode, Page, Position, Step, Tip};
use super::gather::{Asked, Gather, Place, SOON};
use super::loss::Through;
use super::monitor::Monitor;
use super::reader::{Failure, Reader, Stream, arrival};
use super::shards::Shard;
use super::{DeliverReport, loss};

/// For so long a worker that is to stop tries to commit what it has read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// And waits no longer than this in between.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// A shard without traffic gets a commit without records each such part of the retention.
const QUIET_PART: u32 = 4;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The shard is closed and drained; its chain is closed too.
    Drained,
    /// Nothing more for now, and that was asked for.
    CaughtUp,
    /// Cancelled; what was read is committed.
    Cancelled,
    /// The shard expired with what was not read yet; its chain is closed, and says so.
    Expired,
}

/// A shard's worker.
pub(super) struct Worker {
    pub config: DeliverConfig,
    pub lake: Lake,
    pub reader: Reader,
    pub stream: Stream,
    pub shard: Shard,
    /// Where to start without a checkpoint.
    pub beginning: Beginning,
    /// How its records come.
    pub mode: Mode,
    /// What all shards hold uncommitted.
    pub gather: Arc<Gather>,
    pub monitor: Arc<Monitor>,
    pub report: DeliverReport,
    /// Failures of the lake in a row.
    pub failures: u32,
    /// Cancelled when the whole process is to stop, not this shard alone.
    pub stopping: CancellationToken,
    /// What was read last, and is not committed.
    pub held: Option<String>,
    /// Everything that arrived before this was read.
    pub through: Option<Timestamp>,
}

/// Read, not committed.
struct Pending {
    writer: RawWriter,
    place: Place,
    first: Option<String>,
    last: Option<String>,
    lines: u64,
    first_read: Instant,
    loss: Option<PossibleLoss>,
}

impl Worker {
    /// Reads and commits until the end. A failure of the lake, or a lost race,
    /// drops what is not committed and starts again from the chain.
    pub async fn run(mut self) -> (Shard, DeliverReport, Result<End, DeliverError>) {
        let began = Instant::now();
        loop {
            let source = match self.pass(None).await {
                Err(DeliverError::Lake { source, .. }) => *source,
                Ok(End::Cancelled) => {
                    let outcome = self.drain(None).await;
                    return (self.shard, self.report, outcome);
                }
                outcome => return (self.shard, self.report, outcome),
            };
            let subject = self.shard.id.clone();
            if let LakeError::LostRace { ordinal, .. } = source {
                // No failure: the other has landed what this one held, or a part of it.
                self.monitor.lost_race(&subject);
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
            let is_passing = source.is_of_store();
            if is_passing && self.reader.cancel.is_cancelled() {
                let outcome = self.drain(Some(Box::new(source))).await;
                return (self.shard, self.report, outcome);
            }
            if !is_passing {
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
                Ok(false) => {
                    let outcome = self.drain(None).await;
                    return (self.shard, self.report, outcome);
                }
                Err(error) => return (self.shard, self.report, Err(error)),
            }
        }
    }

    /// The lake failed, and what was read is to be committed before the end: it is read
    /// and committed once more, and again for a while where it must be.
    async fn drain(&mut self, mut source: Option<Box<LakeError>>) -> Result<End, DeliverError> {
        // Whoever took the shard over reads from the checkpoint on.
        let is_left = !self.stopping.is_cancelled();
        let Some(held) = self.held.take().filter(|_| !is_left) else { return Ok(End::Cancelled) };
        // The one that it has is cancelled.
        self.reader.cancel = CancellationToken::new();
        let deadline = tokio::time::Instant::now() + DRAIN_TIMEOUT;
        for attempt in 1.. {
            tracing::warn!(
                shard = self.shard.id,
                attempt,
                error = source.as_ref().map(|source| super::reader::chain(source)),
                "what was read could not be committed; trying once more before the end"
            );
            let wait = self.config.retry.wait(attempt, uuid::Uuid::new_v4().as_u64_pair().0);
            // What was only dropped is read at once.
            let wait = if source.is_some() { wait.min(DRAIN_WAIT) } else { Duration::ZERO };
            let again = async {
                tokio::time::sleep(wait).await;
                self.pass(Some(&held)).await
            };
            match tokio::time::timeout_at(deadline, again).await {
                Err(_) => break,
                Ok(Err(DeliverError::Lake { source: again, .. })) => match *again {
                    _ if again.is_of_store() => source = Some(again),
                    LakeError::LostRace { .. } => return Ok(End::Cancelled),
                    _ => return Err(DeliverError::lake(&self.shard.id, *again)),
                },
                Ok(outcome) => return outcome,
            }
            if self.config.retry.is_exhausted(attempt) {
                break;
            }
        }
        Err(match source {
            Some(source) => DeliverError::lake(&self.shard.id, *source),
            None => DeliverError::Incomplete { operation: "landing", missing: "an end" },
        })
    }

    /// Reads and commits; with `until`, what is up to that record and no more.
    async fn pass(&mut self, until: Option<&str>) -> Result<End, DeliverError> {
        let source = Source::kinesis(&self.stream.name, self.stream.created, &self.shard.id)
            .map_err(|source| self.lake_error(source))?;
        let opened = Chain::open(&self.lake, source).await;
        let mut chain = opened.map_err(|source| self.lake_error(source))?;
        if chain.is_closed() {
            return Ok(End::Drained);
        }
        self.monitor.positioned(&self.shard.id, chain.position());
        if until.is_some_and(|until| has_passed(chain.position(), until)) {
            return Ok(End::Cancelled);
        }
        let mut pending = self.pending(&chain);
        let mut through =
            chain.last().map_or_else(|| Through::begun(self.begun()), Through::committed);
        self.through = chain.last().and_then(|last| last.read_through);
        let mut checked = false;
        let position = Position::after(chain.position(), self.beginning.from);
        let mut feed = Feed::new(&self.mode, &self.reader, &self.stream, &self.shard, position);
        let (mut attempt, mut began) = (0, Instant::now());
        let mut tip = Tip::default();
        loop {
            pending = self.keep(&mut chain, pending).await?;
            if !self.gather.has_room() {
                // Those who hold most give way; what this shard holds may become due meanwhile.
                if !self.reader.pause(MIN_POLL).await {
                    self.land(&mut chain, pending, Closing::No).await?;
                    return Ok(End::Cancelled);
                }
                continue;
            }
            let is_near = through.is_past(self.reader.retention(), Timestamp::now());
            if is_near && !checked && feed.is_due() {
                let position = pending.last.as_deref().or(chain.position());
                match self.check_for_loss(position).await {
                    Ok(Some(None)) => {}
                    Ok(Some(Some(loss))) => {
                        pending.loss = Some(loss::joined(pending.loss.take(), loss));
                    }
                    Ok(None) => {
                        self.land(&mut chain, pending, Closing::No).await?;
                        return Ok(End::Cancelled);
                    }
                    Err(DeliverError::NoShard { .. }) => {
                        return self.expired(&mut chain, pending).await;
                    }
                    Err(error) => {
                        self.land(&mut chain, pending, Closing::No).await?;
                        return Err(error);
                    }
                }
                checked = true;
            }
            let asked = Timestamp::now();
            let next = if feed.is_due() {
                feed.next(self.config.poll).await
            } else {
                // It only waits.
                tokio::select! {
                    () = pending.place.called() => continue,
                    next = feed.next(self.config.poll) => next,
                }
            };
            let step = match next {
                Err(DeliverError::NoShard { .. }) => {
                    return self.expired(&mut chain, pending).await;
                }
                Err(error) => {
                    // What was read may not be there to be read again.
                    self.land(&mut chain, pending, Closing::No).await?;
                    return Err(error);
                }
                Ok(step) => step,
            };
            let page = match step {
                Step::Page(page) => page,
                Step::Nothing => continue,
                Step::Failed(Failed { operation, fault, source }) => {
                    if attempt == 0 {
                        began = Instant::now();
                    }
                    attempt += 1;
                    // What comes after the wait may be another stretch.
                    checked = false;
                    let failure = Failure { operation, subject: &self.shard.id, fault, source };
                    // What is held may become due meanwhile, so the wait is in this loop.
                    let goes_on = tokio::select! {
                        () = pending.place.called() => true,
                        goes_on = self.reader.back_off(failure, attempt, began) => goes_on?,
                    };
                    if !goes_on {
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
            through.read(&page, asked);
            self.through = Some(through.at());
            checked = false;
            if page.is_last {
                self.land(&mut chain, pending, Closing::Yes).await?;
                return Ok(End::Drained);
            }
            let caught_up = tip.is_reached(&page);
            let bytes: usize = page.records.iter().map(|one| one.data().as_ref().len()).sum();
            drop(page);
            if until.is_some_and(|until| has_passed(pending.last.as_deref(), until)) {
                self.land(&mut chain, pending, Closing::No).await?;
                return Ok(End::Cancelled);
            }
            if caught_up && self.config.until == Until::CaughtUp && !self.shard.closed {
                let is_quiet = pending.last.is_none() && self.is_quiet(&chain);
                let closing = if is_quiet { Closing::Seen } else { Closing::No };
                // The others end, too; it is not due before they do.
                let age = pending.first_read.elapsed();
                let wait = self.config.cut.max_age.saturating_sub(age);
                self.land_with(&mut chain, pending, closing, wait).await?;
                return Ok(End::CaughtUp);
            }
            if caught_up && pending.last.is_none() && self.is_quiet(&chain) {
                // So that a later start knows until when nothing came.
                self.land(&mut chain, pending, Closing::Seen).await?;
                pending = self.pending(&chain);
            }
            let rest = if caught_up { self.config.poll } else { MIN_POLL };
            feed.rest(rest.max(self.config.pace(bytes)));
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
            for line in decode::lines(&record, aggregate.as_ref(), self.config.format) {
                let pushed = line.push(&mut pending.writer, record.sequence_number).await;
                pushed.map_err(|source| self.lake_error(source))?;
                pending.lines += 1;
            }
            bytes += record.data.len() as u64;
            pending.first.get_or_insert_with(|| record.sequence_number.to_owned());
            pending.last = Some(record.sequence_number.to_owned());
        }
        if let Some(last) = &pending.last
            && !has_passed(self.held.as_deref(), last)
        {
            self.held = Some(last.clone());
        }
        if let Some(first) = page.records.first() {
            let arrived = arrival(first.approximate_arrival_timestamp());
            self.monitor.holds_since(&self.shard.id, arrived);
        }
        self.monitor.read(&self.shard.id, page.records.len() as u64, bytes, page.behind);
        if !page.records.is_empty() {
            pending.place.hold(pending.writer.memory(), pending.first_read);
            self.monitor.holds(self.gather.held());
        }
        Ok(())
    }

    /// Does what is due with what was read.
    async fn keep(
        &mut self,
        chain: &mut Chain,
        mut pending: Pending,
    ) -> Result<Pending, DeliverError> {
        match pending.place.asked() {
            Asked::Land => self.land_and_go_on(chain, pending, self.joining()).await,
            Asked::Give => {
                let pieces = pending.writer.pieces();
                pending.place.give(pieces).await;
                self.monitor.holds(self.gather.held());
                Ok(pending)
            }
            Asked::Nothing if pending.writer.stored_bytes() >= self.config.cut.target_bytes => {
                self.land_and_go_on(chain, pending, Duration::ZERO).await
            }
            Asked::Nothing if self.is_due(&pending) => {
                self.gather.call();
                self.land_and_go_on(chain, pending, self.joining()).await
            }
            Asked::Nothing => Ok(pending),
        }
    }

    /// Until everybody who was called has looked: at the latest after a poll.
    fn joining(&self) -> Duration {
        (self.config.poll + MIN_POLL).min(self.config.cut.max_age / 4)
    }

    fn is_due(&self, pending: &Pending) -> bool {
        let gathered = Gathered {
            lines: pending.lines,
            stored_bytes: pending.writer.stored_bytes(),
            // The others join before it is too old.
            since_first: pending.first_read.elapsed() + self.joining(),
            since_last: self.gather.since_read(),
            since_commit: self.gather.since_landed(),
        };
        self.config.cut.is_due(&gathered)
    }

    async fn land_and_go_on(
        &mut self,
        chain: &mut Chain,
        pending: Pending,
        wait: Duration,
    ) -> Result<Pending, DeliverError> {
        self.land_with(chain, pending, Closing::No, wait).await?;
        Ok(self.pending(chain))
    }

    /// Commits soon.
    async fn land(
        &mut self,
        chain: &mut Chain,
        pending: Pending,
        closing: Closing,
    ) -> Result<(), DeliverError> {
        self.land_with(chain, pending, closing, SOON).await
    }

    /// Commits; others may join its objects meanwhile. Only then does anything count.
    async fn land_with(
        &mut self,
        chain: &mut Chain,
        mut pending: Pending,
        closing: Closing,
        wait: Duration,
    ) -> Result<(), DeliverError> {
        if pending.last.is_none() && pending.loss.is_none() && closing == Closing::No {
            return Ok(());
        }
        let pieces = pending.writer.pieces();
        let objects = pending.place.land(pieces, wait, &self.reader.cancel).await;
        let mut objects = objects.map_err(|source| self.lake_error(source))?;
        let own = pending.writer.finish().await;
        objects.extend(own.map_err(|source| self.lake_error(source))?);
        objects.sort_by(|a, b| (&a.path, a.lines().start).cmp(&(&b.path, b.lines().start)));
        let loss = pending.loss.clone();
        let commit = NewCommit {
            first: pending.first,
            last: pending.last,
            closed: closing == Closing::Yes,
            objects,
            possible_loss: pending.loss,
            read_through: self.through,
            committed_at: Timestamp::now(),
        };
        let commit = match chain.append(commit).await {
            Ok(commit) => commit,
            Err(source) => return Err(self.lake_error(source)),
        };
        if let Some(loss) = &loss {
            self.tell_loss(loss);
        }
        self.failures = 0;
        if self.held.as_deref().is_some_and(|held| has_passed(commit.position(), held)) {
            self.held = None;
        }
        self.monitor.holds(self.gather.held());
        self.monitor.committed(&self.shard.id, commit);
        self.report.commits += 1;
        self.report.objects +=
            commit.objects.iter().filter(|object| object.is_first()).count() as u64;
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

    /// Whether the stream dropped records after `position` before they were read. The outer
    /// `None` when cancelled.
    async fn check_for_loss(
        &self,
        position: Option<&str>,
    ) -> Result<Option<Option<PossibleLoss>>, DeliverError> {
        let Some(oldest) = self.reader.oldest(&self.shard.id).await? else { return Ok(None) };
        let found = match position {
            Some(position) => loss::judge(position, oldest.map(|oldest| oldest.number)),
            None => {
                // What arrived by then was not to be read, or was there when delivery began.
                if oldest.as_ref().is_some_and(|oldest| oldest.arrived <= self.begun()) {
                    return Ok(Some(None));
                }
                let Some(open) = self.reader.open_at_horizon().await? else { return Ok(None) };
                open.contains(&self.shard.id).then(|| PossibleLoss {
                    after: self.shard.starts.clone(),
                    before: oldest.map(|oldest| oldest.number),
                })
            }
        };
        Ok(Some(found))
    }

    /// True where nothing says that the shard was looked at for a good part of the retention.
    fn is_quiet(&self, chain: &Chain) -> bool {
        let said = chain.last().map_or_else(|| self.begun(), |last| last.committed_at);
        said.saturating_add(self.reader.retention() / QUIET_PART) <= Timestamp::now()
    }

    /// What arrived since is to be landed: nothing arrived before the stream was there.
    fn begun(&self) -> Timestamp {
        let begun = self.beginning.from.unwrap_or(self.beginning.decided_at);
        begun.max(self.stream.created_at())
    }

    /// Reports what a commit says was lost.
    fn tell_loss(&mut self, loss: &PossibleLoss) {
        self.report.possible_losses += 1;
        self.monitor.possible_loss();
        tracing::error!(
            stream = self.stream.name,
            shard = self.shard.id,
            after = loss.after,
            before = loss.before,
            "the stream's retention ended before its records were read: some in this range \
             may be lost; compare with the collectors by `clickmill audit`, and lengthen the \
             stream's retention"
        );
    }

    /// The stream has the shard no more: what was read is committed, and what was not is gone.
    async fn expired(&mut self, chain: &mut Chain, pending: Pending) -> Result<End, DeliverError> {
        // It cannot be read again, whatever comes now.
        self.land(chain, pending, Closing::No).await?;
        match self.reader.describe().await? {
            None => return Ok(End::Cancelled),
            // It is a shard of the stream's predecessor: the one who knows both decides.
            Some(now) if now.created != self.stream.created => {
                return Err(DeliverError::NoStream { stream: now.name });
            }
            Some(_) => {}
        }
        let after = chain.position().unwrap_or(&self.shard.starts).to_owned();
        let mut pending = self.pending(chain);
        pending.loss = Some(PossibleLoss { after, before: None });
        self.land(chain, pending, Closing::Yes).await?;
        Ok(End::Expired)
    }

    fn pending(&self, chain: &Chain) -> Pending {
        let now = Instant::now();
        Pending {
            // Objects are cut by the bytes that they take in the store.
            writer: RawWriter::new(&self.lake, chain.source())
                .with_format(self.config.format)
                .with_object_bytes(u64::MAX),
            place: self.gather.join(),
            first: None,
            last: None,
            lines: 0,
            first_read: now,
            loss: None,
        }
    }

    fn lake_error(&self, source: LakeError) -> DeliverError {
        DeliverError::lake(&self.shard.id, source)
    }
}

/// True where `position` is at or beyond `until`.
fn has_passed(position: Option<&str>, until: &str) -> bool {
    position.is_some_and(|position| loss::order(position, until) != Ordering::Less)
}

/// Whether a commit ends its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Yes,
    /// And it is made only where there is something to commit.
    No,
    /// And it is made in any case: it says that the shard was read to its end for now.
    Seen,
}
