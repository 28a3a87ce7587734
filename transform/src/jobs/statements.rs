//! What exports say of rows, and which statement about a row is the newest.
//!
//! Every row of an export is a statement about its key: that it is like this, or
//! that it is gone, as of a time. The newest statement wins, by (time, source and
//! export, batch, place in the export); statements of a full load stand below all
//! changes, unless it is known when its task started. What was said is kept in the
//! internal table `source_keys`, as a hash of the content, so that the answer does not
//! depend on the order in which exports came: a late one loses to what is newer, a
//! delete outlives the row.
//!
//! The table grows by what each batch said and is merged when it has more than
//! [`MAX_STATE_FILES`] files. It is committed after the tables that depend on it:
//! a run that died between is repeated from the same statements.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use clickmill_lake::table::{Change, DataFile};
use clickmill_schemas::Reject;
use clickmill_schemas::tables::SOURCE_KEYS;
use datafusion::catalog::MemTable;
use datafusion::common::DataFusionError;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::TryStreamExt as _;
use twox_hash::XxHash3_64;

use super::context::table_of;
use super::once::{self, Firsts};
use super::query::{Spread, write};
use super::{JobContext, Output, order_lines};
use crate::TransformError;
use crate::sources::{self, Content, Dataset, Export, Notice, SourceChunk};

/// Files of `source_keys` beyond which it is merged into one.
pub const MAX_STATE_FILES: usize = 8;
/// The version of a row that is gone.
const GONE: i64 = 0;
/// The version of an order's lines as a whole.
const WHOLE_VERSION: i64 = 1;

/// What an export says of itself in each row.
const NO_CONTENT: [&str; 3] = ["exported_at", "observed_at", "export_id"];

const KEY: &str = "__key";
const PART: &str = "__part";
const VERSION: &str = "__version";
const AT: &str = "__at";
const RANK: &str = "__rank";
const SAID_BY: &str = "__said_by";
const PLACE: &str = "__place";
/// True where the export has all lines of the orders that it has, false where it is of files
/// whose lines stand for themselves, NULL where it says nothing of that.
const WHOLE: &str = "__whole";
/// True of a change, which stands above every load.
const IS_CHANGE: &str = "__is_change";
/// Where a load stands: before all times.
const BELOW_CHANGES: i64 = i64::MIN;

/// What the batch's exports say of one dataset.
pub struct Staged {
    pub dataset: Dataset,
    rows: Vec<RecordBatch>,
    deletes: Vec<RecordBatch>,
    /// True where the same content of a row may be there twice.
    has_repeats: bool,
    pub exports: Vec<ExportCounts>,
}

/// What one export gave.
pub struct ExportCounts {
    pub export: Export,
    pub read: i64,
    pub taken: i64,
    pub deleted: i64,
    pub rejected: i64,
    /// The same for exports that say the same of the same rows.
    pub fingerprint: i64,
}

impl Staged {
    /// Reads the batch's exports of a dataset.
    ///
    /// # Errors
    /// [`TransformError::Source`] where an export cannot be read now.
    pub async fn read(
        context: &JobContext<'_>,
        dataset: Dataset,
        rejected: &mut Vec<Reject<'static>>,
        output: &mut Output,
    ) -> Result<Self, TransformError> {
        let (rows, deletes, exports) = (Vec::new(), Vec::new(), Vec::new());
        let mut staged = Self { dataset, rows, deletes, has_repeats: false, exports };
        let (mut seen, mut notices) = (HashSet::new(), Vec::new());
        let exports = context.batch.exports.iter().filter(|export| export.dataset == dataset);
        for export in exports {
            let mut counts = ExportCounts::new(export);
            let mut chunks = sources::stream(context.lake, export);
            while let Some(chunk) = chunks.try_next().await? {
                counts.read += chunk.rows_read as i64;
                counts.rejected += chunk.rejects.len() as i64;
                counts.taken += chunk.batch.num_rows() as i64;
                counts.deleted += chunk.deletes.num_rows() as i64;
                staged.take(export, &chunk, &mut counts, &mut seen)?;
                rejected.extend(chunk.rejects);
                notices.extend(chunk.notices);
            }
            staged.exports.push(counts);
        }
        output.notices.extend(Notice::folded(notices));
        Ok(staged)
    }

    /// True where nothing is said of any row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.deletes.is_empty()
    }

    fn take(
        &mut self,
        export: &Export,
        chunk: &SourceChunk,
        counts: &mut ExportCounts,
        seen: &mut HashSet<u64>,
    ) -> Result<(), ArrowError> {
        if chunk.batch.num_rows() > 0 {
            let versions = versions(&chunk.batch)?;
            let marks = marks(export, &chunk.batch, &chunk.positions)?;
            counts.add(&marks, Some(&versions), |hash| self.has_repeats |= !seen.insert(hash));
            let mut columns = chunk.batch.columns().to_vec();
            columns.push(Arc::new(versions));
            let whole = vec![export.has_whole_orders(); chunk.batch.num_rows()];
            columns.push(Arc::new(BooleanArray::from(whole)));
            columns.extend(marks);
            self.rows.push(RecordBatch::try_new(rows_schema(self.dataset), columns)?);
        }
        if chunk.deletes.num_rows() > 0 {
            let marks = marks(export, &chunk.deletes, &chunk.delete_positions)?;
            counts.add(&marks, None, |_| {});
            let ids = vec![export.export_id.as_str(); chunk.deletes.num_rows()];
            let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(ids))];
            columns.extend(marks);
            self.deletes.push(RecordBatch::try_new(deletes_schema(), columns)?);
        }
        Ok(())
    }

    /// A session with `staged`, the rows, and `deleted`.
    ///
    /// # Errors
    /// [`TransformError::Job`].
    pub fn session(
        &self,
        context: &JobContext<'_>,
        job: &'static str,
    ) -> Result<SessionContext, TransformError> {
        let fail = TransformError::job(job);
        let session = context.session();
        for (name, schema, rows) in [
            ("staged", rows_schema(self.dataset), &self.rows),
            ("deleted", deletes_schema(), &self.deletes),
        ] {
            let table = MemTable::try_new(schema, vec![rows.clone()]).map_err(&fail)?;
            session.register_table(name, Arc::new(table)).map_err(&fail)?;
        }
        Ok(session)
    }

    /// As [`Staged::session`], with `spoken`, each content of a row once, `said`, every
    /// statement of the batch, and `newest`: of every key that the batch says something of, the newest statement
    /// of each part, with the time at which its version was first said.
    ///
    /// # Errors
    /// [`TransformError`] where the state cannot be read.
    pub async fn register(
        &self,
        context: &JobContext<'_>,
        job: &'static str,
    ) -> Result<SessionContext, TransformError> {
        let fail = TransformError::job(job);
        let session = self.session(context, job)?;
        let state = context.current(&SOURCE_KEYS).await?;
        session
            .register_table("state", table_of(&SOURCE_KEYS, state.files().to_vec()))
            .map_err(&fail)?;
        let batch = format!("CAST({} AS BIGINT)", context.batch.batch);
        // Only an order's lines are a whole: other rows stand for themselves.
        let wholes = match self.dataset {
            Dataset::OrderItems => format!(
                " UNION ALL SELECT {KEY}, '', CAST({WHOLE_VERSION} AS BIGINT), min({AT}), min({RANK}), \
                   {SAID_BY}, {batch}, CAST(0 AS BIGINT) FROM staged WHERE {WHOLE} GROUP BY {KEY}, {SAID_BY} \
                 UNION ALL SELECT {KEY}, '', CAST({GONE} AS BIGINT), min({AT}), min({RANK}), \
                   {SAID_BY}, {batch}, CAST(0 AS BIGINT) \
                 FROM (SELECT * FROM staged WHERE {WHOLE} = false) LEFT SEMI JOIN state \
                   ON {KEY} = row_key AND dataset = 'order_items' AND row_part = '' \
                   AND version = {WHOLE_VERSION} \
                   AND split_part({SAID_BY}, '/', 1) = split_part(said_by, '/', 1) \
                 GROUP BY {KEY}, {SAID_BY}"
            ),
            _ => String::new(),
        };
        materialize(
            &session,
            job,
            "said",
            &format!(
                "SELECT {KEY} AS row_key, {PART} AS row_part, {VERSION} AS version, {AT} AS first_at, \
                   {RANK} AS last_at_us, {SAID_BY} AS said_by, {batch} AS batch, {PLACE} AS place FROM staged \
                 UNION ALL SELECT {KEY}, {PART}, CAST({GONE} AS BIGINT), {AT}, {RANK}, {SAID_BY}, {batch}, {PLACE} \
                 FROM deleted{wholes}"
            ),
        )
        .await?;
        let all_said = match self.dataset {
            Dataset::OrderItems if order_lines::is_any_taken_back(&session, job).await? => {
                order_lines::STILL_SAID
            }
            _ => "all_said",
        };
        // The same content said twice stands there once.
        let spoken = if self.has_repeats {
            format!(
                "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY {KEY}, {PART}, {VERSION} \
                   ORDER BY {SAID_BY}, {PLACE}) AS nth FROM staged) WHERE nth = 1"
            )
        } else {
            "SELECT * FROM staged".to_owned()
        };
        let spoken = session.sql(&spoken).await.map_err(&fail)?;
        session.register_table("spoken", spoken.into_view()).map_err(&fail)?;
        let told = format!(
            "WITH known AS ( \
               SELECT s.row_key, s.row_part, s.version, s.first_at, s.last_at_us, s.said_by, s.batch, s.place \
               FROM state s LEFT SEMI JOIN said t ON s.row_key = t.row_key WHERE s.dataset = '{}'), \
             all_said AS (SELECT * FROM said UNION ALL SELECT * FROM known) \
             SELECT row_key, row_part, version, first_at, last_at_us, said_by, batch FROM {} \
             ORDER BY row_key, row_part, last_at_us DESC, said_by DESC, batch DESC, place DESC",
            self.dataset, all_said
        );
        let told = session.sql(&told).await.map_err(&fail)?;
        let told = told.execute_stream().await.map_err(&fail)?;
        let schema = told.schema();
        let newest = Firsts { keys: 2, among: 2, least: 3 }.of(told);
        let newest: Vec<RecordBatch> = newest.try_collect().await.map_err(&fail)?;
        let newest = MemTable::try_new(schema, vec![newest]).map_err(&fail)?;
        session.register_table("newest", Arc::new(newest)).map_err(&fail)?;
        Ok(session)
    }

    /// What the batch adds to `source_keys`; `session` is that of [`Staged::register`].
    ///
    /// # Errors
    /// [`TransformError`] where it cannot be written.
    pub async fn state(
        &self,
        context: &JobContext<'_>,
        job: &'static str,
        session: &SessionContext,
    ) -> Result<Vec<DataFile>, TransformError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let said = format!("(SELECT '{}' AS dataset, * FROM said)", self.dataset);
        let rows = merged(session, &said).await.map_err(TransformError::job(job))?;
        write(context, job, &SOURCE_KEYS, rows, Spread::One).await
    }
}

/// The statements of one version put together.
async fn merged(session: &SessionContext, table: &str) -> Result<DataFrame, DataFusionError> {
    let rows = session
        .sql(&format!(
            "SELECT dataset, row_key, row_part, version, first_at, last_at_us, said_by, batch, place \
             FROM {table} ORDER BY dataset, row_key, row_part, version, \
               last_at_us DESC, said_by DESC, batch DESC, place DESC"
        ))
        .await?;
    let rows = rows.execute_stream().await?;
    let schema = rows.schema();
    let merged = Firsts { keys: 4, among: 3, least: 4 }.of(rows);
    session.read_table(once::table(&schema, merged)?)
}

/// The change of `source_keys`: `adds` beside what is there, or all merged into one.
///
/// # Errors
/// [`TransformError`] where it cannot be read or written.
pub async fn state_change(
    context: &JobContext<'_>,
    job: &'static str,
    adds: Vec<DataFile>,
) -> Result<Change, TransformError> {
    let table = context.current(&SOURCE_KEYS).await?;
    let all = [table.files().to_vec(), adds.clone()].concat();
    if adds.is_empty() || all.len() <= MAX_STATE_FILES {
        return Ok(Change { adds, removes: Vec::new() });
    }
    let fail = TransformError::job(job);
    let session = context.session();
    session.register_table("state", table_of(&SOURCE_KEYS, all)).map_err(&fail)?;
    let rows = merged(&session, "state").await.map_err(&fail)?;
    let adds = write(context, job, &SOURCE_KEYS, rows, Spread::One).await?;
    Ok(Change { adds, removes: table.files().to_vec() })
}

/// The content that each of these newest statements stands for: `wanted`, in the
/// table's columns but for `dt`. It comes out of the batch, or is in the table already.
/// `part` is SQL for the part of a row `e` of `existing`.
pub fn wanted(newest: &str, held: &[&str], key: &str, part: &str) -> String {
    let of = |prefix: &str| {
        let column = |name: &&str| match *name {
            "exported_at" => "n.first_at AS exported_at".to_owned(),
            name => format!("{prefix}.{name}"),
        };
        held.iter().map(column).collect::<Vec<_>>().join(", ")
    };
    format!(
        "SELECT {} FROM {newest} n JOIN spoken s \
           ON n.row_key = s.{KEY} AND n.row_part = s.{PART} AND n.version = s.{VERSION} \
         UNION ALL \
         SELECT {} FROM {newest} n JOIN existing e ON n.row_key = e.{key} AND n.row_part = {part} \
         LEFT ANTI JOIN staged s ON n.row_key = s.{KEY} AND n.row_part = s.{PART} AND n.version = s.{VERSION} \
         WHERE n.version <> {GONE}",
        of("s"),
        of("e")
    )
}

/// What was observed of products, in the columns of the table but for `dt`.
pub fn observations(held: &[&str]) -> String {
    let standing = format!(
        "CASE WHEN {RANK} = CAST('{BELOW_CHANGES}' AS BIGINT) THEN 'load' WHEN {IS_CHANGE} THEN 'change' END \
         AS standing"
    );
    let gone = |name: &&str| match *name {
        "product_id" => format!("{KEY} AS product_id"),
        "observed_at" => format!("{AT} AS observed_at"),
        "export_id" => "export_id".to_owned(),
        "deleted" => "true AS deleted".to_owned(),
        "standing" => standing.clone(),
        other => format!("NULL AS {other}"),
    };
    let there = |name: &&str| match *name {
        "deleted" => "false AS deleted".to_owned(),
        "standing" => standing.clone(),
        other => other.to_owned(),
    };
    let list = |of: &dyn Fn(&&str) -> String| held.iter().map(of).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {} FROM (SELECT *, row_number() OVER (PARTITION BY product_id, observed_at, export_id \
           ORDER BY {PLACE} DESC) AS nth FROM ( \
             SELECT {}, {PLACE} FROM staged UNION ALL SELECT {}, {PLACE} FROM deleted)) WHERE nth = 1",
        held.join(", "),
        list(&there),
        list(&gone)
    )
}

/// Runs a query once and registers its rows under `name`.
///
/// # Errors
/// [`TransformError::Job`].
pub async fn materialize(
    session: &SessionContext,
    job: &'static str,
    name: &str,
    sql: &str,
) -> Result<(), TransformError> {
    let fail = TransformError::job(job);
    let rows = session.sql(sql).await.map_err(&fail)?.cache().await.map_err(&fail)?;
    session.register_table(name, rows.into_view()).map_err(&fail)?;
    Ok(())
}

impl ExportCounts {
    fn new(export: &Export) -> Self {
        let export = export.clone();
        Self { export, read: 0, taken: 0, deleted: 0, rejected: 0, fingerprint: 0 }
    }

    /// A sum, so that the order of rows does not matter, of hashes of key, part and version.
    fn add(
        &mut self,
        marks: &[ArrayRef],
        versions: Option<&Int64Array>,
        mut each: impl FnMut(u64),
    ) {
        let (keys, parts) = (marks[0].as_string::<i32>(), marks[1].as_string::<i32>());
        let mut buffer = Vec::new();
        for row in 0..keys.len() {
            buffer.clear();
            push_text(&mut buffer, keys.value(row));
            push_text(&mut buffer, parts.value(row));
            let version = versions.map_or(GONE, |versions| versions.value(row));
            buffer.extend_from_slice(&version.to_le_bytes());
            let hash = XxHash3_64::oneshot(&buffer);
            each(hash);
            self.fingerprint = self.fingerprint.wrapping_add(hash.cast_signed());
        }
    }
}

fn mark_fields() -> [Field; 7] {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    [
        Field::new(KEY, DataType::Utf8, false),
        Field::new(PART, DataType::Utf8, false),
        Field::new(AT, time, false),
        Field::new(RANK, DataType::Int64, false),
        Field::new(SAID_BY, DataType::Utf8, false),
        Field::new(PLACE, DataType::Int64, false),
        Field::new(IS_CHANGE, DataType::Boolean, false),
    ]
}

fn rows_schema(dataset: Dataset) -> SchemaRef {
    let mut fields: Vec<Field> =
        dataset.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(VERSION, DataType::Int64, false));
    fields.push(Field::new(WHOLE, DataType::Boolean, true));
    fields.extend(mark_fields());
    Arc::new(Schema::new(fields))
}

fn deletes_schema() -> SchemaRef {
    let mut fields = vec![Field::new("export_id", DataType::Utf8, false)];
    fields.extend(mark_fields());
    Arc::new(Schema::new(fields))
}

/// The columns of [`mark_fields`] for some rows or deletes.
fn marks(export: &Export, rows: &RecordBatch, places: &[i64]) -> Result<Vec<ArrayRef>, ArrowError> {
    let column = |name: &str| {
        let found = rows.column_by_name(name).map(Arc::clone);
        found.ok_or_else(|| ArrowError::SchemaError(format!("rows without {name}")))
    };
    let dataset = export.dataset;
    let count = rows.num_rows();
    let parts: StringArray = match dataset.key().get(1) {
        None => std::iter::repeat_n(Some(""), count).collect(),
        Some(part) => {
            let lines = column(part)?;
            let lines = lines.as_primitive::<Int32Type>();
            (0..count).map(|row| Some(lines.value(row).to_string())).collect()
        }
    };
    let at = column(dataset.time_column())?;
    let times = at.as_primitive::<TimestampMicrosecondType>();
    let ranks: Int64Array = match export.content {
        Content::Load { started_at: None } => Int64Array::from(vec![BELOW_CHANGES; count]),
        _ => (0..count).map(|row| Some(times.value(row))).collect(),
    };
    let said_by = format!("{}/{}", export.source, export.export_id);
    Ok(vec![
        column(dataset.key()[0])?,
        Arc::new(parts),
        Arc::clone(&at),
        Arc::new(ranks),
        Arc::new(StringArray::from(vec![said_by.as_str(); count])),
        Arc::new(Int64Array::from(places.to_vec())),
        Arc::new(BooleanArray::from(vec![export.content == Content::Changes; count])),
    ])
}

/// A hash of each row's content: every column but [`NO_CONTENT`].
/// It is part of `source_keys`: with another hash no version is known again.
fn versions(rows: &RecordBatch) -> Result<Int64Array, ArrowError> {
    let names = rows.schema();
    let columns = names.fields().iter().zip(rows.columns());
    let columns: Vec<Cells<'_>> = columns
        .filter(|(field, _)| !NO_CONTENT.contains(&field.name().as_str()))
        .map(|(_, array)| Cells::new(array))
        .collect::<Result<_, _>>()?;
    let mut buffer = Vec::new();
    let version = |row| {
        buffer.clear();
        for column in &columns {
            column.push(&mut buffer, row);
        }
        let hash = XxHash3_64::oneshot(&buffer).cast_signed();
        // 0 and 1 have meanings of their own.
        if matches!(hash, GONE | WHOLE_VERSION) { 2 } else { hash }
    };
    Ok((0..rows.num_rows()).map(version).map(Some).collect())
}

fn push_text(buffer: &mut Vec<u8>, text: &str) {
    buffer.extend_from_slice(&(text.len() as u64).to_le_bytes());
    buffer.extend_from_slice(text.as_bytes());
}

/// A column of the types that sources have.
enum Cells<'a> {
    Text(&'a StringArray),
    Bool(&'a BooleanArray),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Time(&'a TimestampMicrosecondArray),
    Money(&'a Decimal128Array),
}

impl<'a> Cells<'a> {
    fn new(array: &'a ArrayRef) -> Result<Self, ArrowError> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Int32 => Self::Int32(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Self::Int64(array.as_primitive::<Int64Type>()),
            DataType::Timestamp(..) => Self::Time(array.as_primitive::<TimestampMicrosecondType>()),
            DataType::Decimal128(..) => Self::Money(array.as_primitive::<Decimal128Type>()),
            other => return Err(ArrowError::SchemaError(format!("no source has {other}"))),
        })
    }

    fn push(&self, buffer: &mut Vec<u8>, row: usize) {
        let array: &dyn Array = match self {
            Self::Text(array) => *array,
            Self::Bool(array) => *array,
            Self::Int32(array) => *array,
            Self::Int64(array) => *array,
            Self::Time(array) => *array,
            Self::Money(array) => *array,
        };
        if array.is_null(row) {
            buffer.push(0);
            return;
        }
        buffer.push(1);
        match self {
            Self::Text(array) => push_text(buffer, array.value(row)),
            Self::Bool(array) => buffer.push(u8::from(array.value(row))),
            Self::Int32(array) => buffer.extend_from_slice(&array.value(row).to_le_bytes()),
            Self::Int64(array) => buffer.extend_from_slice(&array.value(row).to_le_bytes()),
            Self::Time(array) => buffer.extend_from_slice(&array.value(row).to_le_bytes()),
            Self::Money(array) => buffer.extend_from_slice(&array.value(row).to_le_bytes()),
        }
    }
}
