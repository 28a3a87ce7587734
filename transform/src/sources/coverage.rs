//! What a chain of exports covers: a full export, then windows of changes. Pure.
//!
//! A full export of the time T says everything up to T, so it covers all of
//! (-∞, T). A window covers [from, to). Windows may come in any order, overlap
//! or leave gaps. A window is taken as soon as it is complete: what it says of
//! its keys is true whatever is missing elsewhere, and the newest statement
//! about a key wins. But keys that changed in a gap alone are stale until the
//! window that is missing, or a newer full export, arrives; so gaps are told on
//! every run. A full export does not say what is gone: what was deleted in a gap
//! stays until the window comes ([`Coverage::unseen_deletes`]).

use clickmill_schemas::Timestamp;
use serde::{Deserialize, Serialize};

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Inclusive; `None`: from the beginning.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Timestamp,
}

/// The time that the exports of one table cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Disjoint and apart from each other, ascending.
    spans: Vec<Span>,
    /// How many windows said again what another had said.
    #[serde(default)]
    pub overlaps: u64,
    /// The same of windows alone.
    #[serde(default)]
    windows: Vec<Span>,
    /// The time of the first full export: what is gone since is said by windows alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_full: Option<Timestamp>,
    /// Changes came that follow a full load.
    #[serde(default)]
    has_changes: bool,
}

impl Coverage {
    /// Takes in a full export of this time.
    pub fn add_full(&mut self, at: Timestamp) {
        merge(&mut self.spans, Span { from: None, to: at });
        self.first_full = Some(self.first_full.map_or(at, |first| first.min(at)));
    }

    /// Takes in a window. One that is empty or runs backwards covers nothing.
    pub fn add_window(&mut self, from: Timestamp, to: Timestamp) {
        if from >= to {
            return;
        }
        let new = Span { from: Some(from), to };
        // What a full export says anyway is no overlap of windows.
        let overlaps = |span: &Span| span.to > from && span.from < Some(to);
        if self.windows.iter().any(overlaps) {
            self.overlaps += 1;
        }
        merge(&mut self.windows, new);
        merge(&mut self.spans, new);
    }

    /// Takes in changes, which follow a load without a gap that could be seen.
    pub fn add_changes(&mut self) {
        self.has_changes = true;
    }

    /// What lies between two stretches, ascending.
    #[must_use]
    pub fn gaps(&self) -> Vec<(Timestamp, Timestamp)> {
        let pairs = self.spans.windows(2);
        pairs.filter_map(|pair| Some((pair[0].to, pair[1].from?))).collect()
    }

    /// Gaps between windows, and before the first of them, that a full export closed: what was
    /// deleted only then is not known. Ascending.
    #[must_use]
    pub fn unseen_deletes(&self) -> Vec<(Timestamp, Timestamp)> {
        let Some(known_until) = self.complete_until() else { return Vec::new() };
        let Some(first) = self.windows.first().and_then(|window| window.from) else {
            return Vec::new();
        };
        // What was gone before anything was said never came in.
        let mut seen_until = self.first_full.map_or(first, |full| full.min(first));
        let mut unseen = Vec::new();
        for window in &self.windows {
            let until = window.from.map_or(known_until, |from| from.min(known_until));
            if seen_until < until {
                unseen.push((seen_until, until));
            }
            seen_until = seen_until.max(window.to);
        }
        unseen
    }

    /// False where windows or changes came and no full export reaches their first.
    #[must_use]
    pub fn has_beginning(&self) -> bool {
        match self.spans.first() {
            Some(span) => span.from.is_none(),
            None => !self.has_changes,
        }
    }

    /// Up to when everything is known; `None` where not even the beginning is.
    #[must_use]
    pub fn complete_until(&self) -> Option<Timestamp> {
        self.spans.first().filter(|span| span.from.is_none()).map(|span| span.to)
    }

    /// True where the chain has windows, so that `complete_until` says something.
    #[must_use]
    pub fn is_chain(&self) -> bool {
        !self.gaps().is_empty() || !self.has_beginning() || !self.windows.is_empty()
    }
}

/// Adds a stretch to those that are disjoint and apart.
fn merge(spans: &mut Vec<Span>, new: Span) {
    // `None` sorts before every time.
    let touches = |a: &Span, b: &Span| a.from <= Some(b.to) && b.from <= Some(a.to);
    let (joined, apart): (Vec<Span>, Vec<Span>) =
        spans.drain(..).partition(|span| touches(span, &new));
    let from = joined.iter().map(|span| span.from).fold(new.from, Option::min);
    let to = joined.iter().map(|span| span.to).fold(new.to, Timestamp::max);
    *spans = apart;
    spans.push(Span { from, to });
    spans.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000).unwrap()
    }

    fn seconds(gaps: &[(Timestamp, Timestamp)]) -> Vec<(i64, i64)> {
        gaps.iter().map(|(a, b)| (a.micros() / 1_000_000, b.micros() / 1_000_000)).collect()
    }

    /// The windows of a case: (from, to), and a full export as (-1, time).
    fn coverage(parts: &[(i64, i64)]) -> Coverage {
        let mut coverage = Coverage::default();
        for (from, to) in parts {
            match from {
                -1 => coverage.add_full(at(*to)),
                from => coverage.add_window(at(*from), at(*to)),
            }
        }
        coverage
    }

    #[test]
    fn windows_that_meet_leave_no_gap_in_any_order() {
        let mut parts = [(-1, 10), (10, 20), (20, 30), (30, 40)];
        for _ in 0..4 {
            parts.rotate_left(1);
            let whole = coverage(&parts);
            assert_eq!(whole.gaps(), []);
            assert_eq!((whole.complete_until(), whole.overlaps), (Some(at(40)), 0));
        }
    }

    #[test]
    fn a_window_ends_before_its_end_and_begins_with_its_beginning() {
        // One microsecond between an exclusive end and the next beginning is a gap.
        let mut chain = coverage(&[(-1, 10)]);
        chain.add_window(Timestamp::from_micros(10_000_001).unwrap(), at(20));
        assert_eq!(chain.gaps().len(), 1);
        assert_eq!(chain.complete_until(), Some(at(10)));
    }

    #[test]
    fn a_gap_is_told_until_it_is_filled_and_a_full_export_fills_all_before_it() {
        let mut chain = coverage(&[(-1, 10), (20, 30), (40, 50)]);
        assert_eq!(seconds(&chain.gaps()), [(10, 20), (30, 40)]);
        chain.add_window(at(5), at(25));
        assert_eq!(seconds(&chain.gaps()), [(30, 40)]);
        assert_eq!(chain.overlaps, 1);
        chain.add_full(at(45));
        assert_eq!(chain.gaps(), []);
        assert_eq!(chain.complete_until(), Some(at(50)));
    }

    #[test]
    fn deletes_of_a_gap_that_a_full_export_closed_stay_unseen_until_its_window_comes() {
        let mut chain = coverage(&[(-1, 10), (20, 30), (40, 50)]);
        assert_eq!(chain.unseen_deletes(), [], "the gaps themselves are told");
        chain.add_full(at(35));
        assert_eq!(seconds(&chain.gaps()), [(35, 40)]);
        assert_eq!(seconds(&chain.unseen_deletes()), [(10, 20), (30, 35)]);
        chain.add_full(at(60));
        assert_eq!(chain.gaps(), []);
        assert_eq!(seconds(&chain.unseen_deletes()), [(10, 20), (30, 40)]);
        chain.add_window(at(5), at(20));
        assert_eq!(seconds(&chain.unseen_deletes()), [(30, 40)]);
        chain.add_window(at(30), at(40));
        assert_eq!(chain.unseen_deletes(), []);
        // Whatever was gone before the first full export and the first window never came in.
        assert_eq!(coverage(&[(-1, 25), (-1, 40), (20, 30)]).unseen_deletes(), []);
        assert_eq!(seconds(&coverage(&[(-1, 25), (2, 10), (20, 30)]).unseen_deletes()), [(10, 20)]);
        // Full exports alone never say what is gone, nor does a chain without one.
        assert_eq!(coverage(&[(-1, 10), (-1, 20)]).unseen_deletes(), []);
        assert_eq!(coverage(&[(10, 20), (30, 40)]).unseen_deletes(), []);
    }

    #[test]
    fn windows_that_overlap_are_counted_also_behind_a_full_export() {
        let chain = coverage(&[(-1, 10), (5, 20), (20, 30), (19, 21), (25, 26)]);
        assert_eq!((chain.overlaps, chain.complete_until()), (2, Some(at(30))));
    }

    #[test]
    fn windows_without_a_full_export_have_no_beginning() {
        let mut chain = coverage(&[(10, 20), (20, 30), (15, 15), (9, 3)]);
        assert!(!chain.has_beginning());
        assert_eq!((chain.complete_until(), chain.overlaps), (None, 0));
        // One that ends where the first window begins.
        chain.add_full(at(10));
        assert!(chain.has_beginning());
        assert_eq!(chain.complete_until(), Some(at(30)));
        assert!(Coverage::default().has_beginning());
    }
}
