//! A store in front of a real one that fails where a test says.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What a test decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A GET or a listing.
    Read,
    /// A PUT, a multipart upload begun, or a copy.
    Write,
}

/// What becomes of it.
#[derive(Debug)]
pub enum Fate {
    /// It happens.
    Done,
    /// It does not happen.
    Failed(Error),
    /// It happens, and nobody is told. A read only fails.
    AnswerLost(Error),
}

/// Where a store fails.
#[async_trait]
pub trait Faults: fmt::Debug + Send + Sync + 'static {
    /// Asked before each operation. `location` is a prefix where it is a listing.
    async fn fate(&self, op: Op, location: &Path) -> Fate;
}

/// A store with faults. What is deleted is deleted.
#[derive(Debug)]
pub struct FaultStore<F> {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<F>,
}

impl<F: Faults> FaultStore<F> {
    /// In front of `inner`.
    #[must_use]
    pub fn new(inner: &Arc<dyn ObjectStore>, faults: F) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), faults: Arc::new(faults) })
    }

    /// What the test said.
    #[must_use]
    pub fn faults(&self) -> &F {
        &self.faults
    }

    async fn read(&self, location: &Path) -> Result<()> {
        may(&*self.faults, Op::Read, location).await
    }

    async fn write(&self, location: &Path) -> Result<()> {
        may(&*self.faults, Op::Write, location).await
    }
}

async fn may<F: Faults>(faults: &F, op: Op, location: &Path) -> Result<()> {
    match faults.fate(op, location).await {
        Fate::Done => Ok(()),
        Fate::Failed(error) | Fate::AnswerLost(error) => Err(error),
    }
}

impl<F: Faults> fmt::Display for FaultStore<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({:?})", self.faults)
    }
}

#[async_trait]
impl<F: Faults> ObjectStore for FaultStore<F> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let lost = match self.faults.fate(Op::Write, location).await {
            Fate::Done => None,
            Fate::Failed(error) => return Err(error),
            Fate::AnswerLost(error) => Some(error),
        };
        let done = self.inner.put_opts(location, payload, opts).await;
        lost.map_or(done, Err)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.write(location).await?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(location).await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read(location).await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, faults) = (Arc::clone(&self.inner), Arc::clone(&self.faults));
        let prefix = prefix.cloned();
        stream::once(async move {
            match may(&*faults, Op::Read, &prefix.clone().unwrap_or_default()).await {
                Ok(()) => inner.list(prefix.as_ref()),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(&prefix.cloned().unwrap_or_default()).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.write(to).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// A process that dies at a write: from then on nothing reaches the store, and nothing is read.
#[derive(Debug)]
pub struct Death {
    at: DiesAt,
    left: AtomicI64,
}

/// When a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiesAt {
    /// Before the write takes effect.
    BeforePut,
    /// When it did, and before the answer.
    AfterPut,
}

impl Death {
    /// At the write behind so many that go through.
    #[must_use]
    pub fn after(writes: u32, at: DiesAt) -> Self {
        Self { at, left: AtomicI64::new(writes.into()) }
    }

    /// True once it died.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }
}

#[async_trait]
impl Faults for Death {
    async fn fate(&self, op: Op, _: &Path) -> Fate {
        // Not an error that a client would answer by trying again.
        let dead = || Error::NotSupported { source: "the process is dead".into() };
        match op {
            Op::Read if self.has_come() => Fate::Failed(dead()),
            Op::Read => Fate::Done,
            Op::Write => match self.left.fetch_sub(1, Ordering::SeqCst) {
                1.. => Fate::Done,
                0 if self.at == DiesAt::AfterPut => Fate::AnswerLost(dead()),
                _ => Fate::Failed(dead()),
            },
        }
    }
}
