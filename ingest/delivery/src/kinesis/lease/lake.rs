//! Leases in the lake itself: no service beside the store.
//!
//! ```text
//! _clickmill/leases/<stream>-<creation>/shards/<shard>.<version, 20 digits>.json
//! _clickmill/leases/<stream>-<creation>/workers/<worker>.json
//! ```
//!
//! A lease is the object with the highest version of its shard. A change is a
//! conditional PUT (it fails where the object exists) of the next version; then
//! the one before is deleted. Only create-if-absent is asked of the store, as for
//! commits, so leases work wherever commits do.
//!
//! A worker that comes back from a long sleep may create a version whose place
//! was cleared meanwhile: it is lower than the newest one, so nobody sees it, and
//! the worker finds at its next look that it has no lease.
//!
//! A sign of life is a PUT of the worker's own object; others see it by the ETag
//! in the listing and need not read it. So a look at the table is one LIST (of
//! up to 1,000 objects) and one GET for each lease that changed; traffic grows
//! with workers, not with shards.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Change, Held, Lease, LeaseError, LeaseTable, Pulse, View};

/// The folder of all lease tables.
pub(in super::super) const LEASES: &str = "_clickmill/leases";
/// Version of the objects' JSON.
const FORMAT: u32 = 1;
/// Requests at once.
const CONCURRENCY: usize = 16;
/// Looks at the table before a lease that changes under every one of them is an error.
const MAX_LOOKS: u32 = 5;

/// The table. See the module's head.
pub(in super::super) struct LakeTable {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    me: String,
    beats: AtomicU64,
    retries: AtomicU64,
    /// What was read: a version never changes.
    known: Mutex<BTreeMap<String, Lease>>,
}

impl fmt::Debug for LakeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeTable").field("folder", &self.folder).field("me", &self.me).finish()
    }
}

#[derive(Serialize, Deserialize)]
struct LeaseObject {
    format: u32,
    #[serde(flatten)]
    lease: Lease,
    /// Who made this change: tells an own PUT that was repeated from another's.
    by: String,
}

#[derive(Serialize, Deserialize)]
struct WorkerObject {
    format: u32,
    worker: String,
    beat: u64,
    shards: usize,
    /// Requests that failed and were tried again, since it started.
    #[serde(default)]
    retries: u64,
}

impl LakeTable {
    /// The table of the stream `<name>-<creation>`, for the worker `me`.
    pub fn new(store: &Arc<dyn ObjectStore>, stream: &str, me: &str) -> Self {
        Self {
            store: Arc::clone(store),
            folder: Path::from(LEASES).join(stream),
            me: me.to_owned(),
            beats: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    fn shards(&self) -> Path {
        self.folder.clone().join("shards")
    }

    fn lease_path(&self, shard: &str, version: u64) -> Path {
        self.shards().join(format!("{shard}.{version:020}.json"))
    }

    fn worker_path(&self, worker: &str) -> Path {
        self.folder.clone().join("workers").join(format!("{worker}.json"))
    }

    /// `Ok(None)` where it was superseded and deleted meanwhile.
    async fn read(&self, shard: &str, version: u64) -> Result<Option<LeaseObject>, LeaseError> {
        let path = self.lease_path(shard, version);
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        };
        let bytes = bytes.map_err(|error| LeaseError::request("read", &path, error))?;
        let corrupt = |reason: String| LeaseError::Corrupt { subject: path.to_string(), reason };
        let object: LeaseObject =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let Lease { shard: of, version: stands, .. } = &object.lease;
        if object.format != FORMAT || of != shard || *stands != version {
            return Err(corrupt(format!(
                "it says that it is version {} of {} in format {}",
                stands, of, object.format
            )));
        }
        Ok(Some(object))
    }

    async fn delete(&self, paths: Vec<Path>) -> Result<(), LeaseError> {
        stream::iter(paths)
            .map(|path| async move {
                match self.store.delete(&path).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(LeaseError::request("delete", &path, error)),
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn look(&self) -> Result<Option<View>, LeaseError> {
        let listed: Vec<ObjectMeta> = self
            .store
            .list(Some(&self.folder))
            .try_collect()
            .await
            .map_err(|error| LeaseError::request("list", &self.folder, error))?;
        let (mut newest, mut pulses) = (BTreeMap::<String, u64>::new(), Vec::new());
        let mut superseded = Vec::new();
        for meta in &listed {
            let Some(name) = meta.location.filename().and_then(|name| name.strip_suffix(".json"))
            else {
                continue;
            };
            if meta.location.prefix_matches(&self.shards()) {
                let Some((shard, version)) = name.rsplit_once('.') else { continue };
                let Ok(version) = version.parse::<u64>() else { continue };
                let before = newest.entry(shard.to_owned()).or_insert(version);
                if *before != version {
                    superseded.push(self.lease_path(shard, version.min(*before)));
                    *before = version.max(*before);
                }
            } else {
                // A store without ETags still has a new time for each PUT.
                let value = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
                pulses.push(Pulse { worker: name.to_owned(), key: String::new(), value });
            }
        }
        // It costs space only where this fails; the next look tries again.
        let _ = self.delete(superseded).await;
        let mut known = self.known.lock().await;
        known.retain(|shard, lease| newest.get(shard) == Some(&lease.version));
        newest.retain(|shard, _| !known.contains_key(shard));
        let read: Vec<(String, Option<LeaseObject>)> = stream::iter(newest)
            .map(|(shard, version)| async move {
                self.read(&shard, version).await.map(|object| (shard, object))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        for (shard, object) in read {
            let Some(object) = object else { return Ok(None) };
            known.insert(shard, object.lease);
        }
        Ok(Some(View { leases: known.clone(), pulses }))
    }
}

#[async_trait]
impl LeaseTable for LakeTable {
    async fn view(&self) -> Result<View, LeaseError> {
        for _ in 0..MAX_LOOKS {
            if let Some(view) = self.look().await? {
                return Ok(view);
            }
        }
        Err(LeaseError::Corrupt {
            subject: self.shards().to_string(),
            reason: format!("its leases changed during each of {MAX_LOOKS} looks"),
        })
    }

    fn say(&self, retries: u64) {
        self.retries.store(retries, Ordering::Relaxed);
    }

    async fn said(&self) -> Result<BTreeMap<String, u64>, LeaseError> {
        let folder = self.folder.clone().join("workers");
        let failed = |error| LeaseError::request("read", &folder, error);
        let listed = self.store.list(Some(&folder));
        let listed: Vec<ObjectMeta> = listed.try_collect().await.map_err(failed)?;
        let mut said = BTreeMap::new();
        for meta in listed {
            let bytes = match self.store.get(&meta.location).await {
                Ok(found) => found.bytes().await.map_err(failed)?,
                // It has just left.
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(failed(error)),
            };
            // One that a worker of another version wrote says nothing that is known here.
            if let Ok(object) = serde_json::from_slice::<WorkerObject>(&bytes) {
                said.insert(object.worker, object.retries);
            }
        }
        Ok(said)
    }

    async fn beat(&self, held: &[Held]) -> Result<(), LeaseError> {
        let path = self.worker_path(&self.me);
        let beat = self.beats.fetch_add(1, Ordering::Relaxed);
        let retries = self.retries.load(Ordering::Relaxed);
        let (worker, shards) = (self.me.clone(), held.len());
        let object = WorkerObject { format: FORMAT, worker, beat, shards, retries };
        let bytes = serde_json::to_vec(&object)
            .map_err(|error| LeaseError::request("encode", &path, error))?;
        let put = self.store.put(&path, bytes.into()).await;
        put.map(|_| ()).map_err(|error| LeaseError::request("write", &path, error))
    }

    async fn change(
        &self,
        shard: &str,
        seen: Option<&Lease>,
        change: Change,
    ) -> Result<Option<Lease>, LeaseError> {
        let lease = Lease::next(shard, seen, change, &self.me);
        let version = lease.version;
        let object = LeaseObject { format: FORMAT, lease, by: self.me.clone() };
        let path = self.lease_path(shard, version);
        let bytes = serde_json::to_vec(&object)
            .map_err(|error| LeaseError::request("encode", &path, error))?;
        let options = PutOptions::from(PutMode::Create);
        if let Err(error) = self.store.put_opts(&path, bytes.into(), options).await {
            // Perhaps it is there all the same, by a repeat inside the client.
            match self.read(shard, version).await? {
                Some(there) if there.by == self.me && there.lease == object.lease => {}
                Some(_) => return Ok(None),
                None if matches!(error, Error::AlreadyExists { .. }) => return Ok(None),
                None => return Err(LeaseError::request("write", &path, error)),
            }
        }
        if let Some(seen) = seen {
            // It costs space only where this fails: the next look deletes what was superseded.
            let _ = self.delete(vec![self.lease_path(shard, seen.version)]).await;
        }
        let lease = object.lease;
        self.known.lock().await.insert(shard.to_owned(), lease.clone());
        Ok(Some(lease))
    }

    async fn forget(&self, leases: &[Lease]) -> Result<(), LeaseError> {
        let paths = leases.iter().map(|lease| self.lease_path(&lease.shard, lease.version));
        self.delete(paths.collect()).await
    }

    async fn bury(&self, workers: &[String]) -> Result<(), LeaseError> {
        self.delete(workers.iter().map(|worker| self.worker_path(worker)).collect()).await
    }
}
