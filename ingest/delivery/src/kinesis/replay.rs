//! A range of time of a stream, landed once more.
//!
//! # Guarantees
//! The records that arrived in the range and that the delivery into this lake has
//! passed are landed by chains of their own, `replay/<stream>-<creation>-<shard>`, with
//! the same lines and lineage as the delivery gives them. The transform takes what comes
//! by these chains as replayed: a row that it has already changes nothing. Each commit
//! names the records it holds (`files`), so a second replay lands only what the first did not.
//!
//! What the delivery has yet to land is left to it: it would come twice.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use clickmill_collector::sink::kpl;
use clickmill_lake::landing::{Beginning, Chain, NewCommit, Source, TakenFile, survey};
use clickmill_lake::raw::{RawKind, RawWriter};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::config::{DeliverConfig, MIN_POLL};
use super::decode::{self, StreamRecord};
use super::error::{DeliverError, Fault};
use super::feed::Position;
use super::loss::order;
use super::memory::concurrent_reads;
use super::reader::{Failure, Outcome, Reader, Stream, arrival};
use super::shards::Shard;

/// Records of a shard stand in the order of their arrival, but for this much.
const DISORDER: Duration = Duration::from_secs(10);

/// The arrival of records, by Kinesis' clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayRange {
    /// At this time or later.
    pub from: Timestamp,
    /// Before this time.
    pub to: Timestamp,
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReplayReport {
    /// Shards that the stream still has.
    pub shards: u64,
    /// Records of the range in them.
    pub records: u64,
    /// Events landed now; the next ETL run takes them in.
    pub events: u64,
    /// Rejects landed now.
    pub rejects: u64,
    /// Records that an earlier replay landed.
    pub landed_before: u64,
    /// Records that the delivery has yet to land.
    pub yet_to_come: u64,
}

impl ReplayReport {
    fn add(mut self, other: Self) -> Self {
        self.shards += other.shards;
        self.records += other.records;
        self.events += other.events;
        self.rejects += other.rejects;
        self.landed_before += other.landed_before;
        self.yet_to_come += other.yet_to_come;
        self
    }
}

/// Reads the range from every shard and lands it.
///
/// # Errors
/// [`DeliverError`]. What was committed stays; a second run goes on from there.
pub async fn replay(
    config: &DeliverConfig,
    range: ReplayRange,
    lake: &Lake,
    client: &aws_sdk_kinesis::Client,
    cancel: &CancellationToken,
) -> Result<ReplayReport, DeliverError> {
    let reader = Reader::new(config, client, cancel, &std::sync::Arc::default());
    let Some(stream) = reader.describe().await? else { return Ok(ReplayReport::default()) };
    let horizon = Timestamp::now().saturating_sub(stream.retention);
    if range.from < horizon {
        tracing::warn!(
            stream = stream.name,
            from = range.from.to_string(),
            to = horizon.min(range.to).to_string(),
            "the stream keeps nothing of before its retention: what arrived in this part of the range \
             is not replayed"
        );
    }
    let begun = Beginning::find(lake, &stream.name, stream.created).await;
    let begun = begun.map_err(|source| DeliverError::lake(&stream.name, source))?;
    let begun = begun.and_then(|beginning| beginning.from);
    let Some(shards) = reader.shards().await? else { return Ok(ReplayReport::default()) };
    let one = |shard: Shard| {
        let (reader, stream) = (&reader, &stream);
        async move { Replay { config, range, lake, reader, stream, begun, shard }.run().await }
    };
    stream::iter(shards.into_iter().map(one))
        .buffer_unordered(concurrent_reads(config.memory))
        .try_fold(ReplayReport::default(), |sum, report| std::future::ready(Ok(sum.add(report))))
        .await
}

/// Of one shard.
struct Replay<'a> {
    config: &'a DeliverConfig,
    range: ReplayRange,
    lake: &'a Lake,
    reader: &'a Reader,
    stream: &'a Stream,
    /// Where the delivery began; `None`: at the oldest record.
    begun: Option<Timestamp>,
    shard: Shard,
}

/// Read, not committed.
struct Pending {
    writer: RawWriter,
    files: Vec<TakenFile>,
    lines: u64,
    /// The last record that was read is the last of `files`.
    runs_on: bool,
}

impl Replay<'_> {
    async fn run(&self) -> Result<ReplayReport, DeliverError> {
        let mut report = ReplayReport { shards: 1, ..ReplayReport::default() };
        let delivered = self.delivered().await.map_err(|source| self.failed(source))?;
        let (mut chain, landed) = self.open().await.map_err(|source| self.failed(source))?;
        let mut pending = self.pending(&chain);
        let (mut last, mut attempt, mut began) = (None::<String>, 0, Instant::now());
        let mut iterator = self.iterator(last.as_deref()).await?;
        while let Some(from) = iterator.take() {
            let asked = Instant::now();
            let page = match self.reader.records(&from, self.config.page_records).await {
                Outcome::Done(page) => page,
                Outcome::Failed(Fault::Expired, _) => {
                    iterator = self.iterator(last.as_deref()).await?;
                    continue;
                }
                Outcome::Failed(fault @ (Fault::Gone | Fault::Refused), source) => {
                    tracing::debug!(?fault, "a shard cannot be read");
                    let (operation, subject) = ("GetRecords", self.shard.id.clone());
                    return Err(DeliverError::Refused { operation, subject, source });
                }
                Outcome::Failed(fault, source) => {
                    if attempt == 0 {
                        began = Instant::now();
                    }
                    attempt += 1;
                    let (operation, subject) = ("GetRecords", self.shard.id.as_str());
                    let failure = Failure { operation, subject, fault, source };
                    if self.reader.back_off(failure, attempt, began).await? {
                        iterator = Some(from);
                    }
                    continue;
                }
            };
            attempt = 0;
            let mut is_past = false;
            for record in page.records() {
                let number = record.sequence_number();
                last = Some(number.to_owned());
                let arrived = arrival(record.approximate_arrival_timestamp());
                is_past |= arrived >= self.range.to.saturating_add(DISORDER);
                if arrived < self.range.from || arrived >= self.range.to {
                    pending.runs_on = false;
                    continue;
                }
                report.records += 1;
                let is_passed = |position: &String| order(number, position) != Ordering::Greater;
                if !delivered.as_ref().is_some_and(is_passed)
                    && self.begun.is_none_or(|begun| arrived >= begun)
                {
                    report.yet_to_come += 1;
                    pending.runs_on = false;
                } else if landed.iter().any(|range| range.holds(number)) {
                    report.landed_before += 1;
                } else {
                    let record = StreamRecord {
                        stream: &self.stream.name,
                        shard_id: &self.shard.id,
                        sequence_number: number,
                        arrived,
                        data: record.data().as_ref(),
                    };
                    self.take(&mut pending, &chain, &record, &mut report).await?;
                }
            }
            if pending.writer.stored_bytes() >= self.config.cut.target_bytes {
                self.land(&mut chain, pending).await.map_err(|source| self.failed(source))?;
                pending = self.pending(&chain);
            }
            // An empty page at the tip is the end for now: one with records can end amid others.
            let at_tip = page.records().is_empty() && page.millis_behind_latest() == Some(0);
            if is_past || at_tip {
                break;
            }
            iterator = page.next_shard_iterator().map(str::to_owned);
            let bytes = page.records().iter().map(|one| one.data().as_ref().len()).sum();
            let rest = MIN_POLL.max(self.config.pace(bytes));
            if !self.reader.pause(rest.saturating_sub(asked.elapsed())).await {
                break;
            }
        }
        self.land(&mut chain, pending).await.map_err(|source| self.failed(source))?;
        Ok(report)
    }

    async fn take(
        &self,
        pending: &mut Pending,
        chain: &Chain,
        record: &StreamRecord<'_>,
        report: &mut ReplayReport,
    ) -> Result<(), DeliverError> {
        let before = position(chain).map_err(|source| self.failed(source))?;
        let number = record.sequence_number;
        let aggregate = kpl::decode(record.data);
        for line in decode::lines(record, aggregate.as_ref(), self.config.format) {
            pending.lines += 1;
            match line.kind() {
                RawKind::Events => report.events += 1,
                RawKind::Rejects => report.rejects += 1,
                RawKind::Heartbeats => {}
            }
            let at = (before + pending.lines).to_string();
            let pushed = line.push(&mut pending.writer, &at).await;
            pushed.map_err(|source| self.failed(source))?;
        }
        let bytes = record.data.len() as u64;
        // Records that follow each other in the shard are one entry.
        match pending.files.last_mut().filter(|_| pending.runs_on) {
            Some(file) => {
                let first = file.key.split_once('-').map_or(file.key.as_str(), |(first, _)| first);
                file.key = format!("{first}-{number}");
                file.bytes += bytes;
                file.records += 1;
            }
            None => pending.files.push(TakenFile {
                key: format!("{number}-{number}"),
                etag: String::new(),
                bytes,
                records: 1,
            }),
        }
        pending.runs_on = true;
        Ok(())
    }

    async fn iterator(&self, last: Option<&str>) -> Result<Option<String>, DeliverError> {
        let from = self.range.from.saturating_sub(DISORDER);
        let position = Position::after(last, Some(from));
        self.reader.iterator(&self.shard.id, &position).await
    }

    /// How far the delivery has come in the shard.
    async fn delivered(&self) -> Result<Option<String>, LakeError> {
        let source = Source::kinesis(&self.stream.name, self.stream.created, &self.shard.id)?;
        Ok(Chain::open(self.lake, source).await?.position().map(str::to_owned))
    }

    /// The replay's own chain, and what it holds.
    async fn open(&self) -> Result<(Chain, Vec<Landed>), LakeError> {
        let Stream { name, created, .. } = self.stream;
        let source = Source::replay(name, *created, &self.shard.id)?;
        let found = survey(self.lake, &source, None).await?;
        let files = found.commits.iter().flat_map(|commit| &commit.files);
        let landed = files.filter_map(|file| Landed::of(&file.key)).collect();
        Ok((Chain::open(self.lake, source).await?, landed))
    }

    fn pending(&self, chain: &Chain) -> Pending {
        let writer = RawWriter::new(self.lake, chain.source()).with_format(self.config.format);
        Pending { writer, files: Vec::new(), lines: 0, runs_on: false }
    }

    async fn land(&self, chain: &mut Chain, pending: Pending) -> Result<(), LakeError> {
        let Pending { writer, files, lines, .. } = pending;
        if lines == 0 {
            return Ok(());
        }
        let before = position(chain)?;
        let commit = NewCommit {
            first: Some((before + 1).to_string()),
            last: Some((before + lines).to_string()),
            closed: false,
            objects: writer.finish().await?,
            possible_loss: None,
            read_through: None,
            committed_at: Timestamp::now(),
        };
        chain.append_with(commit, files).await.map(|_| ())
    }

    fn failed(&self, source: LakeError) -> DeliverError {
        DeliverError::lake(&self.shard.id, source)
    }
}

/// Lines that the chain holds.
fn position(chain: &Chain) -> Result<u64, LakeError> {
    chain.position().map_or(Ok(0), str::parse).map_err(|_| LakeError::Corrupt {
        path: chain.source().folder().to_string(),
        reason: "its position is no number".to_owned(),
    })
}

/// Sequence numbers of a shard, both inclusive.
struct Landed {
    first: String,
    last: String,
}

impl Landed {
    fn of(key: &str) -> Option<Self> {
        let (first, last) = key.split_once('-')?;
        Some(Self { first: first.to_owned(), last: last.to_owned() })
    }

    fn holds(&self, number: &str) -> bool {
        order(&self.first, number) != Ordering::Greater
            && order(number, &self.last) != Ordering::Greater
    }
}
