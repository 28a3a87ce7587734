//! From untyped columns to the rows of a dataset: resolve the mapping against
//! the columns that are there, cast, keep what fits, reject the rest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{is_null, kernels::zip::zip, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickmill_schemas::tables::Kind;
use clickmill_schemas::{Reject, RejectReason};
use uuid::Uuid;

use super::cast::{Cells, Empty, cast};
use super::config::ColumnMapping;
use super::value::Rule;
use super::{Dataset, Export, InputFile, columns};

/// Namespace of reject ids: the same bad row has the same id however often it is read.
const REJECT_NAMESPACE: Uuid = Uuid::from_u128(0x6d0f_7c1e_52a4_4b0a_9a53_1f6f_0c1b_7e21);
/// Columns that a message lists.
const MAX_COLUMNS_SHOWN: usize = 20;
/// Bytes of a rejected row that are kept.
const MAX_REJECT_BYTES: usize = 1024 * 1024;

/// How the columns of one export are filled.
pub(super) struct Plan {
    columns: Vec<PlanColumn>,
    schema: SchemaRef,
    delete_schema: SchemaRef,
    key: &'static [&'static str],
    /// Whether a missing line number is counted.
    counts_lines: bool,
    empty: Empty,
    section: String,
    exported_at: i64,
    export_id: String,
}

struct PlanColumn {
    name: &'static str,
    required: bool,
    /// Part of the dataset's key: what a delete needs.
    is_key: bool,
    rule: Rule,
    origin: Origin,
}

impl PlanColumn {
    /// The column of theirs that it reads.
    fn theirs(&self) -> Option<&str> {
        match &self.origin {
            Origin::Named(name) => Some(name),
            Origin::SameName => Some(self.name),
            _ => None,
        }
    }
}

/// Where a column's values come from.
enum Origin {
    /// A column that the mapping names: it must be there.
    Named(String),
    /// The column of the same name, where there is one.
    SameName,
    /// The mapping's own value.
    Constant(String),
    /// The export's time.
    ExportedAt,
    /// The export's id.
    ExportId,
}

/// Some rows of one file, untyped.
pub(super) struct Input<'a> {
    /// One array for each column of the plan, as [`Plan::resolve`] numbered them.
    pub arrays: Vec<Option<ArrayRef>>,
    /// Their length.
    pub rows: usize,
    /// The number of a row in its file, from 1.
    pub number: &'a dyn Fn(usize) -> u64,
    /// The file.
    pub file: &'a InputFile,
    /// The bytes of a row, for its reject.
    pub raw: &'a dyn Fn(usize) -> Vec<u8>,
    /// Set where rows are changes.
    pub changes: Option<Changes>,
}

/// What rows of changes say beside their columns; as many entries as rows.
#[derive(Default)]
pub(super) struct Changes {
    /// True for a row that is gone.
    pub deleted: Vec<bool>,
    /// When it changed, in microseconds; `None`: at the export's time.
    pub at: Vec<Option<i64>>,
    /// Rows that do not say what they are, each with the reason.
    pub faults: Vec<(usize, String)>,
}

/// The same rows, typed.
pub(super) struct Typed {
    /// Rows that fit, in the plan's schema.
    pub batch: RecordBatch,
    /// Which rows of the input those are.
    pub rows: Vec<usize>,
    /// Keys and times of rows that are gone.
    pub deletes: RecordBatch,
    /// Which rows of the input those are.
    pub delete_rows: Vec<usize>,
    /// Rows that do not.
    pub rejects: Vec<Reject<'static>>,
}

impl Plan {
    /// The plan for an export. The error is for the user's eyes.
    pub(super) fn new(export: &Export, empty: Empty) -> Result<Self, String> {
        let mut plan = Self {
            columns: Vec::new(),
            schema: Arc::new(Schema::empty()),
            delete_schema: columns::delete_schema(export.dataset),
            key: export.dataset.key(),
            counts_lines: export.has_whole_orders() == Some(true),
            empty,
            section: format!("[sources.{}.{}.columns]", export.source, export.section()),
            exported_at: export.exported_at.micros(),
            export_id: export.export_id.clone(),
        };
        match &export.lines {
            None => {
                for column in columns::of(export.dataset) {
                    let mapping = export.columns.get(column.name);
                    plan.push(column.name, column.kind, !column.nullable, mapping)?;
                }
            }
            // One plan for everything that the lines yield, so that each of them
            // takes the same lines and rejects the same lines.
            Some(lines) => {
                for name in lines.columns.keys() {
                    let column = super::lines::column(name)
                        .ok_or_else(|| format!("there is no column {name}"))?;
                    let required = super::lines::REQUIRED.contains(&column.name);
                    plan.push(column.name, column.kind, required, lines.columns.get(name))?;
                }
            }
        }
        let field =
            |c: &PlanColumn| Field::new(c.name, columns::arrow_type(c.rule.kind()), !c.required);
        plan.schema = Arc::new(Schema::new(plan.columns.iter().map(field).collect::<Vec<_>>()));
        Ok(plan)
    }

    fn push(
        &mut self,
        name: &'static str,
        kind: Kind,
        required: bool,
        mapping: Option<&ColumnMapping>,
    ) -> Result<(), String> {
        let rule = mapping.and_then(ColumnMapping::rule);
        let origin = match (mapping.and_then(ColumnMapping::column), rule, name) {
            (Some(column), ..) => Origin::Named(column.to_owned()),
            (None, Some(rule), _) => Origin::Constant(rule.constant.clone().unwrap_or_default()),
            (None, None, "exported_at" | "observed_at") => Origin::ExportedAt,
            (None, None, "export_id") => Origin::ExportId,
            (None, None, _) => Origin::SameName,
        };
        let rule = Rule::new(kind, rule).map_err(|problem| format!("{name}: {problem}"))?;
        let is_key = self.key.contains(&name);
        self.columns.push(PlanColumn { name, required, is_key, rule, origin });
        Ok(())
    }

    /// The column of theirs that each of ours reads; for files without a schema.
    pub(super) fn names(&self) -> Vec<Option<&str>> {
        self.columns.iter().map(PlanColumn::theirs).collect()
    }

    /// The section of the configuration that the mapping stands in.
    pub(super) fn section(&self) -> &str {
        &self.section
    }

    /// Which of the columns are of the key: all that a delete says.
    pub(super) fn keys(&self) -> Vec<bool> {
        self.columns.iter().map(|column| column.is_key).collect()
    }

    /// The position of the column that each of ours reads, given those that are
    /// there. Names that differ only in case are the same where that is unambiguous.
    /// The error is for the user's eyes.
    pub(super) fn resolve(&self, there: &[String]) -> Result<Vec<Option<usize>>, String> {
        let found = self.positions(there);
        let is_there: Vec<bool> = found.iter().map(Option::is_some).collect();
        self.missing(&is_there, there).map_or(Ok(found), Err)
    }

    /// What is told where columns that must be there are in no row; `is_there` has an entry a
    /// column of the plan, `there` are theirs.
    pub(super) fn missing(&self, is_there: &[bool], there: &[String]) -> Option<String> {
        let absent = self.columns.iter().zip(is_there).filter(|(_, is_there)| !**is_there);
        let absent: Vec<String> = absent
            .filter(|(column, _)| self.must_be(column))
            .filter_map(|(column, _)| Some(format!("`{}` for {}", column.theirs()?, column.name)))
            .collect();
        if absent.is_empty() {
            return None;
        }
        let mut shown = there[..there.len().min(MAX_COLUMNS_SHOWN)].join(", ");
        if there.len() > MAX_COLUMNS_SHOWN {
            shown.push_str(&format!(" and {} more", there.len() - MAX_COLUMNS_SHOWN));
        }
        Some(format!("there is no column {}; there are {shown}", absent.join(", none ")))
    }

    /// What the mapping names must be there, and what a row cannot do without.
    fn must_be(&self, column: &PlanColumn) -> bool {
        match column.origin {
            Origin::Named(_) => true,
            Origin::SameName => column.required && !(column.name == "line" && self.counts_lines),
            _ => false,
        }
    }

    /// Whether lines of orders are counted, where those columns are there that
    /// [`Plan::resolve`] found.
    #[cfg(feature = "databases")]
    pub(super) fn counts_lines_of(&self, found: &[Option<usize>]) -> bool {
        let is_uncounted = |(column, at): (&PlanColumn, &Option<usize>)| {
            column.name == "line" && at.is_none() && matches!(column.origin, Origin::SameName)
        };
        self.counts_lines && self.columns.iter().zip(found).any(is_uncounted)
    }

    fn positions(&self, there: &[String]) -> Vec<Option<usize>> {
        let find = |name: &str| {
            there.iter().position(|t| t == name).or_else(|| {
                let mut alike =
                    there.iter().enumerate().filter(|(_, t)| t.eq_ignore_ascii_case(name));
                match (alike.next(), alike.next()) {
                    (Some((at, _)), None) => Some(at),
                    _ => None,
                }
            })
        };
        self.columns.iter().map(|column| find(column.theirs()?)).collect()
    }

    /// Casts the rows. `lines` counts the lines of each order where they carry no number.
    pub(super) fn apply(
        &self,
        input: &Input<'_>,
        source: &str,
        lines: &mut LineNumbers,
    ) -> Result<Typed, ArrowError> {
        let mut faults: HashMap<usize, (RejectReason, String)> = HashMap::new();
        for (row, problem) in input.changes.iter().flat_map(|changes| &changes.faults) {
            faults.insert(*row, (RejectReason::Malformed, problem.clone()));
        }
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        let mut uncounted = None;
        let deleted = |row: usize| {
            input.changes.as_ref().and_then(|c| c.deleted.get(row)).copied().unwrap_or(false)
        };
        for (at, column) in self.columns.iter().enumerate() {
            let given = input.arrays.get(at).and_then(Option::as_ref);
            let made = self.made(column, input);
            let matters = |row: usize| column.is_key || !deleted(row);
            let array = match (given, made) {
                (Some(array), made) => {
                    let cast = cast(array, &column.rule, self.empty)?;
                    for (row, reason) in cast.bad.into_iter().filter(|(row, _)| matters(*row)) {
                        let detail = format!("column {}: {reason}", column.name);
                        faults.entry(row).or_insert((RejectReason::BadValue, detail));
                    }
                    match made {
                        Some(made) => zip(&is_null(&cast.array)?, &made, &cast.array)?,
                        None => cast.array,
                    }
                }
                (None, Some(made)) => made,
                (None, None) => match &column.origin {
                    Origin::Constant(text) => {
                        let text: ArrayRef =
                            Arc::new(StringArray::from(vec![text.as_str(); input.rows]));
                        cast(&text, &column.rule, Empty::IsText)?.array
                    }
                    _ => arrow::array::new_null_array(
                        &columns::arrow_type(column.rule.kind()),
                        input.rows,
                    ),
                },
            };
            let is_absent = given.is_none() && array.null_count() == array.len();
            if column.name == "line" && is_absent && self.counts_lines {
                uncounted = Some(at);
            } else if column.required && array.null_count() > 0 {
                for row in (0..input.rows).filter(|row| array.is_null(*row) && matters(*row)) {
                    let detail = match deleted(row) {
                        false => format!("column {}: there is no value", column.name),
                        true => format!(
                            "column {}: the delete does not say it; let deletes carry the old \
                             row (DynamoDB: NEW_AND_OLD_IMAGES)",
                            column.name
                        ),
                    };
                    faults.entry(row).or_insert((RejectReason::MissingField, detail));
                }
            }
            arrays.push(array);
        }
        let fits = |row: &usize| !faults.contains_key(row);
        let (delete_rows, kept_rows): (Vec<usize>, Vec<usize>) =
            (0..input.rows).filter(fits).partition(|row| deleted(*row));
        let loose = Schema::new(
            self.schema
                .fields()
                .iter()
                .map(|field| field.as_ref().clone().with_nullable(true))
                .collect::<Vec<_>>(),
        );
        let all = RecordBatch::try_new(Arc::new(loose), arrays)?;
        let deletes = self.deletes(&all, &delete_rows)?;
        let kept =
            if kept_rows.len() == all.num_rows() { all } else { take_rows(&all, &kept_rows)? };
        let mut arrays = kept.columns().to_vec();
        if let Some(at) = uncounted {
            let orders = kept
                .column_by_name("order_id")
                .ok_or_else(|| ArrowError::SchemaError("a line without order_id".to_owned()))?;
            arrays[at] = Arc::new(lines.count(orders.as_string::<i32>())?);
        }
        let options =
            arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        let mut rows: Vec<_> = faults.into_iter().collect();
        rows.sort_unstable_by_key(|(row, _)| *row);
        let rejects = rows
            .into_iter()
            .map(|(row, (reason, detail))| {
                let number = (input.number)(row);
                reject(
                    source,
                    input.file,
                    self.exported_at,
                    &format!("row {number}"),
                    reason,
                    detail,
                    &(input.raw)(row),
                )
            })
            .collect();
        Ok(Typed { batch, rows: kept_rows, deletes, delete_rows, rejects })
    }

    /// The keys and times of these rows.
    fn deletes(&self, all: &RecordBatch, rows: &[usize]) -> Result<RecordBatch, ArrowError> {
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.delete_schema)));
        }
        let names = self.delete_schema.fields().iter();
        let columns = names.map(|field| all.schema().index_of(field.name()));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let taken = take_rows(&all.project(&columns)?, rows)?;
        RecordBatch::try_new(Arc::clone(&self.delete_schema), taken.columns().to_vec())
    }

    /// What the export itself says, where the column is one of those.
    fn made(&self, column: &PlanColumn, input: &Input<'_>) -> Option<ArrayRef> {
        match (&column.origin, column.name) {
            (Origin::ExportedAt, _) | (Origin::Named(_), "exported_at" | "observed_at") => {
                let own = |row: usize| *input.changes.as_ref()?.at.get(row)?;
                let times = (0..input.rows).map(|row| own(row).unwrap_or(self.exported_at));
                let times = TimestampMicrosecondArray::from_iter_values(times);
                Some(Arc::new(times.with_timezone("UTC")))
            }
            (Origin::ExportId, _) => {
                Some(Arc::new(StringArray::from(vec![self.export_id.as_str(); input.rows])))
            }
            _ => None,
        }
    }
}

fn take_rows(all: &RecordBatch, rows: &[usize]) -> Result<RecordBatch, ArrowError> {
    let rows = rows.iter().map(|row| *row as u64);
    take_record_batch(all, &UInt64Array::from_iter_values(rows))
}

/// Numbers the lines of each order by appearance, from 1, over a whole export.
/// Memory: one entry an order.
#[derive(Default)]
pub(super) struct LineNumbers(HashMap<String, i32>);

impl LineNumbers {
    pub(super) fn count(&mut self, orders: &StringArray) -> Result<Int32Array, ArrowError> {
        orders
            .iter()
            .map(|order| {
                let order = order.unwrap_or_default();
                if !self.0.contains_key(order) {
                    self.0.insert(order.to_owned(), 0);
                }
                let last = self.0.get_mut(order);
                let next = last.and_then(|last| {
                    *last = last.checked_add(1)?;
                    Some(*last)
                });
                next.map(Some).ok_or_else(|| {
                    ArrowError::ComputeError("an order with over two billion lines".to_owned())
                })
            })
            .collect()
    }
}

impl Export {
    /// The section of the configuration that its mapping stands in.
    pub(super) fn section(&self) -> &'static str {
        if self.lines.is_some() { "lines" } else { self.dataset.section() }
    }

    /// Whether this export is the one of its files that reports their bad rows:
    /// files of order lines are read once for each dataset that they yield.
    pub(super) fn reports_rejects(&self) -> bool {
        let dataset_of = |what: &super::config::LinesYield| match what {
            super::config::LinesYield::Orders => Dataset::Orders,
            super::config::LinesYield::OrderItems => Dataset::OrderItems,
            super::config::LinesYield::Products => Dataset::ProductObservations,
        };
        match &self.lines {
            None => true,
            Some(lines) => lines.yields.first().map(dataset_of) == Some(self.dataset),
        }
    }
}

/// A reject of a row, or of a whole file. `received_ts` is the export's time, so
/// that reading again gives the same reject.
pub(super) fn reject(
    source: &str,
    file: &InputFile,
    exported_at_micros: i64,
    place: &str,
    reason: RejectReason,
    detail: String,
    bytes: &[u8],
) -> Reject<'static> {
    let origin = format!("{} {place}", file.object());
    let identity = format!("{}\0{}\0{}\0{place}", file.location, file.path, file.etag);
    let at = clickmill_schemas::Timestamp::from_micros(exported_at_micros);
    Reject {
        reject_id: Uuid::new_v5(&REJECT_NAMESPACE, identity.as_bytes()).to_string().into(),
        received_ts: at.unwrap_or_else(|_| clickmill_schemas::Date::from_days(0).midnight()),
        protocol: source.to_owned().into(),
        reason,
        detail: detail.into(),
        origin: origin.into(),
        app_id: None,
        bytes_base64: STANDARD.encode(&bytes[..bytes.len().min(MAX_REJECT_BYTES)]).into(),
        collector_id: None,
        wal_seq: None,
        shard_id: None,
        sequence_number: None,
    }
}

/// A row of columns as one JSON object, every value as text.
pub(super) fn row_as_json(names: &[String], cells: &[Cells], row: usize) -> Vec<u8> {
    let pairs = names.iter().zip(cells).map(|(name, cells)| {
        let value = cells.display(row).map_or(serde_json::Value::Null, serde_json::Value::String);
        (name.clone(), value)
    });
    serde_json::Value::Object(pairs.collect()).to_string().into_bytes()
}
