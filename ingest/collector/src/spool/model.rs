//! The spool against a model: a map from `wal_seq` to what was acknowledged
//! for it, and what may have happened to it since.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::simulated::SimulatedDisk;
use super::*;
use crate::sink::RecordKind;

/// What a run does to the spool.
#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    /// Handed over; nobody is told.
    Track(usize),
    FailAppend,
    FailSync,
    /// Every write fails until `Repair`.
    Break,
    Repair,
    /// The process is killed: what it wrote is there, synced or not.
    Kill,
    /// Power cut; this many of the unsynced bytes of each file survive.
    Cut(usize),
    /// Power cut; the unsynced pages survive as these bits say.
    Holes(u64),
    /// Everything that a reader sees is shipped.
    Ship,
    /// A bit of a frame's body flips, in a segment that is closed.
    Flip(prop::sample::Index, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_usize..9).prop_map(Step::Append),
        2 => (1_usize..5).prop_map(Step::Track),
        1 => Just(Step::FailAppend),
        1 => Just(Step::FailSync),
        1 => Just(Step::Break),
        2 => Just(Step::Repair),
        1 => Just(Step::Kill),
        2 => (0_usize..600).prop_map(Step::Cut),
        2 => any::<u64>().prop_map(Step::Holes),
        1 => Just(Step::Ship),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(segment, at)| Step::Flip(segment, at)),
    ]
}

fn dir() -> &'static Path {
    Path::new("/spool")
}

fn line(id: &str) -> Vec<u8> {
    format!("{{\"event_id\":\"{id}\"}}").into_bytes()
}

fn found(disk: &SimulatedDisk) -> BTreeMap<i64, String> {
    let mut found = BTreeMap::new();
    for record in read_all_on(disk, dir()).expect("reads").records {
        assert_ne!(record.kind, RecordKind::Heartbeat);
        let value: serde_json::Value = serde_json::from_slice(&record.line).expect("json");
        assert_eq!(value["wal_seq"], record.wal_seq);
        let id = value["event_id"].as_str().expect("id").to_owned();
        assert_eq!(found.insert(record.wal_seq, id), None, "wal_seq {} twice", record.wal_seq);
    }
    found
}

struct Run {
    disk: SimulatedDisk,
    spool: Spool,
    options: SpoolOptions,
    /// Acknowledged, and not excused by damage.
    promised: BTreeMap<i64, String>,
    shipped: BTreeMap<i64, String>,
    flipped: bool,
}

impl Run {
    fn new(options: SpoolOptions) -> Self {
        let disk = SimulatedDisk::default();
        let spool = Spool::open_with(Arc::new(disk.clone()), dir(), options, Arc::default())
            .expect("opens");
        Self {
            disk,
            spool,
            options,
            promised: BTreeMap::new(),
            shipped: BTreeMap::new(),
            flipped: false,
        }
    }

    fn reopen(&mut self, disk: SimulatedDisk) {
        self.disk = disk;
        self.spool =
            Spool::open_with(Arc::new(self.disk.clone()), dir(), self.options, Arc::default())
                .expect("opens");
        let recovery = self.spool.recovery();
        assert!(recovery.lost.is_empty() || self.flipped, "{recovery:?}");
    }

    /// What a reader gets is what a sink gets.
    fn ship(&mut self) {
        self.disk.repair();
        let after = self.spool.status().shipped_wal_seq;
        let mut reader = self.spool.reader();
        let mut last = after;
        loop {
            let frames = reader.next_frames().expect("reads");
            if frames.is_empty() {
                break;
            }
            for record in frames.into_iter().flat_map(|frame| frame.records) {
                if record.wal_seq <= after {
                    continue;
                }
                assert!(record.wal_seq > last, "{} comes after {last}", record.wal_seq);
                last = record.wal_seq;
                let value: serde_json::Value = serde_json::from_slice(&record.line).expect("json");
                let id = value["event_id"].as_str().expect("id").to_owned();
                // A number that left the spool never names anything else.
                assert_eq!(self.shipped.insert(record.wal_seq, id), None);
            }
        }
        self.spool.checkpoint(last, reader.ordinal()).expect("notes");
    }

    /// Everything promised is shipped, or would be there after a crash now.
    fn check(&self) {
        let there = found(&match self.options.sync {
            SyncPolicy::BeforeAnswer => self.disk.after_power_cut(|_| 0),
            // The window is part of the promise: it is about the process only.
            SyncPolicy::Within(_) => self.disk.after_kill(),
        });
        for (seq, id) in &self.promised {
            let is = self.shipped.get(seq).or_else(|| there.get(seq));
            assert_eq!(is, Some(id), "wal_seq {seq}");
        }
    }

    /// A power cut may take what is not synced, where that was the bargain.
    fn forgive(&mut self, disk: &SimulatedDisk) {
        if let SyncPolicy::Within(_) = self.options.sync {
            let there = found(disk);
            let shipped = &self.shipped;
            self.promised.retain(|seq, id| shipped.contains_key(seq) || there.get(seq) == Some(id));
        }
    }

    fn flip(&mut self, segment: &prop::sample::Index, at: &prop::sample::Index) {
        let paths = self.disk.segments();
        // The newest may be the one that is written.
        let Some(closed) = paths.len().checked_sub(1).filter(|n| *n > 0) else { return };
        let path = &paths[segment.index(closed)];
        let mut before = found(&self.disk);
        self.disk.tamper(path, |bytes| {
            let starts = super::tests::frame_starts(bytes);
            if starts.is_empty() {
                return;
            }
            let start = starts[at.index(starts.len())];
            bytes[start + format::FRAME_HEADER_LEN] ^= 4;
        });
        let after = found(&self.disk);
        before.retain(|seq, _| !after.contains_key(seq));
        if let (Some((first, _)), Some((last, _))) =
            (before.first_key_value(), before.last_key_value())
        {
            // It costs a block: neighbours, and no more lines than one holds.
            assert_eq!(before.len() as i64, last - first + 1);
            assert!(before.len() <= 1 + self.options.block_bytes / 80, "{before:?}");
        }
        self.promised.retain(|seq, _| !before.contains_key(seq));
        self.flipped = true;
    }
}

fn run(steps: Vec<Step>, options: SpoolOptions) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut run = Run::new(options);
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append(count) => {
                let ids: Vec<String> = (0..count).map(|i| format!("{n}-{i}")).collect();
                let entries = ids.iter().map(|id| Entry::Event(line(id))).collect();
                if let Ok(got) = runtime.block_on(run.spool.append(entries)) {
                    assert_eq!(got.next_wal_seq - got.first_wal_seq, count as i64);
                    for (seq, id) in (got.first_wal_seq..).zip(ids) {
                        assert!(!run.shipped.contains_key(&seq), "wal_seq {seq} again");
                        run.promised.insert(seq, id);
                    }
                }
            }
            Step::Track(count) => {
                for i in 0..count {
                    let line = line(&format!("{n}-t{i}"));
                    run.spool.track(&line, OverflowPolicy::Refuse).expect("room");
                }
            }
            Step::FailAppend => run.disk.fail_append_after(0),
            Step::FailSync => run.disk.fail_sync_after(0),
            Step::Break => {
                run.disk.fail_append_after(0);
                run.disk.stay_broken();
            }
            Step::Repair => run.disk.repair(),
            Step::Kill => {
                let after = run.disk.after_kill();
                run.reopen(after);
            }
            Step::Cut(kept) => {
                let after = run.disk.after_power_cut(|unsynced| kept.min(unsynced));
                run.forgive(&after);
                run.reopen(after);
            }
            Step::Holes(bits) => {
                let mut page = 0;
                let after = run.disk.after_power_cut_with_holes(|| {
                    page += 1;
                    bits >> (page % 64) & 1 == 1
                });
                run.forgive(&after);
                run.reopen(after);
            }
            Step::Ship => run.ship(),
            Step::Flip(segment, at) => run.flip(&segment, &at),
        }
        run.check();
    }
    run.ship();
    run.check();
}

const SMALL: SpoolOptions = SpoolOptions {
    segment_bytes: 900,
    max_bytes: 1 << 20,
    block_bytes: 300,
    sync: SyncPolicy::BeforeAnswer,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_run_of_failures_crashes_and_damage_loses_or_renumbers_what_was_acknowledged(
        steps in prop::collection::vec(step(), 1..50)
    ) {
        run(steps, SMALL);
    }

    #[test]
    fn with_every_record_by_itself_as_well(steps in prop::collection::vec(step(), 1..50)) {
        run(steps, SpoolOptions { block_bytes: 0, ..SMALL });
    }

    /// The window never ends by itself here: rotation, size and closing sync.
    #[test]
    fn memory_mode_loses_nothing_to_a_killed_process(steps in prop::collection::vec(step(), 1..50)) {
        let sync = SyncPolicy::Within(Duration::from_secs(3_600));
        run(steps, SpoolOptions { sync, ..SMALL });
    }
}
