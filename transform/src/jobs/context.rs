//! What a job is handed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use clickmill_lake::Lake;
use clickmill_lake::history::Snapshot;
use clickmill_lake::raw::RawKind;
use clickmill_lake::table::{Change, LakeTable, Table, register_store};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{EVENTS, TableSpec};
use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::bounds::Bounds;
use crate::TransformError;
use crate::batch::{Batch, DEFINITION};
use crate::quality::{Outcome, Outcomes};
use crate::run::RunOptions;

/// The batch, the lake, and how to run queries.
pub struct JobContext<'a> {
    /// The lake.
    pub lake: &'a Lake,
    /// What the run takes in.
    pub batch: &'a Batch,
    /// The state before it.
    pub previous: Option<&'a Snapshot>,
    /// How to run.
    pub options: &'a RunOptions,
    /// The table `events`, with the shop's own columns.
    pub events: &'static TableSpec,
    runtime: Arc<RuntimeEnv>,
    /// The newest version of each table that was seen: jobs ask for the same ones again and again.
    seen: Mutex<HashMap<&'static str, Table>>,
    /// What checks found so far.
    outcomes: Mutex<Outcomes>,
    /// What the columns of amounts and units can hold.
    bounds: Bounds,
}

impl<'a> JobContext<'a> {
    /// One context serves all jobs of a batch: they share the memory limit.
    ///
    /// # Errors
    /// [`TransformError::Job`] where the spill folder cannot be made, [`TransformError::Lake`].
    pub async fn new(
        lake: &'a Lake,
        batch: &'a Batch,
        previous: Option<&'a Snapshot>,
        options: &'a RunOptions,
    ) -> Result<Self, TransformError> {
        let pool: Arc<dyn MemoryPool> = match options.memory_limit_bytes {
            Some(bytes) => Arc::new(FairSpillPool::new(bytes)),
            None => Arc::new(GreedyMemoryPool::new(usize::MAX)),
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(pool)
            .build_arc()
            .map_err(TransformError::job("setup"))?;
        register_store(&runtime, lake)?;
        Ok(Self {
            lake,
            batch,
            previous,
            options,
            events: batch.columns.events(lake).await?,
            runtime,
            seen: Mutex::default(),
            outcomes: Mutex::default(),
            bounds: Bounds::default(),
        })
    }

    /// A fresh SQL session on the shared runtime. Times are UTC.
    #[must_use]
    pub fn session(&self) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.options.parallelism)
            .with_information_schema(false);
        let options = config.options_mut();
        options.execution.time_zone = Some("UTC".to_owned());
        // The tables are Utf8; views would be copied back at every write.
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        let session = SessionContext::new_with_config_rt(config, Arc::clone(&self.runtime));
        self.bounds.register(&session);
        session
    }

    /// What the columns of amounts and units can hold.
    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The last day that counts as past or present: the one after the batch's, for clocks and
    /// zones that are ahead. Rows of later days stay, but no window ends with them.
    pub(crate) fn newest_day(&self) -> Date {
        Date::from_days(self.batch.created_at.date().days() + 1)
    }

    /// A table as it was before the batch; `None` where it did not exist.
    ///
    /// # Errors
    /// [`TransformError::Lake`].
    pub async fn base(&self, spec: &'static TableSpec) -> Result<Option<Table>, TransformError> {
        match crate::batch::base_version(self.batch, spec) {
            Some(version) => {
                Ok(Some(Table::open_at(self.lake, self.with_own_columns(spec), version).await?))
            }
            None => Ok(None),
        }
    }

    /// A table as it is now: for one that an earlier job of this batch wrote, with that.
    ///
    /// # Errors
    /// [`TransformError::Lake`].
    pub async fn current(&self, spec: &'static TableSpec) -> Result<Table, TransformError> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(spec.name).cloned();
        let table = match seen {
            Some(table) => table.newest().await?,
            None => Table::open_or_create(self.lake, self.with_own_columns(spec)).await?,
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(spec.name, table.clone());
        Ok(table)
    }

    fn with_own_columns(&self, spec: &'static TableSpec) -> &'static TableSpec {
        if spec.name == self.events.name { self.events } else { spec }
    }

    /// Notes what a check found; what an attempt before this one found is forgotten.
    pub(crate) fn note(&self, table: &'static str, number: usize, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.insert((table, number), outcome);
    }

    /// True where a check of the table found something.
    pub(crate) fn is_noted(&self, table: &str) -> bool {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.keys().any(|(noted, _)| *noted == table)
    }

    /// What checks found.
    pub(crate) fn outcomes(&self) -> Outcomes {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of `upstream` since `table` last took it in.
    ///
    /// # Errors
    /// [`TransformError::Lake`].
    pub async fn change_of(
        &self,
        upstream: &'static TableSpec,
        table: &'static TableSpec,
    ) -> Result<Change, TransformError> {
        let current = self.current(upstream).await?;
        let taken = self
            .previous
            .and_then(|snapshot| snapshot.derived_from.get(table.name)?.get(upstream.name));
        Ok(match taken {
            Some(version) if *version == current.version() => Change::default(),
            Some(version) if self.only_filled(upstream, table, *version, current.version()) => {
                Change::default()
            }
            Some(version) => {
                let before = Table::open_at(self.lake, upstream, *version).await?;
                current.since(Some(&before))
            }
            None => current.since(None),
        })
    }

    /// True where nothing became of `upstream` but a backfill of the shop's own columns by this
    /// batch, which none of our jobs reads.
    fn only_filled(&self, upstream: &TableSpec, table: &TableSpec, taken: u64, now: u64) -> bool {
        let batch = self.batch;
        let is_fill = batch.backfill.as_ref().is_some_and(|backfill| !backfill.channels);
        is_fill
            && upstream.name == EVENTS.name
            && TableSpec::find(table.name).is_some()
            && batch.objects(RawKind::Events).next().is_none()
            && batch.base.get(EVENTS.name) == Some(&taken)
            // The batch's own commit, and no other.
            && now == taken + 1
    }

    /// By what definition ([`crate::batch::Batch::definition_of`]) a table was made last.
    pub(crate) fn taken_definition(&self, table: &str) -> Option<u64> {
        self.previous?.derived_from.get(table)?.get(DEFINITION).copied()
    }
}

/// The partitions that a change adds to or removes from.
#[must_use]
pub fn touched_days(change: &Change) -> BTreeSet<Date> {
    change.adds.iter().chain(&change.removes).filter_map(|file| file.dt).collect()
}

/// The partitions that a change removes files from.
#[must_use]
pub fn rewritten_days(change: &Change) -> BTreeSet<Date> {
    change.removes.iter().filter_map(|file| file.dt).collect()
}

/// The files of a table that lie in `days`.
#[must_use]
pub fn files_in(table: &Table, days: &BTreeSet<Date>) -> Vec<clickmill_lake::table::DataFile> {
    let in_days = |dt: Option<Date>| dt.is_some_and(|dt| days.contains(&dt));
    table.files().iter().filter(|file| in_days(file.dt)).cloned().collect()
}

/// `days` and the days around them, from `back` days before to `ahead` days after each.
#[must_use]
pub fn widened(days: &BTreeSet<Date>, back: i32, ahead: i32) -> BTreeSet<Date> {
    let around = |day: &Date| (day.days() - back)..=(day.days() + ahead);
    days.iter().flat_map(around).map(Date::from_days).collect()
}

/// A table of some files, for SQL.
#[must_use]
pub fn table_of(
    spec: &'static TableSpec,
    files: Vec<clickmill_lake::table::DataFile>,
) -> Arc<LakeTable> {
    Arc::new(LakeTable::of_files(spec, files))
}
