//! The spool's properties under hostile bytes; see [`crate::fuzzing`].

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a broken property panics")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clickmill_schemas::Timestamp;
use uuid::Uuid;

use super::disk::Disk;
use super::encode::Encoder;
use super::format::{Entry, SegmentHeader, append_frame};
use super::recover::segment_name;
use super::simulated::SimulatedDisk;
use super::{COLLECTOR_ID_FILE, Spool, SpoolOptions, read_all_on};
use crate::sink::{RecordKind, SpoolRecord};

const DIR: &str = "/spool";
const ID: Uuid = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
/// No input needs more to be hostile.
const MAX_SEGMENTS: u64 = 4;
const MAX_STEPS: usize = 64;

/// An input, read byte by byte; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    const fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// Segments as the writer leaves them, with one entry in each frame, then damage.
///
/// First the groups, each a byte: its low four bits are how many entries, 0 ends
/// them; 16 a heartbeat before, 32 a reject, 64 a new segment, 128 unsynced. Then
/// damage, by kind, segment and place (two bytes): 0 a flipped byte, 1 a cut, 2 a
/// run of zeros, 3 bytes put in, 4 bytes taken out.
///
/// What is left is a subset of what was written, unchanged, in order, with no
/// number twice, and the same however it is read; what is appended after opening
/// comes behind all of it.
pub fn spool_damage(input: &[u8]) {
    let mut input = Input(input);
    let (mut segments, written) = honest(&mut input);
    for _ in 0..MAX_STEPS {
        if input.is_over() {
            break;
        }
        let (kind, which, at, len) =
            (input.byte(), usize::from(input.byte()), input.u16(), usize::from(input.byte()));
        let which = which % segments.len();
        let bytes = &mut segments[which];
        let at = at.min(bytes.len());
        let end = (at + len).min(bytes.len());
        match kind % 5 {
            0 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= len as u8 | 1),
            1 => bytes.truncate(at),
            2 => bytes[at..end].fill(0),
            3 => {
                // No byte of a frame's magic, or checksums solved by the fuzzer would
                // make a frame of it.
                let garbage: Vec<u8> =
                    input.take(len).into_iter().map(|byte| byte | 0x80).collect();
                bytes.splice(at..at, garbage);
            }
            _ => drop(bytes.drain(at..end)),
        }
    }
    let disk = disk_with(&segments);
    let left = check(&disk);
    for record in left.iter().filter(|record| record.kind != RecordKind::Heartbeat) {
        let line = written.get(&record.wal_seq).expect("nothing but what was written");
        assert_eq!(*line, record.line, "wal_seq {} is another record", record.wal_seq);
    }
}

/// Frames with right checksums and wrong content: no writer of ours makes them.
///
/// Each step a byte: 0 to 3 a frame (codec, lengths, counts and the body's bytes
/// from the input), 4 a frame of the writer's, 5 garbage, 6 a segment without a
/// header, 7 one with.
///
/// Reading ends, without a panic, and is the same however it is done.
pub fn spool_frames(input: &[u8]) {
    let mut input = Input(input);
    let mut segments = vec![header(1, 1)];
    let mut next = 1;
    for _ in 0..MAX_STEPS {
        if input.is_over() {
            break;
        }
        let step = input.byte() % 8;
        if step >= 6 && segments.len() as u64 <= MAX_SEGMENTS {
            let ordinal = segments.len() as u64 + 1;
            let first = next + i64::from(input.byte()) - 8;
            segments.push(if step == 7 { header(ordinal, first.max(1)) } else { Vec::new() });
        }
        let Some(segment) = segments.last_mut() else { break };
        match step {
            0..=3 => {
                let (len, shift) = (usize::from(input.byte()), i64::from(input.byte()) - 8);
                let codec = u32::from(input.byte() % 3);
                let counted = u32::from(input.byte());
                let since_sync = input.u16() as u32;
                let raw_len = input.u16() as u32 | u32::from(step & 1) << 31;
                let body = input.take(len);
                let raw_len = if step == 2 { body.len() as u32 } else { raw_len };
                next = (next + shift).max(0);
                append_frame(segment, codec, &body, raw_len, counted, since_sync, next);
                next += i64::from(counted);
            }
            4 => {
                let mut encoder = Encoder::new(ID, 0).expect("an encoder");
                next = next.max(1);
                encoder.begin(next, segment.len());
                encoder.entry(&event(next), Timestamp::now()).expect("fits");
                let (frames, after) = encoder.finish().expect("fits");
                segment.extend_from_slice(frames);
                next = after;
            }
            5 => {
                let len = usize::from(input.byte());
                let garbage = input.take(len);
                segment.extend_from_slice(&garbage);
            }
            _ => {}
        }
    }
    let disk = disk_with(&segments);
    let all = read_all_on(&disk, Path::new(DIR));
    let spool = Spool::open_with(
        Arc::new(disk.clone()),
        Path::new(DIR),
        SpoolOptions::default(),
        Arc::default(),
    );
    let (Ok(all), Ok(spool)) = (all, spool) else { return };
    assert_eq!(follow(&spool), all.records, "the reader and read_all differ");
}

fn event(n: i64) -> Entry {
    Entry::Event(format!("{{\"event_id\":\"e{n}\"}}").into_bytes())
}

fn header(ordinal: u64, first_wal_seq: i64) -> Vec<u8> {
    let created = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
    SegmentHeader { ordinal, first_wal_seq, created, collector_id: ID }.encode().to_vec()
}

/// What a writer leaves, and its events and rejects by number.
fn honest(input: &mut Input<'_>) -> (Vec<Vec<u8>>, BTreeMap<i64, bytes::Bytes>) {
    let mut segments = vec![header(1, 1)];
    let mut encoder = Encoder::new(ID, 0).expect("an encoder");
    let now = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
    let (mut next, mut unsynced) = (1, 0);
    for _ in 0..MAX_STEPS {
        let group = input.byte();
        if group & 15 == 0 {
            break;
        }
        if group & 64 != 0 && (segments.len() as u64) < MAX_SEGMENTS {
            segments.push(header(segments.len() as u64 + 1, next));
            unsynced = 0;
        }
        encoder.begin(next, unsynced);
        if group & 16 != 0 {
            encoder.entry(&Entry::Heartbeat { closing: false }, now).expect("fits");
        }
        for n in 0..i64::from(group & 15) {
            let line = match event(next + n) {
                Entry::Event(line) if group & 32 != 0 => Entry::Reject(line),
                entry => entry,
            };
            encoder.entry(&line, now).expect("fits");
        }
        let (frames, after) = encoder.finish().expect("fits");
        if let Some(segment) = segments.last_mut() {
            segment.extend_from_slice(frames);
        }
        unsynced = if group & 128 != 0 { unsynced + frames.len() } else { 0 };
        next = after;
    }
    let written = read_all_on(&disk_with(&segments), Path::new(DIR)).expect("reads").records;
    let written = written.into_iter().filter(|record| record.kind != RecordKind::Heartbeat);
    let written: BTreeMap<_, _> = written.map(|record| (record.wal_seq, record.line)).collect();
    assert!(written.keys().copied().eq(1..next), "an undamaged spool is whole");
    (segments, written)
}

fn disk_with(segments: &[Vec<u8>]) -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    let put = |path: PathBuf, bytes: &[u8]| {
        disk.create(&path).expect("creates").append(bytes).expect("appends");
    };
    let dir = Path::new(DIR);
    put(dir.join(COLLECTOR_ID_FILE), ID.to_string().as_bytes());
    for (at, bytes) in segments.iter().enumerate() {
        put(dir.join(segment_name(at as u64 + 1)), bytes);
    }
    disk.sync_dir(dir).expect("syncs");
    disk
}

/// Reads the spool in every way, opens it, and appends; returns what was in it.
fn check(disk: &SimulatedDisk) -> Vec<SpoolRecord> {
    let dir = Path::new(DIR);
    let found = read_all_on(disk, dir).expect("damage is no error");
    let mut last = 0;
    for record in found.records.iter().filter(|record| record.kind != RecordKind::Heartbeat) {
        assert!(record.wal_seq > last, "wal_seq {} after {last}", record.wal_seq);
        last = record.wal_seq;
    }
    assert!(found.recovery.last_wal_seq >= last, "{} given out", found.recovery.last_wal_seq);
    let options = SpoolOptions::default();
    let spool = Spool::open_with(Arc::new(disk.clone()), dir, options, Arc::default());
    let spool = spool.expect("opens whatever the damage");
    assert_eq!(*spool.recovery(), found.recovery, "opening finds what reading finds");
    assert_eq!(follow(&spool), found.records, "the reader and read_all differ");
    spool.append_later(vec![event(0)]).expect("there is room");
    spool.close();
    let after = read_all_on(disk, dir).expect("reads").records;
    let (new, old) = after.split_last().expect("the new one");
    assert_eq!(old, found.records, "opening and appending changed what was there");
    assert_eq!(new.wal_seq, found.recovery.last_wal_seq + 1, "the next number");
    found.records
}

/// Everything that the shipper would get.
fn follow(spool: &Spool) -> Vec<SpoolRecord> {
    let mut reader = spool.reader();
    let mut records = Vec::new();
    loop {
        let frames = reader.next_frames().expect("reads");
        if frames.is_empty() {
            return records;
        }
        records.extend(frames.into_iter().flat_map(|frame| frame.records));
    }
}
