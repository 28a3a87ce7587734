//! What range of numbers to expect of a collector, and where a missing one lies. No I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use clickmill_lake::landing::Commit;
use clickmill_schemas::Timestamp;

use super::chains::Chain;
use super::lines::{Beats, RawSeqs, widen};
use super::report::{BadObject, Fate, Place, UnknownAfter};
use super::seqs::{Run, Seqs};
use super::tables::CollectorRows;
use super::{BadObjects, SpoolState, Window};

/// Objects that a detail names.
const MAX_NAMED: usize = 3;

/// Everything that is known of a collector.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its rows in the tables.
    pub rows: Option<&'a CollectorRows>,
    /// What landed and no finished batch took.
    pub waiting: Option<&'a RawSeqs>,
    /// What was found in objects that were taken; read only where something is missing.
    pub raw: Option<&'a RawSeqs>,
    /// Its heartbeats.
    pub beats: Beats,
    /// Its own chain.
    pub chain: Option<&'a Chain>,
    /// Its spool, where somebody gave it.
    pub spool: Option<&'a SpoolState>,
}

/// What to expect of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The numbers that must be accounted for.
    pub run: Option<Run>,
    /// Where nothing says how far it went on.
    pub unknown_after: Option<UnknownAfter>,
    /// It ended in order.
    pub closed: bool,
}

impl Facts<'_> {
    /// It came, or comes, through a stream.
    #[must_use]
    pub fn via_stream(&self) -> bool {
        self.beats.via_stream || self.rows.is_some_and(|rows| rows.via_stream)
    }

    fn inside(&self) -> Option<Run> {
        let of_rows = self.rows.and_then(|rows| rows.inside);
        let of_waiting = self.waiting.and_then(|waiting| waiting.inside);
        let runs = of_rows.into_iter().chain(of_waiting);
        runs.fold(None, |all, (first, last)| Some(widen(Some(widen(all, first)), last)))
    }

    fn commits(&self) -> &[Commit] {
        self.chain.map(|chain| chain.survey.commits.as_slice()).unwrap_or_default()
    }
}

/// The numbers that must be accounted for in what was asked for.
#[must_use]
pub fn expected(facts: &Facts<'_>, asked: Window) -> Expected {
    let inside = facts.inside();
    let first = match asked.from {
        None => Some(1),
        Some(_) => facts.beats.before.map(|beat| beat.last_wal_seq + 1).or(inside.map(|run| run.0)),
    };
    let last_beat = facts.beats.last;
    let mut seen = inside.map(|run| run.1).max(last_beat.map(|beat| beat.last_wal_seq));
    if asked.to.is_none() {
        let position = facts.commits().last().and_then(Commit::position);
        seen = seen
            .max(position.and_then(|position| position.parse().ok()))
            .max(facts.spool.map(|spool| spool.last_wal_seq));
    }
    let finished = facts.commits().last().is_some_and(|commit| commit.closed);
    let closed =
        finished || last_beat.is_some_and(|beat| beat.closing && Some(beat.last_wal_seq) >= seen);
    let (last, known) = match facts.beats.after {
        Some(beat) => (Some(beat.last_wal_seq), true),
        None => (seen, closed || asked.to.is_none() && facts.spool.is_some()),
    };
    let unknown_after = last
        .filter(|_| !known)
        .map(|wal_seq| UnknownAfter { wal_seq, at: last_beat.map(|beat| beat.at) });
    let run = first.zip(last).filter(|(first, last)| first <= last);
    Expected { run, unknown_after, closed }
}

/// Part of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The numbers.
    pub run: Run,
    /// Where they lie.
    pub place: Place,
    /// What becomes of them.
    pub fate: Fate,
    /// In words.
    pub detail: String,
    /// Received after and before this.
    pub around: (Option<Timestamp>, Option<Timestamp>),
}

/// What is known beside the collector itself.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Objects that are gone or damaged.
    pub bad: &'a BadObjects,
    /// Every chain.
    pub chains: &'a [Chain],
    /// When anything that came through a stream was last committed.
    pub newest_stream_commit: Option<Timestamp>,
    /// What was received so shortly before that may be in the stream still.
    pub grace: Duration,
}

/// When a run that is missing was received, as far as its neighbours and heartbeats tell.
#[must_use]
pub fn received_around(facts: &Facts<'_>, run: Run) -> (Option<Timestamp>, Option<Timestamp>) {
    let rows = facts.rows.map(|rows| rows.seqs.received_around(run)).unwrap_or_default();
    let time = |micros: Option<i64>| Timestamp::from_micros(micros?).ok();
    let beats = [facts.beats.after, facts.beats.last];
    let ends = beats.into_iter().flatten().filter(|beat| beat.last_wal_seq >= run.1);
    let by_beat = ends.map(|beat| beat.at).min();
    let start = facts.beats.before.filter(|beat| beat.last_wal_seq < run.0).map(|beat| beat.at);
    let before = [time(rows.1), by_beat].into_iter().flatten().min();
    (time(rows.0).max(start), before)
}

/// Tells where each number of a gap lies.
#[must_use]
pub fn locate(facts: &Facts<'_>, gap: Run, surroundings: Surroundings<'_>) -> Vec<Piece> {
    let around = received_around(facts, gap);
    let mut pieces = Vec::new();
    let mut rest = vec![gap];
    let mut take = |rest: &mut Vec<Run>, by: Vec<Run>, place, fate, detail: &str| {
        let (hit, left) = cut(rest, &by);
        *rest = left;
        let detail = detail.to_owned();
        let piece = |run| Piece { run, place, fate, detail: detail.clone(), around };
        pieces.extend(hit.into_iter().map(piece));
    };
    let both = |raw: Option<&RawSeqs>, run: Run| -> (Vec<Run>, Vec<Run>) {
        raw.map(|raw| (present(&raw.events, run), present(&raw.rejects, run))).unwrap_or_default()
    };
    let (events, rejects) = both(facts.waiting, gap);
    const WAITING: &str = "landed, and in no finished batch yet: `clickmill etl run` takes it in";
    take(&mut rest, events, Place::Raw, Fate::OnItsWay, WAITING);
    take(&mut rest, rejects, Place::Raw, Fate::OnItsWay, WAITING);
    let (events, rejects) = both(facts.raw, gap);
    const TAKEN: &str = "in the raw zone, and taken by a batch, but in no table: \
                         `clickmill replay raw` takes it in again";
    take(&mut rest, events, Place::Table, Fate::Lost, TAKEN);
    take(&mut rest, rejects, Place::Quarantine, Fate::Lost, TAKEN);
    for (by, place, detail) in broken_objects(facts, around, surroundings) {
        take(&mut rest, by, place, Fate::Lost, &detail);
    }
    if let Some(spool) = facts.spool {
        let unshipped: Vec<Run> = spool
            .held
            .iter()
            .filter(|run| run.1 > spool.shipped_wal_seq)
            .map(|run| (run.0.max(spool.shipped_wal_seq + 1), run.1))
            .collect();
        let detail = if spool.running {
            "in the spool of a running collector"
        } else {
            "in the spool, and nothing ships it: start its collector, or `clickmill spool replay`"
        };
        take(&mut rest, unshipped, Place::Spool, Fate::OnItsWay, detail);
    }
    if rest.is_empty() {
        return pieces;
    }
    let (place, fate, detail) = beyond_the_raw_zone(facts, around, surroundings);
    if fate == Fate::Lost
        && let Some(spool) = facts.spool
    {
        let detail =
            "shipped once, and in the spool still: `clickmill spool replay` sends it again";
        take(&mut rest, spool.held.clone(), place, Fate::Lost, detail);
        let detail = "the spool itself has lost it: `clickmill spool fsck` says where";
        take(&mut rest, spool.lost.clone(), Place::Spool, Fate::Lost, detail);
    }
    let all = rest.clone();
    take(&mut rest, all, place, fate, &detail);
    pieces.sort_by_key(|piece| piece.run);
    pieces
}

/// Where numbers lie that no object of the raw zone holds.
fn beyond_the_raw_zone(
    facts: &Facts<'_>,
    around: (Option<Timestamp>, Option<Timestamp>),
    surroundings: Surroundings<'_>,
) -> (Place, Fate, String) {
    if !facts.via_stream() {
        let detail = match facts.chain.map(|chain| chain.survey.source.kind()) {
            Some("import") => "the import ended before these rows: run it again",
            Some(_) => "the spool went on without it: lost with a segment, or shipped elsewhere",
            None => "it never reached the raw zone",
        };
        return (Place::Spool, Fate::Lost, detail.to_owned());
    }
    let recent = surroundings.newest_stream_commit.is_none_or(|newest| {
        around.1.is_none_or(|before| before >= newest.saturating_sub(surroundings.grace))
    });
    if recent {
        let since = surroundings.newest_stream_commit.map_or_else(
            || "nothing of a stream has landed yet".to_owned(),
            |newest| format!("the last commit of a stream was at {newest}"),
        );
        return (Place::Stream, Fate::OnItsWay, format!("not landed yet: {since}"));
    }
    let trimmed = surroundings.chains.iter().find_map(|chain| {
        let loss = chain.survey.commits.iter().find(|commit| commit.possible_loss.is_some())?;
        Some((chain, loss.ordinal))
    });
    let detail = match trimmed {
        Some((chain, ordinal)) => format!(
            "it never landed; commit {ordinal} of {} says that the stream's retention may have \
             ended before it was read",
            chain.survey.source
        ),
        None => "it never landed: lost between the collector and the stream's reader".to_owned(),
    };
    (Place::Stream, Fate::Lost, detail)
}

/// Stretches that objects which are gone or damaged can account for.
fn broken_objects(
    facts: &Facts<'_>,
    around: (Option<Timestamp>, Option<Timestamp>),
    surroundings: Surroundings<'_>,
) -> Vec<(Vec<Run>, Place, String)> {
    let mut found = Vec::new();
    for commit in facts.commits() {
        let broken: Vec<&BadObject> =
            commit.objects.iter().filter_map(|o| surroundings.bad.get(&o.path)).collect();
        let run = commit.first.as_deref().zip(commit.last.as_deref());
        let run = run.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        if let (Some(first), Some(run)) = (broken.first(), run) {
            found.push((vec![run], first.place, names(&broken)));
        }
    }
    if facts.via_stream() {
        let window = Window { from: around.0, to: around.1 };
        let of_shards = surroundings.chains.iter().filter(|chain| chain.is_shared());
        let objects = of_shards
            .flat_map(|chain| chain.survey.commits.iter())
            .flat_map(|commit| &commit.objects)
            .filter(|object| window.touches(object.min_received_ts, object.max_received_ts));
        // An object is named by the commits of many shards.
        let paths: BTreeSet<&str> = objects.map(|object| object.path.as_str()).collect();
        let broken: Vec<&BadObject> =
            paths.into_iter().filter_map(|path| surroundings.bad.get(path)).collect();
        if let Some(first) = broken.first() {
            found.push((vec![(1, i64::MAX)], first.place, names(&broken)));
        }
    }
    found
}

fn names(broken: &[&BadObject]) -> String {
    let named: Vec<&str> = broken.iter().take(MAX_NAMED).map(|one| one.path.as_str()).collect();
    let more = match broken.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("only in {}{more}, which cannot be read: restore it", named.join(", "))
}

/// What a set has within a run.
fn present(seqs: &Seqs, run: Run) -> Vec<Run> {
    let missing: Vec<Run> = seqs.missing(run).collect();
    cut(&[run], &missing).1
}

/// Splits runs by sorted, disjoint others: what is in them, and what is left.
fn cut(runs: &[Run], by: &[Run]) -> (Vec<Run>, Vec<Run>) {
    let (mut hit, mut left) = (Vec::new(), Vec::new());
    for run in runs {
        // What is not dealt with yet begins here; `None` once the run is.
        let mut next = Some(run.0);
        for other in by.iter().filter(|other| other.1 >= run.0 && other.0 <= run.1) {
            let Some(from) = next else { break };
            let (first, last) = (other.0.max(from), other.1.min(run.1));
            if first > last {
                continue;
            }
            if from < first {
                left.push((from, first - 1));
            }
            hit.push((first, last));
            next = last.checked_add(1).filter(|next| *next <= run.1);
        }
        left.extend(next.map(|from| (from, run.1)));
    }
    (hit, left)
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
