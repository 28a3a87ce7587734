//! Untyped rows in, chunks of the dataset out. No I/O.

use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use clickmill_schemas::{Reject, RejectReason};

use super::cast::Empty;
use super::lines::Lines;
use super::rows::{Input, LineNumbers, Plan, Typed, reject};
use super::{Export, Format, InputFile, Notice, Severity, SourceChunk, SourceError, columns};

/// Turns the rows of one export, file after file, into chunks.
pub(super) struct Processor {
    export: Arc<Export>,
    plan: Plan,
    numbers: LineNumbers,
    lines: Option<Lines>,
    /// The place in the export of the next row.
    next: i64,
}

impl Processor {
    pub(super) fn new(export: Arc<Export>) -> Result<Self, SourceError> {
        let empty = match export.format {
            Format::Csv(_) => Empty::IsNull,
            Format::Parquet | Format::DynamodbJson | Format::Jsonl => Empty::IsText,
        };
        let plan = Plan::new(&export, empty).map_err(|problem| SourceError::Mapping {
            source_name: export.source.clone(),
            export_id: export.export_id.clone(),
            problem,
        })?;
        let lines = export.lines.is_some().then(|| Lines::new(&export));
        Ok(Self { export, plan, numbers: LineNumbers::default(), lines, next: 0 })
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Types some rows. `malformed` are those of the same stretch that have no columns at all.
    pub(super) fn rows(
        &mut self,
        input: &Input<'_>,
        malformed: Vec<Reject<'static>>,
    ) -> Result<SourceChunk, SourceError> {
        let dataset = self.export.dataset;
        let failed = |source: ArrowError| SourceError::Batch { dataset, source };
        let Typed { batch, rows, deletes, delete_rows, mut rejects } =
            self.plan.apply(input, &self.export.source, &mut self.numbers).map_err(failed)?;
        let rows_read = (input.rows + malformed.len()) as u64;
        let first = self.next;
        self.next += rows_read as i64;
        let places = |rows: Vec<usize>| rows.into_iter().map(|row| first + row as i64).collect();
        rejects.extend(malformed);
        if !self.export.reports_rejects() {
            rejects.clear();
        }
        let (batch, positions): (_, Vec<i64>) = match &mut self.lines {
            None => (batch, places(rows)),
            Some(lines) => {
                let made = lines.add(&batch).map_err(failed)?;
                let positions = (first..).take(made.num_rows()).collect();
                (made, positions)
            }
        };
        Ok(SourceChunk {
            batch,
            positions,
            deletes,
            delete_positions: places(delete_rows),
            rows_read,
            rejects,
            notices: Vec::new(),
        })
    }

    /// What becomes known only at the end of a file.
    pub(super) fn end_of_file(
        &mut self,
        file: &InputFile,
    ) -> Result<Vec<SourceChunk>, SourceError> {
        let Some(lines) = &mut self.lines else { return Ok(Vec::new()) };
        let dataset = self.export.dataset;
        let ended = lines.end_of_file().map_err(|source| SourceError::Batch { dataset, source })?;
        let rejects = ended
            .overflown
            .into_iter()
            .map(|order| {
                let place = format!("order {order}");
                let detail = "its sum has more than fourteen digits before the point".to_owned();
                self.reject(file, &place, RejectReason::BadValue, detail, order.as_bytes())
            })
            .collect();
        let mut chunks = Vec::new();
        for batch in ended.batches {
            let positions: Vec<i64> = (self.next..).take(batch.num_rows()).collect();
            self.next += batch.num_rows() as i64;
            chunks.push(SourceChunk { batch, positions, ..self.nothing() });
        }
        chunks.push(SourceChunk { rejects, ..self.nothing() });
        Ok(chunks)
    }

    /// A whole file, or its rest, that gives no rows.
    pub(super) fn lost(&self, file: &InputFile, detail: String) -> SourceChunk {
        let rejects = if self.export.reports_rejects() {
            vec![self.reject(file, "as a whole", RejectReason::Malformed, detail, &[])]
        } else {
            Vec::new()
        };
        SourceChunk { rejects, ..self.nothing() }
    }

    /// A whole file whose columns are not those that the mapping names.
    pub(super) fn unfit(&self, file: &InputFile, problem: &str) -> SourceChunk {
        let lost = self.lost(file, format!("{problem}; correct {}", self.plan.section()));
        let told = self.misfit(file, format!("{problem}; nothing of it is taken"));
        SourceChunk { notices: told.notices, ..lost }
    }

    /// What is told of a mapping that names what a file does not have.
    pub(super) fn misfit(&self, file: &InputFile, problem: String) -> SourceChunk {
        if !self.export.reports_rejects() {
            return self.nothing();
        }
        self.notice(file, problem, &format!("correct {}", self.plan.section()))
    }

    /// Something to tell about a file.
    pub(super) fn notice(&self, file: &InputFile, problem: String, advice: &str) -> SourceChunk {
        let notice = Notice {
            source: self.export.source.clone(),
            subject: file.object(),
            severity: Severity::Problem,
            problem,
            advice: advice.to_owned(),
        };
        SourceChunk { notices: vec![notice], ..self.nothing() }
    }

    pub(super) fn reject(
        &self,
        file: &InputFile,
        place: &str,
        reason: RejectReason,
        detail: String,
        bytes: &[u8],
    ) -> Reject<'static> {
        let at = self.export.exported_at.micros();
        reject(&self.export.source, file, at, place, reason, detail, bytes)
    }

    fn nothing(&self) -> SourceChunk {
        let dataset = self.export.dataset;
        SourceChunk {
            batch: RecordBatch::new_empty(columns::schema(dataset)),
            positions: Vec::new(),
            deletes: RecordBatch::new_empty(columns::delete_schema(dataset)),
            delete_positions: Vec::new(),
            rows_read: 0,
            rejects: Vec::new(),
            notices: Vec::new(),
        }
    }
}
