//! A batch's lines to the records of PutRecords.
//!
//! Lines that go to one shard share aggregates, in order; an aggregate is
//! closed when the next line would make it larger than the cap. A line that is
//! alone in its aggregate goes raw, as does one larger than the cap.

use bytes::Bytes;

use super::KinesisLimits;
use super::shards::ShardMap;
use crate::sink::kpl::{Aggregate, OUTER_PARTITION_KEY, hash_of};
use crate::sink::line::{Line, RecordCap};
use crate::sink::{RecordKind, SinkBatch, SpoolRecord};

/// A record as Kinesis takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub partition_key: String,
    /// In decimal; `None` for a raw record, which goes by its key.
    pub explicit_hash_key: Option<String>,
    pub data: Bytes,
    /// Lines in it.
    pub lines: usize,
    /// The lowest `wal_seq` that is not durable without it.
    pub first_wal_seq: i64,
    /// Where in the hash space it goes.
    pub hash: u128,
    /// The shard it is predicted for, by its place in the map.
    pub place: usize,
}

impl Outgoing {
    /// What counts against the service's caps.
    pub fn size(&self) -> usize {
        self.partition_key.len() + self.data.len()
    }
}

/// What a shard's lines are gathered in.
struct Open {
    hash: u128,
    first_wal_seq: i64,
    aggregate: Aggregate,
    /// The only line so far, to be sent raw should it stay alone.
    alone: Option<Line>,
}

impl Open {
    fn new(record: &SpoolRecord, line: Line, hash: u128) -> Self {
        let mut aggregate = Aggregate::new(hash);
        aggregate.push(&line.partition_key, &line.data);
        // A heartbeat carries the number before it, and consumes none.
        let first_wal_seq = record.wal_seq + i64::from(record.kind == RecordKind::Heartbeat);
        Self { hash, first_wal_seq, aggregate, alone: Some(line) }
    }

    fn close(self, place: usize) -> Outgoing {
        let Self { hash, first_wal_seq, .. } = self;
        let lines = self.aggregate.len();
        match self.alone {
            Some(line) => Outgoing {
                partition_key: line.partition_key,
                explicit_hash_key: None,
                data: line.data,
                lines,
                first_wal_seq,
                hash,
                place,
            },
            None => Outgoing {
                partition_key: OUTER_PARTITION_KEY.to_owned(),
                explicit_hash_key: Some(hash.to_string()),
                data: self.aggregate.finish().into(),
                lines,
                first_wal_seq,
                hash,
                place,
            },
        }
    }
}

/// The records of a batch. Those of one shard are in the order of its lines.
pub(super) fn pack(
    records: &[SpoolRecord],
    map: &ShardMap,
    limits: &KinesisLimits,
) -> Vec<Outgoing> {
    let cap = limits.aggregate_bytes.min(limits.largest_record());
    let mut open: Vec<Option<Open>> = (0..map.len()).map(|_| None).collect();
    let mut out = Vec::new();
    for record in records {
        let line = Line::new(record, RecordCap::DataAndKey(limits.largest_record()), "kinesis");
        let hash = hash_of(&line.partition_key);
        let place = map.place_of(hash);
        let Some(slot) = open.get_mut(place) else { continue };
        let fits = |gathered: &&mut Open| {
            let size = gathered.aggregate.size_with(&line.partition_key, &line.data);
            size + OUTER_PARTITION_KEY.len() <= cap
        };
        if let Some(gathered) = slot.as_mut().filter(fits) {
            gathered.aggregate.push(&line.partition_key, &line.data);
            gathered.alone = None;
            continue;
        }
        if let Some(full) = slot.replace(Open::new(record, line, hash)) {
            out.push(full.close(place));
        }
    }
    let rest = open.into_iter().enumerate();
    out.extend(rest.filter_map(|(place, open)| Some(open?.close(place))));
    out
}

/// What a batch costs as it is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Lines: events, rejects and heartbeats.
    pub lines: usize,
    /// Records of PutRecords.
    pub records: usize,
    /// Their bytes, partition keys included.
    pub bytes: usize,
    /// PUT payload units: each record counts in steps of [`super::PUT_UNIT_BYTES`].
    pub put_units: usize,
    /// Calls of PutRecords.
    pub calls: usize,
}

impl Packing {
    /// Packs a batch for a stream of `shards` equal shards, sends nothing, and
    /// counts: for benchmarks and cost estimates. Zero shards count as one.
    #[must_use]
    pub fn of(batch: &SinkBatch, shards: usize, limits: &KinesisLimits) -> Self {
        let records = pack(&batch.records, &ShardMap::equal(shards), limits);
        let all: Vec<usize> = (0..records.len()).collect();
        let unit = super::PUT_UNIT_BYTES;
        Self {
            lines: records.iter().map(|record| record.lines).sum(),
            records: records.len(),
            bytes: records.iter().map(Outgoing::size).sum(),
            put_units: records.iter().map(|record| record.size().div_ceil(unit)).sum(),
            calls: crate::sink::progress::cut(&all, limits.caps(), |n| records[n].size()).len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::sink::kpl::decode;

    fn record(wal_seq: i64, visitor: &str, padding: usize) -> SpoolRecord {
        let line = format!(
            r#"{{"event_id":"e{wal_seq}","anonymous_id":"{visitor}","x":"{}"}}"#,
            "x".repeat(padding)
        );
        SpoolRecord { wal_seq, kind: RecordKind::Event, line: line.into() }
    }

    /// The lines of the records, shard by shard.
    fn unpack(records: &[Outgoing]) -> BTreeMap<usize, Vec<(String, Vec<u8>)>> {
        let mut shards: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for record in records {
            let lines = shards.entry(record.place).or_default();
            match decode(&record.data) {
                None => lines.push((record.partition_key.clone(), record.data.to_vec())),
                Some(aggregate) => {
                    assert!(aggregate.len() > 1, "a batch of one goes raw");
                    for inner in aggregate.records() {
                        assert_eq!(
                            inner.explicit_hash_key.map(|key| key.to_vec()),
                            record.explicit_hash_key.clone().map(String::into_bytes)
                        );
                        let key = inner.partition_key.expect("a key").to_vec();
                        lines.push((String::from_utf8(key).expect("utf8"), inner.data.to_vec()));
                    }
                }
            }
        }
        shards
    }

    #[test]
    fn an_aggregate_is_full_at_the_cap_and_the_next_line_starts_another() {
        let two = [record(1, "v", 100), record(2, "v", 100)];
        let map = ShardMap::equal(1);
        let whole = pack(&two, &map, &KinesisLimits::default());
        assert_eq!(whole.len(), 1);
        let cap = |aggregate_bytes| KinesisLimits { aggregate_bytes, ..KinesisLimits::default() };
        assert_eq!(pack(&two, &map, &cap(whole[0].size())).len(), 1);
        let apart = pack(&two, &map, &cap(whole[0].size() - 1));
        assert_eq!(apart.len(), 2);
        assert!(
            apart.iter().all(|raw| raw.explicit_hash_key.is_none() && raw.partition_key == "v")
        );
        assert_eq!(
            apart[1].data,
            format!("{}\n", std::str::from_utf8(&two[1].line).expect("utf8"))
        );
        assert_eq!(pack(&two, &map, &cap(0)), apart, "0 switches aggregation off");
    }

    #[test]
    fn a_record_over_the_cap_of_a_call_becomes_a_reject_too() {
        let limits = KinesisLimits { bytes_a_call: 50_000, ..KinesisLimits::default() };
        let packed = pack(&[record(1, "v", 60_000)], &ShardMap::equal(1), &limits);
        assert!(packed[0].size() <= 50_000);
        assert!(packed[0].data.starts_with(b"{\"reject_id\":\"e1-too-large\""));
    }

    #[test]
    fn typical_events_are_cheaper_aggregated() {
        let records = (0..2_000).map(|n| record(n, &format!("v{}", n % 300), 800)).collect();
        let batch = SinkBatch {
            collector_id: "c".to_owned(),
            first_wal_seq: 0,
            last_wal_seq: 1_999,
            records,
        };
        let together = Packing::of(&batch, 2, &KinesisLimits::default());
        let off = KinesisLimits { aggregate_bytes: 0, ..KinesisLimits::default() };
        let apart = Packing::of(&batch, 2, &off);
        assert_eq!(
            (together.lines, apart.lines, apart.records, apart.calls),
            (2_000, 2_000, 2_000, 4)
        );
        assert!(together.records * 50 < apart.records, "{together:?}");
        assert_eq!(together.calls, 1);
        assert!(together.put_units * 20 < apart.put_units, "{together:?}");
    }

    proptest! {
        /// Whatever the lines, caps and shards: nothing is lost, nothing is
        /// repeated, a visitor's lines are in order, every cap holds.
        #[test]
        fn packing_keeps_every_line_once_in_order_within_the_caps(
            lines in proptest::collection::vec((0_u8..12, 0_usize..3_000), 0..120),
            shards in 1_usize..9,
            aggregate_bytes in 0_usize..9_000,
        ) {
            let records: Vec<SpoolRecord> = lines
                .iter()
                .zip(1..)
                .map(|((visitor, padding), wal_seq)| record(wal_seq, &format!("v{visitor}"), *padding))
                .collect();
            let limits = KinesisLimits { aggregate_bytes, ..KinesisLimits::default() };
            let map = ShardMap::equal(shards);
            let packed = pack(&records, &map, &limits);
            for outgoing in packed.iter().filter(|one| one.lines > 1) {
                prop_assert!(outgoing.size() <= aggregate_bytes);
                let hash = outgoing.explicit_hash_key.as_ref().expect("explicit").parse().expect("number");
                prop_assert_eq!(map.place_of(hash), outgoing.place);
            }
            let mut expected: BTreeMap<usize, Vec<(String, Vec<u8>)>> = BTreeMap::new();
            for (record, (visitor, _)) in records.iter().zip(&lines) {
                let key = format!("v{visitor}");
                let data = [&record.line[..], b"\n"].concat();
                expected.entry(map.place_of(hash_of(&key))).or_default().push((key, data));
            }
            prop_assert_eq!(unpack(&packed), expected);
        }
    }
}
