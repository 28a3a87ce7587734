use proptest::prelude::*;

use super::*;

/// Made by PyPI's `aws-kinesis-agg` 1.2.3: ("visitor-1", data "{\"event_id\":\"e1\"}\n"),
/// ("visitor-2", "{\"event_id\":\"e2\"}\n", explicit hash key 7), ("visitor-1", empty data).
const FOREIGN: &[u8] = include_bytes!("aws_kinesis_agg.bin");

/// Partition key, explicit hash key, data.
type Inner<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Vec<u8>);

fn inner(data: &[u8]) -> Vec<Inner<'_>> {
    let aggregate = decode(data).expect("an aggregate");
    assert_eq!(aggregate.len(), aggregate.records().count());
    // The iterator borrows the aggregate, the records only the data.
    aggregate
        .records()
        .map(|one| (one.partition_key, one.explicit_hash_key, one.data.to_vec()))
        .collect()
}

#[test]
fn what_an_independent_aggregator_wrote_is_read() {
    let first = b"{\"event_id\":\"e1\"}\n".to_vec();
    let second = b"{\"event_id\":\"e2\"}\n".to_vec();
    assert_eq!(
        inner(FOREIGN),
        [
            (Some(&b"visitor-1"[..]), None, first),
            (Some(&b"visitor-2"[..]), Some(&b"7"[..]), second),
            (Some(&b"visitor-1"[..]), None, Vec::new()),
        ]
    );
}

#[test]
fn the_bytes_are_as_the_format_says() {
    let mut aggregate = Aggregate::new(5);
    aggregate.push("k", b"xy");
    let body = [&b"\x0a\x01k\x12\x015"[..], b"\x1a\x08\x08\x00\x10\x00\x1a\x02xy"].concat();
    let mut expected = [&MAGIC[..], &body].concat();
    expected.extend_from_slice(&md5_of(&body));
    assert_eq!(aggregate.size(), expected.len());
    assert_eq!(aggregate.finish(), expected);
}

#[test]
fn a_hash_is_the_md5_as_a_number() {
    // RFC 1321's test suite: MD5("a") = 0cc175b9c0f1b6a831c399e269772661.
    assert_eq!(hash_of("a"), 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661);
}

/// An aggregate around any bytes, with the right MD5.
fn around(body: &[u8]) -> Vec<u8> {
    [&MAGIC[..], body, &md5_of(body)].concat()
}

#[cfg(feature = "aws")]
#[test]
fn several_decode_as_each_does_alone() {
    let good = around(b"\x0a\x01k\x1a\x06\x08\x00\x1a\x02xy");
    let mut damaged = FOREIGN.to_vec();
    damaged[20] ^= 1;
    // More than go side by side.
    let all = [FOREIGN, b"plain", &good, &damaged, &MAGIC, FOREIGN, &good].repeat(3);
    let records = |one: &Option<Aggregated<'_>>| {
        one.as_ref().map(|aggregate| {
            aggregate.records().map(|record| record.data.to_vec()).collect::<Vec<_>>()
        })
    };
    let together: Vec<_> = decode_all(&all).iter().map(records).collect();
    let alone: Vec<_> = all.iter().map(|data| records(&decode(data))).collect();
    assert_eq!(together, alone);
    let is_one: Vec<bool> = together.iter().map(Option::is_some).collect();
    assert_eq!(is_one, [true, false, true, false, false, true, true].repeat(3));
}

#[test]
fn what_is_no_aggregate_is_none() {
    let good = around(b"\x0a\x01k\x1a\x06\x08\x00\x1a\x02xy");
    assert_eq!(inner(&good).len(), 1);
    let mut wrong_digest = good.clone();
    *wrong_digest.last_mut().expect("a byte") ^= 1;
    let mut wrong_magic = good.clone();
    wrong_magic[0] ^= 1;
    let truncated = &good[..good.len() - 1];
    for bytes in [&wrong_digest[..], &wrong_magic, truncated, b"", &MAGIC, &good[..20]] {
        assert!(decode(bytes).is_none(), "{bytes:x?}");
    }
    let bodies: [&[u8]; 10] = [
        b"",                                                                 // nothing inside
        b"\x0a\x01k",                                                        // no record
        b"\x1a\x06\x08\x00\x1a\x03xy", // data longer than its record
        b"\x1a\x02\x08\x00",           // no data
        b"\x1a\x04\x0a\x00\x1a\x00",   // an index that is text
        b"\x18\x01",                   // a record that is a number
        b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a length of 2^64 - 1
        b"\x1a\x02\x1a\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a varint of 12 bytes
        b"\x1a\x02\x1a\x00\x23\x24",   // a group
        b"\x1a\x02\x1a\x00\x02\x00",   // field number 0
    ];
    for body in bodies {
        assert!(decode(&around(body)).is_none(), "{body:x?}");
    }
}

#[test]
fn unknown_fields_are_passed_over_and_bad_indexes_cost_no_data() {
    // Fields 9 as varint, 64 bits, text, 32 bits; in the record a tag (field 4).
    let unknown = b"\x48\x05\x49\x00\x00\x00\x00\x00\x00\x00\x00\x4a\x01x\x4d\x00\x00\x00\x00";
    let record = b"\x1a\x0d\x08\x07\x10\x09\x22\x03\x0a\x01t\x1a\x02xy";
    let data = around(&[&unknown[..], record].concat());
    assert_eq!(inner(&data), [(None, None, b"xy".to_vec())]);
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_and_the_size_is_known_before(
        records in proptest::collection::vec(("[a-c]{1,3}", proptest::collection::vec(any::<u8>(), 0..300)), 1..300),
        hash in any::<u128>(),
    ) {
        let mut aggregate = Aggregate::new(hash);
        for (key, data) in &records {
            let size = aggregate.size_with(key, data);
            aggregate.push(key, data);
            prop_assert_eq!(aggregate.size(), size);
        }
        let size = aggregate.size();
        let bytes = aggregate.finish();
        prop_assert_eq!(bytes.len(), size);
        let hash = hash.to_string();
        let expected: Vec<_> = records
            .iter()
            .map(|(key, data)| (Some(key.as_bytes()), Some(hash.as_bytes()), data.clone()))
            .collect();
        prop_assert_eq!(inner(&bytes), expected);
    }

    #[test]
    fn any_bytes_are_an_aggregate_or_none(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&body).is_none());
        if let Some(aggregate) = decode(&around(&body)) {
            prop_assert_eq!(aggregate.records().count(), aggregate.len());
        }
    }

    /// Nearly right is where parsers trip.
    #[test]
    fn a_changed_body_is_an_aggregate_or_none(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = FOREIGN[MAGIC.len()..FOREIGN.len() - DIGEST_BYTES].to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        if let Some(aggregate) = decode(&around(&body)) {
            prop_assert_eq!(aggregate.records().count(), aggregate.len());
        }
    }
}
