//! Which copy of an event stays.
//!
//! Among the copies of one (`app_id`, `event_id`), ordered by (`received_ts`,
//! `collector_id`, `wal_seq`), the first is kept; each later one is an extra
//! copy if it was received within [`WINDOW`] of the kept one, else it is kept
//! in turn. That is a pure function of the copies, so it does not matter in
//! which batches they came: the kept rows of earlier batches take part.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::decode::raw::Copy;

/// Copies received further apart than this are events of their own.
pub const WINDOW: Duration = Duration::from_secs(7 * 86_400);

/// Why a copy is an extra one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client sent it again.
    Retry,
    /// The same position of the same spool arrived twice.
    Redelivery,
    /// The same id with other content.
    IdCollision,
}

impl Reason {
    /// Its code in `event_duplicates`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Redelivery => "redelivery",
            Self::IdCollision => "id_collision",
        }
    }
}

/// What to do with copies.
#[derive(Debug, Default)]
pub struct Verdict {
    /// New rows that are extra copies.
    pub extra: HashMap<i64, Reason>,
    /// Rows of the table (by number in `old`) that a new, earlier copy displaces.
    pub displaced: HashMap<usize, Reason>,
    /// New rows that are in the tables already: they come from a replay, and are left out.
    pub same: HashSet<i64>,
}

/// Takes out of `new` what is in the tables already, by its whole lineage: `known` are
/// the rows of `events` and `event_duplicates`. Only rows that `is_replayed` are looked
/// at: anything else that arrives twice is a copy, and is kept as one.
#[must_use]
pub fn without_known(
    new: &mut Vec<Copy>,
    known: &[Copy],
    is_replayed: impl Fn(i64) -> bool,
) -> HashSet<i64> {
    let lineage =
        |copy: &Copy| (copy.identity, copy.received_ts, copy.collector, copy.wal_seq, copy.carrier);
    let mut seen: HashSet<_> = known.iter().map(lineage).collect();
    // What lands for the first time in this batch counts before what is taken in again.
    seen.extend(new.iter().filter(|copy| !is_replayed(copy.row)).map(lineage));
    let mut same = HashSet::new();
    new.retain(|copy| {
        let again = is_replayed(copy.row) && !seen.insert(lineage(copy));
        if again {
            same.insert(copy.row);
        }
        !again
    });
    same
}

/// Judges the new copies against each other and against the kept rows `old`
/// (whose `row` is ignored). `collectors` are the ids that the copies number.
#[must_use]
pub fn judge(new: &mut [Copy], old: &[Copy], collectors: &[String]) -> Verdict {
    let collector = |copy: &Copy| collectors.get(copy.collector as usize).map(String::as_str);
    let order = |a: &Copy, b: &Copy| -> Ordering {
        (a.received_ts, collector(a), a.wal_seq, a.row).cmp(&(
            b.received_ts,
            collector(b),
            b.wal_seq,
            b.row,
        ))
    };
    new.sort_unstable_by(|a, b| a.identity.cmp(&b.identity).then_with(|| order(a, b)));
    let mut old_of: HashMap<u128, Vec<usize>> = HashMap::new();
    for (at, copy) in old.iter().enumerate() {
        if new.binary_search_by(|probe| probe.identity.cmp(&copy.identity)).is_ok() {
            old_of.entry(copy.identity).or_default().push(at);
        }
    }
    let mut verdict = Verdict::default();
    let window = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
    let mut group: Vec<(Copy, Option<usize>)> = Vec::new();
    let mut start = 0;
    while start < new.len() {
        let identity = new[start].identity;
        let end = start + new[start..].partition_point(|copy| copy.identity == identity);
        let olds = old_of.get(&identity).map(Vec::as_slice).unwrap_or_default();
        if end - start > 1 || !olds.is_empty() {
            group.clear();
            group.extend(new[start..end].iter().map(|copy| (*copy, None)));
            group.extend(olds.iter().map(|at| (old[*at], Some(*at))));
            // Of the same spool position the row that is in the table stays.
            group.sort_by(|(a, a_old), (b, b_old)| {
                (a.received_ts, collector(a), a.wal_seq, a_old.is_none(), a.row).cmp(&(
                    b.received_ts,
                    collector(b),
                    b.wal_seq,
                    b_old.is_none(),
                    b.row,
                ))
            });
            judge_group(&group, window, &mut verdict);
        }
        start = end;
    }
    verdict
}

fn judge_group(group: &[(Copy, Option<usize>)], window: i64, verdict: &mut Verdict) {
    let Some(((first, _), rest)) = group.split_first() else { return };
    let mut kept = *first;
    for (copy, old) in rest {
        if copy.received_ts.saturating_sub(kept.received_ts) > window {
            kept = *copy;
            continue;
        }
        let same_place = copy.collector == kept.collector && copy.wal_seq == kept.wal_seq;
        let reason = if copy.content != kept.content {
            Reason::IdCollision
        } else if same_place && copy.wal_seq != 0 {
            Reason::Redelivery
        } else {
            Reason::Retry
        };
        match old {
            Some(at) => verdict.displaced.insert(*at, reason),
            None => verdict.extra.insert(copy.row, reason),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn copy(identity: u128, received_ts: i64, collector: u32, wal_seq: i64, row: i64) -> Copy {
        Copy { identity, received_ts, collector, wal_seq, content: 1, carrier: 0, row }
    }

    #[test]
    fn of_what_is_taken_in_again_only_what_the_tables_lack_stays() {
        let carried = |carrier, copy: Copy| Copy { carrier, ..copy };
        let known = [carried(5, copy(1, 10, 0, 1, 0)), copy(2, 20, 0, 2, 0)];
        // Rows from 100 on are replayed.
        let mut new = vec![
            carried(5, copy(1, 10, 0, 1, 100)),
            copy(2, 20, 0, 2, 101),
            // Another record of the stream, another number, another time: copies of their own.
            carried(6, copy(1, 10, 0, 1, 102)),
            carried(5, copy(1, 10, 0, 9, 103)),
            carried(5, copy(1, 11, 0, 1, 104)),
            // Twice in the replay itself, and once for the first time in this batch.
            copy(3, 30, 0, 3, 105),
            copy(3, 30, 0, 3, 106),
            copy(4, 40, 0, 4, 107),
            copy(4, 40, 0, 4, 1),
            // Not replayed: a redelivery, which is kept as a copy.
            copy(2, 20, 0, 2, 2),
        ];
        let same = without_known(&mut new, &known, |row| row >= 100);
        let mut same: Vec<i64> = same.into_iter().collect();
        same.sort_unstable();
        assert_eq!(same, [100, 101, 106, 107]);
        let rows: Vec<i64> = new.iter().map(|copy| copy.row).collect();
        assert_eq!(rows, [102, 103, 104, 105, 1, 2]);
    }

    fn collectors() -> Vec<String> {
        // Numbered in order of arrival, not of their names.
        vec!["b".to_owned(), "a".to_owned()]
    }

    #[test]
    fn the_least_by_receipt_collector_and_position_stays() {
        let mut new = [
            copy(1, 10, 0, 5, 100),
            copy(1, 10, 1, 9, 101),
            copy(1, 11, 1, 1, 102),
            copy(2, 1, 0, 1, 103),
        ];
        let verdict = judge(&mut new, &[], &collectors());
        let mut extra: Vec<_> = verdict.extra.into_iter().collect();
        extra.sort_by_key(|(row, _)| *row);
        assert_eq!(extra, [(100, Reason::Retry), (102, Reason::Retry)]);
    }

    #[test]
    fn a_row_of_the_table_gives_way_to_an_earlier_copy_only() {
        let old = [copy(1, 10, 0, 5, 0), copy(2, 10, 0, 6, 0)];
        let mut new = [copy(1, 9, 0, 4, 100), copy(2, 10, 0, 6, 101)];
        let verdict = judge(&mut new, &old, &collectors());
        assert_eq!(verdict.displaced.into_iter().collect::<Vec<_>>(), [(0, Reason::Retry)]);
        assert_eq!(verdict.extra.into_iter().collect::<Vec<_>>(), [(101, Reason::Redelivery)]);
    }

    #[test]
    fn the_window_counts_from_the_kept_copy_and_not_from_the_last() {
        let mut new = [
            copy(1, 0, 0, 1, 100),
            copy(1, 6 * DAY, 0, 2, 101),
            copy(1, 8 * DAY, 0, 3, 102),
            copy(1, 14 * DAY, 0, 4, 103),
        ];
        let verdict = judge(&mut new, &[], &collectors());
        let mut extra: Vec<_> = verdict.extra.keys().copied().collect();
        extra.sort_unstable();
        assert_eq!(extra, [101, 103]);
    }

    #[test]
    fn the_same_id_with_other_content_is_a_collision() {
        let mut new = [copy(1, 0, 0, 1, 100), Copy { content: 2, ..copy(1, 1, 0, 2, 101) }];
        let verdict = judge(&mut new, &[], &collectors());
        assert_eq!(verdict.extra[&101], Reason::IdCollision);
    }

    proptest::proptest! {
        /// However the copies are spread over batches, the same ones stay.
        #[test]
        fn the_batches_do_not_matter(
            received in proptest::collection::vec((0_i64..20, 0_u32..2), 1..12),
            cut in 0_usize..12,
        ) {
            let all: Vec<Copy> = received.iter().enumerate()
                .map(|(at, (day, collector))| copy(1, day * DAY, *collector, at as i64 + 1, at as i64))
                .collect();
            let names = collectors();
            let whole = judge(&mut all.clone(), &[], &names);
            let kept = |verdict: &Verdict, copies: &[Copy]| -> Vec<Copy> {
                copies.iter().filter(|c| !verdict.extra.contains_key(&c.row)).copied().collect()
            };
            let mut expected = kept(&whole, &all);
            // Only where the batches arrive in order of receipt is the window's start fixed.
            let mut sorted = all.clone();
            sorted.sort_by_key(|c| (c.received_ts, names[c.collector as usize].clone(), c.wal_seq));
            let cut = cut.min(sorted.len());
            let (first, second) = sorted.split_at(cut);
            let table = kept(&judge(&mut first.to_vec(), &[], &names), first);
            let verdict = judge(&mut second.to_vec(), &table, &names);
            let mut stepwise: Vec<Copy> = table.iter().enumerate()
                .filter(|(at, _)| !verdict.displaced.contains_key(at)).map(|(_, c)| *c).collect();
            stepwise.extend(kept(&verdict, second));
            expected.sort_by_key(|c| c.row);
            stepwise.sort_by_key(|c| c.row);
            proptest::prop_assert_eq!(expected, stepwise);
        }
    }
}
