//! Which statements an order's lines come from.
//!
//! An export that has all lines of the orders in it says so by a statement about the order
//! as a whole, whose part is empty: an older line that it lacks is gone. One of files whose
//! lines stand for themselves (`complete = "line"`) says nothing of the kind, and takes back
//! what its source had said of the order as a whole before, under other settings.

use std::collections::BTreeSet;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;

use super::JobContext;
use super::statements::Staged;
use crate::TransformError;
use crate::sources::{Dataset, Notice, Severity, SourceConfig};

/// Of `all_said` what was not taken back. A source speaks in `said_by` up to the first slash.
pub const STILL_SAID: &str = "
(SELECT a.* FROM all_said a LEFT ANTI JOIN (
  SELECT row_key, split_part(said_by, '/', 1) AS source, max(batch) AS batch FROM all_said
  WHERE row_part = '' AND version = 0 GROUP BY row_key, split_part(said_by, '/', 1)
) b ON a.row_part = '' AND a.row_key = b.row_key AND split_part(a.said_by, '/', 1) = b.source
  AND a.batch <= b.batch)";

/// True where something was taken back, in `said` or `state`: most lakes never look for what.
///
/// # Errors
/// [`TransformError::Job`].
pub async fn is_any_taken_back(
    session: &SessionContext,
    job: &'static str,
) -> Result<bool, TransformError> {
    let fail = TransformError::job(job);
    let sql = "SELECT 1 FROM said WHERE row_part = '' AND version = 0 UNION ALL \
               SELECT 1 FROM state WHERE dataset = 'order_items' AND row_part = '' AND version = 0 \
               LIMIT 1";
    let found = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    Ok(found.iter().any(|rows| rows.num_rows() > 0))
}

/// Of `newest`, the statements that lines come from: what is not gone, and not older than
/// the newest export with all lines of the order.
pub const LIVE: &str = "
SELECT n.* FROM newest n
LEFT JOIN (SELECT * FROM newest WHERE row_part = '') w ON n.row_key = w.row_key
WHERE n.row_part <> '' AND n.version <> 0 AND (w.row_key IS NULL
  OR n.last_at_us > w.last_at_us
  OR (n.last_at_us = w.last_at_us AND (n.said_by > w.said_by
    OR (n.said_by = w.said_by AND n.batch >= w.batch))))";

/// Lines that go since a newer export of the same source has the order without them: those of
/// the table, and those of this batch.
const LACKED: &str = "
SELECT split_part(n.said_by, '/', 1) AS source, count(*) AS lines, count(DISTINCT n.row_key) AS orders,
  min(n.row_key) AS an_order
FROM newest n
JOIN (SELECT * FROM newest WHERE row_part = '') w
  ON n.row_key = w.row_key AND n.said_by <> w.said_by
    AND split_part(n.said_by, '/', 1) = split_part(w.said_by, '/', 1)
LEFT ANTI JOIN live l ON n.row_key = l.row_key AND n.row_part = l.row_part
LEFT JOIN existing e ON n.row_key = e.order_id AND n.row_part = CAST(e.line AS VARCHAR)
WHERE n.row_part <> '' AND n.version <> 0 AND (e.order_id IS NOT NULL OR n.batch = BATCH)
GROUP BY split_part(n.said_by, '/', 1) ORDER BY source";

/// What to tell of lines that go because a newer file has their order without them, where nobody
/// said that a file has all lines of its orders. `session` has `newest`, `live` and `existing`.
///
/// # Errors
/// [`TransformError::Job`].
pub async fn lacked(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    staged: &Staged,
) -> Result<Vec<Notice>, TransformError> {
    let says_nothing = |source: &str| match context.options.sources.get(source) {
        Some(SourceConfig::Files(files)) => {
            files.order_items.as_ref().is_some_and(|mapping| mapping.complete.is_none())
        }
        _ => false,
    };
    let exports = staged.exports.iter().map(|counts| counts.export.source.as_str());
    let sources: BTreeSet<&str> = exports.filter(|source| says_nothing(source)).collect();
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let fail = TransformError::job(job);
    let sql = LACKED.replace("BATCH", &context.batch.batch.to_string());
    let batches = session.sql(&sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let mut notices = Vec::new();
    for rows in &batches {
        let text = |at: usize, row| rows.column(at).as_string::<i32>().value(row);
        let number = |at: usize, row| rows.column(at).as_primitive::<Int64Type>().value(row);
        for row in (0..rows.num_rows()).filter(|row| sources.contains(text(0, *row))) {
            let source = text(0, row);
            notices.push(Notice {
                source: source.to_owned(),
                subject: Dataset::OrderItems.to_string(),
                severity: Severity::Problem,
                problem: format!(
                    "{} lines of {} orders, one of them {}, stand in a file and not in a newer one that has \
                     the order: they count as removed from it",
                    number(1, row),
                    number(2, row),
                    text(3, row)
                ),
                advice: format!(
                    "say in [sources.{source}.order_items] what a file has: complete = \"order\", all lines of \
                     its orders; \"time\" or \"folder\", only together with the others of its time or folder; \
                     \"line\", single lines"
                ),
            });
        }
    }
    Ok(notices)
}
