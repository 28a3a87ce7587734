use proptest::prelude::*;

use super::*;

const ID: &str = "00000000-0000-4000-8000-000000000001";

fn now() -> Timestamp {
    Timestamp::parse("2026-11-23T12:00:00Z").expect("time")
}

fn event(n: usize) -> Entry {
    Entry::Event(format!("{{\"event_id\":\"e{n}\"}}").into_bytes())
}

/// `frames[i]` events a frame, and where each frame ends.
fn segment(frames: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends, mut next) = (Vec::new(), Vec::new(), 1);
    for &count in frames {
        let entries: Vec<Entry> = (0..count).map(event).collect();
        let (frame, after) = encode_frame(entries.iter(), ID, next, now()).expect("encodes");
        next = after;
        bytes.extend(frame);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// What a reader gets: frames up to the first damage, then whatever is intact after it.
fn read(bytes: &[u8]) -> Vec<i64> {
    let (mut at, mut seqs) = (0, Vec::new());
    while let Some(found) = find_frame(bytes, at) {
        let frame = decode_frame(&bytes[found..]).expect("found");
        seqs.extend(frame.records.iter().map(|record| record.wal_seq));
        at = found + frame_len(&bytes[found..]).expect("found");
    }
    seqs
}

#[test]
fn rejects_count_and_heartbeats_do_not() {
    let entries = [
        Entry::Heartbeat { closing: false },
        event(0),
        Entry::Reject(b"{\"reject_id\":\"r\"}".to_vec()),
        Entry::Heartbeat { closing: true },
    ];
    let (bytes, next) = encode_frame(entries.iter(), ID, 41, now()).expect("encodes");
    let frame = decode_frame(&bytes).expect("decodes");
    assert_eq!((next, frame.next_wal_seq()), (43, 43));
    let got: Vec<(i64, RecordKind, &str)> = frame
        .records
        .iter()
        .map(|r| (r.wal_seq, r.kind, std::str::from_utf8(&r.line).expect("utf8")))
        .collect();
    assert_eq!(
        got,
        [
            (
                40,
                RecordKind::Heartbeat,
                r#"{"heartbeat_ts":"2026-11-23T12:00:00.000000Z","collector_id":"00000000-0000-4000-8000-000000000001","last_wal_seq":40,"closing":false}"#
            ),
            (
                41,
                RecordKind::Event,
                r#"{"event_id":"e0","collector_id":"00000000-0000-4000-8000-000000000001","wal_seq":41}"#
            ),
            (
                42,
                RecordKind::Reject,
                r#"{"reject_id":"r","collector_id":"00000000-0000-4000-8000-000000000001","wal_seq":42}"#
            ),
            (
                42,
                RecordKind::Heartbeat,
                r#"{"heartbeat_ts":"2026-11-23T12:00:00.000000Z","collector_id":"00000000-0000-4000-8000-000000000001","last_wal_seq":42,"closing":true}"#
            ),
        ]
    );
}

#[test]
fn the_header_survives_and_any_flipped_bit_of_it_is_noticed() {
    let header = SegmentHeader {
        ordinal: 7,
        first_wal_seq: 99,
        created: now(),
        collector_id: Uuid::parse_str(ID).expect("uuid"),
    };
    let bytes = header.encode();
    assert_eq!(SegmentHeader::decode(&bytes), Some(header));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(SegmentHeader::decode(&damaged), None, "bit {bit}");
    }
}

#[test]
fn a_frame_of_the_first_version_still_decodes() {
    // Written by hand from the layout in the module's header, codec 0.
    let line = br#"{"event_id":"e","collector_id":"c","wal_seq":5}"#;
    let mut body = vec![1];
    body.extend((line.len() as u32).to_le_bytes());
    body.extend(line);
    let mut bytes = b"CMF1\0\0\0\0".to_vec();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(5_i64.to_le_bytes());
    let crc = crc32c::crc32c(&[bytes.clone(), body.clone()].concat());
    bytes.extend(crc.to_le_bytes());
    bytes.extend(body);
    let frame = decode_frame(&bytes).expect("decodes");
    assert_eq!((frame.records[0].wal_seq, &frame.records[0].line[..]), (5, &line[..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_truncated_tail_loses_nothing_before_it(
        frames in prop::collection::vec(1_usize..20, 1..6), cut in any::<prop::sample::Index>()
    ) {
        let (bytes, ends) = segment(&frames);
        let cut = cut.index(bytes.len() + 1);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let expected: i64 = frames[..whole].iter().map(|n| *n as i64).sum();
        prop_assert_eq!(read(&bytes[..cut]), (1..=expected).collect::<Vec<_>>());
    }

    #[test]
    fn a_flipped_bit_loses_its_own_frame_only(
        frames in prop::collection::vec(1_usize..20, 1..6), at in any::<prop::sample::Index>(), bit in 0..8
    ) {
        let (mut bytes, ends) = segment(&frames);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let hit = ends.iter().filter(|end| **end <= at).count();
        let before: i64 = frames[..hit].iter().map(|n| *n as i64).sum();
        let lost = before + 1..=before + frames[hit] as i64;
        let total: i64 = frames.iter().map(|n| *n as i64).sum();
        prop_assert_eq!(
            read(&bytes), (1..=total).filter(|seq| !lost.contains(seq)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_zero_filled_or_garbage_tail_loses_nothing_before_it(
        frames in prop::collection::vec(1_usize..20, 1..6), zeros in 1_usize..9000,
        garbage in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let (mut bytes, _) = segment(&frames);
        bytes.extend(std::iter::repeat_n(0, zeros));
        bytes.extend(garbage);
        let total: i64 = frames.iter().map(|n| *n as i64).sum();
        prop_assert_eq!(read(&bytes), (1..=total).collect::<Vec<_>>());
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_decode(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode_frame(&bytes).is_err());
        let mut framed = b"CMF1".to_vec();
        framed.extend(&bytes);
        prop_assert!(decode_frame(&framed).is_err());
    }
}
