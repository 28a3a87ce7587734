//! One data file of a table, as the Delta log describes it.

use std::collections::HashMap;
use std::time::Duration;

use clickmill_schemas::tables::{PARTITION_COLUMN, TableSpec};
use clickmill_schemas::{Date, Timestamp};
use deltalake_core::kernel::LogicalFileView;

use crate::LakeError;

/// Tag in the log that says by which columns our writer sorted a file. A file
/// without it (a foreign OPTIMIZE) counts as unsorted: a false claim would
/// give silently wrong sessions.
const SORTED_BY: &str = "clickmill.sortedBy";
/// Other writers cut the times of statistics to milliseconds, a maximum, too.
const STATS_PRECISION: Duration = Duration::from_millis(1);

/// A Parquet file that belongs to a version of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Relative to the table's folder.
    pub path: String,
    /// Its partition; `None` in a table without partitions.
    pub dt: Option<Date>,
    /// Size.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Statistics in Delta's JSON form.
    pub stats: String,
    /// The columns that our writer sorted it by; `None` where it is not sorted by the table's.
    pub sorted_by: Option<String>,
}

impl DataFile {
    /// From an entry of the log.
    ///
    /// # Errors
    /// [`LakeError::Corrupt`] for an entry that a table of ours cannot have: no
    /// row count, a NULL partition, a deletion vector.
    pub(super) fn from_log(spec: &TableSpec, view: &LogicalFileView) -> Result<Self, LakeError> {
        let path = view.path().into_owned();
        let corrupt = |reason: &str| LakeError::Corrupt {
            path: format!("tables/{}/{path}", spec.name),
            reason: reason.to_owned(),
        };
        if view.deletion_vector_descriptor().is_some() {
            return Err(corrupt(
                "it has a deletion vector, which clickmill does not read; run OPTIMIZE or PURGE where it was written",
            ));
        }
        let dt = if spec.partitioned {
            let values = view.partition_values_map();
            let text = values.get(PARTITION_COLUMN).cloned().flatten();
            let date = text.as_deref().map(Date::parse).transpose();
            Some(date.ok().flatten().ok_or_else(|| corrupt("its dt is no date"))?)
        } else {
            None
        };
        let rows = view.num_records().ok_or_else(|| corrupt("the log has no row count for it"))?;
        #[allow(deprecated)] // The only public way to an entry's tags.
        let tags = view.add_action().tags.unwrap_or_default();
        let sorted_by = tags.get(SORTED_BY).cloned().flatten();
        Ok(Self {
            dt,
            bytes: u64::try_from(view.size()).unwrap_or(0),
            rows: rows as u64,
            stats: view.stats().unwrap_or_default(),
            sorted_by: sorted_by.filter(|columns| *columns == spec.sort.join(",")),
            path,
        })
    }

    /// Bounds of `received_ts` in it, where the log has them.
    #[must_use]
    pub fn received_range(&self) -> Option<(Timestamp, Timestamp)> {
        let stats: serde_json::Value = serde_json::from_str(&self.stats).ok()?;
        let bound = |of: &str| Timestamp::parse(stats.get(of)?.get("received_ts")?.as_str()?).ok();
        Some((bound("minValues")?, bound("maxValues")?.saturating_add(STATS_PRECISION)))
    }

    /// The newest instant of a column in it, where the log has it; of its `dt` midnight.
    /// Other writers cut it to milliseconds.
    #[must_use]
    pub fn newest(&self, column: &str) -> Option<Timestamp> {
        if column == PARTITION_COLUMN {
            return self.dt.map(Date::midnight);
        }
        let stats: serde_json::Value = serde_json::from_str(&self.stats).ok()?;
        Timestamp::parse(stats.get("maxValues")?.get(column)?.as_str()?).ok()
    }

    pub(super) fn partition_values(&self) -> HashMap<String, Option<String>> {
        self.dt.map(|dt| (PARTITION_COLUMN.to_owned(), Some(dt.to_string()))).into_iter().collect()
    }

    pub(super) fn tags(&self) -> HashMap<String, Option<String>> {
        let sorted_by = self.sorted_by.clone();
        sorted_by.map(|columns| (SORTED_BY.to_owned(), Some(columns))).into_iter().collect()
    }
}
