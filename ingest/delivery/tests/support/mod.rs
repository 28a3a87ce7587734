//! What the tests of this crate share: events to send, a reader of what landed
//! that goes by commits, and a store that dies at a chosen write.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use clickmill_lake::Lake;
use clickmill_lake::landing::{Commit, commits_after, list_sources};
use clickmill_lake::raw::RawKind;
use clickmill_schemas::{Event, EventTime, Timestamp, WireRecord};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

/// An encoded event without lineage.
pub fn event(id: &str) -> String {
    let at = |text| Timestamp::parse(text).expect(text);
    let time =
        EventTime::resolve(Some(at("2026-11-23T17:39:59Z")), None, at("2026-11-23T17:40:00Z"));
    Event::new(id, "page_view", "segment", "shop", time).encode()
}

pub async fn folder_lake(folder: &std::path::Path) -> Lake {
    Lake::open(&folder.display().to_string()).await.expect("the folder opens")
}

/// What the commits of a lake hold.
#[derive(Debug, Default)]
pub struct Landed {
    /// Times that each event id stands in committed objects.
    pub events: BTreeMap<String, u32>,
    /// The rejects' lines.
    pub rejects: Vec<String>,
    /// All lines of events, chain by chain, in order.
    pub lines: Vec<String>,
    /// All commits, by chain.
    pub commits: BTreeMap<String, Vec<Commit>>,
}

impl Landed {
    pub fn assert_each_once(&self, expected: impl IntoIterator<Item = String>) {
        let expected: BTreeMap<String, u32> = expected.into_iter().map(|id| (id, 1)).collect();
        let lost: Vec<_> = expected.keys().filter(|id| !self.events.contains_key(*id)).collect();
        assert!(lost.is_empty(), "{} lost: {:?}", lost.len(), &lost[..lost.len().min(5)]);
        assert_eq!(self.events, expected, "some stand there twice, or were never sent");
    }
}

/// Reads a lake by its commits, checking every object against its commit.
pub async fn landed(lake: &Lake) -> Landed {
    let mut landed = Landed::default();
    for source in list_sources(lake).await.expect("lists") {
        let commits = commits_after(lake, &source, 0).await.expect("reads");
        for object in commits.iter().flat_map(|commit| &commit.objects) {
            let stored =
                lake.store().get(&Path::from(object.path.as_str())).await.expect("is there");
            let stored = stored.bytes().await.expect("reads");
            assert_eq!(format!("{:08x}", crc32c::crc32c(&stored)), object.crc32c);
            let mut text = String::new();
            flate2::read::GzDecoder::new(&stored[..]).read_to_string(&mut text).expect("gunzips");
            assert_eq!(text.lines().count() as u64, object.records);
            for line in text.lines() {
                match (WireRecord::decode(line.as_bytes()).expect("decodes"), object.kind) {
                    (WireRecord::Event(event), RawKind::Events) => {
                        *landed.events.entry(event.event_id.into_owned()).or_default() += 1;
                        landed.lines.push(line.to_owned());
                    }
                    (WireRecord::Reject(_), RawKind::Rejects) => {
                        landed.rejects.push(line.to_owned());
                    }
                    (WireRecord::Heartbeat(_), RawKind::Heartbeats) => {}
                    (record, kind) => panic!("{record:?} among {kind}"),
                }
            }
        }
        landed.commits.insert(source.to_string(), commits);
    }
    landed
}

/// Dies at the `n`th PUT (from 0): before it takes effect, or after it did but
/// before the answer. From then on every operation fails, as for a killed process.
#[derive(Debug)]
pub struct CrashStore {
    inner: Arc<dyn ObjectStore>,
    at: Crash,
    left: AtomicI64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    BeforePut,
    AfterPut,
}

impl CrashStore {
    pub fn new(lake: &Lake, at: Crash, puts: u32) -> Arc<Self> {
        let left = AtomicI64::new(i64::from(puts));
        Arc::new(Self { inner: Arc::clone(lake.store()), at, left })
    }

    /// True once it died.
    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn alive(&self) -> Result<()> {
        if self.is_dead() { Err(dead()) } else { Ok(()) }
    }
}

fn dead() -> Error {
    Error::Generic { store: "crashed", source: "the process is dead".into() }
}

impl fmt::Display for CrashStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashStore")
    }
}

#[async_trait]
impl ObjectStore for CrashStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 {
            return self.inner.put_opts(location, payload, opts).await;
        }
        if left == 0 && self.at == Crash::AfterPut {
            self.inner.put_opts(location, payload, opts).await?;
        }
        Err(dead())
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(dead())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.alive()?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// Fails every operation on paths of a prefix once it is told to; all others go through.
#[derive(Debug)]
pub struct DeafStore {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    deaf: AtomicBool,
}

impl DeafStore {
    pub fn new(lake: &Lake, prefix: &str) -> Arc<Self> {
        let (inner, prefix) = (Arc::clone(lake.store()), Path::from(prefix));
        Arc::new(Self { inner, prefix, deaf: AtomicBool::new(false) })
    }

    pub fn deafen(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    fn hears(&self, location: &Path) -> Result<()> {
        let deaf = self.deaf.load(Ordering::SeqCst) && location.prefix_matches(&self.prefix);
        if deaf {
            Err(Error::Generic { store: "deaf", source: "no answer".into() })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for DeafStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeafStore")
    }
}

#[async_trait]
impl ObjectStore for DeafStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.hears(location)?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.hears(location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.hears(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.hears(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.hears(&prefix.cloned().unwrap_or_default()) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.hears(&prefix.cloned().unwrap_or_default())?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
