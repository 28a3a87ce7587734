//! Which shards a worker takes, from whom, and who is alive. No I/O: values and a clock in,
//! values out.
//!
//! Every worker decides for itself from the same rules:
//!
//! 1. With `n` readable shards and `w` living workers, a worker should have
//!    `n / w`, rounded up at most.
//! 2. It takes free shards and those of the dead, up to that.
//! 3. Where none is free, it takes one at a time from the living worker that has
//!    most, while that one has at least two more.
//!
//! Nobody gives up a shard for balance by himself, so a shard moves once. In
//! which order a worker picks depends on its id, so that several that start at
//! once seldom want the same one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::View;

/// Who lives, by what this worker has seen with its own clock.
#[derive(Debug, Default)]
pub(in super::super) struct Pulses {
    seen: HashMap<(String, String), String>,
    changed: HashMap<String, Instant>,
    /// Those that changed since they were first seen.
    proven: BTreeSet<String>,
}

impl Pulses {
    /// Takes note of a view that was read `now`.
    pub fn observe(&mut self, view: &View, now: Instant) {
        let mut seen = HashMap::with_capacity(view.pulses.len());
        for pulse in &view.pulses {
            let key = (pulse.worker.clone(), pulse.key.clone());
            let before = self.seen.get(&key);
            if before != Some(&pulse.value) {
                self.changed.insert(pulse.worker.clone(), now);
            }
            if before.is_some_and(|before| *before != pulse.value) {
                self.proven.insert(pulse.worker.clone());
            }
            seen.insert(key, pulse.value.clone());
        }
        self.seen = seen;
        // Who left, left: there is nothing to wait for.
        let present: BTreeSet<&str> = view.pulses.iter().map(|p| p.worker.as_str()).collect();
        self.changed.retain(|worker, _| present.contains(worker.as_str()));
        self.proven.retain(|worker| present.contains(worker.as_str()));
    }

    /// This worker was seen to live, not only to be in the table.
    pub fn is_proven(&self, worker: &str) -> bool {
        self.proven.contains(worker)
    }

    /// The workers that showed life within `expiry`.
    pub fn living(&self, now: Instant, expiry: Duration) -> BTreeSet<String> {
        self.silent_for(|silence| silence < expiry, now)
    }

    /// The workers that have shown none for `silence`.
    pub fn silent(&self, now: Instant, silence: Duration) -> BTreeSet<String> {
        self.silent_for(|since| since >= silence, now)
    }

    fn silent_for(&self, wanted: impl Fn(Duration) -> bool, now: Instant) -> BTreeSet<String> {
        let chosen = self.changed.iter().filter(|(_, at)| wanted(now.duration_since(**at)));
        chosen.map(|(worker, _)| worker.clone()).collect()
    }
}

/// What a worker knows when it decides.
#[derive(Debug)]
pub(in super::super) struct Situation<'a> {
    pub me: &'a str,
    /// Shards that may be read now: not finished, all their parents finished.
    pub readable: &'a [String],
    pub view: &'a View,
    /// From [`Pulses::living`]; this worker counts in any case.
    pub living: &'a BTreeSet<String>,
    /// Shards that this worker can read at once.
    pub capacity: usize,
}

/// How a shard is come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Taking {
    /// Nobody has it, or a dead one.
    Free,
    /// A living worker has it and is to let go.
    Steal,
}

/// The shards to take now, each at most once.
pub(in super::super) fn decide(situation: &Situation<'_>) -> Vec<(String, Taking)> {
    let Situation { me, readable, view, living, capacity } = situation;
    let mut owned: BTreeMap<&str, Vec<&String>> =
        living.iter().map(|worker| (worker.as_str(), Vec::new())).collect();
    owned.entry(me).or_default();
    let workers = owned.len();
    let mut free = Vec::new();
    for shard in *readable {
        match view.owner(shard).and_then(|owner| owned.get_mut(owner)) {
            Some(shards) => shards.push(shard),
            None => free.push(shard),
        }
    }
    let mine = owned.remove(me).map_or(0, |shards| shards.len());
    let most = readable.len().div_ceil(workers).min(*capacity);
    if !free.is_empty() {
        free.sort_by_key(|shard| preference(me, shard));
        free.truncate(most.saturating_sub(mine));
        return free.into_iter().map(|shard| (shard.clone(), Taking::Free)).collect();
    }
    let mut stolen = Vec::new();
    for shards in owned.values_mut() {
        shards.sort_by_key(|shard| preference(me, shard));
    }
    while mine + stolen.len() < most {
        let fullest = owned.values_mut().max_by_key(|shards| shards.len());
        let has_more = |shards: &&mut Vec<_>| shards.len() >= mine + stolen.len() + 2;
        let Some(shards) = fullest.filter(has_more) else { break };
        let Some(shard) = shards.pop() else { break };
        stolen.push((shard.clone(), Taking::Steal));
    }
    stolen
}

/// An order of its own for each worker, always the same.
fn preference(me: &str, shard: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (me, shard).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Lease, Pulse};
    use super::*;

    fn view(owners: &[(&str, Option<&str>)]) -> View {
        let lease = |(shard, owner): &(&str, Option<&str>)| {
            let lease = Lease {
                shard: (*shard).to_owned(),
                owner: owner.map(str::to_owned),
                finished: false,
                version: 1,
            };
            ((*shard).to_owned(), lease)
        };
        View { leases: owners.iter().map(lease).collect(), pulses: Vec::new() }
    }

    fn take(me: &str, living: &[&str], owners: &[(&str, Option<&str>)]) -> Vec<(String, Taking)> {
        let view = view(owners);
        let readable: Vec<String> = owners.iter().map(|(shard, _)| (*shard).to_owned()).collect();
        let living = living.iter().map(|&worker| worker.to_owned()).collect();
        decide(&Situation {
            me,
            readable: &readable,
            view: &view,
            living: &living,
            capacity: usize::MAX,
        })
    }

    fn shards(taken: &[(String, Taking)], how: Taking) -> usize {
        assert!(taken.iter().all(|(_, taking)| *taking == how), "{taken:?}");
        taken.len()
    }

    #[test]
    fn one_worker_takes_all_and_its_equal_half() {
        let free = [("a", None), ("b", None), ("c", None)];
        assert_eq!(shards(&take("w", &[], &free), Taking::Free), 3);
        assert_eq!(shards(&take("w", &["w", "x"], &free), Taking::Free), 2);
    }

    #[test]
    fn a_dead_workers_shards_are_free_and_a_living_ones_are_not() {
        let owners = [("a", Some("x")), ("b", Some("x")), ("c", Some("w")), ("d", Some("w"))];
        assert_eq!(take("w", &["w", "x"], &owners), []);
        assert_eq!(shards(&take("w", &["w"], &owners), Taking::Free), 2);
    }

    #[test]
    fn a_newcomer_takes_its_share_from_the_fullest_and_no_more() {
        let owners = [
            ("a", Some("x")),
            ("b", Some("x")),
            ("c", Some("x")),
            ("d", Some("x")),
            ("e", Some("y")),
            ("f", Some("y")),
        ];
        let taken = take("w", &["x", "y", "w"], &owners);
        assert_eq!(shards(&taken, Taking::Steal), 2);
        assert!(taken.iter().all(|(shard, _)| shard.as_str() < "e"), "{taken:?}");
        // Two of five are fair already.
        let owners = [
            ("a", Some("x")),
            ("b", Some("x")),
            ("c", Some("x")),
            ("d", Some("w")),
            ("e", Some("w")),
        ];
        assert_eq!(take("w", &["w", "x"], &owners), []);
    }

    #[test]
    fn nothing_is_stolen_while_something_is_free() {
        let owners = [("a", Some("x")), ("b", Some("x")), ("c", Some("x")), ("d", None)];
        assert_eq!(take("w", &["w", "x"], &owners), [("d".to_owned(), Taking::Free)]);
    }

    #[test]
    fn capacity_bounds_what_is_taken() {
        let view = view(&[("a", None), ("b", None), ("c", None)]);
        let readable = ["a", "b", "c"].map(str::to_owned);
        let situation = Situation {
            me: "w",
            readable: &readable,
            view: &view,
            living: &BTreeSet::new(),
            capacity: 2,
        };
        assert_eq!(decide(&situation).len(), 2);
    }

    fn pulses(workers: &[(&str, &str)]) -> View {
        let pulse = |(worker, value): &(&str, &str)| Pulse {
            worker: (*worker).to_owned(),
            key: String::new(),
            value: (*value).to_owned(),
        };
        View { leases: BTreeMap::new(), pulses: workers.iter().map(pulse).collect() }
    }

    #[test]
    fn who_shows_no_change_for_a_lease_is_dead_whatever_the_time_it_claims() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let lease = second * 20;
        let mut seen = Pulses::default();
        seen.observe(&pulses(&[("w", "1"), ("x", "1")]), start);
        seen.observe(&pulses(&[("w", "2"), ("x", "1")]), start + second * 15);
        assert_eq!(seen.living(start + second * 19, lease).len(), 2);
        let living = seen.living(start + second * 20, lease);
        assert_eq!(living.into_iter().collect::<Vec<_>>(), ["w"]);
        assert_eq!(seen.silent(start + second * 20, lease).into_iter().collect::<Vec<_>>(), ["x"]);
        // A value that was there before is as good as a new one.
        seen.observe(&pulses(&[("w", "2"), ("x", "0")]), start + second * 21);
        assert!(seen.living(start + second * 22, lease).contains("x"));
    }

    #[test]
    fn who_left_is_gone_at_once() {
        let (start, lease) = (Instant::now(), Duration::from_secs(20));
        let mut seen = Pulses::default();
        seen.observe(&pulses(&[("w", "1"), ("x", "1")]), start);
        seen.observe(&pulses(&[("w", "1")]), start);
        assert_eq!(seen.living(start, lease).into_iter().collect::<Vec<_>>(), ["w"]);
    }

    /// What happens to a fleet between two rounds.
    #[derive(Clone, Debug)]
    enum Step {
        /// The worker of that number looks, decides and takes.
        Turn(usize),
        Join,
        /// It ends in order: its leases are free at once.
        Leave(usize),
        /// Its leases stay until the others hold it for dead.
        Die(usize),
        /// The stream has so many shards now.
        Reshard(usize),
    }

    #[derive(Debug, Default)]
    struct Fleet {
        shards: usize,
        owners: BTreeMap<String, String>,
        /// Those that live.
        workers: Vec<String>,
        next: usize,
        moves: usize,
    }

    impl Fleet {
        fn readable(&self) -> Vec<String> {
            (0..self.shards).map(|n| format!("shard-{n}")).collect()
        }

        fn turn(&mut self, worker: usize) {
            let Some(me) = self.workers.get(worker % self.workers.len().max(1)).cloned() else {
                return;
            };
            let readable = self.readable();
            let owners: Vec<(&str, Option<&str>)> = self
                .owners
                .iter()
                .map(|(shard, owner)| (shard.as_str(), Some(owner.as_str())))
                .collect();
            let view = view(&owners);
            let living = self.workers.iter().cloned().collect();
            let situation = Situation {
                me: &me,
                readable: &readable,
                view: &view,
                living: &living,
                capacity: usize::MAX,
            };
            for (shard, _) in decide(&situation) {
                assert_ne!(self.owners.get(&shard), Some(&me), "took what it has");
                self.owners.insert(shard, me.clone());
                self.moves += 1;
            }
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Turn(worker) => self.turn(worker),
                Step::Join => {
                    self.workers.push(format!("worker-{}", self.next));
                    self.next += 1;
                }
                Step::Leave(worker) if !self.workers.is_empty() => {
                    let gone = self.workers.remove(worker % self.workers.len());
                    self.owners.retain(|_, owner| *owner != gone);
                }
                Step::Die(worker) if !self.workers.is_empty() => {
                    self.workers.remove(worker % self.workers.len());
                }
                Step::Leave(_) | Step::Die(_) => {}
                Step::Reshard(shards) => self.shards = shards,
            }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..8_usize).prop_map(Step::Turn),
            2 => Just(Step::Join),
            1 => (0..8_usize).prop_map(Step::Leave),
            1 => (0..8_usize).prop_map(Step::Die),
            1 => (0..40_usize).prop_map(Step::Reshard),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn whatever_happened_a_quiet_fleet_shares_all_shards_evenly_and_then_rests(steps in steps()) {
            let mut fleet = Fleet { shards: 9, ..Fleet::default() };
            steps.iter().for_each(|step| fleet.step(step));
            if fleet.workers.is_empty() {
                fleet.step(&Step::Join);
            }
            let turns = |fleet: &mut Fleet| (0..fleet.workers.len()).for_each(|worker| fleet.turn(worker));
            // Each round either fills somebody up or nobody moves: as many as workers are enough.
            for _ in 0..=fleet.workers.len() {
                turns(&mut fleet);
            }
            let moves = fleet.moves;
            turns(&mut fleet);
            prop_assert_eq!(fleet.moves, moves, "a balanced fleet moves shards");
            let mut counts: BTreeMap<&str, usize> =
                fleet.workers.iter().map(|worker| (worker.as_str(), 0)).collect();
            for shard in fleet.readable() {
                let owner = fleet.owners.get(&shard).map(String::as_str);
                *owner.and_then(|owner| counts.get_mut(owner)).expect("a living worker has it") += 1;
            }
            let (least, most) = (counts.values().min(), counts.values().max());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{:?}", counts);
        }

        #[test]
        fn a_newcomer_moves_no_more_than_its_share(shards in 1..60_usize, workers in 1..8_usize) {
            let mut fleet = Fleet { shards, ..Fleet::default() };
            (0..workers).for_each(|_| fleet.step(&Step::Join));
            (0..3).for_each(|_| (0..workers).for_each(|worker| fleet.turn(worker)));
            let before = fleet.moves;
            fleet.step(&Step::Join);
            (0..3).for_each(|_| (0..=workers).for_each(|worker| fleet.turn(worker)));
            prop_assert!(fleet.moves - before <= shards / (workers + 1));
        }
    }
}
