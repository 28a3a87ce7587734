//! The lineage of raw lines, where the commits do not say enough.

use std::collections::BTreeMap;

use clickmill_lake::landing::LandedObject;
use clickmill_lake::raw::RawKind;
use clickmill_lake::raw::read::{self, for_each_line};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::{Lineage, Timestamp, WireRecord};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::chains::{Chain, FETCHES, WHOLE_READS, read_whole};
use super::seqs::{Run, Seqs};
use super::{BadObjects, Window};
use crate::TransformError;
use crate::decode::raw::Stored;

/// The numbers of one collector in some raw objects.
#[derive(Debug, Default)]
pub struct RawSeqs {
    /// Of events.
    pub events: Seqs,
    /// Of rejects.
    pub rejects: Seqs,
    /// Least and greatest of those received in the range that was asked for.
    pub inside: Option<Run>,
}

/// By collector id.
pub type RawNumbers = BTreeMap<String, RawSeqs>;

impl RawSeqs {
    fn add(&mut self, kind: RawKind, seq: i64, received: i64, asked: Window) {
        let seqs = if kind == RawKind::Rejects { &mut self.rejects } else { &mut self.events };
        seqs.add(seq, received);
        if asked.contains(received) {
            self.inside = Some(widen(self.inside, seq));
        }
    }
}

/// The run that holds `seq`, too.
#[must_use]
pub fn widen(run: Option<Run>, seq: i64) -> Run {
    run.map_or((seq, seq), |(first, last)| (first.min(seq), last.max(seq)))
}

/// Reads objects and collects their numbers. One that cannot be read is noted in `bad`.
///
/// # Errors
/// [`TransformError::Lake`] where the store fails.
pub async fn numbers(
    lake: &Lake,
    objects: Vec<(&LandedObject, bool)>,
    asked: Window,
    bad: &mut BadObjects,
) -> Result<RawNumbers, TransformError> {
    let objects = objects.into_iter().map(|(object, taken)| (taken, object.clone()));
    let mut reads = stream::iter(Stored::of(objects))
        .map(|stored| async move {
            let numbers = numbers_of(lake, &stored).await?;
            Ok::<_, TransformError>((stored, numbers))
        })
        .buffer_unordered(WHOLE_READS);
    let mut found = RawNumbers::new();
    while let Some((stored, numbers)) = reads.try_next().await? {
        let numbers = match numbers {
            Ok(numbers) => numbers,
            Err(problem) => {
                for (taken, object) in stored.sections() {
                    super::chains::note(bad, object, *taken, problem.clone());
                }
                continue;
            }
        };
        let kind = stored.object().kind;
        for id in &numbers.ids {
            found.entry(id.clone()).or_default();
        }
        let mut of: Vec<(&String, &mut RawSeqs)> = found.iter_mut().collect();
        let places: Vec<usize> = numbers
            .ids
            .iter()
            .filter_map(|id| of.binary_search_by_key(&id, |(known, _)| *known).ok())
            .collect();
        for (id, seq, received) in numbers.lines {
            of[places[id]].1.add(kind, seq, received, asked);
        }
    }
    Ok(found)
}

/// The numbers in an object: few bytes a line, since there can be millions.
#[derive(Default)]
struct Numbers {
    ids: Vec<String>,
    /// The place of the collector's id, its number, and when the line was received.
    lines: Vec<(usize, i64, i64)>,
}

async fn numbers_of<T>(
    lake: &Lake,
    stored: &Stored<T>,
) -> Result<Result<Numbers, String>, TransformError> {
    let object = stored.object();
    let bytes = match read_whole(lake, object).await? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Err(problem)),
    };
    let (path, lines) = (object.path.clone(), stored.lines());
    let otherwise = object.max_received_ts;
    let parsing = tokio::task::spawn_blocking(move || {
        let mut numbers = Numbers::default();
        read::for_each_lineage(&bytes, &path, &lines, |_, line| {
            let (Some(id), Some(seq)) = (line.collector_id, line.wal_seq) else { return };
            let known = numbers.ids.iter().position(|known| *known == id);
            let place = known.unwrap_or_else(|| {
                numbers.ids.push(id);
                numbers.ids.len() - 1
            });
            numbers.lines.push((place, seq, line.received_ts.unwrap_or(otherwise).micros()));
        })
        .map_err(|error| error.to_string())?;
        Ok(numbers)
    });
    parsing.await.map_err(|source| TransformError::Worker { job: "audit", source })
}

/// The lineage of each line of each section of an object, or what is wrong with it.
///
/// # Errors
/// [`TransformError::Lake`] where the store fails.
pub async fn lineage_of<T>(
    lake: &Lake,
    stored: &Stored<T>,
) -> Result<Result<Vec<Vec<Lineage>>, String>, TransformError> {
    let object = stored.object();
    let bytes = match read_whole(lake, object).await? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Err(problem)),
    };
    let (path, lines) = (object.path.clone(), stored.lines());
    let parsing = tokio::task::spawn_blocking(move || {
        let mut all = read::lineage(&bytes, &path, &lines).map_err(|error| error.to_string())?;
        let mut sections = Vec::with_capacity(lines.len());
        // From the last one back, each takes its lines off the end.
        for section in lines.iter().rev() {
            let length = usize::try_from(section.end - section.start).unwrap_or(usize::MAX);
            sections.push(all.split_off(all.len().saturating_sub(length)));
        }
        sections.reverse();
        Ok(sections)
    });
    parsing.await.map_err(|source| TransformError::Worker { job: "audit", source })
}

/// A collector's heartbeats, as far as they matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beats {
    /// The last at or before the start of what was asked for.
    pub before: Option<Beat>,
    /// The first at or after its end.
    pub after: Option<Beat>,
    /// The last of all.
    pub last: Option<Beat>,
    /// They came through a stream.
    pub via_stream: bool,
}

/// One heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The last number given out before it.
    pub last_wal_seq: i64,
    /// When.
    pub at: Timestamp,
    /// The collector ended in order.
    pub closing: bool,
}

impl Beats {
    /// Takes in one more, in any order.
    pub fn add(&mut self, beat: Beat, asked: Window) {
        let key = |beat: &Beat| (beat.last_wal_seq, beat.at);
        let later = |than: &Option<Beat>| than.is_none_or(|than| key(&than) <= key(&beat));
        if later(&self.last) {
            self.last = Some(beat);
        }
        if asked.from.is_some_and(|from| beat.at <= from) && later(&self.before) {
            self.before = Some(beat);
        }
        let earlier = |than: &Option<Beat>| than.is_none_or(|than| key(&than) > key(&beat));
        if asked.to.is_some_and(|to| beat.at >= to) && earlier(&self.after) {
            self.after = Some(beat);
        }
    }
}

/// Every collector's heartbeats in the raw zone. Those of a collector's own chain are in
/// order, so that without a range only the newest is read.
///
/// # Errors
/// [`TransformError::Lake`] where the store fails.
pub async fn heartbeats(
    lake: &Lake,
    chains: &[Chain],
    asked: Window,
    bad: &mut BadObjects,
) -> Result<BTreeMap<String, Beats>, TransformError> {
    let mut wanted: Vec<(&LandedObject, bool, bool)> = Vec::new();
    for chain in chains {
        let via_stream = chain.is_shared();
        let newest_only = !via_stream && asked.from.is_none() && asked.to.is_none();
        for commit in chain.survey.commits.iter().rev() {
            let beats = commit.objects.iter().filter(|object| {
                object.kind == RawKind::Heartbeats && !bad.contains_key(&object.path)
            });
            let before = wanted.len();
            wanted.extend(beats.map(|object| (object, chain.is_taken(commit), via_stream)));
            if newest_only && wanted.len() > before {
                break;
            }
        }
    }
    let wanted = wanted.into_iter().map(|(object, taken, via)| ((taken, via), object.clone()));
    let mut reads = stream::iter(Stored::of(wanted))
        .map(|stored| async move {
            let bytes = read_whole(lake, stored.object()).await?;
            Ok::<_, TransformError>((stored, bytes))
        })
        .buffer_unordered(FETCHES);
    let mut found: BTreeMap<String, Beats> = BTreeMap::new();
    while let Some((stored, bytes)) = reads.try_next().await? {
        // An object is of a stream or of none.
        let ((_, via_stream), object) = &stored.sections()[0];
        let read = bytes.and_then(|bytes| {
            for_each_line(&bytes, &object.path, &stored.lines(), |_, line| {
                if let Ok(WireRecord::Heartbeat(beat)) = WireRecord::decode(line) {
                    let beats = found.entry(beat.collector_id.into_owned()).or_default();
                    beats.via_stream |= *via_stream;
                    let (last_wal_seq, at) = (beat.last_wal_seq, beat.heartbeat_ts);
                    beats.add(Beat { last_wal_seq, at, closing: beat.closing }, asked);
                }
                Ok::<_, LakeError>(true)
            })
            .map_err(|error| error.to_string())
        });
        if let Err(problem) = read {
            for ((taken, _), object) in stored.sections() {
                super::chains::note(bad, object, *taken, problem.clone());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect(text)
    }

    fn beat(last_wal_seq: i64, time: &str) -> Beat {
        Beat { last_wal_seq, at: at(time), closing: false }
    }

    #[test]
    fn the_heartbeats_around_a_range_bound_it_in_whatever_order_they_come() {
        let all = [
            beat(10, "2026-11-23T09:59:00Z"),
            beat(20, "2026-11-23T10:00:00Z"),
            beat(30, "2026-11-23T10:01:00Z"),
            beat(40, "2026-11-23T11:00:30Z"),
            Beat { closing: true, ..beat(40, "2026-11-23T11:01:00Z") },
        ];
        let asked =
            Window { from: Some(at("2026-11-23T10:00:00Z")), to: Some(at("2026-11-23T11:00:00Z")) };
        for turn in 0..all.len() {
            let mut beats = Beats::default();
            for one in all.iter().cycle().skip(turn).take(all.len()) {
                beats.add(*one, asked);
            }
            assert_eq!(beats.before, Some(all[1]));
            assert_eq!(beats.after, Some(all[3]));
            assert_eq!(beats.last, Some(all[4]));
        }
    }
}
