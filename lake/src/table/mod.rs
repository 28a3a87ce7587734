//! A table: a Delta log, and Parquet files that we write and read ourselves.
//!
//! [`Table`] is one version of one table, immutable. [`Table::commit`] adds and
//! removes files in one atomic step, together with the number of the batch
//! that did it, so that a restarted run can tell what is done.
//!
//! # Guarantees
//! - A commit either is the next version of the log or does not exist: delta-rs
//!   writes it by conditional PUT. Its own conflict resolution is switched off
//!   (`max_retries(0)`): it would let a replacement commit over a concurrent
//!   rewrite of the same files and keep the old rows.
//! - A batch is applied at most once: delta-rs does not refuse a second commit
//!   with the same transaction version, so the check against the newest
//!   version is made here, before each attempt.
//! - The log names every column that is written: a table gets those that came since, by
//!   another build or a shop's configuration, with its next commit. A column of `events`
//!   that the log has and the specification has not is the shop's own: read, and kept.
//! - After any error the log is read again before anything is judged: a PUT
//!   that the client repeated can come back as "exists" though it was ours.

mod files;
mod provider;
mod shop;
mod stats;
mod upload;
mod writer;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use clickmill_schemas::Date;
use clickmill_schemas::tables::{EVENTS, PARTITION_COLUMN, TableSpec};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::kernel::{
    Action, Add, Metadata, MetadataExt as _, Remove, StructType, Transaction,
};
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::prefix::PrefixStore;
use url::Url;

pub use files::DataFile;
pub use provider::{LakeTable, ScanCounters, ScanTotals, register_store};
pub use shop::{columns_in_log, has_columns_of, spec_in_log, spec_of, with_columns};
pub(crate) use writer::ZSTD_LEVEL;
pub use writer::{MAX_FILE_BYTES, PartitionWriter, Sorted};

use crate::{Lake, LakeError};

/// Before a job's name in the application id of a Delta transaction.
const APP_ID_PREFIX: &str = "clickmill-etl/";
/// How often a commit that lost a race is tried again on the newer version.
const MAX_COMMIT_ATTEMPTS: usize = 10;

/// One version of a table.
#[derive(Clone)]
pub struct Table {
    lake: Lake,
    spec: &'static TableSpec,
    log: LogStoreRef,
    state: DeltaTableState,
    files: Arc<Vec<DataFile>>,
}

/// What a commit changes.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Files to add; they must be complete and durable.
    pub adds: Vec<DataFile>,
    /// Files of the base version to remove.
    pub removes: Vec<DataFile>,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is in the log as this version.
    Now(u64),
    /// The batch had been applied already; the newest version is this one.
    Before(u64),
}

impl Change {
    /// True where there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.adds.is_empty() && self.removes.is_empty()
    }
}

impl Table {
    /// The newest version, or `None` where the table does not exist yet.
    ///
    /// # Errors
    /// [`LakeError::Table`] where the log cannot be read.
    pub async fn open(lake: &Lake, spec: &'static TableSpec) -> Result<Option<Self>, LakeError> {
        Self::load(lake, spec, None).await
    }

    /// A certain version.
    ///
    /// # Errors
    /// [`LakeError::Table`] where the log cannot be read or does not have it.
    pub async fn open_at(
        lake: &Lake,
        spec: &'static TableSpec,
        version: u64,
    ) -> Result<Self, LakeError> {
        Self::load(lake, spec, Some(version)).await?.ok_or_else(|| {
            LakeError::table(
                spec.name,
                "open",
                DeltaTableError::NotATable(format!("it has no version {version}")),
            )
        })
    }

    /// The newest version; an empty table is made where there is none.
    ///
    /// # Errors
    /// [`LakeError::Table`] where the log cannot be read or written.
    pub async fn open_or_create(lake: &Lake, spec: &'static TableSpec) -> Result<Self, LakeError> {
        if let Some(table) = Self::open(lake, spec).await? {
            return Ok(table);
        }
        let fail = |source| LakeError::table(spec.name, "create", source);
        let schema = delta_schema(spec).map_err(fail)?;
        let created = CreateBuilder::new()
            .with_log_store(log_store(lake, spec.name)?)
            .with_table_name(spec.name)
            .with_comment(spec.grain)
            .with_columns(schema.fields().cloned())
            .with_partition_columns(spec.partitioned.then_some(PARTITION_COLUMN))
            .with_configuration_property(
                deltalake_core::TableProperty::DataSkippingStatsColumns,
                // None at all would be no list.
                (!spec.stats.is_empty()).then(|| spec.stats.join(",")),
            )
            .with_save_mode(SaveMode::Ignore)
            .await;
        // Another process may have made it at the same time: what counts is what is there now.
        match (created, Self::open(lake, spec).await?) {
            (_, Some(table)) => Ok(table),
            (Err(source), None) => Err(fail(source)),
            (Ok(_), None) => Err(fail(DeltaTableError::NotATable(spec.name.to_owned()))),
        }
    }

    /// The newest version; this one again, without reading it, where nobody has committed since.
    ///
    /// # Errors
    /// [`LakeError::Table`] where the log cannot be read.
    pub async fn newest(&self) -> Result<Self, LakeError> {
        let newest = self.log.get_latest_version(self.version()).await;
        match newest {
            Ok(version) if version == self.version() => Ok(self.clone()),
            _ => Self::open_or_create(&self.lake, self.spec).await,
        }
    }

    async fn load(
        lake: &Lake,
        spec: &'static TableSpec,
        version: Option<u64>,
    ) -> Result<Option<Self>, LakeError> {
        let log = log_store(lake, spec.name)?;
        let mut table = DeltaTable::new(log.clone());
        let loaded = match version {
            Some(version) => table.load_version(version).await,
            None => table.load().await,
        };
        match loaded {
            Ok(()) => {}
            Err(DeltaTableError::NotATable(_)) if version.is_none() => return Ok(None),
            Err(source) => {
                // The kernel reports an empty log in several ways; ask the log itself.
                let exists = log.is_delta_table_location().await.unwrap_or(true);
                return if exists || version.is_some() {
                    Err(LakeError::table(spec.name, "open", source))
                } else {
                    Ok(None)
                };
            }
        }
        let fail = |source| LakeError::table(spec.name, "open", source);
        let state = table.snapshot().map_err(fail)?.clone();
        // `events` alone may have columns of the shop's own.
        let spec = match spec.name == EVENTS.name {
            true => shop::with_columns(spec, &shop::columns_of(&state).map_err(fail)?),
            false => spec,
        };
        let log_data = state.log_data();
        let mut files = log_data
            .iter()
            .map(|view| DataFile::from_log(spec, &view))
            .collect::<Result<Vec<_>, _>>()?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Some(Self { lake: lake.clone(), spec, log, state, files: Arc::new(files) }))
    }

    /// What table it is.
    #[must_use]
    pub fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    /// The lake it is in.
    #[must_use]
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// Its version in the Delta log.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.version()
    }

    /// Its files, by path.
    #[must_use]
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// Its rows, as the log counts them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Its partitions.
    #[must_use]
    pub fn days(&self) -> BTreeSet<Date> {
        self.files.iter().filter_map(|file| file.dt).collect()
    }

    /// The last batch that `job` applied to it.
    ///
    /// # Errors
    /// [`LakeError::Table`] where the log cannot be read.
    pub async fn batch(&self, job: &str) -> Result<Option<i64>, LakeError> {
        self.state
            .transaction_version(self.log.as_ref(), format!("{APP_ID_PREFIX}{job}"))
            .await
            .map_err(|source| LakeError::table(self.spec.name, "read", source))
    }

    /// Files that `self` has and `base` has not, and the other way round.
    #[must_use]
    pub fn since(&self, base: Option<&Table>) -> Change {
        let mine: HashMap<&str, &DataFile> =
            self.files.iter().map(|file| (file.path.as_str(), file)).collect();
        let theirs: HashMap<&str, &DataFile> = base
            .map(|base| base.files.iter().map(|file| (file.path.as_str(), file)).collect())
            .unwrap_or_default();
        let only = |in_: &HashMap<&str, &DataFile>, not_in: &HashMap<&str, &DataFile>| {
            let mut files: Vec<DataFile> = in_
                .iter()
                .filter(|(path, _)| !not_in.contains_key(*path))
                .map(|(_, file)| (*file).clone())
                .collect();
            files.sort_by(|a, b| a.path.cmp(&b.path));
            files
        };
        Change { adds: only(&mine, &theirs), removes: only(&theirs, &mine) }
    }

    /// Applies `change`, computed from this version, as batch `batch` of `job`.
    ///
    /// Where another writer was faster, the change is applied to its version
    /// only if the partitions that it replaces are as they were; else it must
    /// be computed again.
    ///
    /// # Errors
    /// [`LakeError::Conflict`] where a touched partition has changed since this
    /// version, [`LakeError::Table`] where the log cannot be read or written.
    pub async fn commit(
        &self,
        change: &Change,
        job: &str,
        batch: i64,
    ) -> Result<Committed, LakeError> {
        let fail = |source| LakeError::table(self.spec.name, "commit to", source);
        let mut last_error = None;
        for _ in 0..MAX_COMMIT_ATTEMPTS {
            let newest = Self::load(&self.lake, self.spec, None)
                .await?
                .ok_or_else(|| fail(DeltaTableError::NotATable("it has vanished".to_owned())))?;
            if newest.batch(job).await?.is_some_and(|applied| applied >= batch) {
                return Ok(Committed::Before(newest.version()));
            }
            self.check_unchanged(&newest, change)?;
            let attempt = newest.commit_once(change, job, batch).await;
            match attempt {
                Ok(version) => return Ok(Committed::Now(version)),
                Err(error) => last_error = Some(error),
            }
        }
        Err(fail(
            last_error.unwrap_or_else(|| DeltaTableError::generic("no attempt was made to commit")),
        ))
    }

    /// Refuses where `newest` has other files than `self` in a partition that `change` replaces,
    /// and where a file that it removes is not there any more: `self` may be newer than what it
    /// was computed from, and the rows of that file live on in another.
    fn check_unchanged(&self, newest: &Table, change: &Change) -> Result<(), LakeError> {
        let live: HashSet<&str> = newest.files.iter().map(|file| file.path.as_str()).collect();
        if let Some(gone) = change.removes.iter().find(|file| !live.contains(file.path.as_str())) {
            return Err(LakeError::Conflict {
                table: self.spec.name,
                base: self.version(),
                newest: newest.version(),
                path: gone.path.clone(),
            });
        }
        if newest.version() == self.version() {
            return Ok(());
        }
        let replaced: BTreeSet<Option<Date>> = change.removes.iter().map(|f| f.dt).collect();
        let difference = newest.since(Some(self));
        let touched =
            difference.adds.iter().chain(&difference.removes).find(|f| replaced.contains(&f.dt));
        match touched {
            None => Ok(()),
            Some(file) => Err(LakeError::Conflict {
                table: self.spec.name,
                base: self.version(),
                newest: newest.version(),
                path: file.path.clone(),
            }),
        }
    }

    async fn commit_once(
        &self,
        change: &Change,
        job: &str,
        batch: i64,
    ) -> Result<u64, DeltaTableError> {
        let now_ms = clickmill_schemas::Timestamp::now().micros() / 1_000;
        let removes = change.removes.iter().map(|file| Action::Remove(remove(file, now_ms)));
        let adds = change.adds.iter().map(|file| Action::Add(add(file, now_ms)));
        let days: BTreeSet<String> =
            change.removes.iter().filter_map(|f| f.dt).map(|dt| format!("'{dt}'")).collect();
        let predicate = (!change.removes.is_empty() && self.spec.partitioned).then(|| {
            format!("{PARTITION_COLUMN} IN ({})", days.into_iter().collect::<Vec<_>>().join(", "))
        });
        let operation = DeltaOperation::Write {
            mode: if change.removes.is_empty() { SaveMode::Append } else { SaveMode::Overwrite },
            partition_by: self.spec.partitioned.then(|| vec![PARTITION_COLUMN.to_owned()]),
            predicate,
        };
        let builder = deltalake_core::kernel::transaction::CommitBuilder::from(
            CommitProperties::default().with_max_retries(0).with_application_transaction(
                Transaction::new_with_last_update(
                    format!("{APP_ID_PREFIX}{job}"),
                    batch,
                    Some(now_ms),
                ),
            ),
        );
        let metadata = self.widened()?.map(Action::Metadata);
        let committed = builder
            .with_actions(metadata.into_iter().chain(removes).chain(adds).collect())
            .build(Some(&self.state), self.log.clone(), operation)
            .await?;
        Ok(committed.version())
    }

    /// What the log is to say of the columns where the specification has some that it lacks. Its
    /// old rows have none of them, so they may be null.
    fn widened(&self) -> Result<Option<Metadata>, DeltaTableError> {
        let (said, wanted) = (self.state.schema(), delta_schema(self.spec)?);
        let (partition, mut fields): (Vec<_>, Vec<_>) =
            said.fields().cloned().partition(|field| field.name() == PARTITION_COLUMN);
        let held = fields.len();
        fields.extend(wanted.fields().filter(|field| said.field(field.name()).is_none()).cloned());
        if fields.len() == held {
            return Ok(None);
        }
        fields[held..].iter_mut().for_each(|field| field.nullable = true);
        fields.extend(partition);
        let schema = StructType::try_new(fields)?;
        Ok(Some(self.state.metadata().clone().with_schema(&schema)?))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.spec.name)
            .field("version", &self.version())
            .field("files", &self.files.len())
            .finish()
    }
}

fn add(file: &DataFile, now_ms: i64) -> Add {
    Add {
        path: file.path.clone(),
        partition_values: file.partition_values(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: now_ms,
        data_change: true,
        stats: Some(file.stats.clone()),
        tags: Some(file.tags()),
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}

fn remove(file: &DataFile, now_ms: i64) -> Remove {
    Remove {
        path: file.path.clone(),
        data_change: true,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some(file.partition_values()),
        size: Some(i64::try_from(file.bytes).unwrap_or(i64::MAX)),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
    }
}

fn delta_schema(spec: &'static TableSpec) -> Result<StructType, DeltaTableError> {
    let arrow = crate::schema::arrow_schema(spec);
    arrow.as_ref().try_into_kernel().map_err(|source| DeltaTableError::Arrow { source })
}

/// A log store on the lake's own client. The URL only names the folder below
/// the lake's root: the client is rooted there, and paths in the log are relative.
fn log_store(lake: &Lake, name: &str) -> Result<LogStoreRef, LakeError> {
    let folder = format!("tables/{name}");
    let url = Url::parse(&format!("clickmill:///{folder}/")).map_err(|error| {
        LakeError::Location { location: folder.clone(), reason: error.to_string() }
    })?;
    let prefixed = Arc::new(PrefixStore::new(Arc::clone(lake.store()), folder));
    Ok(default_logstore(prefixed, Arc::clone(lake.store()), &url, &StorageConfig::default()))
}
