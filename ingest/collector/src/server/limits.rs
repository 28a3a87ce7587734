//! Rate limits: token buckets for write keys and for addresses.
//!
//! A bucket is one atomic number, the time at which it is full again (the
//! "virtual scheduling" form of the leaky bucket, ITU-T I.371 Annex A), so
//! nothing waits for a lock.
//!
//! # Memory and privacy
//! Addresses are not kept: a keyed hash of one, made with a key that ends with
//! the process, chooses its two cells of [`ADDRESS_CELLS`] each. The table
//! never grows, whoever knocks. Two addresses that share a cell do not
//! disturb each other as long as the other cell of either has tokens.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Cells in each of the two tables of an [`AddressLimit`]: 1 MiB in all. With
/// 1,000 addresses over their limit at once, another one meets two spoilt
/// cells once in 4,000 times.
pub const ADDRESS_CELLS: usize = 65_536;
/// A limit is no higher than this a second: beyond it a bucket's clock, which
/// counts nanoseconds, has no meaning.
pub const MAX_PER_SECOND: u32 = 1_000_000_000;
const NANOS: u64 = 1_000_000_000;

/// So many a second in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

/// A rate of nothing, or one that cannot be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate limit is from 1 to {MAX_PER_SECOND} a second with a burst of at least 1")]
pub struct RateLimitError;

impl RateLimit {
    /// `burst` are taken at once from a client that was quiet; without one, ten
    /// seconds' worth.
    ///
    /// # Errors
    /// [`RateLimitError`] where one of them is 0 or the rate is over [`MAX_PER_SECOND`].
    pub fn new(per_second: u32, burst: Option<u32>) -> Result<Self, RateLimitError> {
        if per_second > MAX_PER_SECOND {
            return Err(RateLimitError);
        }
        let burst = burst.unwrap_or_else(|| per_second.saturating_mul(10));
        Ok(Self {
            per_second: NonZeroU32::new(per_second).ok_or(RateLimitError)?,
            burst: NonZeroU32::new(burst).ok_or(RateLimitError)?,
        })
    }

    /// Nanoseconds until `n` tokens have come.
    const fn nanos(self, n: u64) -> u64 {
        n.saturating_mul(NANOS) / self.per_second.get() as u64
    }
}

/// One bucket of a [`RateLimit`]. Times are counted from any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When it is full again, in nanoseconds.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes `n` tokens, or says how long to wait for them. More than the
    /// burst are given by a full bucket, which then owes: a batch larger than
    /// the burst is delayed, not shut out for ever.
    pub fn take(&self, limit: RateLimit, n: u64, now: Duration) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let capacity = limit.nanos(limit.burst.get().into());
        let cost = limit.nanos(n);
        let needed = cost.min(capacity);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let missing = full_at.saturating_sub(now);
            if missing.saturating_add(needed) > capacity {
                return Err(Duration::from_nanos(missing.saturating_add(needed) - capacity));
            }
            let next = full_at.max(now).saturating_add(cost);
            match self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => full_at = changed,
            }
        }
    }
}

/// The same limit for every address.
pub(super) struct AddressLimit {
    limit: RateLimit,
    tables: [(RandomState, Box<[Bucket]>); 2],
}

impl AddressLimit {
    pub fn new(limit: RateLimit) -> Self {
        let table =
            || (RandomState::new(), (0..ADDRESS_CELLS).map(|_| Bucket::default()).collect());
        Self { limit, tables: [table(), table()] }
    }

    /// Takes one request, or says how long to wait.
    pub fn take(&self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        let key = subscriber(address);
        let [first, second] = self.tables.each_ref().map(|(hasher, cells)| {
            let cell = hasher.hash_one(key) as usize % ADDRESS_CELLS;
            cells[cell].take(self.limit, 1, now)
        });
        match (first, second) {
            (Err(first), Err(second)) => Err(first.min(second)),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for AddressLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressLimit").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Who pays for a connection: an IPv4 address, or an IPv6 /64, of which one
/// subscriber has all the addresses (RFC 6177).
fn subscriber(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(per_second: u32, burst: u32) -> RateLimit {
        RateLimit::new(per_second, Some(burst)).expect("a limit")
    }

    fn taken(bucket: &Bucket, limit: RateLimit, now: Duration) -> usize {
        (0..1_000).take_while(|_| bucket.take(limit, 1, now).is_ok()).count()
    }

    #[test]
    fn a_burst_is_taken_at_once_and_then_what_comes_a_second() {
        let (bucket, limit) = (Bucket::default(), limit(10, 30));
        assert_eq!(taken(&bucket, limit, 5 * SECOND), 30);
        assert_eq!(bucket.take(limit, 1, 5 * SECOND), Err(SECOND / 10));
        assert_eq!(bucket.take(limit, 20, 5 * SECOND), Err(2 * SECOND));
        assert_eq!(taken(&bucket, limit, 6 * SECOND), 10);
        assert_eq!(taken(&bucket, limit, 1_000 * SECOND), 30);
    }

    #[test]
    fn a_batch_over_the_burst_waits_for_a_full_bucket_and_is_owed() {
        let (bucket, limit) = (Bucket::default(), limit(10, 20));
        assert_eq!(bucket.take(limit, 50, SECOND), Ok(()));
        // 50 were taken of 20: 30 are owed, and one more is there after 3.1 s.
        assert_eq!(bucket.take(limit, 1, SECOND), Err(31 * SECOND / 10));
        assert_eq!(bucket.take(limit, 1, 5 * SECOND), Ok(()));
    }

    #[test]
    fn a_limit_is_within_what_can_be_measured() {
        assert_eq!(RateLimit::new(0, None), Err(RateLimitError));
        assert_eq!(RateLimit::new(1, Some(0)), Err(RateLimitError));
        assert!(RateLimit::new(MAX_PER_SECOND, None).is_ok());
        assert_eq!(RateLimit::new(MAX_PER_SECOND + 1, None), Err(RateLimitError));
    }

    #[test]
    fn addresses_are_counted_apart_and_an_ipv6_network_together() {
        let limit = AddressLimit::new(limit(1, 3));
        let take = |address: &str| limit.take(address.parse().expect("address"), SECOND).is_ok();
        for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            let taken: Vec<bool> = (0..4).map(|_| take(address)).collect();
            assert_eq!(taken, [true, true, true, false], "{address}");
        }
        assert!(!take("2001:db8::ffff:2"), "the same /64");
        assert!(take("2001:db8:0:1::1"), "another /64");
        assert!(!take("::ffff:192.0.2.1"), "the same address, mapped");
    }

    #[test]
    fn many_addresses_over_their_limit_leave_others_alone() {
        let limit = AddressLimit::new(limit(1, 1));
        for n in 0..1_000_u32 {
            let address = IpAddr::V4((0x0a00_0000 + n).into());
            for _ in 0..2 {
                let _ = limit.take(address, SECOND);
            }
        }
        let refused = (0..1_000_u32)
            .filter(|n| limit.take(IpAddr::V4((0xc000_0200 + n).into()), SECOND).is_err())
            .count();
        // Expected: fewer than one of a thousand. The keys are random.
        assert!(refused < 20, "{refused}");
    }
}
