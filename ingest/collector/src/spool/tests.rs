use std::collections::BTreeMap;

use super::simulated::SimulatedDisk;
use super::*;
use crate::sink::RecordKind;

const SMALL: SpoolOptions = SpoolOptions {
    segment_bytes: 600,
    max_bytes: 1 << 20,
    block_bytes: DEFAULT_BLOCK_BYTES,
    sync: SyncPolicy::BeforeAnswer,
};

fn dir() -> &'static Path {
    Path::new("/spool")
}

fn open(disk: &SimulatedDisk, options: SpoolOptions) -> Spool {
    Spool::open_with(Arc::new(disk.clone()), dir(), options, Arc::default()).expect("opens")
}

fn event(id: &str) -> Entry {
    Entry::Event(format!("{{\"event_id\":\"{id}\"}}").into_bytes())
}

/// Events by `wal_seq`, as their ids.
fn events(disk: &SimulatedDisk) -> BTreeMap<i64, String> {
    let mut found = BTreeMap::new();
    for record in read_all_on(disk, dir()).expect("reads").records {
        if record.kind == RecordKind::Heartbeat {
            continue;
        }
        let value: serde_json::Value = serde_json::from_slice(&record.line).expect("json");
        assert_eq!(value["wal_seq"], record.wal_seq);
        let id = value["event_id"].as_str().expect("id").to_owned();
        assert_eq!(found.insert(record.wal_seq, id), None, "wal_seq {} twice", record.wal_seq);
    }
    found
}

fn assert_no_gaps(found: &BTreeMap<i64, String>) {
    assert!(found.keys().copied().eq(1..=found.len() as i64), "{:?}", found.keys());
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let disk = SimulatedDisk::default();
    let spool = open(&disk, SMALL);
    for n in 0..40 {
        let id = format!("e{n}");
        let got = spool.append(vec![event(&id)]).await.expect("appends");
        assert_eq!((got.first_wal_seq, got.next_wal_seq), (n + 1, n + 2));
        let after = disk.after_power_cut(|_| 0);
        let found = events(&after);
        assert_eq!(found.len() as i64, n + 1);
        assert_eq!(found[&(n + 1)], id);
        // It opens again, and goes on where it was.
        let again = open(&after, SMALL);
        assert_eq!(again.collector_id(), spool.collector_id());
        assert_eq!(again.append(vec![event("x")]).await.expect("appends").first_wal_seq, n + 2);
        assert_no_gaps(&events(&after));
    }
    assert!(disk.segments().len() > 5, "{:?}", disk.segments());
}

#[tokio::test]
async fn a_disk_that_lies_is_caught_by_these_tests() {
    let disk = SimulatedDisk::default();
    let spool = open(&disk, SMALL);
    disk.lie();
    spool.append(vec![event("e")]).await.expect("appends");
    assert!(events(&disk.after_power_cut(|_| 0)).is_empty());
}

#[tokio::test]
async fn a_failed_write_goes_to_a_new_segment_and_is_there_once() {
    type Fail = fn(&SimulatedDisk);
    let failures: [Fail; 2] = [|d| d.fail_append_after(0), |d| d.fail_sync_after(0)];
    for fail in failures {
        let disk = SimulatedDisk::default();
        let spool = open(&disk, SpoolOptions::default());
        spool.append(vec![event("a")]).await.expect("appends");
        fail(&disk);
        spool.append(vec![event("b")]).await.expect("is rewritten");
        spool.append(vec![event("c")]).await.expect("appends");
        assert_eq!(disk.segments().len(), 2);
        // Whether or not the failed bytes reached the disk.
        for kept in [0, usize::MAX] {
            let after = disk.after_power_cut(|_| kept);
            let found: Vec<String> = events(&after).into_values().collect();
            assert_eq!(found, ["a", "b", "c"]);
            assert_eq!(open(&after, SMALL).recovery().lost, []);
        }
    }
}

#[tokio::test]
async fn a_broken_disk_refuses_and_gives_no_number_out_twice() {
    let disk = SimulatedDisk::default();
    let spool = open(&disk, SpoolOptions::default());
    spool.append(vec![event("a")]).await.expect("appends");
    disk.fail_sync_after(0);
    disk.fail_append_after(1);
    disk.stay_broken();
    let refused = spool.append(vec![event("refused-1"), event("refused-2")]).await;
    assert!(matches!(refused, Err(AppendError::Io(_))), "{refused:?}");
    assert_eq!(spool.status().refused, 2);
    assert!(spool.status().write_error.is_some());
    disk.repair();
    spool.append(vec![event("b")]).await.expect("appends");
    assert!(spool.status().write_error.is_none());
    // The refused group may be on disk, whole: its numbers belong to "b" now.
    let after = disk.after_power_cut(|_| usize::MAX);
    assert_eq!(events(&after), BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned())]));
    let again = open(&after, SMALL);
    assert_eq!(again.append(vec![event("c")]).await.expect("appends").first_wal_seq, 3);
}

#[tokio::test]
async fn a_full_spool_refuses_until_shipping_makes_room() {
    let disk = SimulatedDisk::default();
    let options = SpoolOptions { segment_bytes: 300, max_bytes: 1_500, ..SMALL };
    let spool = open(&disk, options);
    let mut taken = 0;
    let full = loop {
        match spool.append(vec![event(&format!("e{taken}"))]).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(matches!(full, AppendError::Full { max: 1_500, .. }), "{full:?}");
    assert!(spool.status().bytes <= 1_500);
    spool.checkpoint(taken, u64::MAX).expect("notes");
    assert_eq!(disk.segments().len(), 1, "the newest stays");
    spool.append(vec![event("more")]).await.expect("there is room");
    // After a restart the numbers go on, though their segments are gone.
    let again = open(&disk.after_power_cut(|_| 0), options);
    assert_eq!(again.status().last_wal_seq, taken + 1);
    assert_eq!(again.recovery().lost, []);
}

#[tokio::test]
async fn damage_before_intact_frames_is_reported_and_the_rest_is_read() {
    let disk = SimulatedDisk::default();
    let spool = open(&disk, SpoolOptions::default());
    for id in ["a", "b", "c"] {
        spool.append(vec![event(id)]).await.expect("appends");
    }
    drop(spool);
    let path = disk.segments().remove(0);
    let mut at = 0;
    disk.tamper(&path, |bytes| {
        at = frame_starts(bytes)[1];
        bytes[at + format::FRAME_HEADER_LEN] ^= 0x10;
        bytes.extend([0; 5_000]);
    });
    let spool = open(&disk, SpoolOptions::default());
    let recovery = spool.recovery();
    assert_eq!((recovery.lost.as_slice(), recovery.uncertain.as_slice()), (&[(2, 2)][..], &[][..]));
    assert_eq!(recovery.torn_bytes, 5_000);
    let damaged: Vec<_> =
        recovery.damaged.iter().map(|d| (d.segment, d.offset, d.wal_seqs)).collect();
    assert_eq!(damaged, [(1, at as u64, Some((2, 2)))]);
    let mut reader = spool.reader();
    let mut read = Vec::new();
    loop {
        let frames = reader.next_frames().expect("reads");
        if frames.is_empty() {
            break;
        }
        read.extend(frames.into_iter().flat_map(|frame| frame.records));
    }
    assert_eq!(read.iter().map(|record| record.wal_seq).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(spool.append(vec![event("d")]).await.expect("appends").first_wal_seq, 4);
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let first = Spool::open(folder.path(), SpoolOptions::default()).expect("opens");
    let second = Spool::open(folder.path(), SpoolOptions::default());
    assert!(matches!(second, Err(SpoolError::Locked { .. })));
    drop(first);
    Spool::open(folder.path(), SpoolOptions::default()).expect("opens again");
}

#[tokio::test]
async fn a_real_folder_keeps_its_id_and_its_records() {
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("a/b");
    let spool = Spool::open(&dir, SpoolOptions::default()).expect("opens");
    let id = spool.collector_id();
    spool.append(vec![event("a"), Entry::Heartbeat { closing: true }]).await.expect("appends");
    assert!(matches!(
        spool.append_later(vec![Entry::Event(vec![b' '; MAX_APPEND_BYTES])]),
        Err(AppendError::TooLarge { .. })
    ));
    drop(spool);
    let contents = read_all(&dir).expect("reads");
    assert_eq!(contents.collector_id.as_deref(), Some(id.as_str()));
    assert_eq!(contents.records.len(), 2);
    assert_eq!(contents.recovery.last_wal_seq, 1);
    std::fs::remove_file(dir.join(COLLECTOR_ID_FILE)).expect("removes");
    assert_eq!(Spool::open(&dir, SpoolOptions::default()).expect("opens").collector_id(), id);
}

/// Where the intact frames of a segment begin.
pub(super) fn frame_starts(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (format::SEGMENT_HEADER_LEN, Vec::new());
    while at < bytes.len() {
        at += match format::piece_at(bytes, at) {
            format::Piece::Frame(header) => {
                starts.push(at);
                header.frame_len()
            }
            format::Piece::Damage { len, .. } => len,
        };
    }
    starts
}

#[tokio::test]
async fn a_damaged_record_of_a_group_commit_costs_its_block_and_the_rest_is_read() {
    for (block_bytes, lost) in [(0, (7, 7)), (400, (5, 8))] {
        let disk = SimulatedDisk::default();
        let options = SpoolOptions { block_bytes, ..SpoolOptions::default() };
        let spool = open(&disk, options);
        // One group commit of twelve, then another that says that it was synced.
        let ids: Vec<Entry> = (1..=12).map(|n| event(&format!("e{n}"))).collect();
        spool.append(ids).await.expect("appends");
        spool.append(vec![event("last")]).await.expect("appends");
        drop(spool);
        let path = disk.segments().remove(0);
        disk.tamper(&path, |bytes| {
            let starts = frame_starts(bytes);
            let at = starts.iter().copied().find(|at| {
                let (_, frame) = format::decode_frame(&bytes[*at..]).expect("intact");
                frame.first_wal_seq <= 7 && frame.next_wal_seq() > 7
            });
            bytes[at.expect("seven") + format::FRAME_HEADER_LEN + 20] ^= 1;
        });
        let found = events(&disk);
        let expected: Vec<i64> = (1..=13).filter(|n| *n < lost.0 || *n > lost.1).collect();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected);
        assert_eq!(open(&disk, options).recovery().lost, [lost]);
    }
}

#[tokio::test]
async fn a_hole_that_a_power_cut_left_in_an_unacknowledged_write_is_not_called_loss() {
    let disk = SimulatedDisk::default();
    let options = SpoolOptions { block_bytes: 0, ..SpoolOptions::default() };
    let spool = open(&disk, options);
    spool.append(vec![event("a")]).await.expect("appends");
    // Its sync never ends: the power is cut first, and the file system had begun at the end.
    let before = disk.segments().remove(0);
    let group: Vec<Entry> = (0..6).map(|n| event(&format!("never-{n}"))).collect();
    disk.lie();
    spool.append(group).await.expect("a lie");
    let mut pages = 0;
    let after = disk.after_power_cut_with_holes(|| {
        pages += 1;
        pages > 2
    });
    assert!(pages > 4, "{pages} pages of {}", before.display());
    let again = open(&after, options);
    assert_eq!(again.recovery().lost, []);
    assert_eq!(again.recovery().uncertain.len(), 1, "{:?}", again.recovery());
    assert_eq!(events(&after)[&1], "a");
    assert_eq!(again.append(vec![event("b")]).await.expect("appends").first_wal_seq, 8);
}

#[tokio::test]
async fn clock_jumps_back_changes_nothing() {
    // Every segment's header says when it was begun; here the second is older than the first.
    let disk = SimulatedDisk::default();
    for id in ["a", "b"] {
        open(&disk, SMALL).append(vec![event(id)]).await.expect("appends");
    }
    let second = disk.segments().remove(1);
    disk.tamper(&second, |bytes| {
        let mut header = format::SegmentHeader::decode(bytes).expect("header");
        header.created = clickmill_schemas::Timestamp::parse("1999-01-01T00:00:00Z").expect("time");
        bytes[..format::SEGMENT_HEADER_LEN].copy_from_slice(&header.encode());
    });
    let spool = open(&disk, SMALL);
    assert_eq!(spool.append(vec![event("c")]).await.expect("appends").first_wal_seq, 3);
    assert_eq!(events(&disk).into_values().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(spool.recovery().lost, []);
}

#[test]
fn a_spool_of_the_first_version_is_read_and_goes_on_in_the_second() {
    // Bytes of a release that wrote the first version: 24 events, a reject, a closing heartbeat.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spool_v1");
    let folder = tempfile::tempdir().expect("folder");
    for entry in std::fs::read_dir(&fixture).expect("fixture") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
    }
    std::fs::remove_file(folder.path().join(CHECKPOINT_FILE)).expect("removes");
    let kinds = |contents: &SpoolContents| {
        let count = |kind| contents.records.iter().filter(|record| record.kind == kind).count();
        (count(RecordKind::Event), count(RecordKind::Reject), count(RecordKind::Heartbeat))
    };
    let contents = read_all(folder.path()).expect("reads");
    assert_eq!(kinds(&contents), (24, 1, 1));
    assert_eq!((contents.recovery.last_wal_seq, contents.recovery.lost), (25, vec![]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let spool = Spool::open(folder.path(), SpoolOptions::default()).expect("opens");
    let got = runtime.block_on(spool.append(vec![event("new")])).expect("appends");
    assert_eq!(got.first_wal_seq, 26);
    let mut reader = spool.reader();
    let mut read = Vec::new();
    loop {
        let frames = reader.next_frames().expect("reads");
        if frames.is_empty() {
            break;
        }
        read.extend(frames.into_iter().flat_map(|frame| frame.records).map(|r| r.wal_seq));
    }
    assert_eq!(read, [(1..=25).collect::<Vec<i64>>(), vec![25, 26]].concat());
    // Damage to a frame of the first version costs that frame, as it did.
    drop(spool);
    let path = folder.path().join(recover::segment_name(1));
    let mut bytes = std::fs::read(&path).expect("reads");
    let second = frame_starts(&bytes)[1];
    bytes[second + 40] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    assert_eq!(read_all(folder.path()).expect("reads").recovery.lost, [(2, 4)]);
}

const WINDOW: SyncPolicy = SyncPolicy::Within(Duration::from_millis(20));

#[tokio::test]
async fn what_memory_mode_acknowledged_survives_the_process_at_once_and_a_power_cut_after_its_window()
 {
    let disk = SimulatedDisk::default();
    let options = SpoolOptions { sync: SyncPolicy::Within(Duration::from_secs(3_600)), ..SMALL };
    let spool = open(&disk, options);
    for n in 0..30 {
        let got = spool.append(vec![event(&format!("e{n}"))]).await.expect("appends");
        assert_eq!(got.first_wal_seq, n + 1);
        // Written, so a killed process leaves it; not synced.
        assert_eq!(events(&disk.after_power_cut(|_| usize::MAX)).len() as i64, n + 1);
        assert!(events(&disk.after_power_cut(|_| 0)).is_empty());
        // And nothing ships what a power cut could still take back.
        assert!(spool.reader().next_frames().expect("reads").is_empty());
    }
    drop(spool);
    assert_eq!(events(&disk.after_power_cut(|_| 0)).len(), 30);

    let spool = open(&disk, SpoolOptions { sync: WINDOW, ..SMALL });
    let mut commits = spool.commits();
    spool.append(vec![event("soon")]).await.expect("appends");
    while events(&disk.after_power_cut(|_| 0)).len() < 31 {
        tokio::time::timeout(Duration::from_secs(20), commits.changed())
            .await
            .expect("synced in time")
            .expect("open");
    }
}

#[tokio::test]
async fn what_memory_mode_acknowledged_outlives_a_sync_that_fails() {
    let disk = SimulatedDisk::default();
    let options = SpoolOptions { sync: SyncPolicy::Within(Duration::from_secs(3_600)), ..SMALL };
    let spool = open(&disk, options);
    for id in ["a", "b", "c"] {
        spool.append(vec![event(id)]).await.expect("appends");
    }
    disk.fail_sync_after(0);
    spool.close();
    for kept in [0, usize::MAX] {
        let found = events(&disk.after_power_cut(|_| kept));
        assert_eq!(found.into_values().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
    assert_eq!(disk.segments().len(), 2, "the first is poisoned");
}

#[tokio::test]
async fn tracked_events_and_requests_keep_their_order() {
    let disk = SimulatedDisk::default();
    let spool = open(&disk, SpoolOptions::default());
    for n in 0..200 {
        let line = format!("{{\"event_id\":\"t{n}\"}}");
        spool.track(line.as_bytes(), OverflowPolicy::Refuse).expect("takes");
        if n % 50 == 49 {
            let got = spool.append(vec![event(&format!("d{n}"))]).await.expect("appends");
            assert_eq!(got.first_wal_seq, n + 1 + (n + 1) / 50);
        }
    }
    spool.close();
    let found: Vec<String> = events(&disk).into_values().collect();
    let expected: Vec<String> = (0..200)
        .flat_map(|n| {
            let durable = (n % 50 == 49).then(|| format!("d{n}"));
            std::iter::once(format!("t{n}")).chain(durable)
        })
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_does_not_fit_into_memory_is_refused_or_dropped_as_told_and_counted() {
    const LINE: usize = 1_000_000;
    let line = vec![b' '; LINE];
    let fits = QUEUE_BYTES / (LINE + format::LINEAGE_BYTES);
    for policy in [OverflowPolicy::Refuse, OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
        // A queue without a writer: nothing makes room.
        let queue = Queue::new();
        for n in 0..fits {
            queue.track(&line, policy).unwrap_or_else(|error| panic!("{n}: {error}"));
        }
        assert_eq!(queue.dropped(), 0);
        let over = queue.track(b"{\"event_id\":\"new\"}", policy);
        // There was room for a small one beside the large ones: now there is none for a large one.
        over.expect("small");
        match policy {
            OverflowPolicy::Refuse => {
                assert!(matches!(queue.track(&line, policy), Err(AppendError::Busy)));
                assert_eq!(queue.dropped(), 0);
            }
            OverflowPolicy::DropNewest => {
                queue.track(&line, policy).expect("dropped");
                assert_eq!(queue.dropped(), 1);
            }
            OverflowPolicy::DropOldest => {
                queue.track(&line, policy).expect("makes room");
                assert_eq!(queue.dropped(), 1);
                // A request is never dropped to make room, whatever its age.
                let permit = queue.try_reserve(1).expect("room");
                let request = Request { entries: vec![event("kept")], ack: None, permit };
                queue.push(request).expect("takes");
                for _ in 0..2 * fits {
                    queue.track(&line, policy).expect("makes room");
                }
                let queue::Wake::Chunks(chunks) = queue.take(usize::MAX, None) else {
                    panic!("nothing waits")
                };
                let requests =
                    chunks.iter().filter(|c| matches!(c, queue::Chunk::Request(_))).count();
                assert_eq!(requests, 1);
                // The small one made no room by itself: one more went.
                assert_eq!(queue.dropped(), 1 + 2 * fits as u64 + 1);
            }
        }
    }
}

#[tokio::test]
async fn a_disk_that_recovers_takes_events_again_without_a_restart() {
    for sync in [SyncPolicy::BeforeAnswer, WINDOW] {
        let disk = SimulatedDisk::default();
        let spool = open(&disk, SpoolOptions { sync, ..SMALL });
        spool.append(vec![event("before")]).await.expect("appends");
        disk.fail_append_after(0);
        disk.stay_broken();
        for _ in 0..3 {
            let refused = spool.append(vec![event("refused")]).await;
            assert!(matches!(refused, Err(AppendError::Io(_))), "{refused:?}");
        }
        assert!(spool.status().write_error.is_some());
        assert!(disk.segments().len() <= 2, "refused writes leave segments: {:?}", disk.segments());
        spool.track(b"{\"event_id\":\"t\"}", OverflowPolicy::Refuse).expect("takes");
        disk.repair();
        spool.append(vec![event("after")]).await.expect("appends");
        assert!(spool.status().write_error.is_none());
        spool.close();
        let found: Vec<String> = events(&disk.after_power_cut(|_| 0)).into_values().collect();
        assert!(found.ends_with(&["after".to_owned()]), "{found:?}");
        assert!(!found.contains(&"refused".to_owned()), "{found:?}");
    }
}
