//! The batch: what a run takes in, written down before anything is done.
//!
//! `_clickmill/batches/<n>.json` holds the exact inputs: landed objects, exports,
//! and the version of every table at the start. Whoever finds batch n without
//! snapshot n finishes it from that file; since inputs are immutable and jobs
//! are pure, every attempt gives the same rows.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_failpoint as failpoint;
use clickmill_lake::Lake;
use clickmill_lake::history::{self, Created, Series, Snapshot};
use clickmill_lake::landing::{Commit, LandedObject, Source, commits_after, list_sources};
use clickmill_lake::raw::RawKind;
use clickmill_lake::table::{Table, spec_in_log};
use clickmill_schemas::tables::{ATTRIBUTION, EVENTS, TABLES, TableSpec};
use clickmill_schemas::{Date, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::TransformError;
use crate::backfill::Backfill;
use crate::columns::{self, OwnColumns};
use crate::currency::{self, Rates};
use crate::fresh::Fresh;
use crate::quality::QualityConfig;
use crate::record;
use crate::run::{AttributionConfig, DailyJobs, RunOptions};
use crate::sessionize::SessionsConfig;
use crate::shop::ShopJob;
use crate::sources::coverage::Coverage;
use crate::sources::{self, Content, Export, Notice};
use crate::watch;

/// Stands for [`Batch::definition_of`] among the versions of what a table was derived from.
pub(crate) const DEFINITION: &str = "@sql";
/// Stands for [`QualityConfig::fingerprint`] among what a table would have taken in that was held
/// back. Snapshots of before lack it: of them a change of the checks does not show.
pub(crate) const CHECKS: &str = "@checks";
/// Version of the batch file's JSON.
const BATCH_VERSION: u32 = 2;
/// Version of the rules of `attribution`: another one makes every order's rows anew.
const ATTRIBUTION_RULES: u64 = 2;
/// Compressed raw bytes that one batch takes in at most; the rest is for the next.
/// A run goes on until nothing is left, so this bounds memory, not progress.
pub const MAX_BATCH_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Objects, or sections of them, that one batch names, about: it is a file that every run reads.
const MAX_BATCH_OBJECTS: usize = 200_000;

/// `_clickmill/batches/<n>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// [`BATCH_VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub version: u32,
    /// Its number, from 1.
    pub batch: i64,
    /// When it was planned.
    pub created_at: Timestamp,
    /// The tables that it brings up to date.
    pub targets: BTreeSet<String>,
    /// The day on which daily jobs ran last, this batch included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_on: Option<Date>,
    /// The landed objects that it takes in. Version 1 had them under another key, and knew no
    /// sections: who reads that one only refuses the file.
    #[serde(rename = "objects", alias = "raw")]
    pub raw: Vec<LandedObject>,
    /// Objects that an earlier batch took, taken in again, and what was landed again from
    /// its stream: of these, what the tables hold
    /// already changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replayed: Vec<LandedObject>,
    /// The exports that it takes in.
    pub exports: Vec<Export>,
    /// UTC dates of the events in `raw`.
    pub touched_days: BTreeSet<Date>,
    /// Version of each table before it; tables that did not exist are absent.
    pub base: BTreeMap<String, u64>,
    /// For each landing source the last commit taken, this batch included.
    pub bookmarks: BTreeMap<String, u64>,
    /// The exports taken so far, this batch included.
    pub taken_exports: BTreeSet<String>,
    /// For each source and dataset the time of the newest export taken, this batch included.
    pub newest_exports: BTreeMap<String, Timestamp>,
    /// For each source, dataset and table what its chain of exports covers, this batch included.
    #[serde(default)]
    pub coverage: BTreeMap<String, Coverage>,
    /// For each live source and dataset the last read taken, this batch included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub live_reads: BTreeMap<String, i64>,
    /// The rates that convert amounts, where a reporting currency is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
    /// Days of `events` that it makes again by the configuration of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<Backfill>,
    /// The shop's own columns of `events`.
    #[serde(
        default,
        deserialize_with = "columns::stored",
        skip_serializing_if = "OwnColumns::is_empty"
    )]
    pub columns: OwnColumns,
    /// How sessions end.
    #[serde(default)]
    pub sessions: SessionsConfig,
    /// How orders are attributed.
    #[serde(default)]
    pub attribution: AttributionConfig,
    /// The shop's own jobs, as they were when it was planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shop_jobs: Vec<ShopJob>,
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let version = u32::deserialize(deserializer)?;
    if version > BATCH_VERSION {
        return Err(de::Error::custom(format!(
            "it has version {version}, this program knows {BATCH_VERSION}: use a newer clickmill"
        )));
    }
    Ok(version)
}

/// The key of an export in [`Batch::newest_exports`].
#[must_use]
pub fn newest_key(export: &Export) -> String {
    format!("{}/{}", export.source, export.dataset)
}

/// The key of an export in [`Batch::coverage`]; `None` where it is no link of a chain.
#[must_use]
pub fn coverage_key(export: &Export) -> Option<String> {
    let table = export.table.as_ref()?;
    Some(format!("{}/{}/{table}", export.source, export.dataset))
}

/// What to do next.
pub enum Plan {
    /// Everything is taken in.
    Nothing(Vec<Notice>),
    /// A batch that an earlier run began, or a new one.
    Run(Box<Batch>, Option<Snapshot>, Vec<Notice>),
    /// Another run began the batch that we meant to; ask again.
    Lost,
}

impl Batch {
    /// The landed objects of a kind, with their numbers in the batch.
    pub fn objects(&self, kind: RawKind) -> impl Iterator<Item = (u32, &LandedObject)> {
        let numbered = self.raw.iter().chain(&self.replayed).zip(0_u32..);
        numbered.filter(move |(object, _)| object.kind == kind).map(|(object, at)| (at, object))
    }

    /// Objects that it reads something of.
    #[must_use]
    pub fn stored_objects(&self) -> usize {
        let paths = self.raw.iter().chain(&self.replayed).map(|object| object.path.as_str());
        paths.collect::<BTreeSet<_>>().len()
    }

    /// True for the number of an object that was taken before.
    #[must_use]
    pub fn is_replayed(&self, number: u32) -> bool {
        number as usize >= self.raw.len()
    }

    /// Takes objects in again, beside what is new.
    pub fn replay(&mut self, objects: &[LandedObject]) {
        let key = |object: &LandedObject| (object.path.clone(), object.lines().start);
        let here: BTreeSet<(String, u64)> =
            self.raw.iter().chain(&self.replayed).map(key).collect();
        let fresh = objects.iter().filter(|object| !here.contains(&key(object)));
        let fresh: Vec<LandedObject> = fresh.cloned().collect();
        self.replayed.extend(fresh);
        let days = self.replayed.iter().flat_map(|object| object.event_dates.iter().copied());
        self.touched_days.extend(days);
    }

    /// True where it has other rates than the one before it, or none any more.
    fn has_new_rates(&self, previous: Option<&Self>) -> bool {
        let of = |batch: &Self| {
            batch.rates.as_ref().map(|rates| (rates.reporting.clone(), rates.sha256.clone()))
        };
        self.targets.contains("currency_rates") && of(self) != previous.and_then(of)
    }

    /// True where it takes in nothing and leaves no table behind.
    fn is_idle(&self, previous: Option<&Snapshot>, quality: &QualityConfig) -> bool {
        let derived = |table: &&String| {
            crate::jobs::is_derived(table) || self.shop_jobs.iter().any(|job| job.table == **table)
        };
        self.raw.is_empty()
            && self.replayed.is_empty()
            && self.backfill.is_none()
            && self.exports.is_empty()
            && !self
                .targets
                .iter()
                .filter(derived)
                .any(|table| self.is_behind(table, previous, quality))
    }

    /// True where a derived table has not taken in what its inputs, or its job's text, are now; of
    /// one that was held back where the checks are others, too.
    #[must_use]
    pub fn is_behind(
        &self,
        table: &str,
        previous: Option<&Snapshot>,
        quality: &QualityConfig,
    ) -> bool {
        let Some(previous) = previous else { return !self.base.is_empty() };
        let is_current = |taken: &BTreeMap<String, u64>| {
            taken.iter().all(|(upstream, version)| match upstream.as_str() {
                DEFINITION => self.definition_of(table) == Some(*version),
                CHECKS => quality.fingerprint(table) == *version,
                _ => self.base.get(upstream) == Some(version),
            })
        };
        // What was held back is tried again when something of it changed.
        let known = [previous.derived_from.get(table), previous.held_back.get(table)];
        !known.into_iter().flatten().any(is_current)
    }

    /// The fingerprint of what a table is made by, apart from what it is made from: the text of a
    /// shop's job, the settings of `attribution` and the version of its rules.
    pub(crate) fn definition_of(&self, table: &str) -> Option<u64> {
        if table == ATTRIBUTION.name {
            return Some(ATTRIBUTION_RULES << 32 | u64::from(self.attribution.lookback_days));
        }
        let job = self.shop_jobs.iter().find(|job| job.table == table);
        job.map(ShopJob::fingerprint)
    }
}

/// Finds the unfinished batch, or plans the next one and writes it down.
///
/// # Errors
/// [`TransformError`] where the lake cannot be read.
pub async fn next(
    lake: &Lake,
    targets: &BTreeSet<String>,
    options: &RunOptions,
) -> Result<Plan, TransformError> {
    let (previous, snapshot) = last(lake).await?;
    let previous = match previous {
        Some(batch) if Some(batch.batch) > snapshot.as_ref().map(|snapshot| snapshot.batch) => {
            return Ok(Plan::Run(Box::new(batch), snapshot, Vec::new()));
        }
        previous => previous,
    };
    let (batch, notices) = plan(lake, targets, options, previous.as_ref()).await?;
    if batch.is_idle(snapshot.as_ref(), &options.quality) && !batch.has_new_rates(previous.as_ref())
    {
        return Ok(Plan::Nothing(notices));
    }
    match write_down(lake, &batch).await? {
        Created::Yes => Ok(Plan::Run(Box::new(batch), snapshot, notices)),
        Created::No => Ok(Plan::Lost),
    }
}

/// The last batch and the last snapshot: the batch is unfinished where its number is higher.
///
/// # Errors
/// [`TransformError::Lake`].
pub async fn last(lake: &Lake) -> Result<(Option<Batch>, Option<Snapshot>), TransformError> {
    let (newest_snapshot, newest_batch) = loop {
        let snapshot = history::newest(lake, Series::Snapshots).await?;
        let batch = history::newest(lake, Series::Batches).await?;
        // A batch begins when the one before it has its snapshot: where it seems otherwise,
        // another run was at work between the two looks.
        if batch <= Some(snapshot.unwrap_or(0) + 1) {
            break (snapshot, batch);
        }
    };
    let snapshot = match newest_snapshot {
        Some(number) => Some(history::read(lake, Series::Snapshots, number).await?),
        None => None,
    };
    let batch = match newest_batch {
        Some(number) => Some(history::read(lake, Series::Batches, number).await?),
        None => None,
    };
    Ok((batch, snapshot))
}

/// Writes a batch down, and before it what it names and only planning has.
///
/// # Errors
/// [`TransformError::Lake`].
pub(crate) async fn write_down(lake: &Lake, batch: &Batch) -> Result<Created, TransformError> {
    if let Some(rates) = &batch.rates {
        rates.keep(lake).await?;
    }
    failpoint::hit("etl.before_batch");
    let created = history::create(lake, Series::Batches, batch.batch, batch).await?;
    failpoint::hit("etl.batch_written");
    Ok(created)
}

/// What the next batch would take in, without writing it down.
///
/// # Errors
/// [`TransformError`] where the lake cannot be read.
pub async fn plan(
    lake: &Lake,
    targets: &BTreeSet<String>,
    options: &RunOptions,
    previous: Option<&Batch>,
) -> Result<(Batch, Vec<Notice>), TransformError> {
    let sources = &options.sources;
    let created_at = Timestamp::now();
    let daily_on = previous.and_then(|previous| previous.daily_on);
    let runs_daily = match options.daily {
        DailyJobs::Always => true,
        DailyJobs::OncePerDay => daily_on != Some(created_at.date()),
        DailyJobs::Never => false,
    };
    let is_due = |table: &&String| runs_daily || !crate::jobs::is_daily(table);
    let targets: BTreeSet<String> = targets.iter().filter(is_due).cloned().collect();
    let has_daily = targets.iter().any(|table| crate::jobs::is_daily(table));
    let mut batch = Batch {
        version: BATCH_VERSION,
        batch: previous.map_or(1, |previous| previous.batch + 1),
        created_at,
        targets: targets.clone(),
        daily_on: if has_daily { Some(created_at.date()) } else { daily_on },
        raw: Vec::new(),
        replayed: Vec::new(),
        exports: Vec::new(),
        touched_days: BTreeSet::new(),
        base: base_versions(lake, &options.shop_jobs).await?,
        bookmarks: previous.map(|previous| previous.bookmarks.clone()).unwrap_or_default(),
        taken_exports: previous.map(|previous| previous.taken_exports.clone()).unwrap_or_default(),
        newest_exports: previous
            .map(|previous| previous.newest_exports.clone())
            .unwrap_or_default(),
        coverage: previous.map(|previous| previous.coverage.clone()).unwrap_or_default(),
        live_reads: previous.map(|previous| previous.live_reads.clone()).unwrap_or_default(),
        rates: None,
        backfill: None,
        columns: options.columns.clone(),
        sessions: options.sessions,
        attribution: options.attribution.clone(),
        shop_jobs: options.shop_jobs.to_vec(),
    };
    if let Some(previous) = previous.filter(|_| batch.base.contains_key(EVENTS.name))
        && previous.sessions != batch.sessions
    {
        let [cut, wanted] = [previous.sessions, batch.sessions].map(|one| one.gap_minutes);
        return Err(TransformError::OtherSessions { cut, wanted });
    }
    // A batch with columns that the table cannot take would never be finished.
    if !batch.columns.is_empty() {
        batch.columns.events(lake).await?;
    }
    if targets.contains("events") {
        take_raw(lake, &mut batch).await?;
    }
    let mut notices = Vec::new();
    if let Some(previous) = previous.filter(|_| batch.base.contains_key(EVENTS.name)) {
        notices.extend(batch.columns.unlike(&previous.columns));
    }
    if crate::jobs::SOURCE_TABLES.iter().any(|table| targets.contains(*table)) {
        let discovery = sources::discover(lake, sources, &batch.live_reads).await;
        notices.extend(discovery.notices);
        batch.live_reads.extend(discovery.live_reads);
        for export in discovery.exports {
            let identities = export.identities();
            let is_new = identities.iter().any(|one| !batch.taken_exports.contains(one));
            batch.taken_exports.extend(identities);
            if is_new {
                let newest = batch.newest_exports.entry(newest_key(&export));
                let newest = newest.or_insert(export.exported_at);
                *newest = export.exported_at.max(*newest);
                if let Some(key) = coverage_key(&export) {
                    cover(batch.coverage.entry(key).or_default(), &export);
                }
                batch.exports.push(export);
            }
        }
        let lost = record::lost(lake, previous, &mut notices).await?;
        batch.exports.splice(0..0, lost);
        notices.extend(watch::notices(&batch, sources));
    }
    let taken = previous.and_then(|previous| previous.rates.as_ref());
    batch.rates = currency::look(options.currency.as_ref(), taken, &mut notices).await;
    Ok((batch, notices))
}

fn cover(coverage: &mut Coverage, export: &Export) {
    match export.content {
        Content::Snapshot | Content::Load { .. } => coverage.add_full(export.exported_at),
        Content::Window { from, to } => coverage.add_window(from, to),
        Content::Changes => coverage.add_changes(),
    }
}

async fn base_versions(
    lake: &Lake,
    shop_jobs: &[ShopJob],
) -> Result<BTreeMap<String, u64>, TransformError> {
    let mut versions = BTreeMap::new();
    let mut specs = TABLES.to_vec();
    for job in shop_jobs {
        specs.extend(spec_in_log(lake, &job.table).await?);
    }
    for spec in specs {
        if let Some(table) = Table::open(lake, spec).await? {
            versions.insert(spec.name.to_owned(), table.version());
        }
    }
    Ok(versions)
}

async fn take_raw(lake: &Lake, batch: &mut Batch) -> Result<(), TransformError> {
    let mut bytes = 0_u64;
    let (replays, sources): (Vec<Source>, Vec<Source>) =
        list_sources(lake).await?.into_iter().partition(Source::is_stream_replay);
    // What was landed again is read before and taken after what it repeats: a record is
    // then new, or in the tables, before its replay is looked at.
    let mut again = Vec::new();
    for source in replays {
        again.extend(new_commits(lake, batch, &source).await?);
    }
    let mut fresh = Fresh::of(lake, sources, &batch.bookmarks).await?;
    while let Some(commit) = fresh.next().await? {
        let size: u64 = commit.objects.iter().map(LandedObject::share).sum();
        if bytes > 0 && bytes + size > MAX_BATCH_BYTES || batch.raw.len() >= MAX_BATCH_OBJECTS {
            return Ok(());
        }
        bytes += size;
        for object in &commit.objects {
            batch.touched_days.extend(object.event_dates.iter().copied());
        }
        batch.raw.extend(commit.objects);
        batch.bookmarks.insert(commit.source.as_str().to_owned(), commit.ordinal);
    }
    for commit in again {
        let size: u64 = commit.objects.iter().map(LandedObject::share).sum();
        if bytes > 0 && bytes + size > MAX_BATCH_BYTES {
            return Ok(());
        }
        bytes += size;
        batch.replay(&commit.objects);
        batch.bookmarks.insert(commit.source.as_str().to_owned(), commit.ordinal);
    }
    Ok(())
}

/// The commits of a chain that no batch took yet.
async fn new_commits(
    lake: &Lake,
    batch: &Batch,
    source: &Source,
) -> Result<Vec<Commit>, TransformError> {
    let after = batch.bookmarks.get(source.as_str()).copied().unwrap_or(0);
    Ok(commits_after(lake, source, after).await?)
}

/// The version of a table before the batch.
#[must_use]
pub fn base_version(batch: &Batch, spec: &TableSpec) -> Option<u64> {
    batch.base.get(spec.name).copied()
}
