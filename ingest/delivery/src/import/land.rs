//! One file through its landing chain: a thread reads and encodes, this task
//! compresses, writes and commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use clickmill_lake::landing::{Chain, Commit, MAX_COMMITS_READ, NewCommit, Source, commits_after};
use clickmill_lake::raw::{RawKind, RawLine, RawWriter};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::{Date, Reject, Timestamp, WireRecord};
use tokio::sync::mpsc;

use super::decode::{Origin, PROTOCOL, reject_id};
use super::error::ImportError;
use super::reader;
use super::row::{Bad, ReadRow};
use super::summary::{Example, FileSummary, Rejected};
use super::{Input, Job, Progress};

/// Lines of this many bytes make a commit. A kill costs at most the work on as much.
pub const COMMIT_BYTES: u64 = 128 << 20;
/// Chunks that wait between the reading thread and the writer.
pub const QUEUE_CHUNKS: usize = 4;
/// Encoded lines that travel together.
const CHUNK_BYTES: usize = 512 << 10;
/// How much later than an import the next one of the same content is received.
const AFTER: Duration = Duration::from_micros(1);
/// Times that another import of the same file may win a commit before this one gives up.
const MAX_LOST_RACES: u32 = 16;

/// Lands what the chain does not have yet.
pub(super) async fn land(
    lake: &Lake,
    job: &Arc<Job>,
    input: &Arc<Input>,
    progress: &Arc<Progress>,
) -> Result<FileSummary, ImportError> {
    let mut summary = FileSummary {
        path: input.shown.clone(),
        sha256: input.content.clone(),
        source: input.source.to_string(),
        ..FileSummary::default()
    };
    let mut chain = Chain::open(lake, input.source.clone()).await?;
    summary.already_imported = chain.is_closed();
    let mut lost_races = 0;
    while !chain.is_closed() {
        match land_rest(lake, &mut chain, job, input, progress, &mut summary).await {
            Err(ImportError::Lake(LakeError::LostRace { .. })) => {
                lost_races += 1;
                if lost_races > MAX_LOST_RACES {
                    return Err(ImportError::Contended { path: input.shown.clone() });
                }
                chain.reload().await?;
            }
            outcome => outcome?,
        }
    }
    count_landed(lake, &chain, &mut summary).await?;
    Ok(summary)
}

/// Lands the rows after the chain's position, and closes it.
async fn land_rest(
    lake: &Lake,
    chain: &mut Chain,
    job: &Arc<Job>,
    input: &Arc<Input>,
    progress: &Arc<Progress>,
    summary: &mut FileSummary,
) -> Result<(), ImportError> {
    let landed_rows = position(chain)?;
    let received_ts = receipt(lake, input).await?;
    let (sender, mut chunks) = mpsc::channel(QUEUE_CHUNKS);
    let reading = tokio::task::spawn_blocking({
        let (job, input, progress) = (Arc::clone(job), Arc::clone(input), Arc::clone(progress));
        move || read(&job, &input, landed_rows, received_ts, &progress, &sender)
    });
    let mut pending = Pending::new(lake, chain);
    while let Some(chunk) = chunks.recv().await {
        pending.push(&chunk).await?;
        if pending.bytes >= COMMIT_BYTES {
            let full = std::mem::replace(&mut pending, Pending::new(lake, chain));
            full.commit(chain, IsLast::No, summary).await?;
        }
    }
    reading.await.map_err(|_| ImportError::Reader { path: input.shown.clone() })??;
    let stamp = input.file.stamp();
    if stamp.map_err(|source| ImportError::Read { path: input.shown.clone(), source })?
        != input.stamp
    {
        return Err(ImportError::Changed { path: input.shown.clone() });
    }
    pending.commit(chain, IsLast::Yes, summary).await
}

/// When rows of the file count as received: with those that landed of it already, else right
/// after those of other imports of the same content, else now. So copies of one event are
/// never a week apart, as then each would be an event of its own.
async fn receipt(lake: &Lake, input: &Input) -> Result<Timestamp, ImportError> {
    if let Some(landed) = received(lake, &input.source).await? {
        return Ok(landed);
    }
    let mut newest = None;
    for other in &input.others {
        newest = newest.max(received(lake, other).await?);
    }
    Ok(newest.map_or_else(Timestamp::now, |newest| newest.saturating_add(AFTER)))
}

/// When what the first commits of a chain landed was received.
async fn received(lake: &Lake, chain: &Source) -> Result<Option<Timestamp>, ImportError> {
    let commits = commits_after(lake, chain, 0).await?;
    let objects = commits.iter().flat_map(|commit| &commit.objects);
    Ok(objects.map(|object| object.max_received_ts).max())
}

/// The number of the last row that landed.
fn position(chain: &Chain) -> Result<u64, ImportError> {
    let Some(position) = chain.position() else { return Ok(0) };
    position.parse().map_err(|_| {
        ImportError::Lake(LakeError::Corrupt {
            path: chain.source().folder().to_string(),
            reason: format!("its position `{position}` is no row number"),
        })
    })
}

/// What goes into the next commit.
struct Pending {
    writer: RawWriter,
    bytes: u64,
    rows: Option<(u64, u64)>,
    rejected: BTreeMap<&'static str, Rejected>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsLast {
    Yes,
    No,
}

impl Pending {
    fn new(lake: &Lake, chain: &Chain) -> Self {
        let writer = RawWriter::new(lake, chain.source());
        Self { writer, bytes: 0, rows: None, rejected: BTreeMap::new() }
    }

    async fn push(&mut self, chunk: &Chunk) -> Result<(), ImportError> {
        for line in &chunk.lines {
            let bytes = &chunk.bytes[line.from..line.to];
            let raw = RawLine {
                kind: if line.event_date.is_some() { RawKind::Events } else { RawKind::Rejects },
                received_ts: chunk.received_ts,
                event_date: line.event_date,
                bytes,
            };
            self.writer.push(raw, &line.row.to_string()).await?;
            self.bytes += bytes.len() as u64 + 1;
            self.rows = Some((self.rows.map_or(line.row, |(first, _)| first), line.row));
        }
        merge(&mut self.rejected, &chunk.rejected);
        Ok(())
    }

    async fn commit(
        self,
        chain: &mut Chain,
        last: IsLast,
        summary: &mut FileSummary,
    ) -> Result<(), ImportError> {
        let objects = self.writer.finish().await?;
        let new = NewCommit {
            first: self.rows.map(|(first, _)| first.to_string()),
            last: self.rows.map(|(_, last)| last.to_string()),
            closed: last == IsLast::Yes,
            objects,
            possible_loss: None,
            read_through: None,
            committed_at: Timestamp::now(),
        };
        chain.append(new).await?;
        summary.landed_now += self.rows.map_or(0, |(first, last)| last - first + 1);
        merge(&mut summary.rejected_now, &self.rejected);
        Ok(())
    }
}

fn merge(sums: &mut BTreeMap<&'static str, Rejected>, more: &BTreeMap<&'static str, Rejected>) {
    for (reason, rejected) in more {
        let sum = sums.entry(reason).or_default();
        sum.rows += rejected.rows;
        sum.first = sum.first.take().or_else(|| rejected.first.clone());
    }
}

/// Sums what the whole chain says, earlier runs included.
async fn count_landed(
    lake: &Lake,
    chain: &Chain,
    summary: &mut FileSummary,
) -> Result<(), ImportError> {
    summary.rows = position(chain)?;
    let mut after = 0;
    loop {
        let commits: Vec<Commit> = commits_after(lake, chain.source(), after).await?;
        for object in commits.iter().flat_map(|commit| &commit.objects) {
            match object.kind {
                RawKind::Events => summary.taken += object.records,
                RawKind::Rejects => {
                    summary.rejected += object.records;
                    summary.reject_objects.push(object.path.clone());
                }
                RawKind::Heartbeats => {}
            }
        }
        match commits.last() {
            Some(last) if commits.len() == MAX_COMMITS_READ => after = last.ordinal,
            _ => return Ok(()),
        }
    }
}

/// Encoded lines on their way to the writer.
struct Chunk {
    received_ts: Timestamp,
    bytes: Vec<u8>,
    lines: Vec<Line>,
    rejected: BTreeMap<&'static str, Rejected>,
}

struct Line {
    row: u64,
    /// None for a reject.
    event_date: Option<Date>,
    from: usize,
    to: usize,
}

impl Chunk {
    const fn new(received_ts: Timestamp) -> Self {
        Self { received_ts, bytes: Vec::new(), lines: Vec::new(), rejected: BTreeMap::new() }
    }

    fn push(&mut self, row: u64, event_date: Option<Date>, line: &str) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(line.as_bytes());
        self.lines.push(Line { row, event_date, from, to: self.bytes.len() });
    }
}

/// Reads the rows after `landed_rows`, encodes them and sends them in chunks.
/// Ends early, without an error, where nobody listens any more.
fn read(
    job: &Job,
    input: &Input,
    landed_rows: u64,
    received_ts: Timestamp,
    progress: &Progress,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<(), ImportError> {
    let (path, wanted) = (input.file.path(), job.decoder.columns());
    let mut reader = reader::open(path, &input.shown, &job.mapping, wanted, &progress.read_bytes)?;
    let mut chunk = Chunk::new(received_ts);
    let mut row = 0;
    while let Some(read_row) = reader.next_row()? {
        row += 1;
        if row <= landed_rows {
            continue;
        }
        let origin =
            Origin { content: &input.content, source: input.source.as_str(), row, received_ts };
        encode(job, &read_row, &origin, &input.shown, &mut chunk);
        if chunk.bytes.len() >= CHUNK_BYTES {
            let full = std::mem::replace(&mut chunk, Chunk::new(received_ts));
            report(&full, progress);
            if chunks.blocking_send(full).is_err() {
                return Ok(());
            }
        }
    }
    report(&chunk, progress);
    // Where nobody listens, the writer has failed and says so itself.
    let _ = chunks.blocking_send(chunk);
    Ok(())
}

fn report(chunk: &Chunk, progress: &Progress) {
    let rejected: u64 = chunk.rejected.values().map(|r| r.rows).sum();
    progress.rows.fetch_add(chunk.lines.len() as u64, Ordering::Relaxed);
    progress.rejected.fetch_add(rejected, Ordering::Relaxed);
}

/// One row becomes one line.
fn encode(job: &Job, read_row: &ReadRow<'_>, origin: &Origin<'_>, shown: &str, chunk: &mut Chunk) {
    let decoded = match &read_row.row {
        Ok(row) => job.decoder.decode(row, origin),
        Err(bad) => Err(bad.clone()),
    };
    let bad = match decoded {
        Ok(event) => {
            chunk.push(origin.row, Some(event.event_ts().date()), &event.encode());
            return;
        }
        Err(bad) => bad,
    };
    let rejected = chunk.rejected.entry(bad.reason.code()).or_default();
    rejected.rows += 1;
    if rejected.first.is_none() {
        let (path, row, detail) = (shown.to_owned(), origin.row, bad.detail.clone());
        rejected.first = Some(Example { path, row, detail });
    }
    let line = reject(read_row, &bad, origin, shown).encode();
    chunk.push(origin.row, None, &line);
}

fn reject<'a>(
    read_row: &ReadRow<'_>,
    bad: &'a Bad,
    origin: &Origin<'a>,
    shown: &str,
) -> WireRecord<'a> {
    let base64 = base64::engine::general_purpose::STANDARD;
    let bytes_base64 = match (read_row.bytes, &read_row.row) {
        (Some(bytes), _) => base64.encode(bytes),
        (None, Ok(row)) => base64.encode(row.to_json()),
        (None, Err(_)) => String::new(),
    };
    WireRecord::Reject(Reject {
        reject_id: reject_id(origin.source, origin.row).into(),
        received_ts: origin.received_ts,
        protocol: PROTOCOL.into(),
        reason: bad.reason,
        detail: bad.detail.as_str().into(),
        origin: format!("{shown} row {}", origin.row).into(),
        app_id: None,
        bytes_base64: bytes_base64.into(),
        collector_id: Some(origin.source.into()),
        wal_seq: i64::try_from(origin.row).ok(),
        shard_id: None,
        sequence_number: None,
    })
}
