//! What each export gave -> `source_exports`, and what is strange of it.
//!
//! A full export with far fewer rows than the one before it, or with the very
//! same, is told. It is taken all the same: nothing that it lacks is removed. A full load
//! of change capture that a task wrote anew is told, too, since it stands below the changes.
//!
//! A file that stands alone does not say whether it holds everything or what was
//! new that day. One that was written anew does hold what its former self held; of
//! files beside each other the configuration says it, by expecting a share.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{Change, PartitionWriter, Sorted};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::SOURCE_EXPORTS;

use super::JobContext;
use super::context::table_of;
use super::statements::ExportCounts;
use crate::TransformError;
use crate::sources::config::SourceConfig;
use crate::sources::{Content, Notice, Severity};

/// The share of the rows of the one before that a full export should have, percent.
const AT_LEAST_PERCENT: u8 = 50;

/// The content of a full load of change capture.
const LOAD: &str = Content::Load { started_at: None }.name();

/// An export, as far as it is compared with others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Taken {
    source: String,
    dataset: String,
    exported_at: i64,
    export_id: String,
    rows: i64,
    fingerprint: i64,
    content: String,
}

/// Adds a row for each export, and says what is strange.
///
/// # Errors
/// [`TransformError`] where the table cannot be read or written.
pub async fn change(
    context: &JobContext<'_>,
    job: &'static str,
    exports: &[ExportCounts],
) -> Result<(Change, Vec<Notice>), TransformError> {
    if exports.is_empty() {
        return Ok((Change::default(), Vec::new()));
    }
    let taken = taken(context, job).await?;
    let full = [Content::Snapshot.name(), LOAD];
    let is_full = |taken: &&Taken| full.contains(&taken.content.as_str());
    let mut fulls: Vec<Taken> = taken.keys().filter(is_full).cloned().collect();
    let new: Vec<Taken> = exports.iter().map(Taken::from).filter(|taken| is_full(&taken)).collect();
    fulls.extend(new.iter().cloned());
    fulls.sort();
    let mut notices: Vec<Notice> =
        new.iter().flat_map(|full| strange(context, full, &fulls)).collect();
    notices.extend(exports.iter().filter_map(|counts| loaded_anew(counts, &taken)));
    let notices = Notice::folded(notices);
    // One that was taken again and says the same is there already.
    let mut sorted: Vec<&ExportCounts> =
        exports.iter().filter(|counts| !taken.contains_key(&Taken::from(*counts))).collect();
    sorted.sort_by_key(|counts| Taken::from(*counts));
    if sorted.is_empty() {
        return Ok((Change::default(), notices));
    }
    let mut writer = PartitionWriter::new(context.lake, &SOURCE_EXPORTS, Sorted::Yes);
    writer.write(&rows(&sorted)?).await?;
    Ok((Change { adds: writer.finish().await?, removes: Vec::new() }, notices))
}

impl From<&ExportCounts> for Taken {
    fn from(counts: &ExportCounts) -> Self {
        let export = &counts.export;
        Self {
            source: export.source.clone(),
            dataset: export.dataset.table().to_owned(),
            exported_at: export.exported_at.micros(),
            export_id: export.export_id.clone(),
            rows: counts.taken,
            fingerprint: counts.fingerprint,
            content: export.content.name().to_owned(),
        }
    }
}

/// What is strange of a full export beside the one before it, if there is one.
fn strange(context: &JobContext<'_>, full: &Taken, all: &[Taken]) -> Vec<Notice> {
    let config = context.options.sources.get(&full.source);
    let expected = config.and_then(|config| config.expect().at_least_percent);
    // A load is in several files, none of which has it all, and so may other files be.
    let is_alone = full.content == LOAD
        || (matches!(config, Some(SourceConfig::Files(_))) && expected.is_none());
    let of_same = |other: &&Taken| {
        (&other.source, &other.dataset) == (&full.source, &full.dataset)
            && (!is_alone || other.export_id == full.export_id)
    };
    let earlier = |other: &&Taken| {
        (other.exported_at, &other.export_id) < (full.exported_at, &full.export_id)
    };
    let Some(before) = all.iter().filter(of_same).rfind(earlier) else { return Vec::new() };
    let percent = i64::from(expected.unwrap_or(AT_LEAST_PERCENT));
    let notice = |severity, problem: String, advice: &str| Notice {
        source: full.source.clone(),
        subject: full.export_id.clone(),
        severity,
        problem,
        advice: advice.to_owned(),
    };
    let mut notices = Vec::new();
    if i128::from(full.rows) * 100 < i128::from(before.rows) * i128::from(percent) {
        notices.push(notice(
            Severity::Problem,
            format!(
                "it has {} rows for {}, {} had {}; they are taken, and what it lacks stays as it was",
                full.rows, full.dataset, before.export_id, before.rows
            ),
            "look whether the export is whole; expect.at_least_percent says how much less is told",
        ));
    }
    // By the same words of every file, as after a whole folder was copied again.
    let same_as = if is_alone { "before" } else { &before.export_id };
    if percent > 0 && full.rows > 0 && full.fingerprint == before.fingerprint {
        notices.push(notice(
            Severity::Remark,
            format!("it says the same of {} as {same_as}: nothing changed", full.dataset),
            "look whether the export job still reads the live data",
        ));
    }
    notices
}

/// A file of a full load that was written anew behind changes, where nobody said that its task
/// began behind them.
fn loaded_anew(counts: &ExportCounts, taken: &HashMap<Taken, i64>) -> Option<Notice> {
    if counts.export.content != (Content::Load { started_at: None }) {
        return None;
    }
    let new = Taken::from(counts);
    let of_same = |other: &Taken| (&other.source, &other.dataset) == (&new.source, &new.dataset);
    let has_changes =
        taken.keys().any(|other| of_same(other) && other.content == Content::Changes.name());
    // One that is read under another mapping is the same file still.
    let is_anew = taken.iter().any(|(other, size)| {
        of_same(other)
            && other.export_id == new.export_id
            && other.fingerprint != new.fingerprint
            && (other.exported_at != new.exported_at || *size != bytes(counts))
    });
    (has_changes && is_anew).then(|| Notice {
        source: new.source,
        subject: new.export_id,
        severity: Severity::Problem,
        problem: format!(
            "the full load was written anew; of {} that changed before, it counts for nothing, since \
             changes stand above every load",
            new.dataset
        ),
        advice: format!(
            "say when its task began: started_at in [sources.{}]",
            counts.export.source
        ),
    })
}

/// The size of an export's files.
fn bytes(counts: &ExportCounts) -> i64 {
    let bytes = counts.export.files.iter().map(|file| file.bytes).sum::<u64>();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The exports in the table, with their bytes.
async fn taken(
    context: &JobContext<'_>,
    job: &'static str,
) -> Result<HashMap<Taken, i64>, TransformError> {
    let fail = TransformError::job(job);
    let table = context.current(&SOURCE_EXPORTS).await?;
    let session = context.session();
    session
        .register_table("taken", table_of(&SOURCE_EXPORTS, table.files().to_vec()))
        .map_err(&fail)?;
    let sql = "SELECT source, dataset, export_id, exported_at, rows_taken, fingerprint, content, \
               bytes FROM taken";
    let batches = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let mut all = HashMap::new();
    for batch in &batches {
        let text = |at: usize| batch.column(at).as_string::<i32>();
        let number = |at: usize| batch.column(at).as_primitive::<Int64Type>();
        let at = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        all.extend((0..batch.num_rows()).map(|row| {
            let taken = Taken {
                source: text(0).value(row).to_owned(),
                dataset: text(1).value(row).to_owned(),
                exported_at: at.value(row),
                export_id: text(2).value(row).to_owned(),
                rows: number(4).value(row),
                fingerprint: number(5).value(row),
                content: text(6).value(row).to_owned(),
            };
            (taken, number(7).value(row))
        }));
    }
    Ok(all)
}

fn rows(exports: &[&ExportCounts]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let texts = |of: &dyn Fn(&ExportCounts) -> String| -> ArrayRef {
        Arc::new(exports.iter().map(|counts| Some(of(counts))).collect::<StringArray>())
    };
    let numbers = |of: &dyn Fn(&ExportCounts) -> i64| -> ArrayRef {
        Arc::new(exports.iter().map(|counts| Some(of(counts))).collect::<Int64Array>())
    };
    let times = |of: &dyn Fn(&ExportCounts) -> Option<Timestamp>| -> ArrayRef {
        let times = exports.iter().map(|counts| of(counts).map(Timestamp::micros));
        Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let window = |counts: &ExportCounts| match counts.export.content {
        Content::Window { from, to } => Some((from, to)),
        _ => None,
    };
    let days = exports.iter().map(|counts| Some(counts.export.exported_at.date().days()));
    RecordBatch::try_new(
        arrow_schema(&SOURCE_EXPORTS),
        vec![
            texts(&|counts| counts.export.source.clone()),
            texts(&|counts| counts.export.dataset.table().to_owned()),
            texts(&|counts| counts.export.export_id.clone()),
            texts(&|counts| counts.export.content.name().to_owned()),
            times(&|counts| Some(counts.export.exported_at)),
            times(&|counts| window(counts).map(|(from, _)| from)),
            times(&|counts| window(counts).map(|(_, to)| to)),
            numbers(&|counts| counts.export.files.len() as i64),
            numbers(&bytes),
            numbers(&|counts| counts.read),
            numbers(&|counts| counts.taken),
            numbers(&|counts| counts.deleted),
            numbers(&|counts| counts.rejected),
            numbers(&|counts| counts.fingerprint),
            Arc::new(days.collect::<Date32Array>()),
        ],
    )
}
