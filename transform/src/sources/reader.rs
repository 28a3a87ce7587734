//! The one loop that reads an export: file after file, decoded in a thread
//! (text) or as it arrives (Parquet), a bounded number of chunks ahead of the reader.

use std::sync::Arc;

use clickmill_lake::Lake;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use tokio::sync::mpsc;

use super::cast::Cells;
use super::changes::{self, ChangeReader};
use super::fetch::{Body, Fault, Pinned, Stores, decompressed, take_failure};
use super::process::Processor;
use super::rows::{Changes, Input, row_as_json};
use super::{
    BATCH_ROWS, Export, Format, InputFile, SourceChunk, SourceError, SourceRows, csv_rows, items,
};

/// Chunks that wait for the reader, at most.
const CHUNKS_AHEAD: usize = 2;

type Chunks = mpsc::Sender<Result<SourceChunk, SourceError>>;

/// Reads an export as a stream of chunks, in the order of its files and rows.
///
/// # Errors
/// In the stream, which then ends: [`SourceError`] where a store fails, a file
/// was deleted, or the stored export does not fit this version.
pub fn stream(
    lake: &Lake,
    export: &Export,
) -> BoxStream<'static, Result<SourceChunk, SourceError>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let (stores, export) = (Stores::new(lake), Arc::new(export.clone()));
    tokio::spawn(async move {
        if let Err(error) = drive(stores, export, &sender).await {
            // Where nobody listens any more there is nobody to tell.
            let _ = sender.send(Err(error)).await;
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    })
    .boxed()
}

/// Reads a whole export into memory.
///
/// # Errors
/// As [`stream`].
pub async fn read(lake: &Lake, export: &Export) -> Result<SourceRows, SourceError> {
    let mut rows = SourceRows::default();
    let mut chunks = stream(lake, export);
    while let Some(chunk) = chunks.try_next().await? {
        rows.rows_read += chunk.rows_read;
        rows.rejects.extend(chunk.rejects);
        rows.notices.extend(chunk.notices);
        if chunk.batch.num_rows() > 0 {
            rows.batches.push(chunk.batch);
        }
        if chunk.deletes.num_rows() > 0 {
            rows.deletes.push(chunk.deletes);
        }
    }
    Ok(rows)
}

async fn drive(
    mut stores: Stores,
    export: Arc<Export>,
    chunks: &Chunks,
) -> Result<(), SourceError> {
    let mut processor = Processor::new(Arc::clone(&export))?;
    for file in &export.files {
        let store = stores.get(&export.source, &file.location).await?;
        let outcome = match Pinned::new(store, file) {
            Err(fault) => Err(fault.into()),
            Ok(pinned) if matches!(export.format, Format::Parquet) => {
                parquet_file(&mut processor, pinned, file, chunks).await
            }
            Ok(pinned) => {
                let (returned, outcome) =
                    text_file(processor, &pinned, file.clone(), chunks.clone()).await?;
                processor = returned;
                outcome
            }
        };
        let lost = match outcome {
            Ok(()) => None,
            Err(Halt::Unheard) => return Ok(()),
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Unfit(problem)) => Some(processor.unfit(file, &problem)),
            Err(Halt::Fault(fault)) => Some(processor.lost(file, damage(&export, file, fault)?)),
        };
        let mut last = processor.end_of_file(file)?;
        last.extend(lost);
        for chunk in last {
            if chunks.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Why the reading of one file ended before its end.
pub(super) enum Halt {
    /// Nobody takes the chunks any more.
    Unheard,
    /// The read as a whole fails.
    Failed(SourceError),
    /// The mapping does not fit this file: why.
    Unfit(String),
    /// It is this file.
    Fault(Fault),
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<SourceError> for Halt {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

/// What a reject says of a file that is lost for good; an error where it may come back.
fn damage(export: &Export, file: &InputFile, fault: Fault) -> Result<String, SourceError> {
    match fault {
        Fault::Damaged(detail) => Ok(format!("the rest of the file cannot be read: {detail}")),
        Fault::Replaced => Ok("the file was replaced after it was found; \
                               the new one is a new export and will be read as such"
            .to_owned()),
        Fault::Gone => {
            Err(SourceError::Gone { source_name: export.source.clone(), object: file.object() })
        }
        Fault::Store(source) => Err(SourceError::Store {
            source_name: export.source.clone(),
            operation: "read",
            object: file.object(),
            source,
        }),
    }
}

async fn parquet_file(
    processor: &mut Processor,
    pinned: Pinned,
    file: &InputFile,
    chunks: &Chunks,
) -> Result<(), Halt> {
    let builder = ParquetRecordBatchStreamBuilder::new(pinned).await.map_err(Fault::from)?;
    let there: Vec<String> =
        builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let wanted = processor.plan().resolve(&there).map_err(Halt::Unfit)?;
    let export = processor.export();
    let marks = match &export.changes {
        None => None,
        Some(layout) => {
            let columns = changes::columns_of(layout, &export.content, &there);
            let reader = ChangeReader::new(&export.content).map_err(Fault::Damaged)?;
            Some((reader, columns.map_err(Fault::Damaged)?))
        }
    };
    let marked = marks.iter().flat_map(|(_, at)| [at.operation, at.time]);
    let roots = wanted.iter().copied().chain(marked).flatten();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let mut batches =
        builder.with_batch_size(BATCH_ROWS).with_projection(mask).build().map_err(Fault::from)?;
    let mut first_row = 1;
    while let Some(batch) = batches.try_next().await.map_err(Fault::from)? {
        let array =
            |at: &Option<usize>| at.and_then(|at| batch.column_by_name(&there[at])).map(Arc::clone);
        let names: Vec<String> =
            batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        let raw = |row: usize| {
            let cells = batch.columns().iter().map(Cells::new).collect::<Result<Vec<_>, _>>();
            cells.map_or_else(|_| Vec::new(), |cells| row_as_json(&names, &cells, row))
        };
        let changes = match &marks {
            None => None,
            Some((reader, at)) => {
                let cells = |at: Option<usize>| array(&at).map(|a| Cells::new(&a)).transpose();
                let marks = cells(at.operation).and_then(|op| Ok((op, cells(at.time)?)));
                let (operations, times) = marks.map_err(|e| Fault::Damaged(e.to_string()))?;
                let text = |cells: &Option<Cells>, row| cells.as_ref().and_then(|c| c.display(row));
                let mut changes = Changes::default();
                for row in 0..batch.num_rows() {
                    let (operation, time) = (text(&operations, row), text(&times, row));
                    reader.push(&mut changes, operation.as_deref(), time.as_deref());
                }
                Some(changes)
            }
        };
        let chunk = processor.rows(
            &Input {
                arrays: wanted.iter().map(array).collect(),
                rows: batch.num_rows(),
                number: &|row| first_row + row as u64,
                file,
                raw: &raw,
                changes,
            },
            Vec::new(),
        )?;
        chunks.send(Ok(chunk)).await.map_err(|_| Halt::Unheard)?;
        first_row += batch.num_rows() as u64;
    }
    Ok(())
}

/// Decodes in a thread of its own, which borrows the processor for the time.
async fn text_file(
    mut processor: Processor,
    pinned: &Pinned,
    file: InputFile,
    chunks: Chunks,
) -> Result<(Processor, Result<(), Halt>), SourceError> {
    let body = match pinned.reader(file.md5_base64.as_deref()).await {
        Ok(body) => body,
        Err(fault) => return Ok((processor, Err(fault.into()))),
    };
    let (source_name, object) = (processor.export().source.clone(), file.object());
    tokio::task::spawn_blocking(move || {
        let outcome = decode_text(&mut processor, body, &file, &chunks);
        (processor, outcome)
    })
    .await
    .map_err(|source| SourceError::Decoder { source_name, object, source })
}

fn decode_text(
    processor: &mut Processor,
    body: Body,
    file: &InputFile,
    chunks: &Chunks,
) -> Result<(), Halt> {
    let failure = body.failure();
    let mut send = |chunk| chunks.blocking_send(Ok(chunk)).map_err(|_| Halt::Unheard);
    let damaged = |error: std::io::Error| Halt::Fault(Fault::Damaged(error.to_string()));
    let outcome = decompressed(body).map_err(damaged).and_then(|text| {
        match processor.export().format.clone() {
            Format::Csv(layout) => csv_rows::decode(processor, &layout, text, file, &mut send),
            Format::DynamodbJson | Format::Jsonl | Format::Parquet => {
                items::decode(processor, text, file, &mut send)
            }
        }
    });
    // A decoder sees a failing store as damaged data: the store knows better.
    match take_failure(&failure) {
        Some(error) => Err(Fault::from(error).into()),
        None => outcome,
    }
}
