use std::collections::BTreeMap;

use super::*;
use crate::audit::lines::Beat;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect(text)
}

fn rows(runs: &[Run], via_stream: bool) -> CollectorRows {
    let mut rows = CollectorRows { via_stream, ..CollectorRows::default() };
    let start = at("2026-11-23T12:00:00Z").micros();
    for seq in runs.iter().flat_map(|run| run.0..=run.1) {
        rows.seqs.add(seq, start + seq);
        rows.inside = Some(widen(rows.inside, seq));
    }
    rows
}

fn raw(events: &[Run], rejects: &[Run]) -> RawSeqs {
    let mut raw = RawSeqs::default();
    for (seqs, runs) in [(&mut raw.events, events), (&mut raw.rejects, rejects)] {
        for seq in runs.iter().flat_map(|run| run.0..=run.1) {
            seqs.add(seq, 0);
        }
    }
    raw
}

fn facts<'a>(rows: &'a CollectorRows) -> Facts<'a> {
    Facts {
        id: "c",
        rows: Some(rows),
        waiting: None,
        raw: None,
        beats: Beats::default(),
        chain: None,
        spool: None,
    }
}

fn beat(last_wal_seq: i64, closing: bool) -> Beats {
    let beat = Beat { last_wal_seq, at: at("2026-11-23T13:00:00Z"), closing };
    Beats { last: Some(beat), ..Beats::default() }
}

const ALL: Window = Window { from: None, to: None };

#[test]
fn a_closing_heartbeat_bounds_the_numbers_and_without_one_the_end_is_unknown() {
    let rows = rows(&[(1, 7)], false);
    let of = |beats| expected(&Facts { beats, ..facts(&rows) }, ALL);
    let closed = of(beat(9, true));
    assert_eq!((closed.run, closed.unknown_after, closed.closed), (Some((1, 9)), None, true));
    let open = of(beat(9, false));
    assert_eq!(open.run, Some((1, 9)));
    assert_eq!(open.unknown_after.map(|unknown| unknown.wal_seq), Some(9));
    // It went on after it had closed.
    let reopened = of(beat(5, true));
    assert_eq!(reopened.run, Some((1, 7)));
    assert_eq!(reopened.unknown_after.map(|unknown| unknown.wal_seq), Some(7));
    let silent = of(Beats::default());
    assert_eq!(silent.unknown_after, Some(UnknownAfter { wal_seq: 7, at: None }));
}

#[test]
fn a_spool_says_what_was_given_out() {
    let rows = rows(&[(1, 7)], false);
    let spool = SpoolState { last_wal_seq: 12, ..SpoolState::default() };
    let found = expected(&Facts { spool: Some(&spool), ..facts(&rows) }, ALL);
    assert_eq!((found.run, found.unknown_after), (Some((1, 12)), None));
}

#[test]
fn a_range_is_bounded_by_the_heartbeats_around_it() {
    let asked =
        Window { from: Some(at("2026-11-23T12:00:00Z")), to: Some(at("2026-11-23T13:00:00Z")) };
    let rows = rows(&[(105, 190)], false);
    let one =
        |last_wal_seq| Some(Beat { last_wal_seq, at: at("2026-11-23T12:00:00Z"), closing: false });
    let beats = Beats { before: one(99), after: one(200), last: one(900), via_stream: false };
    let found = expected(&Facts { beats, ..facts(&rows) }, asked);
    assert_eq!((found.run, found.unknown_after), (Some((100, 200)), None));
    let beats = Beats { before: one(99), after: None, last: one(150), via_stream: false };
    let found = expected(&Facts { beats, ..facts(&rows) }, asked);
    assert_eq!(found.run, Some((100, 190)));
    assert_eq!(found.unknown_after.map(|unknown| unknown.wal_seq), Some(190));
    let beats = Beats { before: one(300), after: one(300), last: one(300), via_stream: false };
    assert_eq!(expected(&Facts { beats, rows: None, ..facts(&rows) }, asked).run, None);
}

fn located(facts: &Facts<'_>, gap: Run, newest: Option<&str>) -> Vec<(Run, Place, Fate)> {
    let bad = BTreeMap::new();
    let surroundings = Surroundings {
        bad: &bad,
        chains: &[],
        newest_stream_commit: newest.map(at),
        grace: Duration::from_secs(900),
    };
    locate(facts, gap, surroundings)
        .into_iter()
        .map(|piece| (piece.run, piece.place, piece.fate))
        .collect()
}

#[test]
fn a_gap_is_split_by_where_its_numbers_lie() {
    use Fate::{Lost, OnItsWay};
    let rows = rows(&[(1, 9), (100, 110)], false);
    let (waiting, taken) = (raw(&[(20, 24)], &[(26, 26)]), raw(&[(30, 39)], &[(45, 46)]));
    let spool = SpoolState {
        running: true,
        last_wal_seq: 200,
        shipped_wal_seq: 89,
        held: vec![(80, 99)],
        lost: vec![(60, 65)],
        ..SpoolState::default()
    };
    let facts =
        Facts { waiting: Some(&waiting), raw: Some(&taken), spool: Some(&spool), ..facts(&rows) };
    assert_eq!(
        located(&facts, (10, 99), None),
        [
            ((10, 19), Place::Spool, Lost),
            ((20, 24), Place::Raw, OnItsWay),
            ((25, 25), Place::Spool, Lost),
            ((26, 26), Place::Raw, OnItsWay),
            ((27, 29), Place::Spool, Lost),
            ((30, 39), Place::Table, Lost),
            ((40, 44), Place::Spool, Lost),
            ((45, 46), Place::Quarantine, Lost),
            ((47, 59), Place::Spool, Lost),
            ((60, 65), Place::Spool, Lost),
            ((66, 79), Place::Spool, Lost),
            ((80, 89), Place::Spool, Lost),
            ((90, 99), Place::Spool, OnItsWay),
        ]
    );
}

#[test]
fn what_a_stream_may_hold_still_is_told_from_what_is_lost() {
    let rows = rows(&[(1, 9), (20, 30)], true);
    let facts = facts(&rows);
    let lost = [((10, 19), Place::Stream, Fate::Lost)];
    let coming = [((10, 19), Place::Stream, Fate::OnItsWay)];
    // Received around 12:00; the grace is 15 minutes.
    assert_eq!(located(&facts, (10, 19), Some("2026-11-23T12:10:00Z")), coming);
    assert_eq!(located(&facts, (10, 19), Some("2026-11-23T12:16:00Z")), lost);
    assert_eq!(located(&facts, (10, 19), None), coming);
}

#[test]
fn cutting_runs_leaves_what_is_not_in_the_others() {
    let (hit, left) = cut(&[(1, 10), (20, 30)], &[(3, 4), (9, 22), (30, 50)]);
    assert_eq!(hit, [(3, 4), (9, 10), (20, 22), (30, 30)]);
    assert_eq!(left, [(1, 2), (5, 8), (23, 29)]);
    assert_eq!(cut(&[(1, i64::MAX)], &[(1, i64::MAX)]), (vec![(1, i64::MAX)], vec![]));
}
