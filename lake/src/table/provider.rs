//! One version of a table as DataFusion reads it.
//!
//! The files come from the Delta log, with statistics, and are read by a plain
//! Parquet scan: partitions and files that a filter rules out are not opened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{FieldRef, SchemaRef};
use async_trait::async_trait;
use clickmill_schemas::tables::TableSpec;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::{DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::path::Path;
use url::Url;

use super::files::DataFile;
use super::{Table, stats};
use crate::{Lake, LakeError, schema};

/// The URL under which the lake's store is known to DataFusion.
const STORE_URL: &str = "clickmill://lake";

/// Makes the lake's store known to a DataFusion runtime. Needed once before a
/// [`LakeTable`] is read there.
///
/// # Errors
/// [`LakeError::Location`] is impossible in practice: the URL is a constant.
pub fn register_store(runtime: &RuntimeEnv, lake: &Lake) -> Result<(), LakeError> {
    let url = Url::parse(STORE_URL).map_err(|error| LakeError::Location {
        location: STORE_URL.to_owned(),
        reason: error.to_string(),
    })?;
    runtime.register_object_store(&url, Arc::clone(lake.store()));
    Ok(())
}

/// What scans planned, for `sql --stats`.
#[derive(Debug, Default)]
pub struct ScanCounters {
    files: AtomicU64,
    files_pruned: AtomicU64,
    partitions: AtomicU64,
    partitions_pruned: AtomicU64,
}

/// A reading of [`ScanCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanTotals {
    /// Files of the scanned tables.
    pub files: u64,
    /// Files that were ruled out by partition or statistics.
    pub files_pruned: u64,
    /// Partitions of the scanned tables.
    pub partitions: u64,
    /// Partitions of which no file was left.
    pub partitions_pruned: u64,
}

impl ScanCounters {
    /// The totals so far.
    #[must_use]
    pub fn totals(&self) -> ScanTotals {
        ScanTotals {
            files: self.files.load(Ordering::Relaxed),
            files_pruned: self.files_pruned.load(Ordering::Relaxed),
            partitions: self.partitions.load(Ordering::Relaxed),
            partitions_pruned: self.partitions_pruned.load(Ordering::Relaxed),
        }
    }

    fn record(&self, all: &[DataFile], kept: &[&DataFile]) {
        let days = |files: &mut dyn Iterator<Item = &DataFile>| {
            files.filter_map(|file| file.dt).collect::<BTreeSet<_>>().len() as u64
        };
        let (all_days, kept_days) = (days(&mut all.iter()), days(&mut kept.iter().copied()));
        self.files.fetch_add(all.len() as u64, Ordering::Relaxed);
        self.files_pruned.fetch_add((all.len() - kept.len()) as u64, Ordering::Relaxed);
        self.partitions.fetch_add(all_days, Ordering::Relaxed);
        self.partitions_pruned.fetch_add(all_days - kept_days, Ordering::Relaxed);
    }
}

/// A set of files of a table, readable by DataFusion.
#[derive(Debug)]
pub struct LakeTable {
    spec: &'static TableSpec,
    schema: SchemaRef,
    files: Vec<DataFile>,
    counters: Option<Arc<ScanCounters>>,
}

impl LakeTable {
    /// All files of a version.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        Self::of_files(table.spec(), table.files().to_vec())
    }

    /// Some files of a table; none is an empty table.
    #[must_use]
    pub fn of_files(spec: &'static TableSpec, files: Vec<DataFile>) -> Self {
        Self { spec, schema: schema::arrow_schema(spec), files, counters: None }
    }

    /// Counts what its scans prune.
    #[must_use]
    pub fn with_counters(mut self, counters: Arc<ScanCounters>) -> Self {
        self.counters = Some(counters);
        self
    }

    /// Statistics of a file over the whole table schema: partition values are exact.
    fn statistics(&self, file: &DataFile) -> Statistics {
        let mut statistics = stats::parse(&file.stats, file.rows, file.bytes, &self.schema);
        if let (Some(dt), Some(column)) = (file.dt, statistics.column_statistics.last_mut()) {
            let value = ScalarValue::Date32(Some(dt.days()));
            column.min_value = datafusion::common::stats::Precision::Exact(value.clone());
            column.max_value = datafusion::common::stats::Precision::Exact(value);
            column.null_count = datafusion::common::stats::Precision::Exact(0);
        }
        statistics
    }

    fn prune(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<&DataFile>> {
        let Some(predicate) = conjunction(filters.to_vec()).filter(|_| !self.files.is_empty())
        else {
            return Ok(self.files.iter().collect());
        };
        let df_schema = DFSchema::try_from(Arc::clone(&self.schema))?;
        let predicate = state.create_physical_expr(predicate, &df_schema)?;
        let statistics = self.files.iter().map(|file| Arc::new(self.statistics(file))).collect();
        let pruning = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&self.schema))
            .try_build(predicate)?;
        let keep = pruning.prune(&PrunableStatistics::new(statistics, Arc::clone(&self.schema)))?;
        Ok(self.files.iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect())
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        None
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let kept = self.prune(state, filters)?;
        if let Some(counters) = &self.counters {
            counters.record(&self.files, &kept);
        }
        let files: Vec<PartitionedFile> = kept
            .iter()
            .map(|file| {
                let path = format!("tables/{}/{}", self.spec.name, file.path);
                let mut partitioned = PartitionedFile::new(path, file.bytes).with_partition_values(
                    file.dt.map(|dt| ScalarValue::Date32(Some(dt.days()))).into_iter().collect(),
                );
                partitioned.object_meta.location =
                    Path::from(format!("tables/{}/{}", self.spec.name, file.path));
                partitioned.statistics = Some(Arc::new(self.statistics(file)));
                partitioned
            })
            .collect();
        if files.is_empty() {
            let schema = match projection {
                Some(indices) => Arc::new(self.schema.project(indices)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let partition_columns: Vec<FieldRef> = if self.spec.partitioned {
            self.schema.fields().last().cloned().into_iter().collect()
        } else {
            Vec::new()
        };
        let table_schema = TableSchema::builder(schema::file_schema(self.spec))
            .with_table_partition_cols(partition_columns)
            .build();
        let options = state.config_options().execution.parquet.clone();
        let source = ParquetSource::new(table_schema)
            .with_pushdown_filters(options.pushdown_filters)
            .with_enable_page_index(options.enable_page_index);
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config =
            FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, Arc::new(source))
                .with_file_groups(groups)
                .with_projection_indices(projection.cloned())?
                .with_limit(limit.filter(|_| filters.is_empty()))
                .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
