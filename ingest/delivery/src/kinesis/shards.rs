//! Which shards may be read now: a child only after all its parents are drained.

use std::collections::HashMap;

/// A shard of the stream, as ListShards tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub id: String,
    /// One after a split, two after a merge; they may have expired since.
    pub parents: Vec<String>,
    /// It takes no more records: it has an ending sequence number.
    pub closed: bool,
}

/// How far this process is with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A worker is on it.
    Running,
    /// Read to its end for now, and left.
    CaughtUp,
    /// Read to its end for good.
    Drained,
}

/// The shards to start, in the order of the listing.
pub(super) fn startable<'a>(
    shards: &'a [Shard],
    progress: &HashMap<String, Progress>,
) -> Vec<&'a Shard> {
    let listed = |id: &String| shards.iter().any(|shard| shard.id == *id);
    let drained = |id: &String| progress.get(id) == Some(&Progress::Drained);
    shards
        .iter()
        .filter(|shard| !progress.contains_key(&shard.id))
        // A parent that is listed no more has expired with everything in it.
        .filter(|shard| shard.parents.iter().all(|parent| drained(parent) || !listed(parent)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str]) -> Shard {
        Shard {
            id: id.to_owned(),
            parents: parents.iter().map(|&parent| parent.to_owned()).collect(),
            closed: false,
        }
    }

    fn ids(shards: &[Shard], progress: &[(&str, Progress)]) -> Vec<String> {
        let progress = progress.iter().map(|(id, state)| ((*id).to_owned(), *state)).collect();
        startable(shards, &progress).into_iter().map(|shard| shard.id.clone()).collect()
    }

    #[test]
    fn children_wait_for_all_their_parents() {
        use Progress::{CaughtUp, Drained, Running};
        // a splits into b and c; b and c merge into d; e's parent has expired.
        let shards = [
            shard("a", &[]),
            shard("b", &["a"]),
            shard("c", &["a"]),
            shard("d", &["b", "c"]),
            shard("e", &["gone"]),
        ];
        assert_eq!(ids(&shards, &[]), ["a", "e"]);
        assert_eq!(ids(&shards, &[("a", Running)]), ["e"]);
        assert_eq!(ids(&shards, &[("a", CaughtUp), ("e", Running)]), [] as [&str; 0]);
        assert_eq!(ids(&shards, &[("a", Drained), ("e", Running)]), ["b", "c"]);
        let half = [("a", Drained), ("e", Running), ("b", Drained), ("c", Running)];
        assert_eq!(ids(&shards, &half), [] as [&str; 0]);
        let both = [("a", Drained), ("e", Running), ("b", Drained), ("c", Drained)];
        assert_eq!(ids(&shards, &both), ["d"]);
    }
}
