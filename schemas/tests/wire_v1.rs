//! Is version 1 of the wire still what it was?
//!
//! The files in `golden/` are the bytes of version 1. They must decode for
//! ever, and what is decoded from a canonical one must encode to the same bytes.

use clickmill_schemas::{Money, RejectReason, TimeReason, WIRE_VERSION, WireRecord};

fn lines(golden: &str) -> impl Iterator<Item = &str> {
    golden.lines().filter(|line| !line.is_empty())
}

const CANONICAL: &str = include_str!("golden/v1.ndjson");
const FOREIGN: &str = include_str!("golden/v1_foreign.ndjson");

#[test]
fn canonical_lines_survive_the_round_trip_byte_for_byte() {
    assert_eq!(WIRE_VERSION, 1);
    assert_eq!(lines(CANONICAL).count(), 6);
    for line in lines(CANONICAL) {
        let record = WireRecord::decode(line.as_bytes()).expect(line);
        assert_eq!(record.encode(), line);
    }
}

#[test]
fn every_field_of_the_full_event_is_where_it_was() {
    let line = lines(CANONICAL).next().expect("the first line is the full event");
    let WireRecord::Event(event) = WireRecord::decode(line.as_bytes()).expect("decodes") else {
        panic!("the first line is an event");
    };
    assert_eq!(event.event_id, "m-0001");
    assert_eq!(event.event_ts().to_string(), "2026-11-23T17:39:50.123456Z");
    assert_eq!(event.received_ts().to_string(), "2026-11-23T17:40:00.000001Z");
    assert_eq!(event.clock_skew_ms(), Some(-2_000));
    assert_eq!(event.visitor_id(), Some("anon-1"));
    assert_eq!(event.revenue, Money::from_unscaled(999_999_999_999_999_999));
    assert_eq!(event.shipping, Money::from_unscaled(-1));
    assert_eq!(event.items.len(), 2);
    assert_eq!(event.items[0].name.as_deref(), Some("Oak \"Shelf\" ✓"));
    assert_eq!(event.items[0].quantity, Some(2));
    assert_eq!(event.items[1].position, Some(7));
    let properties = event.properties.as_ref().expect("properties").get();
    assert_eq!(properties, r#"{"a":1.10,"b":1E+02,"deep":{"x":[1,2,null]},"a":true}"#);
    assert_eq!(
        (event.wal_seq, event.shard_id.as_deref()),
        (Some(42), Some("shardId-000000000000"))
    );
}

#[test]
fn rejects_and_heartbeats_are_told_by_their_first_key() {
    let records: Vec<_> =
        lines(CANONICAL).map(|line| WireRecord::decode(line.as_bytes()).expect(line)).collect();
    assert!(matches!(&records[3], WireRecord::Reject(r) if r.reason == RejectReason::Malformed));
    assert!(matches!(&records[4], WireRecord::Heartbeat(h) if h.last_wal_seq == 42 && !h.closing));
    assert!(matches!(&records[5], WireRecord::Heartbeat(h) if h.closing));
    let WireRecord::Event(late) = &records[2] else { panic!("an event") };
    assert_eq!(late.event_ts_reason(), Some(TimeReason::Past));
}

#[test]
fn what_other_writers_may_send_decodes_to_the_same_events() {
    // Other key order, unknown keys, nulls, empty texts, escapes, money as text, zones.
    for line in lines(FOREIGN) {
        let WireRecord::Event(event) = WireRecord::decode(line.as_bytes()).expect(line) else {
            panic!("an event: {line}");
        };
        assert_eq!(event.event_id, "m-é");
        assert_eq!(event.event_ts().to_string(), "2026-11-23T17:40:00.000000Z");
        assert_eq!(event.revenue, Money::from_unscaled(123_000));
        assert_eq!(event.user_id, None);
    }
}
