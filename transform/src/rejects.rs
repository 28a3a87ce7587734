//! What could not be taken in, as rows of `rejects`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use clickmill_lake::raw::RawKind;
use clickmill_lake::raw::read::for_each_line;
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{Change, PartitionWriter, Sorted};
use clickmill_schemas::tables::REJECTS;
use clickmill_schemas::{Reject, WireRecord};

use crate::TransformError;
use crate::decode::raw::{Stored, undecodable};
use crate::jobs::JobContext;

/// Rows written at a time.
const BATCH_ROWS: usize = 8_192;

/// The rejects that the collector, delivery and import landed.
///
/// # Errors
/// [`TransformError::Raw`] where an object cannot be read.
pub async fn of_raw(context: &JobContext<'_>) -> Result<Vec<Reject<'static>>, TransformError> {
    let mut rejects = Vec::new();
    let objects = context.batch.objects(RawKind::Rejects);
    for stored in Stored::of(objects.map(|(_, object)| ((), object.clone()))) {
        let bytes = stored.fetch(context.lake).await?;
        let ((), object) = &stored.sections()[0];
        let mut found = 0;
        for_each_line(&bytes, &object.path, &stored.lines(), |number, line| {
            found += 1;
            match WireRecord::decode(line) {
                Ok(WireRecord::Reject(reject)) => rejects.push(owned(reject)),
                Ok(_) => rejects.push(undecodable(object, number, line, "the line is no reject")),
                Err(error) => {
                    rejects.push(undecodable(object, number, line, &error.to_string()));
                }
            }
            Ok::<_, TransformError>(true)
        })?;
        stored.check(found)?;
    }
    Ok(rejects)
}

/// Appends those that are not in the table yet.
///
/// # Errors
/// [`TransformError`] where the table cannot be read or written.
pub async fn change(
    context: &JobContext<'_>,
    job: &'static str,
    mut rejects: Vec<Reject<'static>>,
) -> Result<Change, TransformError> {
    let mut seen = HashSet::new();
    rejects.retain(|reject| seen.insert(reject.reject_id.clone().into_owned()));
    if rejects.is_empty() {
        return Ok(Change::default());
    }
    let known = known_ids(context, job, &rejects).await?;
    rejects.retain(|reject| !known.contains(reject.reject_id.as_ref()));
    rejects.sort_by(|a, b| (a.received_ts, &a.reject_id).cmp(&(b.received_ts, &b.reject_id)));
    let mut writer = PartitionWriter::new(context.lake, &REJECTS, Sorted::Yes);
    for rows in rejects.chunks(BATCH_ROWS) {
        writer.write(&batch(rows)?).await?;
    }
    Ok(Change { adds: writer.finish().await?, removes: Vec::new() })
}

/// Ids of the same days that the table has already: a redelivered reject is the same reject.
async fn known_ids(
    context: &JobContext<'_>,
    job: &'static str,
    rejects: &[Reject<'static>],
) -> Result<HashSet<String>, TransformError> {
    let fail = TransformError::job(job);
    let table = context.current(&REJECTS).await?;
    let days = rejects.iter().map(|reject| reject.received_ts.date()).collect();
    let files = crate::jobs::files_in(&table, &days);
    if files.is_empty() {
        return Ok(HashSet::new());
    }
    let session = context.session();
    let rows = session.read_table(crate::jobs::table_of(&REJECTS, files)).map_err(&fail)?;
    let ids = rows.select_columns(&["reject_id"]).map_err(&fail)?.collect().await.map_err(&fail)?;
    let texts = ids.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten());
    Ok(texts.map(str::to_owned).collect())
}

fn batch(rows: &[Reject<'static>]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema = arrow_schema(&REJECTS);
    let texts = |of: &dyn Fn(&Reject<'static>) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let mut columns: BTreeMap<&str, ArrayRef> = BTreeMap::new();
    columns.insert("reject_id", texts(&|row| Some(row.reject_id.clone().into_owned())));
    let received = rows.iter().map(|row| Some(row.received_ts.micros()));
    columns.insert(
        "received_ts",
        Arc::new(received.collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
    );
    columns.insert("protocol", texts(&|row| Some(row.protocol.clone().into_owned())));
    columns.insert("reason", texts(&|row| Some(row.reason.code().to_owned())));
    columns.insert("detail", texts(&|row| Some(row.detail.clone().into_owned())));
    columns.insert("origin", texts(&|row| Some(row.origin.clone().into_owned())));
    columns.insert("app_id", texts(&|row| row.app_id.clone().map(|id| id.into_owned())));
    columns.insert("bytes_base64", texts(&|row| Some(row.bytes_base64.clone().into_owned())));
    columns
        .insert("collector_id", texts(&|row| row.collector_id.clone().map(|id| id.into_owned())));
    columns.insert("wal_seq", Arc::new(rows.iter().map(|row| row.wal_seq).collect::<Int64Array>()));
    columns.insert("shard_id", texts(&|row| row.shard_id.clone().map(|id| id.into_owned())));
    columns.insert(
        "sequence_number",
        texts(&|row| row.sequence_number.clone().map(|number| number.into_owned())),
    );
    let days = rows.iter().map(|row| Some(row.received_ts.date().days()));
    columns.insert("dt", Arc::new(days.collect::<Date32Array>()));
    let ordered = schema.fields().iter().filter_map(|field| columns.remove(field.name().as_str()));
    let ordered = ordered.collect();
    RecordBatch::try_new(schema, ordered)
}

fn owned(reject: Reject<'_>) -> Reject<'static> {
    let text = |text: std::borrow::Cow<'_, str>| std::borrow::Cow::Owned(text.into_owned());
    Reject {
        reject_id: text(reject.reject_id),
        received_ts: reject.received_ts,
        protocol: text(reject.protocol),
        reason: reject.reason,
        detail: text(reject.detail),
        origin: text(reject.origin),
        app_id: reject.app_id.map(text),
        bytes_base64: text(reject.bytes_base64),
        collector_id: reject.collector_id.map(text),
        wal_seq: reject.wal_seq,
        shard_id: reject.shard_id.map(text),
        sequence_number: reject.sequence_number.map(text),
    }
}
