//! Which of a collector's numbers were seen, and which more than once.
//!
//! Numbers count up without gaps, so a bit for each is enough: 10 million take
//! 1.25 MB, whatever order they come in. Chunks exist only where a number was
//! seen, so a wild one costs a chunk and no more. Each chunk also keeps the
//! least and greatest time of receipt in it: a missing number was received
//! around then.

use std::collections::BTreeMap;

/// Numbers in a chunk.
const CHUNK: i64 = 4_096;
const WORDS: usize = 64;
/// Chunks below this are found by index: numbers up to a billion.
const DENSE_CHUNKS: usize = 1 << 18;

type Bits = [u64; WORDS];

/// First and last number of a run, inclusive.
pub type Run = (i64, i64);

/// A set of numbers from 1.
#[derive(Clone, Debug, Default)]
pub struct Seqs {
    dense: Vec<Option<Box<Chunk>>>,
    sparse: BTreeMap<i64, Box<Chunk>>,
}

#[derive(Clone, Debug)]
struct Chunk {
    seen: Bits,
    again: Option<Box<Bits>>,
    /// Microseconds.
    received: (i64, i64),
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { seen: [0; WORDS], again: None, received: (i64::MAX, i64::MIN) })
    }
}

fn place(seq: i64) -> (i64, usize, u64) {
    let within = (seq % CHUNK) as usize;
    (seq / CHUNK, within / 64, 1 << (within % 64))
}

impl Seqs {
    /// Notes a number (from 1; others are ignored), received at that microsecond.
    pub fn add(&mut self, seq: i64, received: i64) {
        if seq < 1 {
            return;
        }
        let (chunk, word, bit) = place(seq);
        let chunk = self.chunk_mut(chunk);
        chunk.received = (chunk.received.0.min(received), chunk.received.1.max(received));
        if chunk.seen[word] & bit != 0 {
            chunk.again.get_or_insert_with(|| Box::new([0; WORDS]))[word] |= bit;
        }
        chunk.seen[word] |= bit;
    }

    /// Takes in what another counted.
    pub fn merge(&mut self, other: Self) {
        let dense = other.dense.into_iter().enumerate();
        let dense = dense.filter_map(|(at, chunk)| Some((at as i64, chunk?)));
        for (at, theirs) in dense.chain(other.sparse) {
            let mine = self.chunk_mut(at);
            for word in 0..WORDS {
                let before = theirs.again.as_ref().map_or(0, |bits| bits[word]);
                let twice = (mine.seen[word] & theirs.seen[word]) | before;
                if twice != 0 {
                    mine.again.get_or_insert_with(|| Box::new([0; WORDS]))[word] |= twice;
                }
                mine.seen[word] |= theirs.seen[word];
            }
            mine.received =
                (mine.received.0.min(theirs.received.0), mine.received.1.max(theirs.received.1));
        }
    }

    fn chunk_mut(&mut self, at: i64) -> &mut Chunk {
        match usize::try_from(at) {
            Ok(index) if index < DENSE_CHUNKS => {
                if self.dense.len() <= index {
                    self.dense.resize_with(index + 1, || None);
                }
                self.dense[index].get_or_insert_with(Chunk::new)
            }
            _ => self.sparse.entry(at).or_insert_with(Chunk::new),
        }
    }

    fn chunk(&self, at: i64) -> Option<&Chunk> {
        let dense = usize::try_from(at).ok().and_then(|index| self.dense.get(index));
        match dense {
            Some(chunk) => chunk.as_deref(),
            None => self.sparse.get(&at).map(|chunk| &**chunk),
        }
    }

    fn chunks(&self) -> impl Iterator<Item = (i64, &Chunk)> {
        let dense = self.dense.iter().enumerate();
        let dense = dense.filter_map(|(at, chunk)| Some((at as i64, chunk.as_deref()?)));
        dense.chain(self.sparse.iter().map(|(at, chunk)| (*at, &**chunk)))
    }

    /// True for one that was seen.
    #[must_use]
    pub fn contains(&self, seq: i64) -> bool {
        let (chunk, word, bit) = place(seq);
        seq > 0 && self.chunk(chunk).is_some_and(|chunk| chunk.seen[word] & bit != 0)
    }

    /// Runs of what was seen more than once.
    pub fn again(&self) -> impl Iterator<Item = Run> {
        self.runs(|chunk| chunk.again.as_deref())
    }

    /// Runs within `first..=last` that were not seen.
    pub fn missing(&self, (first, last): Run) -> impl Iterator<Item = Run> {
        let seen = self.runs(|chunk| Some(&chunk.seen));
        let inside = seen.filter(move |run| run.1 >= first && run.0 <= last);
        let mut next = first;
        let end = std::iter::once((last.saturating_add(1), last.saturating_add(1)));
        inside.chain(end).filter_map(move |run| {
            let gap = (next, run.0 - 1);
            next = next.max(run.1.saturating_add(1));
            (gap.0 <= gap.1).then_some(gap)
        })
    }

    /// When numbers of a run that was not seen were received, in microseconds, as far
    /// as its neighbours tell.
    #[must_use]
    pub fn received_around(&self, (first, last): Run) -> (Option<i64>, Option<i64>) {
        let of = |seq: i64| self.chunk(seq / CHUNK).map(|chunk| chunk.received);
        let before = of(first - 1).or_else(|| of(first)).map(|range| range.0);
        let after = of(last.saturating_add(1)).or_else(|| of(last)).map(|range| range.1);
        (before, after)
    }

    /// Maximal runs of set bits, ascending.
    fn runs<'a>(
        &'a self,
        bits: impl Fn(&'a Chunk) -> Option<&'a Bits> + 'a,
    ) -> impl Iterator<Item = Run> + 'a {
        let mut pieces = self.chunks().flat_map(move |(at, chunk)| {
            let words = bits(chunk).map(|bits| bits.as_slice()).unwrap_or_default();
            words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(
                move |(index, word)| {
                    let base = at * CHUNK + index as i64 * 64;
                    word_runs(*word).map(move |(from, to)| (base + from, base + to))
                },
            )
        });
        let mut open: Option<Run> = None;
        std::iter::from_fn(move || {
            loop {
                match (open, pieces.next()) {
                    (Some(run), Some(piece)) if run.1.saturating_add(1) == piece.0 => {
                        open = Some((run.0, piece.1));
                    }
                    (run, piece) => {
                        open = piece;
                        if run.is_some() || piece.is_none() {
                            return run;
                        }
                    }
                }
            }
        })
    }
}

/// Runs of set bits of a word, from bit 0.
fn word_runs(mut word: u64) -> impl Iterator<Item = (i64, i64)> {
    let mut shifted = 0;
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let skip = word.trailing_zeros();
        word >>= skip;
        let length = word.trailing_ones();
        word = word.checked_shr(length).unwrap_or(0);
        let from = i64::from(shifted + skip);
        shifted += skip + length;
        Some((from, from + i64::from(length) - 1))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn runs_of(numbers: impl Iterator<Item = i64>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some(run) if run.1 + 1 == number => run.1 = number,
                _ => runs.push((number, number)),
            }
        }
        runs
    }

    fn numbers() -> impl Strategy<Value = i64> {
        // Dense, around chunk and word edges, and wild.
        prop_oneof![
            8 => 1..300_i64,
            4 => 4_000..4_200_i64,
            2 => 8_190..8_195_i64,
            1 => Just(1_i64 << 40),
            1 => Just(i64::MAX - 1),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers_and_of_those_seen_again(
            added in prop::collection::vec((numbers(), any::<bool>()), 0..400),
            range in (1..9_000_i64, 1..9_000_i64),
        ) {
            let (mut left, mut right) = (Seqs::default(), Seqs::default());
            let mut model: BTreeMap<i64, u32> = BTreeMap::new();
            for (seq, to_left) in added {
                (if to_left { &mut left } else { &mut right }).add(seq, seq);
                *model.entry(seq).or_default() += 1;
            }
            left.merge(right);
            let again = model.iter().filter(|(_, times)| **times > 1).map(|(seq, _)| *seq);
            prop_assert_eq!(left.again().collect::<Vec<_>>(), runs_of(again));
            let (first, last) = (range.0.min(range.1), range.0.max(range.1));
            let absent = runs_of((first..=last).filter(|seq| !model.contains_key(seq)));
            prop_assert_eq!(left.missing((first, last)).collect::<Vec<_>>(), absent);
            for seq in [first, last] {
                prop_assert_eq!(left.contains(seq), model.contains_key(&seq));
            }
        }
    }

    #[test]
    fn a_missing_run_was_received_when_its_neighbours_were() {
        let mut seqs = Seqs::default();
        for seq in (1..=10_000).filter(|seq| !(5_000..=5_010).contains(seq)) {
            seqs.add(seq, seq * 10);
        }
        let (after, before) = seqs.received_around((5_000, 5_010));
        assert!(after.is_some_and(|after| after <= 49_990), "{after:?}");
        assert!(before.is_some_and(|before| before >= 50_110), "{before:?}");
        assert_eq!(seqs.received_around((20_000, 20_010)), (None, None));
    }

    #[test]
    fn what_is_no_position_is_ignored() {
        let mut seqs = Seqs::default();
        for seq in [0, -1, i64::MIN] {
            seqs.add(seq, 0);
        }
        assert_eq!(seqs.missing((1, i64::MAX)).collect::<Vec<_>>(), [(1, i64::MAX - 1)]);
    }
}
