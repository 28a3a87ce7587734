//! A shop's own exports as typed rows: RDS snapshot exports, DynamoDB exports
//! full and incremental, change capture by DMS, CSV, JSON and Parquet files, and what
//! [`live`] read from databases.
//!
//! [`discover`] lists what lies under the configured places and says, for each
//! complete export and each [`Dataset`] in it, which files belong to it. It
//! reads manifests, never data. [`stream`] (or [`read`], which collects it)
//! turns one [`Export`] into record batches with the columns of its table.
//!
//! # Guarantees
//! - An [`Export`] is self-contained: it carries its files, with their ETags,
//!   and the mapping as it was when the export was found. Reading it again, also
//!   after the configuration changed, gives the same rows in the same order, and
//!   the same rejects with the same ids. So it can stand verbatim in a batch file.
//! - Nothing is guessed and nothing is rounded: a value that does not cast to
//!   its column's type sends its row to the rejects, with the column, the value
//!   and the row's bytes.
//! - Every row that was read is in a batch, in the deletes or in the rejects:
//!   `rows_read` says how many.
//! - An export whose manifest is missing, incomplete or disagrees with its files
//!   is not taken, and a [`Notice`] says so.
//!
//! # Failure
//! What lies in the *data* never fails a read, because a batch must be able to
//! finish: a file that is damaged, or was replaced since it was found, becomes
//! one reject that names it. [`SourceError`] is for what may go away by itself
//! or by the user's hand: a store that does not answer, a file that was deleted.
//!
//! # Order
//! Exports come sorted by (`exported_at`, source, export id, dataset), so "the
//! newest wins" has one answer.

pub mod config;
pub mod coverage;
pub mod live;

mod cast;
mod changes;
mod columns;
mod csv_rows;
mod datasets;
mod dms;
mod dms_config;
mod dynamodb;
mod error;
mod expect;
mod fetch;
mod files;
mod items;
mod lines;
mod place;
mod process;
mod rds;
mod reader;
mod rows;
mod value;

pub use config::{ColumnMapping, SourceConfig, SourcesConfig};
pub use error::SourceError;
pub use reader::{read, stream};

use std::collections::BTreeMap;
use std::fmt;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use clickmill_lake::Lake;
use clickmill_schemas::{Reject, Timestamp};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use config::{Complete, CsvLayout, LinesMapping};

/// Rows in one batch, at most.
pub const BATCH_ROWS: usize = 8_192;
/// Bytes of an export's identity.
const IDENTITY_BYTES: usize = 16;

/// What an export's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dataset {
    /// One row an order.
    Orders,
    /// One row a line of an order.
    OrderItems,
    /// One row a customer.
    Customers,
    /// One row a product, as it was when the export was made.
    ProductObservations,
    /// One row a cart.
    Carts,
}

/// What the rows of an export are, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Content {
    /// Rows as they were at `exported_at`. What is absent says nothing, but for
    /// order lines: an order that is there has these lines and no others.
    #[default]
    Snapshot,
    /// The last state of every row that was written in [from, to), each with its time.
    Window {
        /// Inclusive.
        from: Timestamp,
        /// Exclusive.
        to: Timestamp,
    },
    /// The rows that changes start from: every change stands above it, whatever the clocks say.
    Load {
        /// When the task started, where that is known: the load stands there, above what was
        /// said before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started_at: Option<Timestamp>,
    },
    /// Changes, each with its operation, in the order of their times and then of the file.
    Changes,
}

/// How the rows of change capture say what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLayout {
    /// The column of the operation in Parquet, and in CSV with a header; else the first.
    pub operation_column: String,
    /// The column of the commit's time, where the task writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_column: Option<String>,
}

/// One object of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// The store it lies in: the URL of a store's root, or `lake` for the lake itself.
    pub location: String,
    /// Its path there.
    pub path: String,
    /// The store's ETag when it was found; empty where the store gives none.
    pub etag: String,
    /// Its size.
    pub bytes: u64,
    /// MD5 of the object in base64, where a manifest gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5_base64: Option<String>,
    /// Rows in it, where a manifest says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
}

/// How an export's files are encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Format {
    /// Parquet, with decimals and times as text where the database's types had no better.
    Parquet,
    /// `{"Item":{...}}` lines in DynamoDB JSON, of an incremental export
    /// `{"Metadata":{...},"Keys":{...},"NewImage":{...}}`; gz.
    DynamodbJson,
    /// An object a line, plain, gz or zstd.
    Jsonl,
    /// Separated values, plain, gz or zstd by the file's name.
    Csv(CsvLayout),
}

/// One complete export of one dataset: all that reading it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// What its rows are.
    pub dataset: Dataset,
    /// The source's name in the configuration.
    pub source: String,
    /// The export's own id; a file's path where files stand alone.
    pub export_id: String,
    /// When the data was like this.
    pub exported_at: Timestamp,
    /// How the files are encoded.
    pub format: Format,
    /// Where each column of the table comes from.
    pub columns: BTreeMap<String, ColumnMapping>,
    /// What its rows are, taken together.
    #[serde(default, skip_serializing_if = "Content::is_snapshot")]
    pub content: Content,
    /// Of loads and changes: how rows say what they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<ChangeLayout>,
    /// The table that it is of, where its chain is watched for gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Of the lines of orders in files: what an export has of an order, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Complete>,
    /// Set where the rows are order lines that make up the dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<LinesMapping>,
    /// Its objects, by path.
    pub files: Vec<InputFile>,
}

/// Something that [`discover`] or a read came across and that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The source's name in the configuration.
    pub source: String,
    /// The export, table or object.
    pub subject: String,
    /// Whether anything is left out or wrong.
    #[serde(default)]
    pub severity: Severity,
    /// What is the matter, and what it means for the tables.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something was left out, or may be wrong.
    #[default]
    Problem,
    /// Worth a look, and everything was taken.
    Remark,
}

/// What lies under the configured places now.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Complete exports, in the order in which they are to be applied.
    pub exports: Vec<Export>,
    /// What was left out, and why.
    pub notices: Vec<Notice>,
    /// For each live source and dataset the last read listed here.
    pub live_reads: BTreeMap<String, i64>,
}

/// A bounded piece of an export.
#[derive(Clone, Debug)]
pub struct SourceChunk {
    /// Rows in the dataset's schema; may be empty.
    pub batch: RecordBatch,
    /// The place of each row of `batch` in the export, ascending.
    pub positions: Vec<i64>,
    /// Rows that are gone: the columns of the key, and the time; see [`Dataset::delete_schema`].
    pub deletes: RecordBatch,
    /// The place of each row of `deletes` in the export, ascending.
    pub delete_positions: Vec<i64>,
    /// Rows that were read for this chunk: those of the batch, the deletes and those rejected.
    pub rows_read: u64,
    /// What did not fit.
    pub rejects: Vec<Reject<'static>>,
    /// What was noticed while reading.
    pub notices: Vec<Notice>,
}

/// A whole export, collected.
#[derive(Clone, Debug, Default)]
pub struct SourceRows {
    /// Rows in the dataset's schema.
    pub batches: Vec<RecordBatch>,
    /// Keys of rows that are gone.
    pub deletes: Vec<RecordBatch>,
    /// Rows that were read.
    pub rows_read: u64,
    /// What did not fit.
    pub rejects: Vec<Reject<'static>>,
    /// What was noticed while reading.
    pub notices: Vec<Notice>,
}

/// The first file of some exports that is gone, or another one now, by its name for a person.
///
/// # Errors
/// [`SourceError`] where a store does not answer.
pub(crate) async fn first_gone(
    lake: &Lake,
    exports: &[Export],
) -> Result<Option<String>, SourceError> {
    let mut stores = fetch::Stores::new(lake);
    for export in exports {
        for file in &export.files {
            let store = stores.get(&export.source, &file.location).await?;
            let found = store.head(&Path::from(file.path.as_str())).await;
            let is_there = match found {
                Ok(meta) => file.etag.is_empty() || meta.e_tag.as_ref() == Some(&file.etag),
                Err(object_store::Error::NotFound { .. }) => false,
                Err(source) => {
                    return Err(SourceError::Store {
                        source_name: export.source.clone(),
                        operation: "read",
                        object: file.object(),
                        source: Box::new(source),
                    });
                }
            };
            if !is_there {
                return Ok(Some(file.object()));
            }
        }
    }
    Ok(None)
}

/// Lists the exports that lie under the configured places. What is wrong with one
/// export is a [`Notice`], and so is a place that does not open or a store that does
/// not answer: the other sources go on.
///
/// `live_reads` says for each live source and dataset the last read that was taken; what
/// came since is listed.
pub async fn discover(
    lake: &Lake,
    config: &SourcesConfig,
    live_reads: &BTreeMap<String, i64>,
) -> Discovery {
    let mut found = Discovery::default();
    for (name, source) in config.iter() {
        let outcome = match source {
            SourceConfig::RdsExport(source) => rds::discover(lake, name, source, &mut found).await,
            SourceConfig::DynamodbExport(source) => {
                dynamodb::discover(lake, name, source, &mut found).await
            }
            SourceConfig::Dms(source) => dms::discover(lake, name, source, &mut found).await,
            SourceConfig::Files(source) => files::discover(lake, name, source, &mut found).await,
            // Those were read into the lake before: see `live`.
            SourceConfig::Postgresql(_)
            | SourceConfig::Mysql(_)
            | SourceConfig::DynamodbScan(_) => {
                live::discover(lake, name, live_reads, &mut found).await
            }
        };
        if let Err(error) = outcome {
            found.notices.push(unreachable(name, source, &error));
        }
    }
    found.exports.sort_by(|a, b| {
        let order = |e: &Export| (e.exported_at, e.source.clone(), e.export_id.clone(), e.dataset);
        order(a).cmp(&order(b))
    });
    found
}

/// A source of which nothing more can be taken now.
fn unreachable(name: &str, source: &SourceConfig, error: &SourceError) -> Notice {
    Notice {
        source: name.to_owned(),
        subject: source.place(),
        severity: Severity::Problem,
        problem: format!("{}; nothing more of it is taken", live::with_causes(error)),
        advice: "the next run tries again; what was taken before stays".to_owned(),
    }
}

impl Export {
    /// Tells exports apart: the same files under the same mapping have the same
    /// identity, so an export is taken once, and again after its mapping changed.
    #[must_use]
    pub fn identity(&self) -> String {
        // Maps with text keys and plain values: it always serialises.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let hash = Sha256::digest(&text);
        hash.iter().take(IDENTITY_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What it brings, each with an identity: it is to be taken where one of them is new. That
    /// is itself; of files that were put together its files, so that one which comes late or
    /// was written anew has all of them read again, and one that went away has none.
    #[must_use]
    pub fn identities(&self) -> Vec<String> {
        if self.complete.is_none() {
            return vec![self.identity()];
        }
        let mut one = self.clone();
        let identity = |file: &InputFile| {
            one.files = vec![file.clone()];
            one.identity()
        };
        self.files.iter().map(identity).collect()
    }

    /// True where it has all lines of the orders that it has, false where each line of its files
    /// stands for itself; `None` where it says nothing of that.
    #[must_use]
    pub fn has_whole_orders(&self) -> Option<bool> {
        (self.content == Content::Snapshot).then_some(self.complete != Some(Complete::Line))
    }
}

impl Notice {
    /// Those that differ by their subject alone as one: a mistake in a mapping is in every file.
    #[must_use]
    pub fn folded(notices: Vec<Self>) -> Vec<Self> {
        let mut folded: Vec<(Self, usize)> = Vec::new();
        for notice in notices {
            let said = (&notice.source, &notice.problem, &notice.advice);
            let is_same = |(n, _): &&mut (Self, usize)| (&n.source, &n.problem, &n.advice) == said;
            match folded.iter_mut().find(is_same) {
                Some((_, others)) => *others += 1,
                None => folded.push((notice, 0)),
            }
        }
        let shown = |(mut notice, others): (Self, usize)| {
            if others > 0 {
                notice.subject.push_str(&format!(" and {others} more"));
            }
            notice
        };
        folded.into_iter().map(shown).collect()
    }
}

impl Content {
    /// Its name in `source_exports`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Window { .. } => "window",
            Self::Load { .. } => "load",
            Self::Changes => "changes",
        }
    }

    const fn is_snapshot(&self) -> bool {
        matches!(self, Self::Snapshot)
    }
}

impl Dataset {
    /// The columns of a delete: the key, and when it was.
    #[must_use]
    pub fn delete_schema(self) -> SchemaRef {
        columns::delete_schema(self)
    }

    /// The columns that a source fills: the table's, without `dt`.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        columns::schema(self)
    }

    /// Every dataset.
    pub const ALL: [Self; 5] =
        [Self::Orders, Self::OrderItems, Self::Customers, Self::ProductObservations, Self::Carts];

    /// The columns that tell its rows apart, whenever something was said of them.
    #[must_use]
    pub const fn key(self) -> &'static [&'static str] {
        match self {
            Self::Orders => &["order_id"],
            Self::OrderItems => &["order_id", "line"],
            Self::Customers => &["customer_id"],
            Self::ProductObservations => &["product_id"],
            Self::Carts => &["cart_id"],
        }
    }

    /// The column of the time at which its row was like this.
    #[must_use]
    pub const fn time_column(self) -> &'static str {
        match self {
            Self::ProductObservations => "observed_at",
            _ => "exported_at",
        }
    }

    /// The table that its rows go to.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::OrderItems => "order_items",
            Self::Customers => "customers",
            Self::ProductObservations => "product_observations",
            Self::Carts => "carts",
        }
    }

    /// Its section in a source's configuration.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::ProductObservations => "products",
            other => other.table(),
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table())
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source `{}`, {}: {}; {}", self.source, self.subject, self.problem, self.advice)
    }
}
