//! The columns that a source fills: those of the table's spec except `dt`, `deleted`
//! and `standing`, which the jobs make.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use clickmill_schemas::tables::{self, Column, Kind, PARTITION_COLUMN, TableSpec};

use super::Dataset;

/// Total and fractional digits of an amount.
pub(super) const MONEY_PRECISION: u8 = 18;
/// Fractional digits of an amount.
pub(super) const MONEY_SCALE: i8 = 4;

/// What jobs make.
const MADE: [&str; 3] = [PARTITION_COLUMN, "deleted", "standing"];

/// A dataset's columns, in the table's order.
pub(super) fn of(dataset: Dataset) -> impl Iterator<Item = &'static Column> {
    spec(dataset).columns.iter().filter(|column| !MADE.contains(&column.name))
}

/// One column of a dataset.
pub(super) fn find(dataset: Dataset, name: &str) -> Option<&'static Column> {
    of(dataset).find(|column| column.name == name)
}

/// The schema of a dataset's batches.
pub(super) fn schema(dataset: Dataset) -> SchemaRef {
    let field = |column: &Column| Field::new(column.name, arrow_type(column.kind), column.nullable);
    Arc::new(Schema::new(of(dataset).map(field).collect::<Vec<_>>()))
}

/// The schema of a dataset's deletes: the key, then the time.
pub(super) fn delete_schema(dataset: Dataset) -> SchemaRef {
    let names = dataset.key().iter().copied().chain([dataset.time_column()]);
    let columns = names.filter_map(|name| find(dataset, name));
    let field = |column: &Column| Field::new(column.name, arrow_type(column.kind), column.nullable);
    Arc::new(Schema::new(columns.map(field).collect::<Vec<_>>()))
}

/// The Arrow type of a scalar column. Sources have no nested ones.
pub(super) fn arrow_type(kind: Kind) -> DataType {
    match kind {
        Kind::Utf8 | Kind::Map | Kind::List(_) => DataType::Utf8,
        Kind::Bool => DataType::Boolean,
        Kind::Int32 => DataType::Int32,
        Kind::Int64 => DataType::Int64,
        Kind::Float64 => DataType::Float64,
        Kind::Date => DataType::Date32,
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Money => DataType::Decimal128(MONEY_PRECISION, MONEY_SCALE),
        Kind::Decimal(digits, scale) => DataType::Decimal128(digits, scale),
    }
}

const fn spec(dataset: Dataset) -> &'static TableSpec {
    match dataset {
        Dataset::Orders => &tables::ORDERS,
        Dataset::OrderItems => &tables::ORDER_ITEMS,
        Dataset::Customers => &tables::CUSTOMERS,
        Dataset::ProductObservations => &tables::PRODUCT_OBSERVATIONS,
        Dataset::Carts => &tables::CARTS,
    }
}
