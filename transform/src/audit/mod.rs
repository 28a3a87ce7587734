//! Proof that nothing is missing between the web server and the table, or what is.
//!
//! Two things are held against the tables:
//! - **Collectors' numbers.** A collector counts what it accepts, events and
//!   rejects together, from 1 and without gaps (`wal_seq`), and says in
//!   heartbeats how far it has counted. Every number must be a row of `events`,
//!   `event_duplicates` or `rejects`.
//! - **Shards' chains.** Each landing commit says how many records its range of
//!   sequence numbers holds; as many rows must come from there. That also covers
//!   events whose producer counts nothing.
//!
//! A number that is in no table is looked for along the way back: raw objects
//! that no batch took, raw objects that one did, objects that are gone, the
//! spool, the stream. What can still arrive is told from what is lost.
//!
//! # Guarantees
//! `complete` is said only where a closing heartbeat, a later heartbeat, a
//! closed import or the spool itself says which number was the last.
//!
//! # Limits
//! Numbers are kept as bits and ranges, a few bytes for each dozen of them; of
//! table files only lineage columns are read, of raw objects only those that no
//! batch took from a stream, those around a gap, and heartbeats. Only commits
//! made since the start of the range are read. Ranges in the lists of a report
//! are at most [`MAX_RANGES`] each.

mod chains;
mod columns_of;
mod copies;
mod lines;
mod locate;
mod report;
mod seqs;
mod shards;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use clickmill_lake::Lake;
use clickmill_lake::history::{self, Series};
use clickmill_lake::landing::LandedObject;
use clickmill_lake::raw::RawKind;
use clickmill_lake::table::DataFile;
use clickmill_schemas::{Lineage, Timestamp};

pub use report::{
    BadChain, BadObject, CollectorReport, Duplicate, Fate, Gap, Place, Report, ShardReport,
    UnknownAfter, Verdict,
};

use crate::TransformError;
use crate::batch::Batch;
use crate::decode::raw::Stored;
use chains::{BadObjects, Chain};
use lines::{RawNumbers, RawSeqs, widen};
use locate::{Expected, Facts, Surroundings};
use seqs::Run;
use shards::{LostRecord, Positions, Present};
use tables::{Kind, Rows};

/// Ranges of one list of the report; what is beyond is counted and not listed.
pub const MAX_RANGES: usize = 100_000;
/// What is still missing from a stream may arrive for so long, by default: a
/// shard that lags behind the others.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(15 * 60);
/// How far apart the clocks of collectors and workers may be, and how long an
/// event may wait in a collector between its time and its number.
const CLOCKS_APART: Duration = Duration::from_secs(3_600);

/// What to look at.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// Received at this time or later; `None`: from the beginning.
    pub from: Option<Timestamp>,
    /// Received before this time; `None`: until now.
    pub to: Option<Timestamp>,
    /// How raw objects are checked.
    pub verify: Verify,
    /// What is missing from a stream and was received this shortly before its last
    /// commit counts as on its way.
    pub grace: Duration,
    /// Spools of collectors, as far as they can be read from here.
    pub spools: Vec<SpoolState>,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            from: None,
            to: None,
            verify: Verify::Sizes,
            grace: DEFAULT_GRACE,
            spools: Vec::new(),
        }
    }
}

/// How raw objects are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// That they are there, with their length.
    Sizes,
    /// Read, and their CRC-32C compared.
    Checksums,
}

/// What a collector's spool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolState {
    /// A collector has it open.
    pub running: bool,
    /// The last number that it gave out.
    pub last_wal_seq: i64,
    /// The last number that its sink has.
    pub shipped_wal_seq: i64,
    /// The numbers that it holds; sorted and disjoint.
    pub held: Vec<(i64, i64)>,
    /// The numbers that it lost to damage; likewise.
    pub lost: Vec<(i64, i64)>,
    /// The collector.
    pub collector_id: String,
}

/// A range of times of receipt; open where an end is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Inclusive.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
}

impl Window {
    /// True for a time in it, in microseconds.
    #[must_use]
    pub fn contains(&self, micros: i64) -> bool {
        self.from.is_none_or(|from| micros >= from.micros())
            && self.to.is_none_or(|to| micros < to.micros())
    }

    /// True where something from `first` to `last` can be in it.
    #[must_use]
    pub fn overlaps(&self, first: Timestamp, last: Timestamp) -> bool {
        self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
    }

    /// The same, its end included.
    fn touches(&self, first: Timestamp, last: Timestamp) -> bool {
        self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first <= to)
    }

    /// With the heartbeats that bound it, and room for clocks.
    fn widened(self, beats: &BTreeMap<String, lines::Beats>) -> Self {
        let starts = beats.values().filter_map(|beats| beats.before).map(|beat| beat.at);
        let ends = beats.values().filter_map(|beats| beats.after).map(|beat| beat.at);
        let from = self.from.map(|from| starts.fold(from, Timestamp::min));
        let to = self.to.map(|to| ends.fold(to, Timestamp::max));
        Self {
            from: from.map(|from| from.saturating_sub(CLOCKS_APART)),
            to: to.map(|to| to.saturating_add(CLOCKS_APART)),
        }
    }
}

/// Holds the raw zone against the tables.
///
/// # Errors
/// [`TransformError`] where the store fails. What is missing or damaged is no
/// error but the report.
pub async fn audit(lake: &Lake, options: &AuditOptions) -> Result<Report, TransformError> {
    let asked = Window { from: options.from, to: options.to };
    let chains = chains::read(lake, asked, &taken(lake).await?).await?;
    if chains.is_empty() && options.spools.is_empty() && !has_batches(lake).await? {
        return Err(TransformError::NothingLanded { lake: lake.url().to_string() });
    }
    let mut bad = chains::check_objects(lake, &chains, asked, options.verify).await?;
    let beats = lines::heartbeats(lake, &chains, asked, &mut bad).await?;
    let scope = Scope { asked, scanned: asked.widened(&beats) };
    let positions = Arc::new(Positions::of(&chains));
    let files = tables::files(lake, scope.scanned).await?;
    let rows = tables::scan(lake, &files, scope, &positions).await?;
    let waiting = waiting(lake, &chains, asked, &mut bad).await?;
    let spools: BTreeMap<&str, &SpoolState> =
        options.spools.iter().map(|spool| (spool.collector_id.as_str(), spool)).collect();

    let mut known = facts(&chains, &rows, &waiting, &beats, &spools);
    let gaps: Vec<(usize, Run)> = gaps_of(&known, asked);
    let raw = raw_around(lake, &chains, &known, &gaps, &mut bad).await?;
    for one in &mut known {
        one.raw = raw.get(one.id);
    }
    // Of others nothing else tells that a number of theirs is missing.
    let numbered: HashSet<&str> = known
        .iter()
        .filter(|one| locate::expected(one, asked).run.is_some())
        .map(|one| one.id)
        .collect();
    let lost = lost_records(lake, &chains, &positions, &rows, &numbered, &files, &mut bad).await?;
    let surroundings = Surroundings {
        bad: &bad,
        chains: &chains,
        newest_stream_commit: chains::newest_stream_commit(&chains),
        grace: options.grace,
    };
    let mut report = Report {
        audited_at: Timestamp::now(),
        from: options.from,
        to: options.to,
        verdict: Verdict::Complete,
        collectors: known.iter().filter_map(|one| collector_report(one, asked)).collect(),
        shards: shards::reports(&chains, &positions, &rows, &lost, asked),
        gaps: shards::gaps(&chains, &positions, &lost),
        duplicates: copies::duplicates(lake, &known, &files).await?,
        objects: bad.values().chain(&rows.bad).cloned().collect(),
        chains: chains::problems(&chains),
        truncated: false,
        rows_without_lineage: rows.without_lineage,
    };
    add_gaps(&mut report, &known, &gaps, surroundings);
    judge(&mut report);
    Ok(report)
}

/// What was asked for, and what must be read to answer it.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Counted.
    pub asked: Window,
    /// Looked at.
    pub scanned: Window,
}

async fn has_batches(lake: &Lake) -> Result<bool, TransformError> {
    Ok(history::newest(lake, Series::Batches).await?.is_some())
}

/// For each chain the last commit that a finished batch took.
async fn taken(lake: &Lake) -> Result<BTreeMap<String, u64>, TransformError> {
    let Some(finished) = history::newest(lake, Series::Snapshots).await? else {
        return Ok(BTreeMap::new());
    };
    let batch: Batch = history::read(lake, Series::Batches, finished).await?;
    Ok(batch.bookmarks)
}

/// What landed and no finished batch took. Of a collector's chain the commits say it,
/// of a stream's only the lines do.
async fn waiting(
    lake: &Lake,
    chains: &[Chain],
    asked: Window,
    bad: &mut BadObjects,
) -> Result<RawNumbers, TransformError> {
    let mut found = RawNumbers::new();
    let mut unread: Vec<(&LandedObject, bool)> = Vec::new();
    for chain in chains {
        for commit in chain.survey.commits.iter().filter(|commit| !chain.is_taken(commit)) {
            let range = commit.first.as_deref().zip(commit.last.as_deref());
            let range = range.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let sound = commit.objects.iter().all(|object| !bad.contains_key(&object.path));
            if let (Some(id), Some((first, last))) = (chain.collector_id(), range)
                && sound
                && chain.is_inside(commit)
                && i64::try_from(shards::records(commit)) == Ok(last - first + 1)
            {
                let of: &mut RawSeqs = found.entry(id.to_owned()).or_default();
                let at = commit.committed_at.micros();
                (first..=last).for_each(|seq| of.events.add(seq, at));
                of.inside = Some(widen(Some(widen(of.inside, first)), last));
                continue;
            }
            let lines = commit.objects.iter().filter(|object| {
                object.kind != RawKind::Heartbeats
                    && !bad.contains_key(&object.path)
                    && asked.overlaps(object.min_received_ts, object.max_received_ts)
            });
            unread.extend(lines.map(|object| (object, false)));
        }
    }
    for (id, more) in lines::numbers(lake, unread, asked, bad).await? {
        let of = found.entry(id).or_default();
        of.events.merge(more.events);
        of.rejects.merge(more.rejects);
        let runs = more.inside.into_iter();
        of.inside = runs.fold(of.inside, |all, run| Some(widen(Some(widen(all, run.0)), run.1)));
    }
    Ok(found)
}

/// Everything that is known of each collector, from wherever it is known.
fn facts<'a>(
    chains: &'a [Chain],
    rows: &'a Rows,
    waiting: &'a RawNumbers,
    beats: &'a BTreeMap<String, lines::Beats>,
    spools: &BTreeMap<&'a str, &'a SpoolState>,
) -> Vec<Facts<'a>> {
    let own: BTreeMap<&str, &Chain> =
        chains.iter().filter_map(|chain| Some((chain.collector_id()?, chain))).collect();
    let mut ids: BTreeSet<&str> = own.keys().copied().collect();
    ids.extend(rows.collectors.keys().map(String::as_str));
    ids.extend(waiting.keys().map(String::as_str));
    ids.extend(beats.keys().map(String::as_str));
    ids.extend(spools.keys().copied());
    let of = |id: &'a str| Facts {
        id,
        rows: rows.collectors.get(id),
        waiting: waiting.get(id),
        raw: None,
        beats: beats.get(id).copied().unwrap_or_default(),
        chain: own.get(id).copied(),
        spool: spools.get(id).copied(),
    };
    ids.into_iter().map(of).collect()
}

/// Every run that should be in the tables and is not, by the collector's place in `known`.
fn gaps_of(known: &[Facts<'_>], asked: Window) -> Vec<(usize, Run)> {
    let mut gaps = Vec::new();
    for (at, one) in known.iter().enumerate() {
        let Expected { run: Some(run), .. } = locate::expected(one, asked) else { continue };
        match one.rows {
            Some(rows) => gaps.extend(rows.seqs.missing(run).map(|gap| (at, gap))),
            None => gaps.push((at, run)),
        }
    }
    gaps
}

/// The numbers in raw objects that a batch took, read only where a gap needs them.
async fn raw_around(
    lake: &Lake,
    chains: &[Chain],
    known: &[Facts<'_>],
    gaps: &[(usize, Run)],
    bad: &mut BadObjects,
) -> Result<RawNumbers, TransformError> {
    let mut wanted: BTreeMap<(&str, u64), (&LandedObject, bool)> = BTreeMap::new();
    for (at, gap) in gaps {
        let one = &known[*at];
        let covered = |raw: Option<&RawSeqs>| {
            raw.is_some_and(|raw| raw.events.missing(*gap).next().is_none())
        };
        if covered(one.waiting) {
            continue;
        }
        let (after, before) = locate::received_around(one, *gap);
        let window = Window { from: after, to: before };
        for chain in chains {
            let own = chain.collector_id() == Some(one.id);
            let through_a_stream = chain.is_shared() && one.via_stream();
            if !(own || through_a_stream) {
                continue;
            }
            for commit in chain.survey.commits.iter().filter(|commit| chain.is_taken(commit)) {
                let bound = |text: &Option<String>| -> Option<i64> { text.as_ref()?.parse().ok() };
                let touched = match (bound(&commit.first), bound(&commit.last)) {
                    (Some(first), Some(last)) if own => first <= gap.1 && last >= gap.0,
                    _ => !own,
                };
                let objects = commit.objects.iter().filter(|object| {
                    touched
                        && object.kind != RawKind::Heartbeats
                        && !bad.contains_key(&object.path)
                        && (own || window.touches(object.min_received_ts, object.max_received_ts))
                });
                wanted.extend(objects.map(|object| {
                    let key = (object.path.as_str(), object.lines().start);
                    (key, (object, true))
                }));
            }
        }
    }
    lines::numbers(lake, wanted.into_values().collect(), Window::default(), bad).await
}

/// Records of shards that are in no table though a batch took them.
async fn lost_records(
    lake: &Lake,
    chains: &[Chain],
    positions: &Positions,
    rows: &Rows,
    numbered: &HashSet<&str>,
    files: &[(Kind, DataFile)],
    bad: &mut BadObjects,
) -> Result<Vec<LostRecord>, TransformError> {
    let short = positions.short(chains, rows);
    let mut lost = Vec::new();
    if short.is_empty() {
        return Ok(lost);
    }
    let mut present = Present::new(&short);
    tables::each_row(lake, files, |row| {
        if let (Some(shard), Some(number)) = (row.shard_id, row.sequence_number)
            && let Some(commit) = positions.find(shard, number)
        {
            present.note(commit, number);
        }
    })
    .await?;
    let in_tables = |line: &Lineage| {
        let id = line.collector_id.as_deref().unwrap_or_default();
        let seqs = rows.collectors.get(id).map(|rows| &rows.seqs);
        seqs.is_some_and(|seqs| line.wal_seq.is_some_and(|seq| seqs.contains(seq)))
    };
    let mut unreadable: BTreeMap<usize, u64> = BTreeMap::new();
    let mut named = Vec::new();
    for commit in &short {
        let (_, of) = positions.commit(chains, *commit);
        for object in of.objects.iter().filter(|object| object.kind != RawKind::Heartbeats) {
            if bad.contains_key(&object.path) {
                *unreadable.entry(*commit).or_default() += object.records;
            } else {
                named.push((*commit, object.clone()));
            }
        }
    }
    for stored in Stored::of(named) {
        let sections = match lines::lineage_of(lake, &stored).await? {
            Ok(sections) => sections,
            Err(problem) => {
                for (commit, object) in stored.sections() {
                    chains::note(bad, object, true, problem.clone());
                    *unreadable.entry(*commit).or_default() += object.records;
                }
                continue;
            }
        };
        for ((commit, object), lines) in stored.sections().iter().zip(sections) {
            for line in lines {
                let number = line.sequence_number.clone().unwrap_or_default();
                // Of a reject that came twice one row is kept.
                let repeated = object.kind == RawKind::Rejects && in_tables(&line);
                if !present.holds(*commit, &number) && !repeated {
                    let collector = line.collector_id.as_deref().unwrap_or_default();
                    lost.push(LostRecord {
                        commit: *commit,
                        sequence_number: Some(number),
                        count: 1,
                        has_lineage: line.wal_seq.is_some() && numbered.contains(collector),
                        kind: object.kind,
                    });
                }
            }
        }
    }
    for (commit, unreadable) in unreadable {
        let (_, of) = positions.commit(chains, commit);
        let found = rows.records_of(commit);
        let of_this = lost.iter().filter(|one| one.commit == commit).count() as u64;
        let count = (shards::records(of) - found).saturating_sub(of_this).min(unreadable);
        if count > 0 {
            let (sequence_number, kind) = (None, RawKind::Events);
            lost.push(LostRecord { commit, sequence_number, count, has_lineage: false, kind });
        }
    }
    // A commit's records next to each other, in their order.
    lost.sort_by_key(|one| one.commit);
    Ok(lost)
}

fn collector_report(one: &Facts<'_>, asked: Window) -> Option<CollectorReport> {
    let Expected { run, unknown_after, closed } = locate::expected(one, asked);
    if run.is_none() && unknown_after.is_none() {
        return None;
    }
    let [events, duplicates, rejects] = one.rows.map(|rows| rows.counts).unwrap_or_default();
    Some(CollectorReport {
        collector_id: one.id.to_owned(),
        first: run.map(|run| run.0),
        last: run.map(|run| run.1),
        verdict: Verdict::Complete,
        events,
        duplicates,
        rejects,
        on_its_way: 0,
        missing: 0,
        unknown_after,
        last_heartbeat: one.beats.last.map(|beat| beat.at),
        closed,
    })
}

fn add_gaps(
    report: &mut Report,
    known: &[Facts<'_>],
    gaps: &[(usize, Run)],
    surroundings: Surroundings<'_>,
) {
    for (at, gap) in gaps {
        let one = &known[*at];
        for piece in locate::locate(one, *gap, surroundings) {
            let count = u64::try_from(piece.run.1 - piece.run.0 + 1).unwrap_or(u64::MAX);
            let of = report.collectors.iter_mut().find(|of| of.collector_id == one.id);
            if let Some(of) = of {
                let sum = match piece.fate {
                    Fate::OnItsWay => &mut of.on_its_way,
                    Fate::Lost => &mut of.missing,
                };
                *sum = sum.saturating_add(count);
            }
            if report.gaps.len() >= MAX_RANGES {
                report.truncated = true;
                continue;
            }
            report.gaps.push(Gap {
                source: one.id.to_owned(),
                first: piece.run.0.to_string(),
                last: piece.run.1.to_string(),
                count,
                place: piece.place,
                fate: piece.fate,
                detail: piece.detail,
                received_after: piece.around.0,
                received_before: piece.around.1,
            });
        }
    }
}

/// Verdicts follow from the counts.
fn judge(report: &mut Report) {
    for one in &mut report.collectors {
        one.verdict = if one.missing > 0 {
            Verdict::Missing
        } else if one.unknown_after.is_some() {
            Verdict::Unknown
        } else if one.on_its_way > 0 {
            Verdict::OnItsWay
        } else {
            Verdict::Complete
        };
    }
    let broken = !report.objects.is_empty()
        || !report.chains.is_empty()
        || report.shards.iter().any(|shard| shard.missing > 0 || shard.doubled > 0)
        || report.gaps.iter().any(|gap| gap.fate == Fate::Lost)
        || report.duplicates.iter().any(|duplicate| duplicate.doubled);
    let waiting = report.shards.iter().any(|shard| shard.on_its_way > 0);
    let trimmed = report.shards.iter().any(|shard| shard.possible_losses > 0);
    let worst = report.collectors.iter().map(|one| one.verdict);
    report.verdict = worst
        .chain(broken.then_some(Verdict::Missing))
        .chain(trimmed.then_some(Verdict::Unknown))
        .chain(waiting.then_some(Verdict::OnItsWay))
        .max()
        .unwrap_or(Verdict::Complete);
}
