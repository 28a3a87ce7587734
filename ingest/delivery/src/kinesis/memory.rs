//! One budget of memory for what all shards hold uncommitted.
//!
//! Over the budget the shards that hold most are told to land, the oldest of
//! equals first, until three quarters of it are left: so a few large objects are
//! written rather than many small ones, and shards with little keep gathering.
//! Nobody reads more until there is room again. Where the lake does not take
//! what was told to land, reading stops; nothing is lost and memory does not grow.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a delivery may take, in bytes, where nothing else is said.
pub const DEFAULT_MEMORY: u64 = 512 << 20;
/// The least that a configuration may ask for: a full answer of GetRecords and something to hold.
pub const MIN_MEMORY: u64 = 64 << 20;
/// A full answer of 10 MiB: its body in base64 as it came and in one piece, and its records.
const PAGE_BYTES: u64 = 40 << 20;
/// GetRecords in flight, at most.
pub const CONCURRENT_READS: usize = 16;

/// How many answers of GetRecords may be in memory at once: they get half of it.
pub(super) fn concurrent_reads(memory: u64) -> usize {
    usize::try_from(memory / 2 / PAGE_BYTES).unwrap_or(usize::MAX).clamp(1, CONCURRENT_READS)
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    holdings: Mutex<BTreeMap<String, Holding>>,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holding {
    bytes: u64,
    /// When the first of it was read.
    since: Instant,
    /// It was told to land.
    told: bool,
}

impl Memory {
    /// A budget of what is left of `memory` beside the answers.
    pub fn new(memory: u64) -> Self {
        let pages = concurrent_reads(memory) as u64 * PAGE_BYTES;
        Self { limit: memory.saturating_sub(pages), holdings: Mutex::default() }
    }

    /// The shard holds so much now. True where it is to land.
    pub fn hold(&self, shard: &str, bytes: u64, since: Instant) -> bool {
        let mut holdings = self.lock();
        let told = holdings.get(shard).is_some_and(|before| before.told);
        holdings.insert(shard.to_owned(), Holding { bytes, since, told });
        for victim in victims(&holdings, self.limit) {
            if let Some(holding) = holdings.get_mut(&victim) {
                holding.told = true;
            }
        }
        holdings.get(shard).is_some_and(|holding| holding.told)
    }

    /// The shard holds nothing any more.
    pub fn free(&self, shard: &str) {
        self.lock().remove(shard);
    }

    /// The shard is to land what it holds.
    pub fn is_told(&self, shard: &str) -> bool {
        self.lock().get(shard).is_some_and(|holding| holding.told)
    }

    /// More may be read.
    pub fn has_room(&self) -> bool {
        self.held() <= self.limit
    }

    /// What all shards hold.
    pub fn held(&self) -> u64 {
        self.lock().values().map(|holding| holding.bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Holding>> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is to land now, beside those that were told already.
fn victims(holdings: &BTreeMap<String, Holding>, limit: u64) -> Vec<String> {
    let total: u64 = holdings.values().map(|holding| holding.bytes).sum();
    if total <= limit {
        return Vec::new();
    }
    let mut untold: Vec<_> = holdings.iter().filter(|(_, holding)| !holding.told).collect();
    untold.sort_by_key(|(_, holding)| (Reverse(holding.bytes), holding.since));
    let mut left: u64 = untold.iter().map(|(_, holding)| holding.bytes).sum();
    let mut victims = Vec::new();
    for (shard, holding) in untold {
        if left <= limit / 4 * 3 || holding.bytes == 0 {
            break;
        }
        left -= holding.bytes;
        victims.push(shard.clone());
    }
    victims
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn within_the_budget_nobody_is_told() {
        let memory = Memory { limit: 100, holdings: Mutex::default() };
        assert!(!memory.hold("a", 60, Instant::now()));
        assert!(!memory.hold("b", 40, Instant::now()));
        assert!(memory.has_room());
    }

    #[test]
    fn over_it_the_largest_land_first_and_of_equals_the_oldest() {
        let memory = Memory { limit: 100, holdings: Mutex::default() };
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        memory.hold("small", 10, start);
        memory.hold("young", 35, later);
        memory.hold("old", 35, start);
        assert!(!memory.hold("last", 20, later));
        assert!(!memory.is_told("old"));
        assert!(!memory.hold("small", 11, start), "others hold more");
        assert!(memory.is_told("old") && !memory.is_told("young") && !memory.is_told("last"));
        assert!(!memory.has_room());
        memory.free("old");
        assert!(memory.has_room() && !memory.is_told("old"));
        assert_eq!(memory.held(), 66);
    }

    #[test]
    fn answers_get_half_of_the_memory_and_at_least_one_fits() {
        assert_eq!(concurrent_reads(0), 1);
        assert_eq!(concurrent_reads(MIN_MEMORY), 1);
        assert_eq!(concurrent_reads(DEFAULT_MEMORY), 6);
        assert_eq!(concurrent_reads(u64::MAX), CONCURRENT_READS);
        assert_eq!(Memory::new(MIN_MEMORY).limit, 24 << 20);
    }

    proptest! {
        #[test]
        fn once_all_that_were_told_have_landed_there_is_room(sizes in prop::collection::vec(0..50_u64, 1..40)) {
            let memory = Memory { limit: 100, holdings: Mutex::default() };
            for (n, size) in sizes.iter().enumerate() {
                memory.hold(&n.to_string(), *size, Instant::now());
            }
            let told: Vec<String> =
                (0..sizes.len()).map(|n| n.to_string()).filter(|shard| memory.is_told(shard)).collect();
            prop_assert!(memory.has_room() || !told.is_empty(), "nobody would ever make room");
            told.iter().for_each(|shard| memory.free(shard));
            prop_assert!(memory.has_room());
        }
    }
}
