//! Numbered JSON objects that say what was done: batches and snapshots.
//!
//! | object | says |
//! |---|---|
//! | `_clickmill/batches/<n>.json` | the exact inputs of batch n, before anything of it is done |
//! | `_clickmill/snapshots/<n>.json` | each table's Delta version once batch n is complete |
//!
//! `<n>` has 20 digits, so that names sort as numbers. Each is created by
//! conditional PUT and never changed. `_latest` beside them is a hint that
//! spares listing from the beginning; a stale or missing hint costs time only.

use std::collections::BTreeMap;

use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::{QUALITY_RESULTS, TableSpec};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::table::Table;
use crate::{Lake, LakeError};

const BATCHES: &str = "_clickmill/batches";
const SNAPSHOTS: &str = "_clickmill/snapshots";
const LATEST: &str = "_latest";

/// Which kind of numbered object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Inputs of a batch.
    Batches,
    /// Versions after a batch.
    Snapshots,
}

/// `_clickmill/snapshots/<n>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of this format: 1.
    pub version: u32,
    /// The batch that it completes.
    pub batch: i64,
    /// When.
    pub created_at: Timestamp,
    /// Delta version of each table.
    pub tables: BTreeMap<String, u64>,
    /// For each derived table the versions of the tables it has taken in.
    pub derived_from: BTreeMap<String, BTreeMap<String, u64>>,
    /// For each derived table that was held back what it would have taken in, and under `@checks`
    /// a fingerprint of its checks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_back: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What a conditional PUT found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is ours, or there already with the same content.
    Yes,
    /// Another writer put something else there.
    No,
}

impl Series {
    fn folder(self) -> &'static str {
        match self {
            Self::Batches => BATCHES,
            Self::Snapshots => SNAPSHOTS,
        }
    }
}

/// A table as readers of a snapshot see it, or of a lake that has none yet; `None` where it is not
/// there for them.
///
/// `quality_results` they see as it is now. It is a log, and what a check says that ends a run
/// would be in no snapshot: the run ends before it.
///
/// # Errors
/// [`LakeError::Table`] where its log cannot be read.
pub async fn open_table(
    lake: &Lake,
    snapshot: Option<&Snapshot>,
    spec: &'static TableSpec,
) -> Result<Option<Table>, LakeError> {
    if spec.name == QUALITY_RESULTS.name {
        return Table::open(lake, spec).await;
    }
    match snapshot.and_then(|snapshot| snapshot.tables.get(spec.name)) {
        Some(version) => Table::open_at(lake, spec, *version).await.map(Some),
        None => Ok(None),
    }
}

fn path_in(folder: &Path, number: i64) -> Path {
    folder.clone().join(format!("{number:020}.json"))
}

/// The highest number of a series, or `None` while it is empty.
///
/// # Errors
/// [`LakeError::Store`].
pub async fn newest(lake: &Lake, series: Series) -> Result<Option<i64>, LakeError> {
    newest_in(lake, &Path::from(series.folder())).await
}

/// As [`newest`], of numbered objects in a folder of their own.
///
/// # Errors
/// [`LakeError::Store`].
pub async fn newest_in(lake: &Lake, folder: &Path) -> Result<Option<i64>, LakeError> {
    let hint = read_hint(lake, folder).await?;
    let listed = match hint {
        Some(hint) => lake.store().list_with_offset(Some(folder), &path_in(folder, hint)),
        None => lake.store().list(Some(folder)),
    };
    let found: Vec<i64> = listed
        .map_ok(|object| number_of(&object.location))
        .try_filter_map(|number| async move { Ok(number) })
        .try_collect()
        .await
        .map_err(|source| LakeError::store("list", folder, source))?;
    Ok(found.into_iter().max().max(hint))
}

/// Reads one object of a series.
///
/// # Errors
/// [`LakeError::Store`] where it cannot be read, [`LakeError::Corrupt`] where it is not what it must be.
pub async fn read<T: DeserializeOwned>(
    lake: &Lake,
    series: Series,
    number: i64,
) -> Result<T, LakeError> {
    read_in(lake, &Path::from(series.folder()), number).await
}

/// As [`read`], of numbered objects in a folder of their own.
///
/// # Errors
/// As [`read`].
pub async fn read_in<T: DeserializeOwned>(
    lake: &Lake,
    folder: &Path,
    number: i64,
) -> Result<T, LakeError> {
    let path = path_in(folder, number);
    let fail = |source| LakeError::store("read", &path, source);
    let bytes = lake.store().get(&path).await.map_err(fail)?.bytes().await.map_err(fail)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| LakeError::Corrupt { path: path.to_string(), reason: error.to_string() })
}

/// Creates one object of a series, if it is not there yet.
///
/// # Errors
/// [`LakeError::Store`] where it can be neither written nor read back.
pub async fn create<T: Serialize>(
    lake: &Lake,
    series: Series,
    number: i64,
    content: &T,
) -> Result<Created, LakeError> {
    create_in(lake, &Path::from(series.folder()), number, content).await
}

/// As [`create`], of numbered objects in a folder of their own.
///
/// # Errors
/// As [`create`].
pub async fn create_in<T: Serialize>(
    lake: &Lake,
    folder: &Path,
    number: i64,
    content: &T,
) -> Result<Created, LakeError> {
    let path = path_in(folder, number);
    let bytes = serde_json::to_vec_pretty(content).map_err(|error| LakeError::Corrupt {
        path: path.to_string(),
        reason: error.to_string(),
    })?;
    let options = PutOptions { mode: PutMode::Create, ..Default::default() };
    if let Err(error) = lake.store().put_opts(&path, bytes.clone().into(), options).await {
        // The PUT may have succeeded all the same: what counts is what is there.
        let Ok(there) = lake.store().get(&path).await else {
            return Err(LakeError::store("write", &path, error));
        };
        let there = there.bytes().await.map_err(|e| LakeError::store("read", &path, e))?;
        if there != bytes {
            return Ok(Created::No);
        }
    }
    let hint = folder.clone().join(LATEST);
    if let Err(error) = lake.store().put(&hint, number.to_string().into()).await {
        tracing::debug!(%error, "the hint to the newest object could not be written");
    }
    Ok(Created::Yes)
}

async fn read_hint(lake: &Lake, folder: &Path) -> Result<Option<i64>, LakeError> {
    let path = folder.clone().join(LATEST);
    let bytes = match lake.store().get(&path).await {
        Ok(found) => found.bytes().await,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(|source| LakeError::store("read", &path, source))?;
    Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()))
}

fn number_of(path: &Path) -> Option<i64> {
    path.filename()?.strip_suffix(".json")?.parse().ok()
}
