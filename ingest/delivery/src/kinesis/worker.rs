//! One shard, from its checkpoint to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use clickmill_lake::landing::{Chain, NewCommit, PossibleLoss, Source};
use clickmill_lake::raw::{RawKind, RawLine, RawWriter};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use tokio::sync::Semaphore;

use super::config::{DeliverConfig, MIN_POLL, Until};
use super::decode::{self, StreamRecord};
use super::error::{DeliverError, Fault};
use super::reader::{Failure, Outcome, Reader, Start, Stream, arrival};
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
    /// Bounds the GetRecords in flight, and so the memory that their answers take.
    pub reads: Arc<Semaphore>,
    pub report: DeliverReport,
    /// Failures of the lake in a row.
    pub failures: u32,
    pub checked_for_loss: bool,
}

/// Read, not committed.
struct Pending {
    writer: RawWriter,
    first: Option<String>,
    last: Option<String>,
    bytes: u64,
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
                Err(DeliverError::Lake { source, .. }) => source,
                outcome => return (self.shard, self.report, outcome),
            };
            self.failures += 1;
            let passing = matches!(source, LakeError::Store { .. } | LakeError::LostRace { .. });
            let subject = self.shard.id.clone();
            if !passing {
                let failed = Err(DeliverError::Lake { subject, source });
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
        let source = Source::kinesis(&self.stream.name, self.stream.created, &self.shard.id)
            .map_err(|source| self.lake_error(source))?;
        let opened = Chain::open(&self.lake, source).await;
        let mut chain = opened.map_err(|source| self.lake_error(source))?;
        if chain.is_closed() {
            return Ok(End::Drained);
        }
        let mut pending = self.pending(&chain);
        let Some(loss) = self.check_for_loss(&chain).await? else { return Ok(End::Cancelled) };
        pending.loss = loss;
        let start = chain.position().map_or(Start::Oldest, Start::After);
        let Some(mut iterator) = self.reader.iterator(&self.shard.id, start).await? else {
            return Ok(End::Cancelled);
        };
        let (mut attempt, mut began) = (0, Instant::now());
        let mut was_at_tip = false;
        loop {
            let asked = Instant::now();
            let Some(answer) = self.ask(&iterator).await else {
                self.land(&mut chain, pending, Closing::No).await?;
                return Ok(End::Cancelled);
            };
            let mut page = None;
            match answer {
                Outcome::Done(answer) => {
                    attempt = 0;
                    self.take(&mut pending, &answer).await?;
                    page = Some(answer);
                }
                Outcome::Failed(Fault::Expired, _) => {
                    let read = pending.last.as_deref().or(chain.position());
                    let start = read.map_or(Start::Oldest, Start::After);
                    match self.reader.iterator(&self.shard.id, start).await? {
                        Some(fresh) => iterator = fresh,
                        None => {
                            self.land(&mut chain, pending, Closing::No).await?;
                            return Ok(End::Cancelled);
                        }
                    }
                }
                Outcome::Failed(Fault::Gone, _) => {
                    return Err(DeliverError::NoStream { stream: self.stream.name.clone() });
                }
                Outcome::Failed(Fault::Refused, source) => {
                    let (operation, subject) = ("GetRecords", self.shard.id.clone());
                    return Err(DeliverError::Refused { operation, subject, source });
                }
                Outcome::Failed(fault, source) => {
                    if attempt == 0 {
                        began = Instant::now();
                    }
                    attempt += 1;
                    let failure =
                        Failure { operation: "GetRecords", subject: &self.shard.id, fault, source };
                    // What is held may become due meanwhile, so the wait is in this loop.
                    if !self.reader.back_off(failure, attempt, began).await? {
                        self.land(&mut chain, pending, Closing::No).await?;
                        return Ok(End::Cancelled);
                    }
                }
            }
            let drained = page.as_ref().is_some_and(|page| page.next_shard_iterator().is_none());
            if drained {
                self.land(&mut chain, pending, Closing::Yes).await?;
                return Ok(End::Drained);
            }
            let behind = page.as_ref().and_then(GetRecordsOutput::millis_behind_latest);
            // Lag counts whole milliseconds: a page can end at 0 amid records of one
            // millisecond. Only when the page before said so, too, is nothing left of them.
            let at_tip = behind == Some(0);
            let empty = page.as_ref().is_some_and(|page| page.records().is_empty());
            let caught_up = at_tip && (was_at_tip || empty);
            was_at_tip = at_tip;
            let ends = caught_up && self.config.until == Until::CaughtUp && !self.shard.closed;
            if ends || pending.is_due(&self.config) {
                let fresh = self.pending(&chain);
                let full = std::mem::replace(&mut pending, fresh);
                self.land(&mut chain, full, Closing::No).await?;
            }
            if ends {
                return Ok(End::CaughtUp);
            }
            let Some(page) = page else { continue };
            if let Some(next) = page.next_shard_iterator() {
                next.clone_into(&mut iterator);
            }
            // The quota counts calls, whatever they bring.
            let poll = if caught_up { self.config.poll } else { MIN_POLL };
            if !self.reader.pause(poll.saturating_sub(asked.elapsed())).await {
                self.land(&mut chain, pending, Closing::No).await?;
                return Ok(End::Cancelled);
            }
        }
    }

    /// A page, or `None` when cancelled.
    async fn ask(&self, iterator: &str) -> Option<Outcome<GetRecordsOutput>> {
        let asking = async {
            // Never closed, so this waits and nothing else.
            let _permit = self.reads.acquire().await;
            self.reader.records(iterator, self.config.page_records).await
        };
        tokio::select! {
            () = self.reader.cancel.cancelled() => None,
            answer = asking => Some(answer),
        }
    }

    async fn take(
        &mut self,
        pending: &mut Pending,
        page: &GetRecordsOutput,
    ) -> Result<(), DeliverError> {
        let now = Instant::now();
        for record in page.records() {
            let record = StreamRecord {
                stream: &self.stream.name,
                shard_id: &self.shard.id,
                sequence_number: record.sequence_number(),
                arrived: arrival(record.approximate_arrival_timestamp()),
                data: record.data().as_ref(),
            };
            if pending.bytes == 0 {
                pending.first_read = now;
            }
            pending.last_read = now;
            for line in decode::lines(&record) {
                let pushed = match RawLine::parse(&line) {
                    Ok(parsed) => pending.writer.push(parsed, record.sequence_number).await,
                    Err(error) => Err(error),
                };
                pushed.map_err(|source| self.lake_error(source))?;
                pending.bytes += line.len() as u64;
            }
            pending.first.get_or_insert_with(|| record.sequence_number.to_owned());
            pending.last = Some(record.sequence_number.to_owned());
        }
        Ok(())
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
            writer: RawWriter::new(&self.lake, chain.source()),
            first: None,
            last: None,
            bytes: 0,
            first_read: now,
            last_read: now,
            loss: None,
        }
    }

    fn lake_error(&self, source: LakeError) -> DeliverError {
        DeliverError::Lake { subject: self.shard.id.clone(), source }
    }
}

/// Whether a commit ends its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Yes,
    No,
}

impl Pending {
    fn is_due(&self, config: &DeliverConfig) -> bool {
        let since = |instant: Instant| -> Duration { instant.elapsed() };
        config.cut.is_due(self.bytes, since(self.first_read), since(self.last_read))
    }
}
