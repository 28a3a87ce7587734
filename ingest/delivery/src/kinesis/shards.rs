//! Which shards may be read now: a child only after all its parents are drained.

use std::collections::HashSet;

/// A shard of the stream, as ListShards tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    pub id: String,
    /// One after a split, two after a merge; they may have expired since.
    pub parents: Vec<String>,
    /// It takes no more records: it has an ending sequence number.
    pub closed: bool,
    /// The sequence number that it starts at.
    pub starts: String,
    /// First and last hash key, in decimal.
    pub hashes: Option<(String, String)>,
}

/// The shards that may be read now, in the order of the listing, by whether a shard
/// has been read to its end for good.
pub(super) fn readable(shards: &[Shard], is_finished: impl Fn(&str) -> bool) -> Vec<&Shard> {
    let listed: HashSet<&str> = shards.iter().map(|shard| shard.id.as_str()).collect();
    // A parent that is listed no more has expired with everything in it.
    let is_done = |parent: &String| is_finished(parent) || !listed.contains(parent.as_str());
    let open = shards.iter().filter(|shard| !is_finished(&shard.id));
    open.filter(|shard| shard.parents.iter().all(is_done)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str]) -> Shard {
        Shard {
            id: id.to_owned(),
            parents: parents.iter().map(|&parent| parent.to_owned()).collect(),
            closed: false,
            starts: "0".to_owned(),
            hashes: None,
        }
    }

    fn ids<'a>(shards: &'a [Shard], finished: &[&str]) -> Vec<&'a str> {
        let readable = readable(shards, |id| finished.contains(&id));
        readable.into_iter().map(|shard| shard.id.as_str()).collect()
    }

    #[test]
    fn children_wait_for_all_their_parents() {
        // a splits into b and c; b and c merge into d; e's parent has expired.
        let shards = [
            shard("a", &[]),
            shard("b", &["a"]),
            shard("c", &["a"]),
            shard("d", &["b", "c"]),
            shard("e", &["gone"]),
        ];
        assert_eq!(ids(&shards, &[]), ["a", "e"]);
        assert_eq!(ids(&shards, &["e"]), ["a"]);
        assert_eq!(ids(&shards, &["a", "e"]), ["b", "c"]);
        assert_eq!(ids(&shards, &["a", "e", "b"]), ["c"]);
        assert_eq!(ids(&shards, &["a", "e", "b", "c"]), ["d"]);
        assert_eq!(ids(&shards, &["a", "b", "c", "d", "e"]), [] as [&str; 0]);
    }
}
