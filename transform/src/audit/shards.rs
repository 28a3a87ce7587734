//! Shards: which commit a row came from, and whether each commit's records are all there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use clickmill_lake::landing::Commit;
use clickmill_lake::raw::RawKind;

use super::Window;
use super::chains::Chain;
use super::report::{Fate, Gap, Place, ShardReport};
use super::tables::Rows;

/// Sequence numbers of shards, to commits. The shard's name is all that a row has, so
/// chains of several streams may share one; their sequence numbers differ.
#[derive(Debug, Default)]
pub struct Positions {
    shards: HashMap<String, Vec<Stretch>>,
    /// The chain and the place in it of each commit.
    commits: Vec<(usize, usize)>,
}

#[derive(Debug)]
struct Stretch {
    first: String,
    last: String,
    commit: usize,
}

/// The order of sequence numbers: decimal, without leading zeros.
fn order(a: &str, b: &str) -> Ordering {
    (a.len(), a).cmp(&(b.len(), b))
}

impl Positions {
    /// Of the chains of shards among `chains`.
    #[must_use]
    pub fn of(chains: &[Chain]) -> Self {
        let mut positions = Self::default();
        for (chain_at, chain) in chains.iter().enumerate() {
            let Some(shard) = chain.shard() else { continue };
            for (commit_at, commit) in chain.survey.commits.iter().enumerate() {
                let (Some(first), Some(last)) = (&commit.first, &commit.last) else { continue };
                let number = positions.commits.len();
                positions.commits.push((chain_at, commit_at));
                let stretches = positions.shards.entry(shard.to_owned()).or_default();
                let (first, last) = (first.clone(), last.clone());
                stretches.push(Stretch { first, last, commit: number });
            }
        }
        for stretches in positions.shards.values_mut() {
            stretches.sort_by(|a, b| order(&a.first, &b.first));
        }
        positions
    }

    /// True where no shard landed anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// The number of the commit that holds a record; a sub-sequence number does not matter.
    #[must_use]
    pub fn find(&self, shard: &str, sequence_number: &str) -> Option<usize> {
        let whole = sequence_number.split_once('.').map_or(sequence_number, |(whole, _)| whole);
        let stretches = self.shards.get(shard)?;
        let after = stretches.partition_point(|one| order(&one.first, whole) != Ordering::Greater);
        let stretch = stretches.get(after.checked_sub(1)?)?;
        (order(whole, &stretch.last) != Ordering::Greater).then_some(stretch.commit)
    }

    /// The chain of a commit, and its place there.
    fn place(&self, commit: usize) -> (usize, usize) {
        self.commits[commit]
    }

    /// Commits that were taken and of which fewer records have rows than landed.
    #[must_use]
    pub fn short(&self, chains: &[Chain], rows: &Rows) -> Vec<usize> {
        let is_short = |commit: &usize| {
            let (chain, at) = self.place(*commit);
            let (chain, commit_) = (&chains[chain], &chains[chain].survey.commits[at]);
            let found = rows.records_of(*commit);
            chain.is_taken(commit_) && chain.is_inside(commit_) && found < records(commit_)
        };
        (0..self.commits.len()).filter(is_short).collect()
    }

    /// The commit itself.
    #[must_use]
    pub fn commit<'a>(&self, chains: &'a [Chain], number: usize) -> (&'a Chain, &'a Commit) {
        let (chain, at) = self.place(number);
        (&chains[chain], &chains[chain].survey.commits[at])
    }
}

/// Events and rejects that a commit landed.
#[must_use]
pub fn records(commit: &Commit) -> u64 {
    let counted = commit.objects.iter().filter(|object| object.kind != RawKind::Heartbeats);
    counted.map(|object| object.records).sum()
}

/// A record that was landed and whose row is in no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRecord {
    /// Of [`Positions`].
    pub commit: usize,
    /// `None` where the raw object cannot be read: then that many records.
    pub sequence_number: Option<String>,
    /// How many.
    pub count: u64,
    /// It is accounted for by its collector's number.
    pub has_lineage: bool,
    /// Of the raw object.
    pub kind: RawKind,
}

/// The report of each shard.
#[must_use]
pub fn reports(
    chains: &[Chain],
    positions: &Positions,
    rows: &Rows,
    lost: &[LostRecord],
    asked: Window,
) -> Vec<ShardReport> {
    let mut of_chain: BTreeMap<usize, ShardReport> = BTreeMap::new();
    for (at, chain) in chains.iter().enumerate().filter(|(_, chain)| chain.shard().is_some()) {
        let commits = &chain.survey.commits;
        let inside = || commits.iter().filter(|commit| chain.is_inside(commit));
        let records_of = |taken: bool| -> u64 {
            inside().filter(|commit| chain.is_taken(commit) == taken).map(records).sum()
        };
        let (taken, on_its_way) = (records_of(true), records_of(false));
        let report = ShardReport {
            source: chain.survey.source.to_string(),
            commits: inside().count() as u64,
            records: taken + on_its_way,
            taken,
            rows: 0,
            on_its_way,
            missing: 0,
            doubled: 0,
            closed: commits.last().is_some_and(|commit| commit.closed),
            possible_losses: losses(commits, asked),
        };
        of_chain.insert(at, report);
    }
    for (commit, found) in &rows.by_commit {
        let (chain, at) = positions.place(*commit);
        if chains[chain].is_inside(&chains[chain].survey.commits[at])
            && let Some(report) = of_chain.get_mut(&chain)
        {
            report.rows += found;
            report.doubled += rows.doubled.get(commit).copied().unwrap_or(0);
        }
    }
    for one in lost {
        if let Some(report) = of_chain.get_mut(&positions.place(one.commit).0) {
            report.missing += one.count;
        }
    }
    of_chain.into_values().collect()
}

/// Stretches that may have been trimmed, and would have been received in the window: between the
/// commit before, and the one that tells of them.
fn losses(commits: &[Commit], asked: Window) -> u64 {
    let before = |at: usize| commits.get(at.checked_sub(1)?).map(|commit| commit.committed_at);
    let told = commits.iter().enumerate().filter(|(at, commit)| {
        let since = before(*at).unwrap_or(commit.committed_at);
        commit.possible_loss.is_some() && asked.overlaps(since, commit.committed_at)
    });
    told.count() as u64
}

/// Gaps for what no collector's number tells of.
#[must_use]
pub fn gaps(chains: &[Chain], positions: &Positions, lost: &[LostRecord]) -> Vec<Gap> {
    let mut by_commit: BTreeMap<(usize, RawKind), Vec<&LostRecord>> = BTreeMap::new();
    for one in lost.iter().filter(|one| !one.has_lineage) {
        by_commit.entry((one.commit, one.kind)).or_default().push(one);
    }
    let of_commit = |((number, kind), lost): ((usize, RawKind), Vec<&LostRecord>)| {
        let (chain, commit) = positions.commit(chains, number);
        let mut named: Vec<&str> =
            lost.iter().filter_map(|one| one.sequence_number.as_deref()).collect();
        named.sort_by(|a, b| order(a, b));
        let end = |text: Option<&&str>, of: &Option<String>| {
            text.map(|text| (*text).to_owned()).or_else(|| of.clone()).unwrap_or_default()
        };
        Gap {
            source: chain.survey.source.to_string(),
            first: end(named.first(), &commit.first),
            last: end(named.last(), &commit.last),
            count: lost.iter().map(|one| one.count).sum(),
            place: if kind == RawKind::Rejects { Place::Quarantine } else { Place::Table },
            fate: Fate::Lost,
            detail: format!(
                "landed by commit {} and taken by a batch, but in no table",
                commit.ordinal
            ),
            received_after: None,
            received_before: None,
        }
    };
    by_commit.into_iter().map(of_commit).collect()
}

/// The sequence numbers of a set of commits that the tables hold.
#[derive(Debug, Default)]
pub struct Present(HashMap<usize, HashSet<String>>);

impl Present {
    /// Nothing yet of these commits.
    #[must_use]
    pub fn new(commits: &[usize]) -> Self {
        Self(commits.iter().map(|commit| (*commit, HashSet::new())).collect())
    }

    /// Notes a row, where it is of one of the commits.
    pub fn note(&mut self, commit: usize, sequence_number: &str) {
        if let Some(of) = self.0.get_mut(&commit) {
            of.insert(sequence_number.to_owned());
        }
    }

    /// True where the tables hold it.
    #[must_use]
    pub fn holds(&self, commit: usize, sequence_number: &str) -> bool {
        self.0.get(&commit).is_some_and(|of| of.contains(sequence_number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_in_the_commit_that_holds_it() {
        let stretch = |first: &str, last: &str, commit| Stretch {
            first: first.to_owned(),
            last: last.to_owned(),
            commit,
        };
        let mut positions = Positions::default();
        positions.shards.insert(
            "shardId-0".to_owned(),
            vec![stretch("9", "99", 0), stretch("100", "250", 1), stretch("400", "400", 2)],
        );
        let find = |number| positions.find("shardId-0", number);
        assert_eq!(find("8"), None);
        assert_eq!(find("9"), Some(0));
        assert_eq!(find("99.17"), Some(0));
        assert_eq!(find("100"), Some(1));
        assert_eq!(find("250.0"), Some(1));
        assert_eq!(find("251"), None);
        assert_eq!(find("400"), Some(2));
        assert_eq!(find("1000"), None);
        assert_eq!(positions.find("shardId-1", "100"), None);
    }
}
