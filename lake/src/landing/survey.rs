//! A chain as it is, also where it is broken.
//!
//! [`super::commits_after`] refuses a chain with a hole, because a reader that
//! went on would leave data out in silence. Who looks for holes reads it here:
//! every commit that is there, and what is wrong with those that are not.

use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::chain::{READ_CONCURRENCY, ordinals, read};
use super::{Commit, Source};
use crate::LakeError;
use crate::store::Lake;

/// What is wrong with a chain, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainProblem {
    /// The commit that is missing, damaged, or does not meet the one before.
    pub ordinal: u64,
    /// What is wrong.
    pub reason: String,
}

/// A chain's commits, in order, and its problems.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The chain.
    pub source: Source,
    /// Commits that are there in all, also those that were not read.
    pub total: u64,
    /// Those that were read, ascending.
    pub commits: Vec<Commit>,
    /// Ascending by ordinal.
    pub problems: Vec<ChainProblem>,
}

/// Reads the commits made at `from` or later (`None`: all); one that cannot be
/// decoded is a problem, not the end. Every commit is listed, so a missing one
/// is found wherever it stood.
///
/// # Errors
/// [`LakeError::Store`] where the store cannot be listed or read.
pub async fn survey(
    lake: &Lake,
    source: &Source,
    from: Option<Timestamp>,
) -> Result<Survey, LakeError> {
    let store = &**lake.store();
    let mut there = ordinals(store, source, None, usize::MAX).await?;
    there.sort_unstable();
    let mut problems = missing(&there);
    let start = match from {
        Some(from) => first_since(lake, source, &there, from).await?,
        None => 0,
    };
    let read_one = |ordinal: u64| async move {
        match read(store, source, ordinal).await {
            Ok(commit) => Ok(Ok(commit)),
            Err(LakeError::Corrupt { reason, .. }) => Ok(Err(ChainProblem { ordinal, reason })),
            // Listed, and gone since.
            Err(LakeError::Gap { missing, .. }) => {
                Ok(Err(ChainProblem { ordinal: missing, reason: GONE.to_owned() }))
            }
            Err(error) => Err(error),
        }
    };
    let found: Vec<Result<Commit, ChainProblem>> = stream::iter(there[start..].iter().copied())
        .map(read_one)
        .buffered(READ_CONCURRENCY)
        .try_collect()
        .await?;
    let mut commits: Vec<Commit> = Vec::with_capacity(found.len());
    for one in found {
        match one {
            Ok(commit) => {
                problems.extend(commits.last().and_then(|before| apart(before, &commit)));
                commits.push(commit);
            }
            Err(problem) => problems.push(problem),
        }
    }
    problems.sort_by_key(|problem| problem.ordinal);
    Ok(Survey { source: source.clone(), total: there.len() as u64, commits, problems })
}

const GONE: &str = "there is no such commit, but there are later ones";

/// A problem for each hole between 1 and the last ordinal.
fn missing(sorted: &[u64]) -> Vec<ChainProblem> {
    let mut problems = Vec::new();
    let mut expected = 1;
    for found in sorted {
        if *found > expected {
            let reason = match found - expected {
                1 => GONE.to_owned(),
                more => format!("{GONE}; nor the {} after it", more - 1),
            };
            problems.push(ChainProblem { ordinal: expected, reason });
        }
        expected = found + 1;
    }
    problems
}

/// Where two commits that follow each other do not meet.
fn apart(before: &Commit, commit: &Commit) -> Option<ChainProblem> {
    let meet = commit.ordinal != before.ordinal + 1 || commit.after.as_deref() == before.position();
    (!meet).then(|| ChainProblem {
        ordinal: commit.ordinal,
        reason: format!("its range does not start where commit {} ends", before.ordinal),
    })
}

/// Index of the first commit that was made at `from` or later, by bisection: commits
/// are made one after the other. A damaged one counts as late, so that nothing is left out.
async fn first_since(
    lake: &Lake,
    source: &Source,
    there: &[u64],
    from: Timestamp,
) -> Result<usize, LakeError> {
    let (mut low, mut high) = (0, there.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let late = match read(&**lake.store(), source, there[middle]).await {
            Ok(commit) => commit.committed_at >= from,
            Err(LakeError::Corrupt { .. } | LakeError::Gap { .. }) => true,
            Err(error) => return Err(error),
        };
        if late {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}
