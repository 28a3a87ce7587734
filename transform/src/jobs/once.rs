//! Rows that this program makes of a query's rows, as a table of the engine: what SQL says
//! slowly, the rest of the job still says in SQL.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array as _, AsArray as _, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, partition, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::Stream;
use futures::stream::{self, StreamExt as _};

/// A table of what `rows` brings; it can be read once.
///
/// # Errors
/// Where the engine takes no table of that schema.
pub fn table(
    schema: &SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let stream = RecordBatchStreamAdapter::new(Arc::clone(schema), rows);
    let once = Once { schema: Arc::clone(schema), rows: Mutex::new(Some(Box::pin(stream))) };
    Ok(Arc::new(StreamingTable::try_new(Arc::clone(schema), vec![Arc::new(once)])?))
}

struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| {
            let again = DataFusionError::Internal("these rows can be read once".to_owned());
            let once = stream::once(std::future::ready(Err(again)));
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), once))
        })
    }
}

/// What is kept of rows that come in runs of equal keys: the first of each run.
///
/// The engine would say it by `row_number()`, at the cost of a window for each run: with
/// runs of a row or two that is most of a job's time.
#[derive(Clone, Copy, Debug)]
pub struct Firsts {
    /// So many leading columns are the key.
    pub keys: usize,
    /// Of this column (an instant) the least value counts,
    pub least: usize,
    /// among the rows of the run that have the first one's value here (an integer).
    pub among: usize,
}

impl Firsts {
    /// Of `rows`, which are sorted.
    pub fn of(
        self,
        rows: SendableRecordBatchStream,
    ) -> impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static {
        // The last run may go on with the next rows.
        stream::unfold((rows, None, false), move |(mut rows, held, ended)| async move {
            if ended {
                return None;
            }
            match rows.next().await {
                Some(batch) => match batch.and_then(|batch| Ok(self.take(held, batch)?)) {
                    Ok((firsts, held)) => Some((Ok(firsts), (rows, held, false))),
                    Err(error) => Some((Err(error), (rows, None, true))),
                },
                None => held.map(|last| (Ok(last), (rows, None, true))),
            }
        })
    }

    fn take(
        self,
        held: Option<RecordBatch>,
        batch: RecordBatch,
    ) -> Result<(RecordBatch, Option<RecordBatch>), ArrowError> {
        if batch.num_rows() == 0 {
            return Ok((batch, held));
        }
        let rows = match held {
            Some(held) => concat_batches(&batch.schema(), [&held, &batch])?,
            None => batch,
        };
        let among = rows.column(self.among).as_primitive::<Int64Type>();
        let instants = rows.column(self.least).as_primitive::<TimestampMicrosecondType>();
        let (mut firsts, mut least) = (Vec::new(), Vec::new());
        for run in partition(&rows.columns()[..self.keys])?.ranges() {
            let first = run.start;
            let alike = run.filter(|&row| among.value(row) == among.value(first));
            least.push(alike.map(|row| instants.value(row)).min().unwrap_or_default());
            firsts.push(first as u32);
        }
        let last = firsts.len() - 1;
        let firsts = take_record_batch(&rows, &UInt32Array::from(firsts))?;
        let least = TimestampMicrosecondArray::from(least);
        let mut columns = firsts.columns().to_vec();
        columns[self.least] = Arc::new(least.with_data_type(instants.data_type().clone()));
        let firsts = RecordBatch::try_new(firsts.schema(), columns)?;
        Ok((firsts.slice(0, last), Some(firsts.slice(last, 1))))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use futures::TryStreamExt as _;

    use super::*;

    type Row = (&'static str, i64, i64);

    fn batch(rows: &[Row]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("version", DataType::Int64, false),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        ]);
        let keys: StringArray = rows.iter().map(|row| Some(row.0)).collect();
        let versions: Int64Array = rows.iter().map(|row| Some(row.1)).collect();
        let at: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.2)).collect();
        let at = at.with_timezone("UTC");
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(keys), Arc::new(versions), Arc::new(at)],
        )
        .expect("fits")
    }

    async fn firsts(batches: &[&[Row]]) -> Vec<(String, i64, i64)> {
        let batches: Vec<_> = batches.iter().map(|rows| Ok(batch(rows))).collect();
        let schema = batch(&[]).schema();
        let stream = RecordBatchStreamAdapter::new(schema, stream::iter(batches));
        let kept = Firsts { keys: 1, least: 2, among: 1 }.of(Box::pin(stream));
        let kept: Vec<RecordBatch> = kept.try_collect().await.expect("keeps");
        let rows = kept.iter().flat_map(|batch| {
            let (keys, versions) =
                (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
            let at = batch.column(2).as_primitive::<TimestampMicrosecondType>();
            (0..batch.num_rows())
                .map(|row| (keys.value(row).to_owned(), versions.value(row), at.value(row)))
                .collect::<Vec<_>>()
        });
        rows.collect()
    }

    #[tokio::test]
    async fn the_first_of_each_run_has_the_least_instant_of_its_like() {
        let rows: [Row; 7] = [
            ("a", 7, 50),
            ("a", 9, 10),
            ("a", 7, 40),
            ("b", 1, 5),
            ("c", 2, 30),
            ("c", 2, 20),
            ("c", 3, 1),
        ];
        let expected = [("a".to_owned(), 7, 40), ("b".to_owned(), 1, 5), ("c".to_owned(), 2, 20)];
        // Wherever the batches are cut.
        for first in 0..=rows.len() {
            for second in first..=rows.len() {
                let cut = [&rows[..first], &rows[first..second], &rows[second..]];
                assert_eq!(firsts(&cut).await, expected, "{first} {second}");
            }
        }
        assert_eq!(firsts(&[]).await, []);
        assert_eq!(firsts(&[&[], &[]]).await, []);
    }
}
