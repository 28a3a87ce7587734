//! The budget of memory: what answers of GetRecords may take, what shards may hold
//! ([`super::gather`]), and who gives way.

use std::cmp::Reverse;
use std::time::Instant;

/// What a delivery may take, in bytes, where nothing else is said.
pub const DEFAULT_MEMORY: u64 = 512 << 20;
/// The least that a configuration may ask for: a full answer of GetRecords and something to hold.
pub const MIN_MEMORY: u64 = 64 << 20;
/// A full answer of 10 MiB: its body in base64 as it came and in one piece, and its records.
const PAGE_BYTES: u64 = 40 << 20;
/// For so much memory there is one encoder.
const ENCODER_MEMORY: u64 = 256 << 20;
/// GetRecords in flight, at most.
pub const CONCURRENT_READS: usize = 16;

/// How many answers of GetRecords may be in memory at once: they get half of it.
pub(super) fn concurrent_reads(memory: u64) -> usize {
    usize::try_from(memory / 2 / PAGE_BYTES).unwrap_or(usize::MAX).clamp(1, CONCURRENT_READS)
}

/// How many shards' lines may be encoded at once: what that takes comes on top.
pub(super) fn encoders(memory: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    usize::try_from(memory / ENCODER_MEMORY).unwrap_or(usize::MAX).clamp(1, cores)
}

/// What is left of `memory` beside the answers: for what was read and is not committed.
pub(super) fn gathered(memory: u64) -> u64 {
    memory.saturating_sub(concurrent_reads(memory) as u64 * PAGE_BYTES)
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    pub bytes: u64,
    /// When the first of it was read.
    pub since: Instant,
}

/// Who is to give what it holds, so that three quarters of the limit are left: of `holdings`, beside
/// whom others take `rest`.
pub(super) fn victims<T: Copy>(mut holdings: Vec<(T, Holding)>, rest: u64, limit: u64) -> Vec<T> {
    holdings.sort_by_key(|(_, holding)| (Reverse(holding.bytes), holding.since));
    let mut left: u64 = rest + holdings.iter().map(|(_, holding)| holding.bytes).sum::<u64>();
    let mut victims = Vec::new();
    for (owner, holding) in holdings {
        if left <= limit / 4 * 3 || holding.bytes == 0 {
            break;
        }
        left -= holding.bytes;
        victims.push(owner);
    }
    victims
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_give_way_first_and_of_equals_the_oldest() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let holding = |bytes, since| Holding { bytes, since };
        let all = vec![
            ("small", holding(10, start)),
            ("young", holding(35, later)),
            ("old", holding(35, start)),
            ("last", holding(21, later)),
        ];
        assert_eq!(victims(all.clone(), 0, 100), ["old"]);
        assert_eq!(victims(all.clone(), 20, 100), ["old", "young"]);
        assert!(victims(all, 0, 200).is_empty());
    }

    #[test]
    fn answers_get_half_of_the_memory_and_at_least_one_fits() {
        assert_eq!(concurrent_reads(0), 1);
        assert_eq!(concurrent_reads(MIN_MEMORY), 1);
        assert_eq!(concurrent_reads(DEFAULT_MEMORY), 6);
        assert_eq!(concurrent_reads(u64::MAX), CONCURRENT_READS);
        assert_eq!(gathered(MIN_MEMORY), 24 << 20);
    }

    proptest! {
        #[test]
        fn once_all_who_were_asked_gave_there_is_room(
            sizes in prop::collection::vec(0..50_u64, 1..40),
            rest in 0..75_u64,
        ) {
            let since = Instant::now();
            let holdings: Vec<(usize, Holding)> =
                sizes.iter().map(|bytes| Holding { bytes: *bytes, since }).enumerate().collect();
            let gone = victims(holdings, rest, 100);
            let left: u64 =
                sizes.iter().enumerate().filter(|(n, _)| !gone.contains(n)).map(|(_, b)| b).sum();
            prop_assert!(left + rest <= 75, "{left}");
        }
    }
}
