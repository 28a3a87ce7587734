//! The landing chains, and whether the objects that they name are there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use clickmill_lake::landing::{ChainProblem, Commit, LandedObject, Survey, list_sources, survey};
use clickmill_lake::raw::RawKind;
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::report::{BadChain, BadObject, Place};
use super::{CLOCKS_APART, Verify, Window};
use crate::TransformError;

/// Requests for listings and small objects in flight.
pub const FETCHES: usize = 32;
/// Raw objects read whole at once: each is held in memory.
pub const WHOLE_READS: usize = 4;

/// One chain with what batches took of it.
#[derive(Debug)]
pub struct Chain {
    /// Its commits.
    pub survey: Survey,
    /// The last ordinal that a finished batch took.
    taken: u64,
    /// What was asked for, with room for clocks.
    window: Window,
}

impl Chain {
    /// Whose numbers are its positions: a collector's, or an import's.
    #[must_use]
    pub fn collector_id(&self) -> Option<&str> {
        let text = self.survey.source.as_str();
        match self.survey.source.kind() {
            "collector" => text.strip_prefix("collector/"),
            "import" => Some(text),
            _ => None,
        }
    }

    /// The shard, of a stream's chain.
    #[must_use]
    pub fn shard(&self) -> Option<&str> {
        let text = self.survey.source.as_str();
        (self.survey.source.kind() == "kinesis").then(|| text.rsplit('/').next()).flatten()
    }

    /// Several collectors' records come through it, and in no order of their numbers.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.survey.source.kind(), "kinesis" | "firehose")
    }

    /// True for a commit whose objects a finished batch took in.
    #[must_use]
    pub fn is_taken(&self, commit: &Commit) -> bool {
        commit.ordinal <= self.taken
    }

    /// True where everything in it was received within what was asked for.
    #[must_use]
    pub fn is_inside(&self, commit: &Commit) -> bool {
        let counted = commit.objects.iter().filter(|object| object.kind != RawKind::Heartbeats);
        counted.into_iter().all(|object| {
            self.window.contains(object.min_received_ts.micros())
                && self.window.contains(object.max_received_ts.micros())
        })
    }
}

/// Reads every chain, from the commits that can hold what was received in the window.
///
/// # Errors
/// [`TransformError::Lake`] where the store fails.
pub async fn read(
    lake: &Lake,
    window: Window,
    taken: &BTreeMap<String, u64>,
) -> Result<Vec<Chain>, TransformError> {
    let mut chains = Vec::new();
    let from = window.from.map(|from| from.saturating_sub(CLOCKS_APART));
    for source in list_sources(lake).await? {
        let survey = survey(lake, &source, from).await?;
        let taken = taken.get(source.as_str()).copied().unwrap_or(0);
        chains.push(Chain { survey, taken, window });
    }
    Ok(chains)
}

/// What is wrong with the chains.
#[must_use]
pub fn problems(chains: &[Chain]) -> Vec<BadChain> {
    let of_chain = |chain: &Chain| {
        let source = chain.survey.source.to_string();
        let problems = chain.survey.problems.clone();
        problems.into_iter().map(move |ChainProblem { ordinal, reason }| BadChain {
            source: source.clone(),
            ordinal,
            problem: reason,
        })
    };
    chains.iter().flat_map(of_chain).collect()
}

/// Objects that are not as their commits say, by path.
pub type BadObjects = BTreeMap<String, BadObject>;

/// Looks whether every object is there, with its length; with [`Verify::Checksums`]
/// each is read and its CRC compared. Folders are listed, not objects asked for.
///
/// # Errors
/// [`TransformError::Lake`] where the store fails.
pub async fn check_objects(
    lake: &Lake,
    chains: &[Chain],
    window: Window,
    verify: Verify,
) -> Result<BadObjects, TransformError> {
    let mut named: Vec<(&LandedObject, bool)> = Vec::new();
    for chain in chains {
        for commit in &chain.survey.commits {
            let touched = commit
                .objects
                .iter()
                .filter(|object| window.overlaps(object.min_received_ts, object.max_received_ts));
            named.extend(touched.map(|object| (object, chain.is_taken(commit))));
        }
    }
    let folders: BTreeSet<&str> =
        named.iter().filter_map(|(object, _)| Some(object.path.rsplit_once('/')?.0)).collect();
    let listings: Vec<Vec<(String, u64)>> = stream::iter(folders)
        .map(|folder| list(lake, folder))
        .buffer_unordered(FETCHES)
        .try_collect()
        .await?;
    let there: HashMap<String, u64> = listings.into_iter().flatten().collect();
    let mut bad = BadObjects::new();
    let mut sound: BTreeMap<&str, Vec<(&LandedObject, bool)>> = BTreeMap::new();
    for (object, taken) in named {
        let problem = match there.get(&object.path) {
            None => "it is not there, but its commit names it".to_owned(),
            Some(bytes) if *bytes != object.bytes => {
                format!("it has {bytes} bytes, its commit says {}", object.bytes)
            }
            Some(_) => {
                sound.entry(&object.path).or_default().push((object, taken));
                continue;
            }
        };
        note(&mut bad, object, taken, problem);
    }
    if verify == Verify::Checksums {
        let mut read = stream::iter(sound.into_values())
            .map(|named| async move {
                Ok::<_, TransformError>((read_whole(lake, named[0].0).await?.err(), named))
            })
            .buffer_unordered(WHOLE_READS);
        while let Some((problem, named)) = read.try_next().await? {
            for (problem, (object, taken)) in problem.iter().cycle().zip(named) {
                note(&mut bad, object, taken, problem.clone());
            }
        }
    }
    Ok(bad)
}

/// Notes what is wrong with an object, or with one more section of it.
pub fn note(bad: &mut BadObjects, object: &LandedObject, taken: bool, problem: String) {
    let place = if object.kind == RawKind::Rejects { Place::Quarantine } else { Place::Raw };
    let path = object.path.clone();
    let bad = bad.entry(path.clone()).or_insert(BadObject {
        path,
        place,
        problem,
        records: 0,
        taken: false,
    });
    bad.records += object.records;
    bad.taken |= taken;
}

async fn list(lake: &Lake, folder: &str) -> Result<Vec<(String, u64)>, TransformError> {
    let prefix = Path::from(folder);
    let listed = lake.store().list(Some(&prefix));
    let listed = listed.map_ok(|meta| (meta.location.to_string(), meta.size));
    let listed: Result<Vec<_>, _> = listed.try_collect().await;
    listed.map_err(|source| {
        LakeError::Store { operation: "list", path: folder.to_owned(), source }.into()
    })
}

/// The bytes of an object, if they are those that were committed; else what is wrong with them.
///
/// # Errors
/// [`TransformError::Lake`] where the store fails.
pub async fn read_whole(
    lake: &Lake,
    object: &LandedObject,
) -> Result<Result<Bytes, String>, TransformError> {
    let failed = |source| -> TransformError {
        LakeError::Store { operation: "read", path: object.path.clone(), source }.into()
    };
    let got = match lake.store().get(&Path::from(object.path.as_str())).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => {
            return Ok(Err("it has just been deleted".to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let bytes = got.bytes().await.map_err(failed)?;
    let crc = format!("{:08x}", crc32c::crc32c(&bytes));
    if crc == object.crc32c {
        return Ok(Ok(bytes));
    }
    Ok(Err(format!("its CRC-32C is {crc}, its commit says {}", object.crc32c)))
}

/// When anything that came through a stream was last committed.
#[must_use]
pub fn newest_stream_commit(chains: &[Chain]) -> Option<Timestamp> {
    let of_streams = chains.iter().filter(|chain| chain.is_shared());
    of_streams.filter_map(|chain| chain.survey.commits.last()).map(|c| c.committed_at).max()
}
