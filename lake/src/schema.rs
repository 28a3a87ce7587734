//! The Arrow and Delta schemas of a table, derived from its specification.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use clickmill_schemas::tables::{Column, Kind, TableSpec};

/// Precision and scale of every amount of money.
pub const MONEY: DataType = DataType::Decimal128(18, 4);

/// The Arrow schema of a table, its partition column included and last.
#[must_use]
pub fn arrow_schema(spec: &TableSpec) -> SchemaRef {
    Arc::new(Schema::new(spec.columns.iter().map(field).collect::<Vec<_>>()))
}

/// The schema of its data files: without the partition column, which is in the path and the log.
#[must_use]
pub fn file_schema(spec: &TableSpec) -> SchemaRef {
    let held = spec.columns.len() - usize::from(spec.partitioned);
    Arc::new(Schema::new(spec.columns[..held].iter().map(field).collect::<Vec<_>>()))
}

fn field(column: &Column) -> Field {
    Field::new(column.name, data_type(column.kind), column.nullable)
}

/// The Arrow type of a column kind.
#[must_use]
pub fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Utf8 => DataType::Utf8,
        Kind::Bool => DataType::Boolean,
        Kind::Int32 => DataType::Int32,
        Kind::Int64 => DataType::Int64,
        Kind::Float64 => DataType::Float64,
        Kind::Date => DataType::Date32,
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Money => MONEY,
        Kind::Decimal(digits, scale) => DataType::Decimal128(digits, scale),
        Kind::Map => DataType::Map(
            // Names as the Parquet specification has them, which Delta's readers expect.
            Arc::new(Field::new(
                "key_value",
                DataType::Struct(Fields::from(vec![
                    Field::new("key", DataType::Utf8, false),
                    Field::new("value", DataType::Utf8, true),
                ])),
                false,
            )),
            false,
        ),
        Kind::List(fields) => DataType::List(Arc::new(Field::new(
            "element",
            DataType::Struct(fields.iter().map(field).collect::<Vec<_>>().into()),
            true,
        ))),
    }
}
