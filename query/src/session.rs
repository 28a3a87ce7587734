//! The session: tables of a snapshot, read-only.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use clickmill_lake::history::{self, Series, Snapshot};
use clickmill_lake::store::counting::{CountingStore, IoCounters};
use clickmill_lake::table::{
    LakeTable, ScanCounters, ScanTotals, Table, register_store, spec_in_log,
};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::tables::{TABLES, TableSpec};
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion_functions_json::udfs::json_union_to_text_udf;
use futures::TryStreamExt as _;

/// How a session runs queries.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// What queries may hold in memory before they spill; `None`: no limit.
    pub memory_limit_bytes: Option<usize>,
    /// Streams that a query is spread over; `None`: one a core.
    pub parallelism: Option<usize>,
}

/// Failures of a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The lake could not be read.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// There is neither a snapshot yet nor the word of a check.
    #[error("the lake {lake} has no tables yet: run `clickmill etl run --lake {lake}` first")]
    Empty {
        /// The lake.
        lake: String,
    },
    /// The text is no statement that this session runs.
    #[error("{0}")]
    Statement(String),
    /// Planning or running the query failed.
    #[error("the query failed: {}", said(.0))]
    Query(DataFusionError),
}

/// The engine's word, once: its causes say the same again, and name every column that there is.
fn said(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    match text.split_once("\nValid fields are ") {
        Some((said, _)) => format!("{said} DESCRIBE lists the columns of a table."),
        None => text,
    }
}

/// What queries of a session cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Bytes that came from the object store, measured at its client.
    pub bytes_read: u64,
    /// GET requests.
    pub gets: u64,
    /// What pruning left out.
    pub scans: ScanTotals,
}

/// An open session.
pub struct Session {
    context: SessionContext,
    snapshot: Option<Snapshot>,
    io: Arc<IoCounters>,
    io_at_open: (u64, u64),
    scans: Arc<ScanCounters>,
}

impl Session {
    /// Opens the newest snapshot with default options.
    ///
    /// # Errors
    /// [`QueryError::Empty`] where there is none, [`QueryError::Lake`].
    pub async fn open(lake: &Lake) -> Result<Self, QueryError> {
        Self::open_with(lake, &SessionOptions::default()).await
    }

    /// Opens the newest snapshot.
    ///
    /// # Errors
    /// [`QueryError::Empty`] where there is none, [`QueryError::Lake`].
    pub async fn open_with(lake: &Lake, options: &SessionOptions) -> Result<Self, QueryError> {
        let (store, io) = CountingStore::new(Arc::clone(lake.store()));
        let lake = lake.with_store(store);
        let snapshot: Option<Snapshot> = match history::newest(&lake, Series::Snapshots).await? {
            Some(number) => Some(history::read(&lake, Series::Snapshots, number).await?),
            None => None,
        };
        let tables = tables_of(&lake, snapshot.as_ref()).await?;
        if tables.is_empty() {
            return Err(QueryError::Empty { lake: lake.url().to_string() });
        }

        let mut config = SessionConfig::new().with_information_schema(true);
        if let Some(parallelism) = options.parallelism {
            config = config.with_target_partitions(parallelism);
        }
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        config.options_mut().execution.parquet.pushdown_filters = true;
        let mut runtime = RuntimeEnvBuilder::new();
        if let Some(bytes) = options.memory_limit_bytes {
            runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
        }
        let runtime = runtime.build_arc().map_err(QueryError::Query)?;
        register_store(&runtime, &lake)?;
        let mut context = SessionContext::new_with_config_rt(config, runtime);
        // `properties->>'x'`, json_get_int(context, 'screen', 'width').
        datafusion_functions_json::register_all(&mut context).map_err(QueryError::Query)?;

        let scans = Arc::new(ScanCounters::default());
        for table in &tables {
            let provider = LakeTable::new(table).with_counters(Arc::clone(&scans));
            let name = table.spec().name;
            context.register_table(name, Arc::new(provider)).map_err(QueryError::Query)?;
        }
        let io_at_open = (io.bytes_read(), io.gets());
        Ok(Self { context, snapshot, io, io_at_open, scans })
    }

    /// The snapshot that it sees; `None` where the first run has not come so far.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Runs one statement and streams its rows.
    ///
    /// # Errors
    /// [`QueryError::Statement`] for one that is not a query, [`QueryError::Query`].
    pub async fn stream(&self, sql: &str) -> Result<SendableRecordBatchStream, QueryError> {
        let state = self.context.state();
        let plan = state.create_logical_plan(sql).await.map_err(QueryError::Query)?;
        // No DDL, no COPY, no SET: a session changes nothing, neither data nor its own limits.
        let allowed = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        allowed.verify_plan(&plan).map_err(|error| {
            QueryError::Statement(format!(
                "only queries can be run here (SELECT, WITH, VALUES, SHOW, DESCRIBE, EXPLAIN): {error}"
            ))
        })?;
        let frame = self.context.execute_logical_plan(plan).await.map_err(QueryError::Query)?;
        let frame = json_as_text(frame).map_err(QueryError::Query)?;
        frame.execute_stream().await.map_err(QueryError::Query)
    }

    /// Runs one statement and collects its rows.
    ///
    /// # Errors
    /// As [`Self::stream`].
    pub async fn sql(&self, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
        self.stream(sql).await?.try_collect().await.map_err(QueryError::Query)
    }

    /// Like [`Self::sql`], with the schema of an answer that may have no rows.
    ///
    /// # Errors
    /// As [`Self::stream`].
    pub async fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), QueryError> {
        let stream = self.stream(sql).await?;
        let schema = stream.schema();
        Ok((schema, stream.try_collect().await.map_err(QueryError::Query)?))
    }

    /// What its queries cost so far, without opening it.
    #[must_use]
    pub fn stats(&self) -> ScanStats {
        let (bytes, gets) = self.io_at_open;
        ScanStats {
            bytes_read: self.io.bytes_read() - bytes,
            gets: self.io.gets() - gets,
            scans: self.scans.totals(),
        }
    }

    /// Splits a text into its statements, as the parser sees them.
    ///
    /// # Errors
    /// [`QueryError::Query`] where it does not parse.
    pub fn statements(text: &str) -> Result<Vec<String>, QueryError> {
        use datafusion::sql::parser::DFParser;
        let statements = DFParser::parse_sql(text).map_err(QueryError::Query)?;
        Ok(statements.iter().map(ToString::to_string).collect())
    }
}

/// The tables that readers of a snapshot see.
async fn tables_of(lake: &Lake, snapshot: Option<&Snapshot>) -> Result<Vec<Table>, LakeError> {
    let mut specs = TABLES.to_vec();
    let named = snapshot.into_iter().flat_map(|snapshot| snapshot.tables.keys());
    // The rest are tables of the shop's own jobs.
    for name in named.filter(|name| TableSpec::find(name).is_none()) {
        specs.extend(spec_in_log(lake, name).await?);
    }
    let mut tables = Vec::new();
    for spec in specs {
        tables.extend(history::open_table(lake, snapshot, spec).await?);
    }
    Ok(tables)
}

/// JSON of no one type (`properties->'x'`) as its text: neither JSON nor Parquet can hold the
/// union that the engine makes of it.
fn json_as_text(frame: DataFrame) -> Result<DataFrame, DataFusionError> {
    let is_union = |of: &DataType| matches!(of, DataType::Union(..));
    if !frame.schema().fields().iter().any(|field| is_union(field.data_type())) {
        return Ok(frame);
    }
    let columns: Vec<Expr> = frame
        .schema()
        .iter()
        .map(|(table, field)| {
            let column = Expr::from((table, field));
            match is_union(field.data_type()) {
                true => json_union_to_text_udf().call(vec![column]).alias(field.name()),
                false => column,
            }
        })
        .collect();
    frame.select(columns)
}
