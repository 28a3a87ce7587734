//! Appending to a chain, and reading it.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use super::{
    COMMIT_VERSION, Commit, DELIVERY, MAX_APPEND_ATTEMPTS, MAX_COMMIT_BYTES, MAX_COMMITS_READ,
    NewCommit, SECTIONED_VERSION, Source, TakenFile,
};
use crate::LakeError;
use crate::store::Lake;

/// Wait before the second PUT of a commit, where nothing else is said; it doubles each time.
const APPEND_BACKOFF: Duration = Duration::from_millis(100);
/// Commits read at once.
pub(super) const READ_CONCURRENCY: usize = 16;
/// Commits of a chain that are listed to find its end; past them it is searched by HEAD.
const LIST_AT_MOST: usize = 1_000;

/// A chain's end, for the writer that extends it.
#[derive(Debug)]
pub struct Chain {
    store: Arc<dyn ObjectStore>,
    source: Source,
    last: Option<Commit>,
    backoff: Duration,
}

impl Chain {
    /// Finds the end of the chain of `source`; an empty chain is fine.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Corrupt`] or [`LakeError::Gap`].
    pub async fn open(lake: &Lake, source: Source) -> Result<Self, LakeError> {
        let store = Arc::clone(lake.store());
        let mut chain = Self { store, source, last: None, backoff: APPEND_BACKOFF };
        chain.reload().await?;
        Ok(chain)
    }

    /// Waits this long before the second PUT of a commit, and twice as long each time after.
    #[must_use]
    pub fn with_backoff(self, backoff: Duration) -> Self {
        Self { backoff, ..self }
    }

    /// Reads the end again, after a lost race or an append whose outcome is unknown.
    ///
    /// # Errors
    /// As [`Chain::open`].
    pub async fn reload(&mut self) -> Result<(), LakeError> {
        self.last = match last_ordinal(&*self.store, &self.source).await? {
            0 => None,
            ordinal => Some(read(&*self.store, &self.source, ordinal).await?),
        };
        Ok(())
    }

    /// What it is of.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The last commit.
    #[must_use]
    pub fn last(&self) -> Option<&Commit> {
        self.last.as_ref()
    }

    /// Everything up to and including this position has landed.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.last.as_ref().and_then(Commit::position)
    }

    /// The source has ended: nothing can be appended any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.last.as_ref().is_some_and(|commit| commit.closed)
    }

    /// Commits. When this returns `Ok`, the objects are part of the raw zone.
    ///
    /// # Errors
    /// [`LakeError::LostRace`] where another writer was first: [`Chain::reload`].
    /// [`LakeError::Store`] where the store failed [`MAX_APPEND_ATTEMPTS`] times:
    /// it may have committed, so [`Chain::reload`] before anything else.
    /// [`LakeError::Unfit`] for a closed chain or a commit that is too large.
    pub async fn append(&mut self, new: NewCommit) -> Result<&Commit, LakeError> {
        self.append_with(new, Vec::new()).await
    }

    /// As [`Chain::append`], with the foreign files that the commit took in.
    ///
    /// # Errors
    /// As [`Chain::append`].
    pub async fn append_with(
        &mut self,
        new: NewCommit,
        files: Vec<TakenFile>,
    ) -> Result<&Commit, LakeError> {
        let commit = Commit { files, ..self.next(new)? };
        let bytes = commit.encode()?;
        let path = path_of(&self.source, commit.ordinal);
        let mut attempt = 1;
        clickmill_failpoint::hit("landing.before_commit");
        loop {
            let options = PutOptions::from(PutMode::Create);
            let put = self.store.put_opts(&path, bytes.clone().into(), options).await;
            let Err(error) = put else { break };
            // A repeat inside the client, a time-out or a 409 can hide that it is there.
            match content(&*self.store, &path).await {
                Ok(Some(there)) if there == bytes => break,
                Ok(Some(_)) => {
                    let (landing, ordinal) = (self.source.clone(), commit.ordinal);
                    return Err(LakeError::LostRace { landing, ordinal });
                }
                Ok(None) | Err(_) if attempt < MAX_APPEND_ATTEMPTS => {}
                Ok(None) | Err(_) => return Err(LakeError::store("write", &path, error)),
            }
            if !self.backoff.is_zero() {
                tokio::time::sleep(self.backoff * 2_u32.pow(attempt - 1)).await;
            }
            attempt += 1;
        }
        clickmill_failpoint::hit("landing.committed");
        Ok(self.last.insert(commit))
    }

    /// The commit that follows the last one.
    fn next(&self, new: NewCommit) -> Result<Commit, LakeError> {
        let unfit = |reason: &str| LakeError::Unfit {
            landing: self.source.clone(),
            reason: reason.to_owned(),
        };
        if self.is_closed() {
            return Err(unfit("the chain is closed"));
        }
        if new.first.is_some() != new.last.is_some() {
            return Err(unfit("a range has both ends or none"));
        }
        let has_sections = new.objects.iter().any(|object| object.section.is_some());
        Ok(Commit {
            version: if has_sections { SECTIONED_VERSION } else { COMMIT_VERSION },
            source: self.source.clone(),
            ordinal: self.last.as_ref().map_or(0, |last| last.ordinal) + 1,
            after: self.position().map(str::to_owned),
            first: new.first,
            last: new.last,
            closed: new.closed,
            objects: new.objects,
            possible_loss: new.possible_loss,
            files: Vec::new(),
            read_through: new.read_through,
            committed_at: new.committed_at,
        })
    }
}

/// Every chain in the lake, sorted.
///
/// # Errors
/// [`LakeError::Store`]; [`LakeError::Source`] where a folder there is of no kind
/// that this program knows: skipping it would silently leave data out.
pub async fn list_sources(lake: &Lake) -> Result<Vec<Source>, LakeError> {
    let mut sources = Vec::new();
    // Only folders are listed: a chain's commits can be millions.
    for kind in folders(lake, &Path::from(DELIVERY)).await? {
        let depth = kind.filename().and_then(Source::depth).ok_or_else(|| LakeError::Source {
            text: kind.to_string(),
            reason: "a newer clickmill wrote it, or somebody else: upgrade, or move it away",
        })?;
        let mut level = vec![kind];
        for _ in 0..depth {
            let mut next = Vec::new();
            for folder in &level {
                next.extend(folders(lake, folder).await?);
            }
            level = next;
        }
        for folder in level {
            let text = folder.as_ref().strip_prefix(DELIVERY).unwrap_or_default();
            sources.push(text.trim_start_matches('/').parse()?);
        }
    }
    sources.sort();
    Ok(sources)
}

/// The chains of a stream's shards, sorted.
///
/// # Errors
/// As [`list_sources`].
pub async fn list_stream(lake: &Lake, name: &str, created: i64) -> Result<Vec<Source>, LakeError> {
    let folder = Path::from(format!("{DELIVERY}/kinesis/{name}-{created}"));
    let mut sources = Vec::new();
    for chain in folders(lake, &folder).await? {
        let shard = chain.filename().unwrap_or_default();
        sources.push(Source::kinesis(name, created, shard)?);
    }
    sources.sort();
    Ok(sources)
}

/// The commits after `ordinal` (0: from the start), ascending, at most
/// [`MAX_COMMITS_READ`] of them.
///
/// # Errors
/// [`LakeError::Store`]; [`LakeError::Gap`] or [`LakeError::Corrupt`] where one
/// is missing or two ranges do not meet.
pub async fn commits_after(
    lake: &Lake,
    source: &Source,
    ordinal: u64,
) -> Result<Vec<Commit>, LakeError> {
    commits_after_at_most(lake, source, ordinal, MAX_COMMITS_READ).await
}

/// As [`commits_after`], at most so many of them.
///
/// # Errors
/// As [`commits_after`].
pub async fn commits_after_at_most(
    lake: &Lake,
    source: &Source,
    ordinal: u64,
    most: usize,
) -> Result<Vec<Commit>, LakeError> {
    let offset = path_of(source, ordinal);
    let mut ordinals = ordinals(&**lake.store(), source, Some(&offset), most).await?;
    ordinals.sort_unstable();
    check_gapless(source, ordinal, &ordinals)?;
    let commits: Vec<Commit> = stream::iter(ordinals)
        .map(|ordinal| read(&**lake.store(), source, ordinal))
        .buffered(READ_CONCURRENCY)
        .try_collect()
        .await?;
    for (before, commit) in commits.iter().zip(commits.iter().skip(1)) {
        if commit.after.as_deref() != before.position() {
            return Err(LakeError::Corrupt {
                path: path_of(source, commit.ordinal).to_string(),
                reason: format!("its range does not start where commit {} ends", before.ordinal),
            });
        }
    }
    Ok(commits)
}

pub(super) fn path_of(source: &Source, ordinal: u64) -> Path {
    source.folder().join(format!("{ordinal:020}.json"))
}

fn ordinal_of(path: &Path) -> Option<u64> {
    let digits = path.filename()?.strip_suffix(".json")?;
    let valid = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok()).flatten()
}

fn check_gapless(source: &Source, after: u64, sorted: &[u64]) -> Result<(), LakeError> {
    for (expected, found) in (after + 1..).zip(sorted) {
        if expected != *found {
            return Err(LakeError::Gap { landing: source.clone(), missing: expected });
        }
    }
    Ok(())
}

/// Ordinals after `offset`, at most `limit`, in the store's order (ascending on S3 and in folders).
pub(super) async fn ordinals(
    store: &dyn ObjectStore,
    source: &Source,
    offset: Option<&Path>,
    limit: usize,
) -> Result<Vec<u64>, LakeError> {
    let folder = source.folder();
    let listed = match offset {
        Some(offset) => store.list_with_offset(Some(&folder), offset),
        None => store.list(Some(&folder)),
    };
    listed
        .map_err(|error| LakeError::store("list", &folder, error))
        .try_filter_map(|meta| std::future::ready(Ok(ordinal_of(&meta.location))))
        .take(limit)
        .try_collect()
        .await
}

/// The last commit's ordinal, 0 for an empty chain. Short chains are listed; the
/// end of a long one is searched for, which takes some 40 HEADs for millions.
async fn last_ordinal(store: &dyn ObjectStore, source: &Source) -> Result<u64, LakeError> {
    let mut listed = ordinals(store, source, None, LIST_AT_MOST).await?;
    listed.sort_unstable();
    let Some(mut there) = listed.last().copied() else { return Ok(0) };
    check_gapless(source, 0, &listed)?;
    if listed.len() < LIST_AT_MOST {
        return Ok(there);
    }
    let mut step = LIST_AT_MOST as u64;
    while exists(store, source, there + step).await? {
        there += step;
        step *= 2;
    }
    // Now `there` exists and `there + step` does not.
    while step > 1 {
        let half = step / 2;
        if exists(store, source, there + half).await? {
            there += half;
            step -= half;
        } else {
            step = half;
        }
    }
    Ok(there)
}

async fn exists(store: &dyn ObjectStore, source: &Source, ordinal: u64) -> Result<bool, LakeError> {
    let path = path_of(source, ordinal);
    match store.head(&path).await {
        Ok(_) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(LakeError::store("read", path, error)),
    }
}

pub(super) async fn read(
    store: &dyn ObjectStore,
    source: &Source,
    ordinal: u64,
) -> Result<Commit, LakeError> {
    let path = path_of(source, ordinal);
    let bytes = content(store, &path)
        .await?
        .ok_or_else(|| LakeError::Gap { landing: source.clone(), missing: ordinal })?;
    Commit::decode(path.as_ref(), source, ordinal, &bytes)
}

pub(super) async fn content(
    store: &dyn ObjectStore,
    path: &Path,
) -> Result<Option<Vec<u8>>, LakeError> {
    let failed = |error| LakeError::store("read", path, error);
    let found = match store.get(path).await {
        Ok(found) => found,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if found.meta.size > MAX_COMMIT_BYTES {
        return Err(LakeError::Corrupt {
            path: path.to_string(),
            reason: format!("it has {} bytes, over {MAX_COMMIT_BYTES}", found.meta.size),
        });
    }
    Ok(Some(found.bytes().await.map_err(failed)?.to_vec()))
}

pub(super) async fn folders(lake: &Lake, prefix: &Path) -> Result<Vec<Path>, LakeError> {
    let listed = lake.store().list_with_delimiter(Some(prefix)).await;
    Ok(listed.map_err(|error| LakeError::store("list", prefix, error))?.common_prefixes)
}
