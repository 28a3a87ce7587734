use proptest::prelude::*;

use super::super::encode::Encoder;
use super::*;

const ID: &str = "00000000-0000-4000-8000-000000000001";

fn now() -> Timestamp {
    Timestamp::parse("2026-11-23T12:00:00Z").expect("time")
}

fn event(n: usize) -> Entry {
    Entry::Event(format!("{{\"event_id\":\"e{n}\"}}").into_bytes())
}

fn encode(entries: &[Entry], first_wal_seq: i64, block_bytes: usize) -> (Vec<u8>, i64) {
    let id = Uuid::parse_str(ID).expect("uuid");
    let mut encoder = Encoder::new(id, block_bytes).expect("encoder");
    encoder.begin(first_wal_seq, 0);
    for entry in entries {
        encoder.entry(entry, now()).expect("encodes");
    }
    let (bytes, next) = encoder.finish().expect("encodes");
    (bytes.to_vec(), next)
}

/// `groups[i]` events a group commit, in one frame each, and where each ends.
fn segment(groups: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends, mut next) = (Vec::new(), Vec::new(), 1);
    for &count in groups {
        let entries: Vec<Entry> = (0..count).map(event).collect();
        let (frame, after) = encode(&entries, next, usize::MAX);
        next = after;
        bytes.extend(frame);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// What a reader gets: whatever is intact.
fn read(bytes: &[u8]) -> Vec<i64> {
    let (mut at, mut seqs) = (0, Vec::new());
    while at < bytes.len() {
        at += match piece_at(bytes, at) {
            Piece::Frame(header) => {
                let (_, frame) = decode_frame(&bytes[at..]).expect("checked");
                seqs.extend(frame.records.iter().map(|record| record.wal_seq));
                header.frame_len()
            }
            Piece::Damage { len, .. } => len,
        };
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
    let (bytes, next) = encode(&entries, 41, usize::MAX);
    let (header, frame) = decode_frame(&bytes).expect("decodes");
    assert_eq!((header.frame_len(), header.wal_seqs()), (bytes.len(), Some((41, 42))));
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
    let (header, frame) = decode_frame(&bytes).expect("decodes");
    assert_eq!(next_wal_seq(&bytes, &header), 6);
    assert_eq!((frame.records[0].wal_seq, &frame.records[0].line[..]), (5, &line[..]));
}

#[test]
fn a_group_is_cut_to_blocks_and_each_says_how_far_it_is_from_the_sync() {
    let entries: Vec<Entry> = (0..9).map(event).collect();
    // A line is 85 bytes with its lineage, 90 with its header: three to a block.
    let (bytes, next) = encode(&entries, 1, 280);
    assert_eq!(next, 10);
    let (mut at, mut ranges) = (0, Vec::new());
    while at < bytes.len() {
        let Piece::Frame(header) = piece_at(&bytes, at) else { panic!("damage at {at}") };
        assert_eq!(header.since_sync, at as u64);
        ranges.push(header.wal_seqs().expect("counted"));
        at += header.frame_len();
    }
    assert_eq!(ranges, [(1, 3), (4, 6), (7, 9)]);
    let (bytes, _) = encode(&entries, 1, 0);
    assert_eq!(read(&bytes), (1..=9).collect::<Vec<_>>());
    assert_eq!(bytes.windows(4).filter(|four| *four == FRAME_MAGIC).count(), 9);
}

#[test]
fn any_flipped_bit_of_a_block_costs_that_block_and_says_which() {
    let entries: Vec<Entry> = (0..6).map(event).collect();
    let (bytes, _) = encode(&entries, 1, 0);
    let mut starts = vec![0];
    while let Piece::Frame(header) = piece_at(&bytes, *starts.last().expect("one")) {
        let end = starts.last().expect("one") + header.frame_len();
        if end == bytes.len() {
            break;
        }
        starts.push(end);
    }
    assert_eq!(starts.len(), 6);
    for at in starts[2]..starts[3] {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert_eq!(read(&damaged), [1, 2, 4, 5, 6], "byte {at} bit {bit}");
            let Piece::Damage { len, header } = piece_at(&damaged, starts[2]) else {
                panic!("byte {at} bit {bit} is not noticed")
            };
            assert_eq!(starts[2] + len, starts[3]);
            let header = header.and_then(|header| header.wal_seqs());
            let in_body = at >= starts[2] + FRAME_HEADER_LEN;
            assert!(header == Some((3, 3)) || !in_body, "byte {at} bit {bit}: {header:?}");
        }
    }
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
    fn a_flipped_bit_loses_its_own_group_only(
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
        for magic in [FRAME_MAGIC, FRAME_1_MAGIC] {
            let framed = [&magic[..], &bytes].concat();
            prop_assert!(decode_frame(&framed).is_err());
            prop_assert_eq!(read(&framed), Vec::<i64>::new());
        }
    }

    #[test]
    fn a_right_checksum_around_arbitrary_content_does_not_panic(
        body in prop::collection::vec(any::<u8>(), 0..200), codec in 0_u32..3, raw_len in 0_u32..400,
        counted in 0_u32..5, first in any::<i64>()
    ) {
        let mut bytes = Vec::new();
        append_frame(&mut bytes, codec, &body, raw_len, counted, 0, first);
        if let Ok((header, frame)) = decode_frame(&bytes) {
            prop_assert_eq!(header.frame_len(), bytes.len());
            prop_assert!(frame.records.len() <= body.len().max(400));
        }
    }
}
