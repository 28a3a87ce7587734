//! How fresh each source is, as of a snapshot, and which tables are older than their checks allow.

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use clickmill_lake::Lake;
use clickmill_lake::history::Snapshot;
use clickmill_lake::table::{Table, register_store};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::SOURCE_EXPORTS;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde::Serialize;

use crate::TransformError;
use crate::batch::Batch;
use crate::quality;
pub use crate::quality::Stale;
use crate::run::RunOptions;

const JOB: &str = "status";

/// What was taken of one dataset from one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// The source's name in the configuration.
    pub source: String,
    /// The table that its rows go to.
    pub dataset: String,
    /// Exports taken.
    pub exports: i64,
    /// Rows read.
    pub rows_read: i64,
    /// Rows that fit.
    pub rows_taken: i64,
    /// Rows that said that a row is gone.
    pub rows_deleted: i64,
    /// What went to the rejects instead.
    pub rows_rejected: i64,
    /// When the newest data was like this.
    pub newest: Timestamp,
    /// Of a chain of windows: up to when nothing is missing.
    pub complete_until: Option<Timestamp>,
    /// Windows that said again what others had said.
    pub overlaps: u64,
    /// False where windows or changes came without the full export or load before them.
    pub has_beginning: bool,
}

/// Every source and dataset, by name.
///
/// # Errors
/// [`TransformError`] where the table `source_exports` cannot be read.
pub async fn of_sources(
    lake: &Lake,
    snapshot: &Snapshot,
    batch: &Batch,
) -> Result<Vec<SourceStatus>, TransformError> {
    let Some(version) = snapshot.tables.get(SOURCE_EXPORTS.name) else { return Ok(Vec::new()) };
    let table = Table::open_at(lake, &SOURCE_EXPORTS, *version).await?;
    let fail = TransformError::job(JOB);
    let session = session(lake)?;
    let files = crate::jobs::table_of(&SOURCE_EXPORTS, table.files().to_vec());
    session.register_table("taken", files).map_err(&fail)?;
    let sql = "SELECT source, dataset, max(exported_at), count(*), sum(rows_read), sum(rows_taken), \
               sum(rows_deleted), sum(rows_rejected) FROM taken GROUP BY source, dataset \
               ORDER BY source, dataset";
    let batches = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let mut sources = Vec::new();
    for rows in &batches {
        let text = |at: usize, row| rows.column(at).as_string::<i32>().value(row).to_owned();
        let number = |at: usize, row| rows.column(at).as_primitive::<Int64Type>().value(row);
        let newest = rows.column(2).as_primitive::<TimestampMicrosecondType>();
        for row in 0..rows.num_rows() {
            let (source, dataset) = (text(0, row), text(1, row));
            let prefix = format!("{source}/{dataset}/");
            let chains = batch.coverage.iter().filter(|(key, _)| key.starts_with(&prefix));
            let chains: Vec<_> = chains.map(|(_, coverage)| coverage).collect();
            let windows = chains.iter().filter(|coverage| coverage.is_chain());
            sources.push(SourceStatus {
                complete_until: windows.filter_map(|coverage| coverage.complete_until()).min(),
                overlaps: chains.iter().map(|coverage| coverage.overlaps).sum(),
                has_beginning: chains.iter().all(|coverage| coverage.has_beginning()),
                source,
                dataset,
                newest: Timestamp::from_micros(newest.value(row))
                    .unwrap_or_else(|_| clickmill_schemas::Date::from_days(0).midnight()),
                exports: number(3, row),
                rows_read: number(4, row),
                rows_taken: number(5, row),
                rows_deleted: number(6, row),
                rows_rejected: number(7, row),
            });
        }
    }
    Ok(sources)
}

/// Tables that are older than their freshness checks allow at `now`, as they are.
///
/// # Errors
/// [`TransformError`] where one cannot be read.
pub async fn stale_tables(
    lake: &Lake,
    options: &RunOptions,
    now: Timestamp,
) -> Result<Vec<Stale>, TransformError> {
    quality::stale(lake, options, &options.all_tables(), now).await
}

/// A session for a small question about a table.
pub(crate) fn session(lake: &Lake) -> Result<SessionContext, TransformError> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    // The tables are Utf8.
    config.options_mut().execution.parquet.schema_force_view_types = false;
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let session = SessionContext::new_with_config(config);
    register_store(&session.runtime_env(), lake)?;
    Ok(session)
}
