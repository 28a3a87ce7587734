//! What Amazon Data Firehose landed, taken into the raw zone.
//!
//! Firehose delivers at least once, under names that say nothing of order, and
//! writes no manifest. So its folders are listed, and each object that is new is
//! read and landed by a commit of the chain `firehose/<name>`
//! (`clickmill_lake::landing`), which also says which objects it took, by key and
//! ETag. From there on everything is as with any other source: batches name
//! exact inputs, a restart takes the same ones, the audit reads commits.
//!
//! # Guarantees
//! - Each version of an object (key and ETag) is landed exactly once, whoever is
//!   killed and however many run at once: the commit is the bookmark.
//! - Every byte is accounted for: events, rejects and heartbeats of our wire as
//!   they are; records that Firehose could not deliver, and anything else, as
//!   rejects with their bytes.
//! - Plain, gzip, values with or without newlines between them, Parquet: told by
//!   the content.
//!
//! # How it finds what is new
//! Each run lists the hour folders of the last 48 hours (and 14 hours ahead: the
//! stream may have a time zone); once a day everything. Where keys do not begin
//! with time (dynamic partitioning first), each run lists everything.
//!
//! # Failure modes
//! An object that was overwritten is taken again, and said: its events are then
//! further copies. One that vanishes between listing and reading is left to the
//! next run. A location that cannot be listed fails the run, before anything of
//! it is committed.

mod config;
mod lines;
mod prefix;
mod read;
mod rows;
mod split;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use clickmill_lake::landing::{Chain, NewCommit, Source, Survey, TakenFile, survey};
use clickmill_lake::raw::{RawKind, RawLine, RawWriter};
use clickmill_lake::{Lake, LakeError, open_store};
use clickmill_schemas::Timestamp;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use serde::Serialize;

pub use config::RawLocation;
pub use prefix::LISTED_BACK;
pub use rows::is_wire_key;

use prefix::Prefix;

/// A line longer than this is no record: the collector takes 32 KB of an event.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Firehose buffers 128 MiB at most; what others put there may be larger, but is held in memory.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;
/// Objects' bytes that one commit takes, as stored. A kill costs at most the work on as much.
const COMMIT_BYTES: u64 = 256 << 20;
/// Objects that one commit takes.
const COMMIT_FILES: usize = 1_000;
/// Commits made since then are read to know what was taken: folders of 48 hours are listed,
/// and an object lies in no folder of later than it was written.
const REMEMBERED: Duration = Duration::from_secs(96 * 3_600);
/// Everything is listed this often.
const LIST_ALL_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Times that another run may commit first before this one gives up.
const MAX_LOST_RACES: u32 = 8;

/// What was taken from one location.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LocationReport {
    /// As configured.
    pub location: String,
    /// Objects taken.
    pub files: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
    /// Events in them.
    pub events: u64,
    /// Rejects in them.
    pub rejects: u64,
    /// Heartbeats in them.
    pub heartbeats: u64,
    /// Keys of objects that were overwritten since they were taken, and taken again.
    pub overwritten: Vec<String>,
    /// What could not be taken, and why.
    pub left_out: Vec<String>,
}

/// Why a location was not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirehoseError {
    /// The lake, or the location's store.
    #[error("[[raw]] {location}")]
    Lake {
        /// As configured.
        location: String,
        /// The lake's word; boxed, since every result carries its room.
        #[source]
        source: Box<LakeError>,
    },
    /// The location cannot be listed or read.
    #[error("[[raw]] {location}: cannot {operation} {path}")]
    Store {
        /// As configured.
        location: String,
        /// Verb.
        operation: &'static str,
        /// The key or folder.
        path: String,
        /// The store's word.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The location holds the lake itself.
    #[error("[[raw]] {location} is the lake itself: name a prefix beside it")]
    IsLake {
        /// As configured.
        location: String,
    },
    /// Another run kept committing first.
    #[error("[[raw]] {location}: another run committed first {MAX_LOST_RACES} times; run again")]
    Contended {
        /// As configured.
        location: String,
    },
}

/// Lands everything at the location that was not landed yet.
///
/// # Errors
/// [`FirehoseError`]. What was committed stays, and the next run goes on from there.
pub async fn land(
    lake: &Lake,
    config: &RawLocation,
    now: Timestamp,
) -> Result<LocationReport, FirehoseError> {
    let location = config.location.clone();
    let fail =
        |source| FirehoseError::Lake { location: location.clone(), source: Box::new(source) };
    let (store, url) = open_store(&config.location).await.map_err(fail)?;
    let below = lake.url().as_str().strip_prefix(url.as_str()).map(str::to_owned);
    if below.as_deref() == Some("") {
        return Err(FirehoseError::IsLake { location });
    }
    let source = Source::firehose(&config.name).map_err(fail)?;
    let landing = Landing { lake, config, store, source, lake_below: below, now };
    let mut report = LocationReport { location: config.location.clone(), ..Default::default() };
    for _ in 0..MAX_LOST_RACES {
        match landing.land_new(&mut report).await {
            Err(FirehoseError::Lake { source, .. })
                if matches!(*source, LakeError::LostRace { .. }) => {}
            outcome => return outcome.map(|()| report),
        }
    }
    Err(FirehoseError::Contended { location })
}

struct Landing<'a> {
    lake: &'a Lake,
    config: &'a RawLocation,
    store: Arc<dyn ObjectStore>,
    source: Source,
    /// Where the lake lies below the location, if it does.
    lake_below: Option<String>,
    now: Timestamp,
}

/// Keys that were taken, with the ETag of the last time.
fn taken(survey: &Survey) -> HashMap<String, String> {
    let files = survey.commits.iter().flat_map(|commit| &commit.files);
    files.map(|file| (file.key.clone(), file.etag.clone())).collect()
}

impl Landing<'_> {
    async fn land_new(&self, report: &mut LocationReport) -> Result<(), FirehoseError> {
        let mut chain =
            Chain::open(self.lake, self.source.clone()).await.map_err(|e| self.lake_error(e))?;
        let recent = self.recent();
        let due = self.lists_all().await?;
        let listed_all = due || recent.is_none();
        // What is listed must be known: folders of 48 hours by the commits of 96.
        let from = (!listed_all).then(|| self.now.saturating_sub(REMEMBERED));
        let known = survey(self.lake, &self.source, from).await.map_err(|e| self.lake_error(e))?;
        let taken = taken(&known);
        let beginnings = match recent {
            Some(recent) if !due => recent,
            _ => self.prefixes().map(|prefix| prefix.constant().to_owned()).collect(),
        };
        let mut listed = BTreeMap::new();
        for beginning in beginnings {
            self.list(&beginning, &mut listed).await?;
        }
        let mut fresh: Vec<ObjectMeta> = Vec::new();
        for (key, meta) in listed {
            match taken.get(&key) {
                Some(etag) if *etag == version(&meta) => {}
                before => {
                    if before.is_some() && !report.overwritten.contains(&key) {
                        report.overwritten.push(key);
                    }
                    fresh.push(meta);
                }
            }
        }
        fresh.sort_by(|a, b| (a.last_modified, &a.location).cmp(&(b.last_modified, &b.location)));
        for group in groups(fresh) {
            self.land_group(&mut chain, &group, report).await?;
        }
        if listed_all {
            self.note_listed().await;
        }
        Ok(())
    }

    /// Lands objects by one commit.
    async fn land_group(
        &self,
        chain: &mut Chain,
        group: &[ObjectMeta],
        report: &mut LocationReport,
    ) -> Result<(), FirehoseError> {
        let first = self.position(chain)? + 1;
        let mut writer = RawWriter::new(self.lake, &self.source);
        let mut files = Vec::new();
        for meta in group {
            if meta.size > MAX_OBJECT_BYTES {
                let key = &meta.location;
                let size = meta.size;
                note(
                    report,
                    format!("{key} has {size} bytes, more than {MAX_OBJECT_BYTES}: split it"),
                );
                continue;
            }
            let number = first + files.len() as u64;
            match self.land_file(&mut writer, meta, number).await? {
                Some(records) => files.push(TakenFile {
                    key: meta.location.to_string(),
                    etag: version(meta),
                    bytes: meta.size,
                    records,
                }),
                None => note(report, format!("{} vanished while it was read", meta.location)),
            }
        }
        let Some(last) = (files.len() as u64).checked_sub(1).map(|more| first + more) else {
            return Ok(());
        };
        let objects = writer.finish().await.map_err(|e| self.lake_error(e))?;
        let new = NewCommit {
            first: Some(first.to_string()),
            last: Some(last.to_string()),
            closed: false,
            objects,
            possible_loss: None,
            read_through: None,
            committed_at: Timestamp::now(),
        };
        let commit = chain.append_with(new, files).await.map_err(|e| self.lake_error(e))?;
        report.files += commit.files.len() as u64;
        report.bytes += commit.files.iter().map(|file| file.bytes).sum::<u64>();
        for object in &commit.objects {
            match object.kind {
                RawKind::Events => report.events += object.records,
                RawKind::Rejects => report.rejects += object.records,
                RawKind::Heartbeats => report.heartbeats += object.records,
            }
        }
        Ok(())
    }

    /// Writes an object's lines; their number, or `None` where it is not there any more.
    async fn land_file(
        &self,
        writer: &mut RawWriter,
        meta: &ObjectMeta,
        number: u64,
    ) -> Result<Option<u64>, FirehoseError> {
        let Some(bytes) = self.fetch(meta).await? else { return Ok(None) };
        let file = read::File {
            location: self.config.location.clone(),
            key: meta.location.to_string(),
            etag: version(meta),
            modified: Timestamp::from_micros(meta.last_modified.timestamp_micros())
                .unwrap_or(self.now),
            columns: self.config.columns.clone(),
            bytes,
        };
        let mut chunks = read::lines(file);
        let (mut records, position) = (0, number.to_string());
        while let Some(chunk) = chunks.recv().await {
            for line in chunk {
                let line = RawLine::parse(&line).map_err(|e| self.lake_error(e))?;
                writer.push(line, &position).await.map_err(|e| self.lake_error(e))?;
                records += 1;
            }
        }
        Ok(Some(records))
    }

    /// The object's bytes, of the version that was listed.
    async fn fetch(&self, meta: &ObjectMeta) -> Result<Option<bytes::Bytes>, FirehoseError> {
        let options = object_store::GetOptions {
            if_match: meta.e_tag.clone(),
            ..object_store::GetOptions::default()
        };
        let got = match self.store.get_opts(&meta.location, options).await {
            Ok(got) => got.bytes().await,
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) => Ok(Some(bytes)),
            Err(
                object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. },
            ) => Ok(None),
            Err(source) => Err(self.store_error("read", meta.location.as_ref(), source)),
        }
    }

    fn position(&self, chain: &Chain) -> Result<u64, FirehoseError> {
        let Some(position) = chain.position() else { return Ok(0) };
        position.parse().map_err(|_| {
            self.lake_error(LakeError::Corrupt {
                path: self.source.folder().to_string(),
                reason: format!("its position `{position}` is no number"),
            })
        })
    }

    fn prefixes(&self) -> impl Iterator<Item = &Prefix> {
        std::iter::once(&self.config.prefix).chain(&self.config.error_prefix)
    }

    /// The beginnings of recent keys; `None` where some prefix does not tell.
    fn recent(&self) -> Option<BTreeSet<String>> {
        let each: Option<Vec<_>> = self.prefixes().map(|prefix| prefix.recent(self.now)).collect();
        Some(each?.into_iter().flatten().collect())
    }

    /// Adds what begins so. Stores list by folders, so the last one is filtered here.
    async fn list(
        &self,
        beginning: &str,
        found: &mut BTreeMap<String, ObjectMeta>,
    ) -> Result<(), FirehoseError> {
        let folder = beginning.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let folder = Path::from_iter(folder.split('/').filter(|part| !part.is_empty()));
        let prefix = (!folder.as_ref().is_empty()).then_some(&folder);
        let listed: Vec<ObjectMeta> = self
            .store
            .list(prefix)
            .try_collect()
            .await
            .map_err(|source| self.store_error("list", beginning, source))?;
        for meta in listed {
            let key = meta.location.to_string();
            let name = meta.location.filename().unwrap_or_default();
            let of_lake = self.lake_below.as_deref().is_some_and(|below| key.starts_with(below));
            if key.starts_with(beginning)
                && !of_lake
                && meta.size > 0
                && !name.starts_with(['_', '.'])
            {
                found.insert(key, meta);
            }
        }
        Ok(())
    }

    fn note_path(&self) -> Path {
        Path::from(format!("_clickmill/firehose/{}/listed", self.config.name))
    }

    /// True where everything was not listed for a day. The note is a hint: without it
    /// everything is listed once more.
    async fn lists_all(&self) -> Result<bool, FirehoseError> {
        let path = self.note_path();
        let text = match self.lake.store().get(&path).await {
            Ok(got) => got.bytes().await,
            Err(object_store::Error::NotFound { .. }) => return Ok(true),
            Err(error) => Err(error),
        };
        let text = text.map_err(|source| self.store_error("read", path.as_ref(), source))?;
        let at =
            std::str::from_utf8(&text).ok().and_then(|text| Timestamp::parse(text.trim()).ok());
        let due = self.now.saturating_sub(LIST_ALL_EVERY);
        Ok(at.is_none_or(|at| at <= due || at > self.now))
    }

    async fn note_listed(&self) {
        let note = self.lake.store().put(&self.note_path(), self.now.to_string().into()).await;
        if let Err(error) = note {
            tracing::warn!(%error, "everything is listed again by the next run: the note of this time could not be written");
        }
    }

    fn lake_error(&self, source: LakeError) -> FirehoseError {
        FirehoseError::Lake { location: self.config.location.clone(), source: Box::new(source) }
    }

    fn store_error(
        &self,
        operation: &'static str,
        path: &str,
        source: object_store::Error,
    ) -> FirehoseError {
        let (location, path) = (self.config.location.clone(), path.to_owned());
        FirehoseError::Store { location, operation, path, source: Box::new(source) }
    }
}

fn note(report: &mut LocationReport, text: String) {
    if !report.left_out.contains(&text) {
        report.left_out.push(text);
    }
}

/// What tells an object from another one under its name: the ETag, or, where a store
/// gives none, when it was written and how long it is.
fn version(meta: &ObjectMeta) -> String {
    meta.e_tag
        .clone()
        .unwrap_or_else(|| format!("{}-{}", meta.last_modified.timestamp_micros(), meta.size))
}

/// Objects that are landed by one commit each.
fn groups(files: Vec<ObjectMeta>) -> Vec<Vec<ObjectMeta>> {
    let mut groups: Vec<Vec<ObjectMeta>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        let fits = bytes + file.size <= COMMIT_BYTES;
        match groups.last_mut() {
            Some(group) if fits && group.len() < COMMIT_FILES => {
                bytes += file.size;
                group.push(file);
            }
            _ => {
                bytes = file.size;
                groups.push(vec![file]);
            }
        }
    }
    groups
}
