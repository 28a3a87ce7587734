//! What the tests of this crate share: events to send, a reader of what landed
//! that goes by commits, and a store that grows deaf.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod stream;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use clickmill_faultstore::{Fate, Faults, Op};
use clickmill_lake::Lake;
use clickmill_lake::landing::{Commit, commits_after, list_sources};
use clickmill_lake::raw::RawKind;
use clickmill_schemas::{Event, EventTime, Timestamp, WireRecord};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};

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
            flate2::read::MultiGzDecoder::new(&stored[..])
                .read_to_string(&mut text)
                .expect("gunzips");
            let (skip, of) =
                object.section.map_or((0, object.records), |section| (section.skip, section.of));
            assert_eq!(text.lines().count() as u64, of);
            let (skip, records) = (skip as usize, object.records as usize);
            let named: Vec<&str> = text.lines().skip(skip).take(records).collect();
            assert_eq!(named.len(), records, "{object:?}");
            for line in named {
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

/// Fails every operation on paths of a prefix once it is told to; all others go through.
#[derive(Debug)]
pub struct Deaf {
    prefix: Path,
    deaf: AtomicBool,
}

impl Deaf {
    pub fn to(prefix: &str) -> Self {
        Self { prefix: Path::from(prefix), deaf: AtomicBool::new(false) }
    }

    pub fn deafen(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Faults for Deaf {
    async fn fate(&self, _: Op, location: &Path) -> Fate {
        match self.deaf.load(Ordering::SeqCst) && location.prefix_matches(&self.prefix) {
            true => Fate::Failed(Error::Generic { store: "deaf", source: "no answer".into() }),
            false => Fate::Done,
        }
    }
}
