use std::collections::BTreeMap;

use proptest::prelude::*;

use super::simulated::SimulatedDisk;
use super::*;
use crate::sink::RecordKind;

const SMALL: SpoolOptions = SpoolOptions { segment_bytes: 600, max_bytes: 1 << 20 };

fn dir() -> &'static Path {
    Path::new("/spool")
}

fn open(disk: &SimulatedDisk, options: SpoolOptions) -> Spool {
    Spool::open_on(Arc::new(disk.clone()), dir(), options).expect("opens")
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
    let options = SpoolOptions { segment_bytes: 300, max_bytes: 1_500 };
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
    disk.tamper(&path, |bytes| {
        let second = format::SEGMENT_HEADER_LEN
            + format::frame_len(&bytes[format::SEGMENT_HEADER_LEN..]).expect("frame");
        bytes[second + 40] ^= 0x10;
        bytes.extend([0; 5_000]);
    });
    let spool = open(&disk, SpoolOptions::default());
    assert_eq!(spool.recovery().lost, [(2, 2)]);
    assert_eq!(spool.recovery().torn_bytes, 5_000);
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

/// What a run does to the spool.
#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    FailAppend,
    FailSync,
    /// Power cut; this many of the unsynced bytes survive.
    Cut(usize),
    Ship,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..5).prop_map(Step::Append),
        1 => Just(Step::FailAppend),
        1 => Just(Step::FailSync),
        2 => (0_usize..400).prop_map(Step::Cut),
        1 => Just(Step::Ship),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The model is a map from `wal_seq` to what was acknowledged for it.
    #[test]
    fn no_run_of_failures_and_power_cuts_loses_or_renumbers_what_was_acknowledged(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let mut disk = SimulatedDisk::default();
        let mut spool = open(&disk, SMALL);
        let mut model = BTreeMap::new();
        let mut shipped = 0;
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(count) => {
                    let ids: Vec<String> = (0..count).map(|i| format!("{n}-{i}")).collect();
                    let entries = ids.iter().map(|id| event(id)).collect();
                    if let Ok(got) = runtime.block_on(spool.append(entries)) {
                        model.extend((got.first_wal_seq..got.next_wal_seq).zip(ids));
                    }
                }
                Step::FailAppend => disk.fail_append_after(0),
                Step::FailSync => disk.fail_sync_after(0),
                Step::Cut(kept) => {
                    disk = disk.after_power_cut(|unsynced| kept.min(unsynced));
                    spool = open(&disk, SMALL);
                    prop_assert!(spool.recovery().lost.is_empty(), "{:?}", spool.recovery());
                }
                Step::Ship => {
                    shipped = model.keys().last().copied().unwrap_or(0);
                    disk.repair();
                    spool.checkpoint(shipped, u64::MAX).expect("notes");
                }
            }
            let found = events(&disk.after_power_cut(|_| 0));
            for (seq, id) in model.range(shipped + 1..) {
                prop_assert_eq!(found.get(seq), Some(id));
            }
        }
    }
}
