//! Commits that no batch took yet, of all chains, the oldest first: what lies in one object, and is
//! named by commits of many shards, is then taken together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use clickmill_lake::landing::{Commit, MAX_COMMITS_READ, Source, commits_after_at_most};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::TransformError;

/// Commits of all chains that are held at once, about.
const HELD: usize = 20_000;
/// Commits of a chain that are read at once, at least.
const LEAST: usize = 8;
/// Chains read at once.
const READS: usize = 8;

/// See the module's head.
pub struct Fresh<'a> {
    lake: &'a Lake,
    chains: Vec<ChainEnd>,
    /// The time of each chain's next commit, and the chain.
    next: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// Commits of a chain that are read at once.
    page: usize,
}

/// What is new in a chain.
struct ChainEnd {
    source: Source,
    /// The last one that was read.
    ordinal: u64,
    /// Where its range ends, where any was read.
    end: Option<Option<String>>,
    read: VecDeque<Commit>,
    /// There may be more than what was read.
    goes_on: bool,
}

impl<'a> Fresh<'a> {
    /// Of these chains, after their bookmarks.
    ///
    /// # Errors
    /// [`TransformError::Lake`] where a chain cannot be read.
    pub async fn of(
        lake: &'a Lake,
        sources: Vec<Source>,
        bookmarks: &BTreeMap<String, u64>,
    ) -> Result<Self, TransformError> {
        let page = (HELD / sources.len().max(1)).clamp(LEAST, MAX_COMMITS_READ);
        Self::by_pages(lake, sources, bookmarks, page).await
    }

    async fn by_pages(
        lake: &'a Lake,
        sources: Vec<Source>,
        bookmarks: &BTreeMap<String, u64>,
        page: usize,
    ) -> Result<Self, TransformError> {
        let chains: Vec<ChainEnd> = stream::iter(sources)
            .map(|source| async move {
                let ordinal = bookmarks.get(source.as_str()).copied().unwrap_or(0);
                let read = VecDeque::new();
                let mut chain = ChainEnd { source, ordinal, end: None, read, goes_on: true };
                chain.read(lake, page).await?;
                Ok::<_, TransformError>(chain)
            })
            .buffered(READS)
            .try_collect()
            .await?;
        let heads = chains.iter().enumerate().filter_map(|(at, chain)| chain.head(at));
        let next = heads.collect();
        Ok(Self { lake, chains, next, page })
    }

    /// The next commit.
    ///
    /// # Errors
    /// As [`Fresh::of`].
    pub async fn next(&mut self) -> Result<Option<Commit>, TransformError> {
        let Some(Reverse((_, at))) = self.next.pop() else { return Ok(None) };
        let chain = &mut self.chains[at];
        let commit = chain.read.pop_front();
        if chain.read.is_empty() && chain.goes_on {
            chain.read(self.lake, self.page).await?;
        }
        self.next.extend(chain.head(at));
        Ok(commit)
    }
}

impl ChainEnd {
    async fn read(&mut self, lake: &Lake, page: usize) -> Result<(), TransformError> {
        let commits = commits_after_at_most(lake, &self.source, self.ordinal, page).await?;
        if let (Some(end), Some(next)) = (&self.end, commits.first())
            && next.after != *end
        {
            let path = format!("{}, commit {}", self.source.folder(), next.ordinal);
            let reason = format!("its range does not start where commit {} ends", self.ordinal);
            return Err(LakeError::Corrupt { path, reason }.into());
        }
        self.goes_on = commits.len() >= page;
        if let Some(last) = commits.last() {
            self.end = Some(last.position().map(str::to_owned));
        }
        self.ordinal = commits.last().map_or(self.ordinal, |last| last.ordinal);
        self.read.extend(commits);
        Ok(())
    }

    fn head(&self, at: usize) -> Option<Reverse<(Timestamp, usize)>> {
        self.read.front().map(|commit| Reverse((commit.committed_at, at)))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]
mod tests {
    use clickmill_lake::landing::{Chain, NewCommit};

    use super::*;

    #[tokio::test]
    async fn commits_come_by_their_time_and_those_of_a_chain_in_their_order() {
        let folder = tempfile::tempdir().expect("temp");
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        let mut sources = Vec::new();
        // The third has a clock that went back, and more than is read at once; the fourth has none.
        for (number, seconds) in [(0, vec![10, 30, 50]), (1, vec![20, 40]), (2, vec![25; 100])] {
            let source = Source::collector(&format!("c-{number}")).expect("valid");
            let mut chain = Chain::open(&lake, source.clone()).await.expect("opens");
            for (ordinal, second) in seconds.into_iter().enumerate() {
                let back = if number == 2 { ordinal as i64 % 7 } else { 0 };
                chain
                    .append(NewCommit {
                        first: None,
                        last: None,
                        closed: false,
                        objects: vec![],
                        possible_loss: None,
                        read_through: None,
                        committed_at: Timestamp::from_micros((second - back) * 1_000_000)
                            .expect("a time"),
                    })
                    .await
                    .expect("appends");
            }
            sources.push(source);
        }
        sources.push(Source::collector("c-3").expect("valid"));
        let bookmarks = BTreeMap::from([("collector/c-0".to_owned(), 1)]);
        let mut fresh = Fresh::by_pages(&lake, sources, &bookmarks, 7).await.expect("reads");
        let mut found = Vec::new();
        while let Some(commit) = fresh.next().await.expect("reads") {
            found.push((commit.source.leaf().to_owned(), commit.ordinal));
        }
        let of = |id: &str| -> Vec<u64> {
            found.iter().filter(|(source, _)| source == id).map(|(_, ordinal)| *ordinal).collect()
        };
        assert_eq!((of("c-0"), of("c-1")), (vec![2, 3], vec![1, 2]));
        assert_eq!(of("c-2"), (1..=100).collect::<Vec<_>>());
        assert_eq!(found[0], ("c-1".to_owned(), 1));
        let last: Vec<&str> = found[102..].iter().map(|(source, _)| source.as_str()).collect();
        assert_eq!(last, ["c-1", "c-0"]);
    }
}
