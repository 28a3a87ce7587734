//! What was checked of tables.

use super::{Kind, TableSpec, optional, required, text};

/// One row a check and attempt at a batch.
pub const QUALITY_RESULTS: TableSpec = TableSpec {
    name: "quality_results",
    grain: "a check in an attempt at a batch",
    doc: "What the checks of `[[quality.TABLE]]` found, before their table was committed. A batch that \
          changes nothing of a table checks its freshness alone. It is a log, which SQL reads as it is \
          now: what a check found that ended a run is there at once, before the batch is done.",
    key: &["batch", "attempt", "table_name", "check_number"],
    sort: &["table_name", "check_name"],
    stats: &["table_name", "status"],
    partitioned: true,
    columns: &[
        required("batch", Kind::Int64, "The batch"),
        required("table_name", Kind::Utf8, "The table that was checked"),
        required("check_number", Kind::Int32, "The check's place in the table's list, from 1"),
        required(
            "check_name",
            Kind::Utf8,
            "not_null, unique, accepted_values, freshness, row_count_drift or reconciliation",
        ),
        text("columns", "The columns that it looks at"),
        required(
            "status",
            Kind::Utf8,
            "passed; warned: it failed and the table was committed; stopped: it was not",
        ),
        optional(
            "observed",
            Kind::Float64,
            "Rows that fail it; of freshness the age in seconds, of row_count_drift and \
             reconciliation percent: of the first bound that does not hold, or else the first one",
        ),
        optional(
            "allowed",
            Kind::Float64,
            "The bound of observed: for `percent` of reconciliation the least, else the most",
        ),
        text("detail", "What was found, in words"),
        optional(
            "attempt",
            Kind::Int32,
            "Which attempt at the batch, from 1: one that a check stopped is followed by another. An \
             attempt that finds what the one before it found has no rows. NULL in rows of before",
        ),
        required("checked_at", Kind::Timestamp, "When the batch was planned"),
        required("dt", Kind::Date, "UTC date of checked_at"),
    ],
};
