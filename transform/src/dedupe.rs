//! Which copy of an event stays.
//!
//! The copies of one (`app_id`, `event_id`) are ordered by (`received_ts`, `collector_id`,
//! `wal_seq`). A copy is an extra one where another was received in the [`WINDOW`] before
//! it, and its [`Reason`] is how it differs from the one right before it; otherwise it stays.
//!
//! So each copy is judged by its predecessor alone, be that one kept or extra itself. That
//! makes the verdict the same whatever batches the copies come in, at a cost that
//! follows the batch: a new copy changes nothing but itself and its successor, an
//! extra copy never becomes an event again, and whoever looks within [`WINDOW`] of
//! the new copies has seen all that matters (ADR 11).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use clickmill_schemas::Timestamp;

use crate::decode::raw::Copy;

/// A copy received later than this after the one before it is an event of its own.
pub const WINDOW: Duration = Duration::from_secs(7 * 86_400);

/// Why a copy is an extra one: by the copy before it. In this order they follow each other
/// where copies of one position of a spool are set aside: only the first is no redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The client sent it again.
    Retry,
    /// The same id with other content.
    IdCollision,
    /// The same position of the same spool arrived twice.
    Redelivery,
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

    /// Of a code.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        [Self::Retry, Self::Redelivery, Self::IdCollision]
            .into_iter()
            .find(|one| one.code() == code)
    }

    /// Of a copy that follows another within the window.
    fn of(copy: &Copy, before: &Copy) -> Self {
        let same_place = copy.collector == before.collector && copy.wal_seq == before.wal_seq;
        if copy.content != before.content {
            Self::IdCollision
        } else if same_place && copy.wal_seq != 0 {
            Self::Redelivery
        } else {
            Self::Retry
        }
    }
}

/// A row of `event_duplicates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extra {
    /// Its `row` means nothing.
    pub copy: Copy,
    /// As it stands there; `None` where nobody of ours wrote it.
    pub reason: Option<Reason>,
}

/// What to do with copies.
#[derive(Debug, Default)]
pub struct Verdict {
    /// New rows that are extra copies.
    pub extra: HashMap<i64, Reason>,
    /// Rows of `events` (by number in `kept`) that follow a new copy within the window.
    pub displaced: HashMap<usize, Reason>,
    /// Rows of `event_duplicates` (by number in `set_aside`) that follow a new copy, and
    /// differ from it otherwise than from what came before them until now.
    pub restated: HashMap<usize, Reason>,
    /// New rows that are in the tables already: they come from a replay, and are left out.
    pub same: HashSet<i64>,
}

/// The times of receipt of all rows of the tables that copies received in `received` can
/// have to do with: ascending, without overlaps.
#[must_use]
pub fn in_sight(
    received: impl IntoIterator<Item = (Timestamp, Timestamp)>,
) -> Vec<(Timestamp, Timestamp)> {
    let mut all: Vec<_> = received
        .into_iter()
        .map(|(first, last)| (first.saturating_sub(WINDOW), last.saturating_add(WINDOW)))
        .collect();
    all.sort_unstable();
    let mut ranges: Vec<(Timestamp, Timestamp)> = Vec::new();
    for (from, to) in all {
        match ranges.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => ranges.push((from, to)),
        }
    }
    ranges
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

/// Where a copy is. Of the same spool position what is in the tables comes first, and
/// the one that the others repeat before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Kept(usize),
    SetAside(Option<Reason>, usize),
    New,
}

/// Judges the new copies, and the rows of the tables that follow them: `kept` of `events`,
/// `set_aside` of `event_duplicates`, all that are [`in_sight`] of the new ones. `collectors`
/// are the ids that the copies number.
#[must_use]
pub fn judge(
    new: &mut [Copy],
    kept: &[Copy],
    set_aside: &[Extra],
    collectors: &[String],
) -> Verdict {
    new.sort_unstable_by_key(|copy| (copy.identity, copy.row));
    let kept = kept.iter().enumerate().map(|(at, copy)| (*copy, Place::Kept(at)));
    let set_aside = set_aside
        .iter()
        .enumerate()
        .map(|(at, extra)| (extra.copy, Place::SetAside(extra.reason, at)));
    let mut held_of: HashMap<u128, Vec<(Copy, Place)>> = HashMap::new();
    for held in kept.chain(set_aside) {
        if new.binary_search_by(|probe| probe.identity.cmp(&held.0.identity)).is_ok() {
            held_of.entry(held.0.identity).or_default().push(held);
        }
    }
    let collector = |copy: &Copy| collectors.get(copy.collector as usize).map(String::as_str);
    let order = |(a, place_a): &(Copy, Place), (b, place_b): &(Copy, Place)| -> Ordering {
        (a.received_ts, collector(a), a.wal_seq, place_a, a.row).cmp(&(
            b.received_ts,
            collector(b),
            b.wal_seq,
            place_b,
            b.row,
        ))
    };
    let mut verdict = Verdict::default();
    for same_id in new.chunk_by(|a, b| a.identity == b.identity) {
        let held = held_of.remove(&same_id[0].identity).unwrap_or_default();
        if same_id.len() + held.len() > 1 {
            let mut group = held;
            group.extend(same_id.iter().map(|copy| (*copy, Place::New)));
            group.sort_by(order);
            judge_group(&group, &mut verdict);
        }
    }
    verdict
}

/// Judges copies of one event, in their order.
fn judge_group(group: &[(Copy, Place)], verdict: &mut Verdict) {
    let window = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
    for pair in group.windows(2) {
        let [(before, place_before), (copy, place)] = pair else { continue };
        // What follows a row of the tables as before has its verdict. It may be another one
        // than could be told here, where rows between the two are out of sight.
        let is_news = *place_before == Place::New || *place == Place::New;
        if !is_news || copy.received_ts.saturating_sub(before.received_ts) > window {
            continue;
        }
        let reason = Reason::of(copy, before);
        match *place {
            Place::New => {
                verdict.extra.insert(copy.row, reason);
            }
            Place::Kept(at) => {
                verdict.displaced.insert(at, reason);
            }
            Place::SetAside(stated, at) => {
                if stated != Some(reason) {
                    verdict.restated.insert(at, reason);
                }
            }
        }
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

    fn judge(new: &mut [Copy], kept: &[Copy]) -> Verdict {
        super::judge(new, kept, &[], &collectors())
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
        let verdict = judge(&mut new, &[]);
        let mut extra: Vec<_> = verdict.extra.into_iter().collect();
        extra.sort_by_key(|(row, _)| *row);
        assert_eq!(extra, [(100, Reason::Retry), (102, Reason::Retry)]);
    }

    #[test]
    fn a_row_of_the_table_gives_way_to_an_earlier_copy_only() {
        let old = [copy(1, 10, 0, 5, 0), copy(2, 10, 0, 6, 0)];
        let mut new = [copy(1, 9, 0, 4, 100), copy(2, 10, 0, 6, 101)];
        let verdict = judge(&mut new, &old);
        assert_eq!(verdict.displaced.into_iter().collect::<Vec<_>>(), [(0, Reason::Retry)]);
        assert_eq!(verdict.extra.into_iter().collect::<Vec<_>>(), [(101, Reason::Redelivery)]);
    }

    #[test]
    fn the_window_counts_from_the_copy_before_be_it_kept_or_not() {
        let week = 7 * DAY;
        let mut new = [
            copy(1, 0, 0, 1, 100),
            copy(1, week, 0, 2, 101),
            copy(1, 2 * week, 0, 3, 102),
            copy(1, 3 * week + 1, 0, 4, 103),
        ];
        let mut extra: Vec<_> = judge(&mut new, &[]).extra.into_keys().collect();
        extra.sort_unstable();
        assert_eq!(extra, [101, 102]);
        // The third one finds but the second one in sight, set aside.
        let aside = |copy: Copy| Extra { copy, reason: Some(Reason::Retry) };
        let set_aside = [aside(copy(1, week, 0, 2, 0))];
        let verdict = super::judge(&mut new[2..3], &[], &set_aside, &collectors());
        assert_eq!(verdict.extra.into_keys().collect::<Vec<_>>(), [102]);
    }

    #[test]
    fn an_extra_copy_gets_another_reason_where_another_copy_comes_before_it() {
        let other = |copy: Copy| Copy { content: 2, ..copy };
        let kept = [copy(1, 0, 0, 1, 0)];
        let set_aside = [
            Extra { copy: copy(1, DAY, 0, 3, 0), reason: Some(Reason::Retry) },
            Extra { copy: copy(1, DAY, 0, 3, 0), reason: Some(Reason::Redelivery) },
        ];
        let mut new = [other(copy(1, DAY, 0, 2, 100))];
        let verdict = super::judge(&mut new, &kept, &set_aside, &collectors());
        assert_eq!(verdict.extra[&100], Reason::IdCollision);
        assert_eq!(verdict.restated.into_iter().collect::<Vec<_>>(), [(0, Reason::IdCollision)]);
        assert!(verdict.displaced.is_empty());
    }

    #[test]
    fn what_is_in_sight_of_times_far_apart_is_far_apart() {
        let day = |n: i64| Timestamp::from_micros(n * DAY).expect("a time in range");
        let ranges = in_sight([(day(400), day(401)), (day(30), day(31)), (day(44), day(45))]);
        assert_eq!(ranges, [(day(23), day(52)), (day(393), day(408))]);
        assert!(in_sight([]).is_empty());
    }

    #[test]
    fn the_same_id_with_other_content_is_a_collision() {
        let mut new = [copy(1, 0, 0, 1, 100), Copy { content: 2, ..copy(1, 1, 0, 2, 101) }];
        let verdict = judge(&mut new, &[]);
        assert_eq!(verdict.extra[&101], Reason::IdCollision);
    }

    /// A copy and why it is an extra one, if it is: without what only tells rows apart.
    type Judged = (i64, u32, i64, Option<Reason>);

    fn judged(copy: &Copy, reason: Option<Reason>) -> Judged {
        (copy.received_ts, copy.collector, copy.wal_seq, reason)
    }

    /// The rule, word by word.
    fn by_definition(all: &[Copy]) -> Vec<Judged> {
        let names = collectors();
        let mut sorted = all.to_vec();
        sorted.sort_by_key(|c| (c.received_ts, &names[c.collector as usize], c.wal_seq));
        let before = |at: usize| at.checked_sub(1).map(|before| &sorted[before]);
        let judge = |(at, copy): (usize, &Copy)| match before(at) {
            Some(before) if copy.received_ts - before.received_ts <= 7 * DAY => {
                judged(copy, Some(Reason::of(copy, before)))
            }
            _ => judged(copy, None),
        };
        sorted.iter().enumerate().map(judge).collect()
    }

    /// What the tables hold, and what `ingest` makes of a batch.
    #[derive(Default)]
    struct Tables {
        kept: Vec<Copy>,
        set_aside: Vec<Extra>,
    }

    impl Tables {
        fn take(&mut self, batch: &[Copy]) {
            let at = |micros: i64| Timestamp::from_micros(micros).expect("a time in range");
            let received = batch.iter().map(|copy| (at(copy.received_ts), at(copy.received_ts)));
            let ranges = in_sight(received);
            let sees = |copy: &Copy| {
                let received = at(copy.received_ts);
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&received))
            };
            let (kept, hidden) =
                std::mem::take(&mut self.kept).into_iter().partition::<Vec<_>, _>(sees);
            let (set_aside, hidden_extra) = std::mem::take(&mut self.set_aside)
                .into_iter()
                .partition::<Vec<_>, _>(|extra| sees(&extra.copy));
            let verdict = super::judge(&mut batch.to_vec(), &kept, &set_aside, &collectors());
            (self.kept, self.set_aside) = (hidden, hidden_extra);
            for (at, copy) in kept.into_iter().enumerate() {
                self.put(copy, verdict.displaced.get(&at).copied());
            }
            for (at, extra) in set_aside.into_iter().enumerate() {
                self.put(extra.copy, verdict.restated.get(&at).copied().or(extra.reason));
            }
            for copy in batch {
                self.put(*copy, verdict.extra.get(&copy.row).copied());
            }
        }

        fn put(&mut self, copy: Copy, reason: Option<Reason>) {
            match reason {
                None => self.kept.push(copy),
                reason => self.set_aside.push(Extra { copy, reason }),
            }
        }

        fn rows(&self) -> Vec<Judged> {
            let kept = self.kept.iter().map(|copy| judged(copy, None));
            let mut rows: Vec<_> = kept
                .chain(self.set_aside.iter().map(|extra| judged(&extra.copy, extra.reason)))
                .collect();
            rows.sort_unstable();
            rows
        }
    }

    proptest::proptest! {
        /// Whatever batches copies come in, and in whatever order, the tables hold the same.
        #[test]
        fn the_batches_do_not_matter(
            copies in proptest::collection::vec(
                // Days, microseconds around them, collector, number, content, batch.
                (0_i64..30, -1_i64..2, 0_u32..2, 1_i64..4, 1_i64..3, 0_usize..5), 1..16),
        ) {
            let of = |at: usize| {
                let (day, micros, collector, wal_seq, content, batch) = copies[at];
                let copy = copy(1, (day + 1) * DAY + micros, collector, wal_seq, at as i64);
                // What a spool has at a place never changes.
                let same = |other: &(i64, i64, u32, i64, i64, usize)| {
                    (other.0, other.1, other.2, other.3) == (day, micros, collector, wal_seq)
                };
                let content = copies.iter().find(|other| same(other)).map_or(content, |other| other.4);
                (batch, Copy { content, ..copy })
            };
            let all: Vec<(usize, Copy)> = (0..copies.len()).map(of).collect();
            let mut tables = Tables::default();
            for batch in 0..5 {
                let batch: Vec<Copy> =
                    all.iter().filter(|(of, _)| *of == batch).map(|(_, copy)| *copy).collect();
                tables.take(&batch);
            }
            let all: Vec<Copy> = all.into_iter().map(|(_, copy)| copy).collect();
            let mut at_once = Tables::default();
            at_once.take(&all);
            let mut wanted = by_definition(&all);
            wanted.sort_unstable();
            proptest::prop_assert_eq!(&at_once.rows(), &wanted);
            proptest::prop_assert_eq!(&tables.rows(), &wanted);
        }
    }
}
