//! Objects that lines of several sources share, so that many quiet shards make few objects.
//!
//! Each source's commit names the object with its own stretch of lines
//! ([`Section`]); lines that no commit names are garbage, as objects are.
//! [`Encoders`] do the computing, and write.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::PutPayload;
use tokio::sync::oneshot;

use super::body::{self, ROW_GROUP_BYTES};
use super::piece::{Partition, Piece, Run};
use crate::LakeError;
use crate::landing::{LandedObject, Section};
use crate::store::Lake;

/// Objects being written at once.
const WRITES: usize = 3;

/// Whose lines they are, as the caller numbers its sources.
pub type Owner = u64;

/// Pieces of one kind and hour, encoded one after the other.
pub struct Stretch {
    partition: Partition,
    encoded: Bytes,
    runs: Vec<(Owner, Run)>,
}

/// What became of an object.
pub struct Written {
    /// Whose lines it was to hold.
    pub owners: BTreeSet<Owner>,
    /// What each one's commit is to name; [`LakeError::Store`] where it could not be written: what
    /// may be there all the same is garbage.
    pub landed: Result<Vec<(Owner, LandedObject)>, LakeError>,
}

/// Does the computing: so much of it at once as it is told.
pub struct Encoders {
    jobs: mpsc::Sender<Job>,
    most: usize,
}

type Job = Box<dyn FnOnce() + Send>;

impl Encoders {
    /// Threads that compute, at least one. Each takes memory that nobody counts: for Parquet
    /// a context of zstd for each of some 70 columns, tens of megabytes. An allocator keeps what
    /// they freed for them, so they are always the same ones.
    ///
    /// # Errors
    /// [`LakeError::Compress`] where no thread can be started.
    pub fn new(most: usize) -> Result<Self, LakeError> {
        let most = most.max(1);
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..most {
            let queue = Arc::clone(&queue);
            let next = move || queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
            // It ends when nobody can send jobs any more.
            let run = move || std::iter::from_fn(&next).for_each(|job| job());
            let thread = std::thread::Builder::new().name("encoder".to_owned()).spawn(run);
            thread.map_err(LakeError::Compress)?;
        }
        Ok(Self { jobs, most })
    }

    /// Encodes pieces: small ones of one kind and hour together, each owner's in their order.
    ///
    /// # Errors
    /// [`LakeError`] where they cannot be encoded.
    pub async fn encode(&self, pieces: Vec<(Owner, Piece)>) -> Result<Vec<Stretch>, LakeError> {
        stream::iter(together(pieces))
            .map(|group| self.computed(move || Stretch::of(group)))
            .buffered(self.most)
            .try_collect()
            .await
    }

    /// Writes stretches into objects of at least `target` bytes, as far as there are so many. An
    /// object of one owner has the name that a [`super::RawWriter`] would give it, any other one
    /// `<stem>-<uuid>`. One that fails keeps no other from being written.
    pub async fn write(
        &self,
        lake: &Lake,
        stem: &str,
        stretches: Vec<Stretch>,
        target: u64,
    ) -> Vec<Written> {
        let mut open: BTreeMap<Partition, (u64, Vec<Stretch>)> = BTreeMap::new();
        let mut full = Vec::new();
        for stretch in stretches {
            let partition = stretch.partition;
            let (bytes, group) = open.entry(partition).or_default();
            *bytes += stretch.stored_bytes();
            group.push(stretch);
            if *bytes >= target {
                full.extend(open.remove(&partition).map(|(_, group)| (partition, group)));
            }
        }
        full.extend(open.into_iter().map(|(partition, (_, group))| (partition, group)));
        stream::iter(full)
            .map(|(partition, group)| async move {
                let owners = group.iter().flat_map(Stretch::owners).collect();
                Written { owners, landed: self.object(lake, stem, partition, group).await }
            })
            .buffered(WRITES)
            .collect()
            .await
    }

    /// Computes where it keeps nobody waiting.
    async fn computed<T: Send + 'static>(
        &self,
        compute: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
    ) -> Result<T, LakeError> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            let computed = catch_unwind(AssertUnwindSafe(compute));
            // Who waited may be gone.
            let _ = sender.send(computed);
        });
        let ended = || LakeError::Compress(std::io::Error::other("an encoder's thread has ended"));
        self.jobs.send(job).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.unwrap_or_else(|_| Err(ended()))
    }

    /// One object.
    async fn object(
        &self,
        lake: &Lake,
        stem: &str,
        partition: Partition,
        stretches: Vec<Stretch>,
    ) -> Result<Vec<(Owner, LandedObject)>, LakeError> {
        let mut runs: Vec<(Owner, Run)> = Vec::new();
        let mut encoded = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            encoded.push(stretch.encoded);
            for (owner, run) in stretch.runs {
                match runs.pop() {
                    Some((before, last)) if before == owner => runs.push((owner, last.and(run))),
                    before => {
                        runs.extend(before);
                        runs.push((owner, run));
                    }
                }
            }
        }
        let (payload, crc) = self
            .computed(move || {
                let payload = body::join(partition.format, encoded)?;
                let crc = payload.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
                Ok((payload, crc))
            })
            .await?;
        let payload = PutPayload::from_iter(payload);
        let name = match &*runs {
            [(_, run)] => format!("{}-{}-{}", run.stem, run.first, run.last),
            _ => format!("{stem}-{}", uuid::Uuid::now_v7().simple()),
        };
        let stored = partition.put(&**lake.store(), &name, payload, crc).await?;
        let of: u64 = runs.iter().map(|(_, run)| run.records).sum();
        let is_shared = runs.len() > 1;
        let mut skip = 0;
        let mut landed = Vec::with_capacity(runs.len());
        for (owner, run) in runs {
            let section = is_shared.then_some(Section { skip, of });
            skip += run.records;
            landed.extend(stored.landed(run, section).map(|object| (owner, object)));
        }
        Ok(landed)
    }
}

impl Stretch {
    /// Of pieces of one partition, at least one.
    fn of((partition, pieces): (Partition, Vec<(Owner, Piece)>)) -> Result<Self, LakeError> {
        let mut runs = Vec::with_capacity(pieces.len());
        let mut bodies = Vec::with_capacity(pieces.len());
        for (owner, piece) in pieces {
            runs.push((owner, piece.run));
            bodies.push(piece.body);
        }
        let encoded = Bytes::from(body::encode(partition.format, bodies)?);
        Ok(Self { partition, encoded, runs })
    }

    /// Its length.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.encoded.len() as u64
    }

    /// Takes out those of kinds and hours that have `target` bytes by themselves: each makes an
    /// object of that size.
    pub fn full(stretches: &mut Vec<Self>, target: u64) -> Vec<Self> {
        let mut bytes: BTreeMap<Partition, u64> = BTreeMap::new();
        for stretch in &*stretches {
            *bytes.entry(stretch.partition).or_default() += stretch.stored_bytes();
        }
        let is_full = |stretch: &mut Self| bytes.get(&stretch.partition) >= Some(&target);
        stretches.extract_if(.., is_full).collect()
    }

    /// Whose lines it holds; more than once where several runs of them.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.runs.iter().map(|(owner, _)| *owner)
    }
}

/// Pieces that are encoded together. One that is partly encoded stands alone.
fn together(pieces: Vec<(Owner, Piece)>) -> Vec<(Partition, Vec<(Owner, Piece)>)> {
    let mut groups = Vec::new();
    let mut open: BTreeMap<Partition, (u64, Vec<(Owner, Piece)>)> = BTreeMap::new();
    for (owner, piece) in pieces {
        let partition = piece.partition;
        if piece.body.is_begun() {
            // What its owner gave before comes before.
            let has_more = |group: &mut (u64, Vec<(Owner, Piece)>)| {
                group.1.iter().any(|(other, _)| *other == owner)
            };
            if open.get_mut(&partition).is_some_and(has_more)
                && let Some((_, before)) = open.remove(&partition)
            {
                groups.push((partition, before));
            }
            groups.push((partition, vec![(owner, piece)]));
            continue;
        }
        let (bytes, group) = open.entry(partition).or_default();
        *bytes += piece.bytes_in;
        group.push((owner, piece));
        if *bytes >= ROW_GROUP_BYTES as u64
            && let Some((_, full)) = open.remove(&partition)
        {
            groups.push((partition, full));
        }
    }
    groups.extend(open.into_iter().map(|(partition, (_, group))| (partition, group)));
    groups
}
