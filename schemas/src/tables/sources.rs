//! From the shop's own systems, beside orders and the catalog: carts, what each
//! export gave, and what is known of each row's versions.

use super::{Kind, TableSpec, optional, required, text};

/// One row a cart.
pub const CARTS: TableSpec = TableSpec {
    name: "carts",
    grain: "a cart",
    doc: "The shop's own carts, as the newest statement about each has them. A cart that its source \
          deleted is not here.",
    key: &["cart_id"],
    sort: &["cart_id"],
    stats: &["cart_id", "customer_id", "updated_at"],
    partitioned: true,
    columns: &[
        required("cart_id", Kind::Utf8, "The shop's cart"),
        text("customer_id", "The shop's customer"),
        required("updated_at", Kind::Timestamp, "When it was last changed"),
        text("items", "What is in it, JSON as the shop keeps it"),
        required("exported_at", Kind::Timestamp, "Time of the first export that says this of it"),
        required("dt", Kind::Date, "UTC date of updated_at"),
    ],
};

/// One row an export taken.
pub const SOURCE_EXPORTS: TableSpec = TableSpec {
    name: "source_exports",
    grain: "an export of a dataset that was taken in",
    doc: "What each export gave. `max(exported_at)` of a source and dataset says how fresh it is; \
          `rows_read` is the sum of `rows_taken`, `rows_deleted` and `rows_rejected`, but for files \
          of order lines, of which several make a row. An export that was taken again, because it was \
          overwritten or its mapping changed, has another row where it says something else.",
    key: &["source", "dataset", "export_id", "fingerprint"],
    sort: &["source", "dataset", "exported_at"],
    stats: &["source", "dataset", "exported_at"],
    partitioned: true,
    columns: &[
        required("source", Kind::Utf8, "The source's name in the configuration"),
        required("dataset", Kind::Utf8, "The table that its rows go to"),
        required(
            "export_id",
            Kind::Utf8,
            "The export's own id; a file's path where files stand alone",
        ),
        required("content", Kind::Utf8, "snapshot, window, load or changes"),
        required("exported_at", Kind::Timestamp, "When the data was like this"),
        optional("window_from", Kind::Timestamp, "Of a window: its start, inclusive"),
        optional("window_to", Kind::Timestamp, "Of a window: its end, exclusive"),
        required("files", Kind::Int64, "Its files"),
        required("bytes", Kind::Int64, "Their bytes"),
        required("rows_read", Kind::Int64, "Rows that were read"),
        required("rows_taken", Kind::Int64, "Rows that fit"),
        required("rows_deleted", Kind::Int64, "Rows that say that a row is gone"),
        required("rows_rejected", Kind::Int64, "What went to rejects instead"),
        required(
            "fingerprint",
            Kind::Int64,
            "The same for two exports that say the same of the same rows",
        ),
        required("dt", Kind::Date, "UTC date of exported_at"),
    ],
};

/// What was said of each row of a dataset, so that exports may come in any order.
/// It is no table for queries: it is kept apart from [`super::TABLES`].
pub const SOURCE_KEYS: TableSpec = TableSpec {
    name: "source_keys",
    grain: "a version of a row, as far as one batch had it",
    doc: "What exports said of each row: which versions there were, since when, and which statement \
          is the newest. Rows of the same version add up: the earliest first_at, the greatest \
          (last_at_us, said_by, batch, place).",
    key: &["dataset", "row_key", "row_part", "version", "batch"],
    sort: &["dataset", "row_key"],
    stats: &["dataset", "row_key"],
    partitioned: false,
    columns: &[
        required("dataset", Kind::Utf8, "The table that the row is of"),
        required("row_key", Kind::Utf8, "Its key; of an order line its order"),
        required(
            "row_part",
            Kind::Utf8,
            "The line; empty for other datasets, and for the lines of an order as a whole",
        ),
        required("version", Kind::Int64, "Hash of its content; 0: it was deleted"),
        required("first_at", Kind::Timestamp, "When it was first said"),
        required(
            "last_at_us",
            Kind::Int64,
            "When it was last said, microseconds; what a load says stands before all times",
        ),
        required("said_by", Kind::Utf8, "By which source and export"),
        required("batch", Kind::Int64, "Taken in by which batch"),
        required("place", Kind::Int64, "At which place of the export"),
    ],
};
