//! How fast a shard that throttles is sent to: additive increase,
//! multiplicative decrease, for each shard on its own.
//!
//! A shard is not held back until it throttles; then its rate is halved with
//! each further throttle, and grows slowly while records get through, up to
//! what a shard takes at most. So a hot shard gets what it can take, without
//! being asked in vain for more, and the others go on at once.
//!
//! Pure: clock readings come in, waits go out.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::pack::Outgoing;
use crate::sink::progress::Ready;

/// What one shard takes a second (Kinesis Data Streams, Quotas and limits).
const SHARD_BYTES: f64 = 1024.0 * 1024.0;
/// The same, in records.
const SHARD_RECORDS: f64 = 1000.0;
/// Rate after the first throttle, as a share of what a shard takes: others write to it, too.
const FIRST_RATE: f64 = 0.5;
/// The rate is multiplied by this at a throttle.
const DECREASE: f64 = 0.5;
/// The rate grows by this a second while nothing is throttled.
const INCREASE_A_SECOND: f64 = 0.05;
/// It never goes below this: 10 KiB/s.
const LOWEST_RATE: f64 = 0.01;
/// At this rate a shard is held back no more.
const FULL_RATE: f64 = 1.0;
/// Tokens gather for this long.
const BURST_SECONDS: f64 = 1.0;
/// The shortest wait; a timer is not finer.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The shards that throttle, by their place in the map.
#[derive(Debug, Default)]
pub(super) struct Pacer(HashMap<usize, Bucket>);

#[derive(Debug)]
struct Bucket {
    /// Tokens a second. One token is what a shard takes in a second.
    rate: f64,
    /// What may go now; below zero, what went too early.
    tokens: f64,
    filled: Instant,
    grown: Instant,
}

impl Pacer {
    /// Those of `pending` that may go, at the cost of their shards' tokens. A
    /// shard's records go in order.
    pub fn ready(&mut self, pending: &[usize], records: &[Outgoing], now: Instant) -> Ready {
        for bucket in self.0.values_mut() {
            bucket.fill(now);
        }
        let mut free = Vec::with_capacity(pending.len());
        let mut wait = None::<f64>;
        for &index in pending {
            let Some(record) = records.get(index) else { continue };
            match self.0.get_mut(&record.place) {
                None => free.push(index),
                // A record may cost more than there ever is: it goes on credit.
                Some(bucket) if bucket.tokens > 0.0 => {
                    bucket.tokens -= cost(record.size());
                    free.push(index);
                }
                Some(bucket) => {
                    let seconds = -bucket.tokens / bucket.rate;
                    wait = Some(wait.map_or(seconds, |least| least.min(seconds)));
                }
            }
        }
        match wait {
            Some(seconds) if free.is_empty() => {
                Ready::After(Duration::from_secs_f64(seconds) + SHORTEST_WAIT)
            }
            _ => Ready::Now(free),
        }
    }

    /// The shard throttled in a call, however many records.
    pub fn throttled(&mut self, place: usize, now: Instant) {
        let bucket = self.0.entry(place).or_insert(Bucket {
            rate: FIRST_RATE / DECREASE,
            tokens: 0.0,
            filled: now,
            grown: now,
        });
        bucket.rate = (bucket.rate * DECREASE).max(LOWEST_RATE);
        bucket.tokens = bucket.tokens.min(0.0);
        bucket.grown = now;
    }

    /// A call brought records into the shard and was not throttled there.
    pub fn took(&mut self, place: usize, now: Instant) {
        let Some(bucket) = self.0.get_mut(&place) else { return };
        let since = now.saturating_duration_since(bucket.grown).as_secs_f64();
        bucket.rate += INCREASE_A_SECOND * since.min(BURST_SECONDS);
        bucket.grown = now;
        if bucket.rate >= FULL_RATE {
            self.0.remove(&place);
        }
    }

    /// True for a shard that is held back.
    pub fn slows(&self, place: usize) -> bool {
        self.0.contains_key(&place)
    }

    /// Forgets everything: the shards are others now.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + self.rate * since).min(self.rate * BURST_SECONDS);
        self.filled = now;
    }
}

/// A record's part of what a shard takes in a second.
fn cost(bytes: usize) -> f64 {
    (bytes as f64 / SHARD_BYTES).max(1.0 / SHARD_RECORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of 100 KiB, each for the shard given.
    fn records(places: &[usize]) -> Vec<Outgoing> {
        let record = |place: &usize| Outgoing {
            partition_key: String::new(),
            explicit_hash_key: None,
            data: vec![0; 100 * 1024].into(),
            lines: 1,
            first_wal_seq: 1,
            hash: 0,
            place: *place,
        };
        places.iter().map(record).collect()
    }

    #[test]
    fn only_the_shard_that_throttles_is_held_back() {
        let records = records(&[0, 1, 0, 1]);
        let all = [0, 1, 2, 3];
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        assert_eq!(pacer.ready(&all, &records, start), Ready::Now(all.to_vec()));
        pacer.throttled(0, start);
        assert_eq!(pacer.ready(&all, &records, start), Ready::Now(vec![1, 3]));
        // A token came: one goes, on credit; the next after 0.0977 / 0.5 s.
        let later = start + Duration::from_millis(10);
        assert_eq!(pacer.ready(&[0, 2], &records, later), Ready::Now(vec![0]));
        let Ready::After(wait) = pacer.ready(&[2], &records, later) else { panic!("goes") };
        assert!((180..195).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(pacer.ready(&[2], &records, later + wait), Ready::Now(vec![2]));
    }

    #[test]
    fn the_rate_halves_to_a_floor_and_grows_until_the_shard_is_free() {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        let rate = |pacer: &Pacer| pacer.0.get(&0).map(|bucket| bucket.rate);
        pacer.throttled(0, start);
        assert_eq!(rate(&pacer), Some(0.5));
        pacer.throttled(0, start);
        assert_eq!(rate(&pacer), Some(0.25));
        for _ in 0..20 {
            pacer.throttled(0, start);
        }
        assert_eq!(rate(&pacer), Some(LOWEST_RATE));
        let mut now = start;
        let mut seconds = 0;
        while rate(&pacer).is_some() {
            now += Duration::from_secs(1);
            seconds += 1;
            pacer.took(0, now);
            assert!(seconds < 100, "it never gets free");
        }
        assert_eq!(seconds, 20);
        // A pause earns no more than one burst, of rate and of tokens.
        pacer.throttled(0, now);
        pacer.took(0, now + Duration::from_secs(3_600));
        assert_eq!(rate(&pacer), Some(0.55));
        let many = records(&[0; 40]);
        let all: Vec<usize> = (0..40).collect();
        let Ready::Now(free) = pacer.ready(&all, &many, now + Duration::from_secs(3_600)) else {
            panic!("waits")
        };
        assert_eq!(free.len(), 6, "0.55 s of a shard in records of 0.098");
    }
}
