//! Untyped rows in, chunks of the dataset out. No I/O.

use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use clickmill_schemas::{Reject, RejectReason};

use super::cast::Empty;
use super::lines::Lines;
use super::rows::{Input, LineNumbers, Plan, Typed, reject};
use super::{Export, Format, InputFile, Notice, SourceChunk, SourceError, columns};

/// Turns the rows of one export, file after file, into chunks.
pub(super) struct Processor {
    export: Arc<Export>,
    plan: Plan,
    numbers: LineNumbers,
    lines: Option<Lines>,
}

impl Processor {
    pub(super) fn new(export: Arc<Export>) -> Result<Self, SourceError> {
        let empty = match export.format {
            Format::Csv(_) => Empty::IsNull,
            Format::Parquet | Format::DynamodbJson => Empty::IsText,
        };
        let plan = Plan::new(&export, empty).map_err(|problem| SourceError::Mapping {
            source_name: export.source.clone(),
            export_id: export.export_id.clone(),
            problem,
        })?;
        let lines = export.lines.is_some().then(|| Lines::new(&export));
        Ok(Self { export, plan, numbers: LineNumbers::default(), lines })
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
        let Typed { batch, mut rejects } =
            self.plan.apply(input, &self.export.source, &mut self.numbers).map_err(failed)?;
        let rows_read = (input.rows + malformed.len()) as u64;
        rejects.extend(malformed);
        if !self.export.reports_rejects() {
            rejects.clear();
        }
        let batch = match &mut self.lines {
            None => batch,
            Some(lines) => lines.add(&batch).map_err(failed)?,
        };
        Ok(SourceChunk { batch, rows_read, rejects, notices: Vec::new() })
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
        let mut chunks: Vec<_> = ended.batches.into_iter().map(chunk_of).collect();
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

    /// Something to tell about a file.
    pub(super) fn notice(&self, file: &InputFile, problem: String, advice: &str) -> SourceChunk {
        let notice = Notice {
            source: self.export.source.clone(),
            subject: file.object(),
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
        chunk_of(RecordBatch::new_empty(columns::schema(self.export.dataset)))
    }
}

fn chunk_of(batch: RecordBatch) -> SourceChunk {
    SourceChunk { batch, rows_read: 0, rejects: Vec::new(), notices: Vec::new() }
}
