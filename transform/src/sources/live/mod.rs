//! Databases and tables that are read live: PostgreSQL, MySQL, DynamoDB.
//!
//! [`pull`] reads what is due into the lake, and each finished read is an
//! [`Export`] like any other: the batch that takes it in names its files, so a
//! batch that is finished after a crash has the same rows, whatever the database
//! holds by then. Nothing is written to the database.
//!
//! | object | says |
//! |---|---|
//! | `exports/live/<source>/<dataset>/...` | rows, a part a file; garbage until a read names them |
//! | `_clickmill/live/<source>/<dataset>/_progress.json` | how far the unfinished read is |
//! | `_clickmill/live/<source>/<dataset>/<n>.json` | read n is finished: these are its files |
//!
//! # Guarantees
//! - A read is finished by one conditional PUT. Of two runs that read the same
//!   table at once, one gives up at that PUT.
//! - A read that was cut off goes on behind its last part, in a transaction of its
//!   own. Its rows count as of the beginning of the first one: what was written in
//!   between is read again by the next read, and wins.
//! - A read that fails is a [`Notice`]: what was taken before stays, and the other
//!   sources go on.

pub mod config;

#[cfg(feature = "databases")]
mod connection;
#[cfg(feature = "databases")]
mod cursor;
#[cfg(feature = "databases")]
mod database;
#[cfg(feature = "databases")]
mod dialect;
#[cfg(feature = "databases")]
mod mysql;
mod parts;
#[cfg(feature = "databases")]
mod postgresql;
mod scan;
#[cfg(feature = "databases")]
mod tls;

use std::collections::BTreeMap;
use std::error::Error;

use clickmill_lake::history::{self, Created};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::config::{Age, ColumnMapping, SourceConfig, SourcesConfig};
use super::{
    Content, Dataset, Discovery, Export, Format, InputFile, Notice, Severity, SourceError,
};

const STATE: &str = "_clickmill/live";
const DATA: &str = "exports/live";
const PROGRESS: &str = "_progress.json";
/// Version of the JSON of reads and of their progress.
const VERSION: u32 = 1;

/// Reads every live table that is due. What fails is told, and the rest goes on.
pub async fn pull(lake: &Lake, config: &SourcesConfig) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, source) in config.iter() {
        match source {
            SourceConfig::DynamodbScan(scan) => {
                scan::pull(lake, name, scan, &mut notices).await;
            }
            #[cfg(feature = "databases")]
            SourceConfig::Postgresql(_) | SourceConfig::Mysql(_) => {
                database::pull(lake, name, source, &mut notices).await;
            }
            #[cfg(not(feature = "databases"))]
            SourceConfig::Postgresql(_) | SourceConfig::Mysql(_) => notices.push(Notice {
                source: name.to_owned(),
                subject: source.place(),
                severity: Severity::Problem,
                problem: "this clickmill was built without its feature `databases`".to_owned(),
                advice: "build it with --features databases".to_owned(),
            }),
            _ => {}
        }
    }
    notices
}

/// A live table and when it was, and will be, read.
#[derive(Clone, Debug, Serialize)]
pub struct LiveTable {
    /// The source's name in the configuration.
    pub source: String,
    /// The table that its rows go to.
    pub dataset: String,
    /// When the last finished read began.
    pub read_at: Option<Timestamp>,
    /// From when on a run reads it again.
    pub due_at: Option<Timestamp>,
    /// A read was cut off, and the next run goes on with it.
    pub unfinished: bool,
}

/// Every live table of the configuration, without asking a database.
///
/// # Errors
/// [`SourceError`] where the lake does not answer.
pub async fn tables(lake: &Lake, config: &SourcesConfig) -> Result<Vec<LiveTable>, SourceError> {
    let mut tables = Vec::new();
    for (name, source) in config.iter() {
        let (every, datasets): (Age, Vec<Dataset>) = match source {
            SourceConfig::Postgresql(database) | SourceConfig::Mysql(database) => {
                (database.read_every, database.mappings().map(|(dataset, _)| dataset).collect())
            }
            SourceConfig::DynamodbScan(scan) => {
                (scan.read_every, scan.mappings().map(|(dataset, _)| dataset).collect())
            }
            _ => continue,
        };
        for dataset in datasets {
            let table = Table { lake, source: name, dataset };
            let newest = table.newest().await?;
            let progress: Option<Progress<serde_json::Value>> = table.progress().await?;
            let number = newest.as_ref().map_or(0, |(number, _)| *number);
            tables.push(LiveTable {
                source: name.to_owned(),
                dataset: dataset.table().to_owned(),
                read_at: newest.as_ref().map(|(_, done)| done.read_at),
                due_at: newest.as_ref().map(|(_, done)| due_at(done, every)),
                unfinished: progress.is_some_and(|progress| progress.number == number + 1),
            });
        }
    }
    Ok(tables)
}

/// The finished reads of a source that `live_reads` does not know yet.
pub(super) async fn discover(
    lake: &Lake,
    name: &str,
    live_reads: &BTreeMap<String, i64>,
    found: &mut Discovery,
) -> Result<(), SourceError> {
    for dataset in Dataset::ALL {
        let table = Table { lake, source: name, dataset };
        let after = live_reads.get(&key(name, dataset)).copied().unwrap_or(0);
        let newest = table.newest_number().await?.unwrap_or(0);
        for number in after + 1..=newest {
            found.exports.push(table.read(number).await?.export);
            found.live_reads.insert(key(name, dataset), number);
        }
    }
    Ok(())
}

/// A dataset of a live source, in `Batch::live_reads`.
fn key(source: &str, dataset: Dataset) -> String {
    format!("{source}/{dataset}")
}

/// `_clickmill/live/<source>/<dataset>/<n>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    version: u32,
    /// When the read began, by our clock.
    read_at: Timestamp,
    /// When the last read of all rows began, by our clock.
    full_at: Timestamp,
    /// What was read and how: under other settings the next read is of all rows.
    settings: String,
    /// The greatest value of the incremental column when the read began, and no later than
    /// that.
    bound: Option<String>,
    export: Export,
}

/// `_clickmill/live/<source>/<dataset>/_progress.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Progress<P> {
    version: u32,
    /// The read's number, once it is finished.
    number: i64,
    /// When it began, by our clock.
    read_at: Timestamp,
    settings: String,
    /// When its first transaction began, by the database's clock.
    exported_at: Timestamp,
    content: Content,
    /// Only rows whose incremental column has at least this value.
    since: Option<String>,
    bound: Option<String>,
    /// What the next part begins behind.
    position: P,
    files: Vec<InputFile>,
}

/// A dataset of a live source: its state in the lake.
#[derive(Clone, Copy)]
struct Table<'a> {
    lake: &'a Lake,
    source: &'a str,
    dataset: Dataset,
}

impl Table<'_> {
    fn folder(&self) -> Path {
        Path::from(STATE).join(self.source).join(self.dataset.table())
    }

    /// Where the parts of a read lie.
    fn data(&self, number: i64) -> Path {
        let folder = Path::from(DATA).join(self.source).join(self.dataset.table());
        folder.join(format!("{number:020}"))
    }

    /// For a person.
    fn subject(&self) -> String {
        self.dataset.to_string()
    }

    fn failed(&self, source: LakeError) -> SourceError {
        self.live("cannot keep what was read in the lake", source)
    }

    fn live(&self, problem: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> SourceError {
        SourceError::Live {
            source_name: self.source.to_owned(),
            problem: problem.to_owned(),
            source: source.into(),
        }
    }

    async fn newest_number(&self) -> Result<Option<i64>, SourceError> {
        history::newest_in(self.lake, &self.folder()).await.map_err(|e| self.failed(e))
    }

    async fn read(&self, number: i64) -> Result<Done, SourceError> {
        history::read_in(self.lake, &self.folder(), number).await.map_err(|e| self.failed(e))
    }

    async fn newest(&self) -> Result<Option<(i64, Done)>, SourceError> {
        match self.newest_number().await? {
            None => Ok(None),
            Some(number) => Ok(Some((number, self.read(number).await?))),
        }
    }

    /// The progress of an unfinished read. What does not parse was written by another
    /// version: the read begins anew.
    async fn progress<P: DeserializeOwned>(&self) -> Result<Option<Progress<P>>, SourceError> {
        let path = self.folder().join(PROGRESS);
        let store = |e| self.failed(LakeError::store("read", &path, e));
        let bytes = match self.lake.store().get(&path).await {
            Ok(found) => found.bytes().await.map_err(store)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(store(error)),
        };
        Ok(serde_json::from_slice(&bytes).ok())
    }

    async fn save<P: Serialize>(&self, progress: &Progress<P>) -> Result<(), SourceError> {
        let path = self.folder().join(PROGRESS);
        let bytes =
            serde_json::to_vec(progress).map_err(|e| self.live("cannot note progress", e))?;
        let written = self.lake.store().put(&path, bytes.into()).await;
        written.map_err(|e| self.failed(LakeError::store("write", &path, e)))?;
        Ok(())
    }

    /// Finishes a read. False where another run was faster: then its read stands.
    async fn finish<P>(
        &self,
        progress: Progress<P>,
        full_at: Timestamp,
        format: Format,
        columns: &BTreeMap<String, ColumnMapping>,
        table: &str,
    ) -> Result<bool, SourceError> {
        let number = progress.number;
        let done = Done {
            version: VERSION,
            read_at: progress.read_at,
            full_at,
            settings: progress.settings,
            bound: progress.bound,
            export: Export {
                dataset: self.dataset,
                source: self.source.to_owned(),
                export_id: format!("{table} read {number}"),
                exported_at: progress.exported_at,
                format,
                columns: columns.clone(),
                content: progress.content,
                changes: None,
                table: Some(table.to_owned()),
                complete: None,
                lines: None,
                files: progress.files,
            },
        };
        let created = history::create_in(self.lake, &self.folder(), number, &done).await;
        let created = created.map_err(|e| self.failed(e))?;
        // Best effort: progress of a read that is finished is not looked at.
        let _ = self.lake.store().delete(&self.folder().join(PROGRESS)).await;
        Ok(created == Created::Yes)
    }

    fn notice(&self, error: &SourceError) -> Notice {
        Notice {
            source: self.source.to_owned(),
            subject: self.subject(),
            severity: Severity::Problem,
            problem: format!("{}; nothing more of it is taken", with_causes(error)),
            advice: "what was taken before stays; the next run tries again".to_owned(),
        }
    }
}

/// From when on a table is read again.
fn due_at(done: &Done, every: Age) -> Timestamp {
    let every = i64::try_from(every.seconds().saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    Timestamp::from_micros(done.read_at.micros().saturating_add(every)).unwrap_or(done.read_at)
}

/// Tells settings apart.
fn fingerprint(settings: &impl Serialize) -> String {
    let text = serde_json::to_vec(settings).unwrap_or_default();
    Sha256::digest(&text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// An error and its causes on one line.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Drivers repeat their cause in their own words.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
