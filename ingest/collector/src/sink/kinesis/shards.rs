//! Which shard a hash key goes to, and when that is asked anew.
//!
//! The map serves locality only: it decides what is aggregated with what, and
//! which shard a throttle is counted for. A wrong one loses nothing, since
//! every inner record carries the hash key of its aggregate.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::types::Shard as ListedShard;
use tokio::time::Instant;

/// Groups where the shards are not known (ListShards is not allowed, say): the
/// hash space in equal parts, so that a visitor stays in one.
const UNKNOWN_GROUPS: usize = 16;
/// The map is asked for again this long after the last time, whatever happens.
pub(super) const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// At least this long lies between two times. It doubles while nothing changes:
/// a stream that distributes by itself (`RecordDistributionStrategy=AUTO`)
/// contradicts every map.
pub(super) const REFRESH_GAP: Duration = Duration::from_secs(1);
/// Refreshes without a change, each for a contradiction, after which the stream
/// is taken for one that distributes by itself.
const CONTRADICTIONS: u32 = 4;

/// The open shards, by their hash ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardMap(Vec<Shard>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shard {
    /// The last hash in its range.
    last: u128,
    /// `None` for a group of [`ShardMap::unknown`].
    id: Option<Arc<str>>,
}

impl ShardMap {
    /// What is used while the shards are not known.
    pub fn unknown() -> Self {
        Self::equal(UNKNOWN_GROUPS)
    }

    /// Equal parts without names, at least one.
    pub fn equal(parts: usize) -> Self {
        let parts = parts.max(1) as u128;
        let part = |n: u128| Shard { last: u128::MAX / parts * n, id: None };
        let mut parts: Vec<Shard> = (1..=parts).map(part).collect();
        if let Some(end) = parts.last_mut() {
            end.last = u128::MAX;
        }
        Self(parts)
    }

    /// The open ones of a listing; `None` where none is, or a range is no number.
    pub fn from_listing(listing: &[ListedShard]) -> Option<Self> {
        let open = listing.iter().filter(|shard| {
            shard
                .sequence_number_range()
                .is_none_or(|range| range.ending_sequence_number().is_none())
        });
        let shards: Option<Vec<Shard>> = open
            .map(|shard| {
                let last = shard.hash_key_range()?.ending_hash_key().parse().ok()?;
                Some(Shard { last, id: Some(shard.shard_id().into()) })
            })
            .collect();
        let mut shards = shards.filter(|shards| !shards.is_empty())?;
        shards.sort_by_key(|shard| shard.last);
        Some(Self(shards))
    }

    /// Number of shards, or of parts.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// The place of the shard whose range holds `hash`.
    pub fn place_of(&self, hash: u128) -> usize {
        self.0.partition_point(|shard| shard.last < hash).min(self.0.len().saturating_sub(1))
    }

    /// The shard's name at a place, where known.
    pub fn id(&self, place: usize) -> Option<&Arc<str>> {
        self.0.get(place)?.id.as_ref()
    }
}

/// The map in use, and when to ask for another.
#[derive(Debug)]
pub(super) struct Mapping {
    pub map: ShardMap,
    asked: Option<Instant>,
    gap: Duration,
    contradicted: bool,
    in_vain: u32,
}

/// What a listing brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    Changed,
    Same,
    /// The same once more, although the service went against it: from now on
    /// the stream is taken to distribute records by itself.
    SelfDistributing,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            map: ShardMap::unknown(),
            asked: None,
            gap: REFRESH_GAP,
            contradicted: false,
            in_vain: 0,
        }
    }
}

impl Mapping {
    /// Whether to ask now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| {
            let since = now.saturating_duration_since(asked);
            since >= REFRESH_EVERY || (self.contradicted && since >= self.gap)
        })
    }

    /// A record predicted for `place` landed in the shard `landed`.
    pub fn landed(&mut self, place: usize, landed: &str) {
        if self.map.id(place).is_some_and(|predicted| **predicted != *landed) {
            self.contradicted = true;
        }
    }

    /// The service answered with `map`.
    pub fn refreshed(&mut self, map: ShardMap, now: Instant) -> Refreshed {
        let same = map == self.map;
        let in_vain = same && self.contradicted;
        (self.map, self.asked, self.contradicted) = (map, Some(now), false);
        if !in_vain {
            (self.gap, self.in_vain) = (REFRESH_GAP, 0);
            return if same { Refreshed::Same } else { Refreshed::Changed };
        }
        self.gap = (self.gap * 2).min(REFRESH_EVERY);
        self.in_vain = self.in_vain.saturating_add(1);
        match self.in_vain == CONTRADICTIONS {
            true => Refreshed::SelfDistributing,
            false => Refreshed::Same,
        }
    }

    /// The service did not answer: the old map stays, and is asked for again.
    pub fn not_refreshed(&mut self, now: Instant) {
        self.asked = Some(now);
        self.contradicted = true;
        self.gap = (self.gap * 2).min(REFRESH_EVERY);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use aws_sdk_kinesis::types::{HashKeyRange, SequenceNumberRange};

    use super::*;

    pub fn listed(id: &str, first: u128, last: u128, closed: bool) -> ListedShard {
        let hashes = HashKeyRange::builder()
            .starting_hash_key(first.to_string())
            .ending_hash_key(last.to_string());
        let numbers = SequenceNumberRange::builder().starting_sequence_number("1");
        let numbers = if closed { numbers.ending_sequence_number("2") } else { numbers };
        ListedShard::builder()
            .shard_id(id)
            .hash_key_range(hashes.build().expect("range"))
            .sequence_number_range(numbers.build().expect("range"))
            .build()
            .expect("shard")
    }

    const MIDDLE: u128 = 1 << 127;

    fn split() -> ShardMap {
        let listing = [
            listed("right", MIDDLE, u128::MAX, false),
            listed("parent", 0, u128::MAX, true),
            listed("left", 0, MIDDLE - 1, false),
        ];
        ShardMap::from_listing(&listing).expect("a map")
    }

    #[test]
    fn a_hash_goes_to_the_open_shard_whose_range_holds_it() {
        let map = split();
        let id = |hash| map.id(map.place_of(hash)).expect("known").to_string();
        assert_eq!([id(0), id(MIDDLE - 1)], ["left", "left"]);
        assert_eq!([id(MIDDLE), id(u128::MAX)], ["right", "right"]);
        assert_eq!(ShardMap::from_listing(&[listed("parent", 0, u128::MAX, true)]), None);
    }

    #[test]
    fn unknown_shards_are_equal_parts_of_the_whole() {
        let map = ShardMap::unknown();
        let sixteenth = u128::MAX / 16;
        assert_eq!((map.place_of(0), map.place_of(sixteenth)), (0, 0));
        assert_eq!((map.place_of(sixteenth + 1), map.place_of(u128::MAX)), (1, 15));
        assert_eq!((map.len(), map.id(3)), (16, None));
    }

    #[test]
    fn the_map_is_asked_for_when_contradicted_but_ever_less_often_in_vain() {
        let mut mapping = Mapping::default();
        let start = Instant::now();
        assert!(mapping.is_due(start));
        assert_eq!(mapping.refreshed(split(), start), Refreshed::Changed);
        mapping.landed(0, "left");
        assert!(!mapping.is_due(start + REFRESH_EVERY - Duration::from_millis(1)));
        assert!(mapping.is_due(start + REFRESH_EVERY));
        mapping.landed(0, "right");
        assert!(!mapping.is_due(start + REFRESH_GAP - Duration::from_millis(1)));
        assert!(mapping.is_due(start + REFRESH_GAP));

        let mut outcomes = Vec::new();
        for _ in 0..5 {
            mapping.landed(0, "right");
            outcomes.push(mapping.refreshed(split(), start));
        }
        use Refreshed::{Same, SelfDistributing};
        assert_eq!(outcomes, [Same, Same, Same, SelfDistributing, Same]);
        mapping.landed(0, "right");
        assert!(!mapping.is_due(start + REFRESH_GAP * 31));
        assert!(mapping.is_due(start + REFRESH_GAP * 32));
        // A real change starts over.
        assert_eq!(mapping.refreshed(ShardMap::unknown(), start), Refreshed::Changed);
        mapping.not_refreshed(start);
        assert!(!mapping.is_due(start + REFRESH_GAP) && mapping.is_due(start + REFRESH_GAP * 2));
    }
}
