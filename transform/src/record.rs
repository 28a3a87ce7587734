//! The record of what exports said, `source_keys`, for lakes that have none.
//!
//! Builds before that table kept the newest export's rows and no record. Without one a late export
//! could take the place of what is newer. So the exports that batches took, which the batch files
//! name, are taken in again with the next batch: what they say is in the tables already, and
//! rewrites nothing. That needs their files: where one is gone, nothing is begun.

use clickmill_lake::Lake;
use clickmill_lake::history::{self, Series};
use clickmill_lake::table::Table;
use clickmill_schemas::tables::SOURCE_KEYS;

use crate::TransformError;
use crate::batch::Batch;
use crate::sources::{self, Export, Notice, Severity};

/// The exports to take in again: none where the record is there, or nothing was taken.
///
/// # Errors
/// [`TransformError::NoRecord`] where a file of one is gone; [`TransformError::Lake`] and
/// [`TransformError::Source`] where something cannot be read now.
pub(crate) async fn lost(
    lake: &Lake,
    previous: Option<&Batch>,
    notices: &mut Vec<Notice>,
) -> Result<Vec<Export>, TransformError> {
    let Some(previous) = previous.filter(|batch| !batch.taken_exports.is_empty()) else {
        return Ok(Vec::new());
    };
    if Table::open(lake, &SOURCE_KEYS).await?.is_some() {
        return Ok(Vec::new());
    }
    let mut exports: Vec<Export> = Vec::new();
    for number in 1..=previous.batch {
        let batch: Batch = history::read(lake, Series::Batches, number).await?;
        exports.extend(batch.exports);
    }
    if let Some(object) = sources::first_gone(lake, &exports).await? {
        return Err(TransformError::NoRecord { object, exports: exports.len() });
    }
    notices.push(Notice {
        source: "lake".to_owned(),
        subject: SOURCE_KEYS.name.to_owned(),
        severity: Severity::Remark,
        problem: "an earlier build kept no record of what exports said".to_owned(),
        advice: format!("the {} exports taken so far are read once more for it", exports.len()),
    });
    Ok(exports)
}
